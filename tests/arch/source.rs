//! Just enough reading of Rust source to see its paths, its tests and the length of its functions.

use std::ops::Range;

/// `text` with comments and the insides of literals blanked out; every line stays where it is.
pub(crate) fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = skipped(bytes, at);
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(code).expect("blanks are UTF-8, and what is left is whole")
}

/// Where the comment or literal that starts at `at` ends; `at` itself when none does.
fn skipped(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => at + rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + block_comment(rest),
        [b'"', ..] => at + quoted(rest, b'"'),
        [b'r', b'"' | b'#', ..] if !in_word => at + raw_string(rest),
        [b'b', b'r', b'"' | b'#', ..] if !in_word => at + 1 + raw_string(&rest[1..]),
        // A character, unless it is a lifetime.
        [b'\'', b'\\', ..] => at + quoted(rest, b'\''),
        [b'\'', ..] => {
            let text = String::from_utf8_lossy(rest);
            let mut chars = text.chars().skip(1);
            let one = chars.next().map_or(0, char::len_utf8);
            if chars.next() == Some('\'') { at + one + 2 } else { at }
        }
        _ => at,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let body = &rest[2 + hashes..];
    let length = body.windows(end.len()).position(|window| window == end).unwrap_or(body.len());
    (2 + hashes + length + end.len()).min(rest.len())
}

/// `code` without its `#[cfg(test)]` items, and the names of the modules of other files among them.
pub(crate) fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let (mut rest, mut production, mut modules) = (code, String::new(), Vec::new());
    while let Some(at) = rest.find(MARK) {
        production.push_str(&rest[..at]);
        let item = &rest[at + MARK.len()..];
        let end = item_end(item);
        let words: Vec<_> = item[..end].split_whitespace().collect();
        if let Some(name) =
            words.iter().skip_while(|word| **word != "mod").nth(1).and_then(|word| word.strip_suffix(';'))
        {
            modules.push(name.to_owned());
        }
        rest = &item[end..];
    }
    production.push_str(rest);
    (production, modules)
}

/// Where the item or field that starts `code` ends: behind its `;`, its braces or, for a field, its comma.
fn item_end(code: &str) -> usize {
    let after_name = code.trim_start().trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
    let is_field = after_name.starts_with(':') && !after_name.starts_with("::");
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b',' if is_field && depth == 0 => return at + 1,
            b'}' if is_field && depth == 0 => return at,
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Every path in `code`, the groups of `use` spelled out: `a::{b, c::d}` is `a::b` and `a::c::d`.
pub(crate) fn paths(code: &str) -> Vec<Vec<String>> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = if is_word(tokens[at]) { path(&tokens, at, &[], &mut found) } else { at + 1 };
    }
    found
}

fn path(tokens: &[&str], mut at: usize, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut segments = prefix.to_vec();
    loop {
        match tokens.get(at) {
            Some(word) if is_word(word) => segments.push((*word).to_owned()),
            Some(&"{") if !segments.is_empty() => return group(tokens, at + 1, &segments, found),
            _ => break,
        }
        at += 1;
        if tokens.get(at) != Some(&"::") {
            break;
        }
        at += 1;
    }
    found.push(segments);
    at
}

fn group(tokens: &[&str], mut at: usize, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    while let Some(&token) = tokens.get(at) {
        at = match token {
            "}" => return at + 1,
            word if is_word(word) => path(tokens, at, prefix, found),
            _ => at + 1,
        };
    }
    at
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = match word {
            0 if rest.starts_with("::") => 2,
            0 => first.len_utf8(),
            word => word,
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// The functions with a body in `code`: name and lines, from `fn` to the closing brace.
pub(crate) fn functions(code: &str) -> Vec<(String, Range<usize>)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = at + item_end(&code[at..]);
        if starts_word && !name.is_empty() && code[..end].ends_with('}') {
            let line = |at: usize| code[..at].matches('\n').count() + 1;
            found.push((name, line(at)..line(end) + 1));
        }
    }
    found
}

//! `knot cat`

use super::args::{Common, TorrentArgs};
use super::error::CliError;
use super::node_args::NodeArgs;
use super::output::{self, Bar};
use super::session::{Role, Session};
use crate::control::{Client, ContentRequest};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    torrent: TorrentArgs,
    /// The file's path in the torrent; may be left out where there is only one
    path: Option<String>,
    /// First byte to write
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    offset: u64,
    /// Bytes to write [default: all]
    #[arg(long, value_name = "BYTES")]
    length: Option<u64>,
    /// First and last byte to write, counted from 0, as in HTTP: `0-499`; `500-` goes on to the end
    #[arg(long, value_name = "FIRST-LAST", value_parser = parse_range, conflicts_with_all = ["offset", "length"])]
    range: Option<(u64, Option<u64>)>,
    #[command(flatten)]
    node: NodeArgs,
}

/// Offset and length of a range whose last byte counts.
fn parse_range(text: &str) -> Result<(u64, Option<u64>), String> {
    let wrong = || format!("expected FIRST-LAST or FIRST-, such as 0-499, got {text:?}");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first: u64 = first.parse().map_err(|_| wrong())?;
    if last.is_empty() {
        return Ok((first, None));
    }
    let last: u64 = last.parse().map_err(|_| wrong())?;
    let length = last.checked_sub(first).and_then(|length| length.checked_add(1)).ok_or_else(wrong)?;
    Ok((first, Some(length)))
}

pub(super) async fn run(common: &Common, args: Args) -> Result<(), CliError> {
    let Args { torrent, path, offset, length, range, node } = args;
    let (offset, length) = range.unwrap_or((offset, length));
    let request = ContentRequest { add: torrent.request(&node, false)?, path, offset, length };
    let session = Session::open(&common.store()?, &node, Role::OneShot).await?;
    let result = copy(&session.client, &request).await;
    session.close().await;
    result
}

async fn copy(client: &Client, request: &ContentRequest) -> Result<(), CliError> {
    let bar = Bar::new();
    bar.waiting("waiting for the first bytes".to_owned());
    let mut content = client.content(request).await?;
    let total = content.missing();
    while let Some(bytes) = content.next().await? {
        bar.bytes("reading", total - content.missing(), total);
        // stdout may block for as long as its reader likes; nothing else waits for this thread.
        output::bytes(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        assert_eq!(parse_range("0-499"), Ok((0, Some(500))));
        assert_eq!(parse_range("7-7"), Ok((7, Some(1))));
        assert_eq!(parse_range("500-"), Ok((500, None)));
        for wrong in ["", "5", "-5", "9-8", "a-b", "1-2-3", "0-18446744073709551615"] {
            assert!(parse_range(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }
}

//! Where results and progress go.

use std::io::{self, Write};
use std::time::Duration;

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::error::CliError;
use crate::node::api::Progress;

/// Writes a line to stdout: a result.
pub(super) fn line(text: impl AsRef<str>) -> Result<(), CliError> {
    bytes(format!("{}\n", text.as_ref()).as_bytes())
}

/// Writes a value to stdout as a line of JSON.
pub(super) fn json(value: &impl Serialize) -> Result<(), CliError> {
    let text =
        serde_json::to_string(value).map_err(|error| CliError::Failure(format!("cannot write JSON: {error}")))?;
    line(text)
}

/// Writes bytes to stdout, and through to whoever reads it.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::OutputClosed,
        _ => CliError::file("write", "stdout".as_ref(), error),
    })
}

/// Tells people something on stderr that is no result.
pub(super) fn note(text: impl AsRef<str>) {
    // With stderr closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "knot: {}", text.as_ref());
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// How many of something: `1 peer`, `2 peers`.
pub(super) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A progress bar on stderr, when that is a terminal.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// A bar that shows nothing yet.
    pub(super) fn new() -> Self {
        // ProgressDrawTarget::stderr() draws on a terminal only.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// Shows what is being waited for.
    pub(super) fn waiting(&self, message: String) {
        if self.0.length().is_none() {
            self.0.set_style(style("{spinner} {msg} {elapsed}"));
        }
        self.0.set_message(message);
    }

    /// Shows how many of how many bytes are done.
    pub(super) fn bytes(&self, verb: &'static str, done: u64, total: u64) {
        if self.0.length() != Some(total) {
            self.0.set_length(total);
            self.0.set_style(style("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}"));
        }
        self.0.set_message(verb);
        self.0.set_position(done);
    }

    /// Shows what a node reports.
    pub(super) fn show(&self, progress: &Progress) {
        match progress {
            Progress::Metainfo(wait) => self.waiting(wait.to_string()),
            Progress::Checking { done, total } => self.bytes("checking", *done, *total),
            Progress::Fetching { done, total, .. } => self.bytes("fetching", *done, *total),
            Progress::Done { .. } | Progress::Failed(_) => {}
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

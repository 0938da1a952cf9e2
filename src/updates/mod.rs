//! Updates of mutable datasets: records, and which of them is followed. Pure decisions; the node keeps and carries them.
//!
//! A dataset is named by its original InfoSig for ever. An [`UpdateRecord`] says which InfoHash its publisher put
//! behind that name, as which version and when. `schema/update.md` documents the form.

mod diff;
mod history;
mod record;

pub use diff::{Added, Changed, Diff, Removed, Renamed};
pub use history::{Judgement, judge};
pub use record::{RecordError, UpdateRecord};

//! What went wrong lately, for the log and for `knot status`.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Warnings that are remembered.
const KEPT: usize = 50;

/// The latest warnings.
#[derive(Default)]
pub(super) struct Warnings(Mutex<VecDeque<String>>);

impl Warnings {
    /// Logs a warning and remembers it; one that repeats the last is only logged.
    pub(super) fn add(&self, warning: String) {
        tracing::warn!("{warning}");
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.back() == Some(&warning) {
            return;
        }
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(warning);
    }

    /// Oldest first.
    pub(super) fn list(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_latest_and_folds_repetitions() {
        let warnings = Warnings::default();
        for at in 0..KEPT + 1 {
            warnings.add(at.to_string());
            warnings.add(at.to_string());
        }
        let kept = warnings.list();
        assert_eq!((kept.len(), kept[0].as_str()), (KEPT, "1"));
    }
}

//! Films and music: what plays them reads both ends first.
//!
//! Where a container keeps its index at the end (the `moov` atom of MP4, the Cues of Matroska, the last page of Ogg), a
//! player reads the head, then the tail, and only then what it plays. The tail is asked for with the head then. Whoever
//! looks at many files one after the other is no player: it gets what it reads.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use super::scheduling::{HEAD_LEN, SCAN_FILES, SCAN_WITHIN, TAIL_LEN};

/// Containers with an index at one of their ends, or with time stamps there that tell how long they play.
const EXTENSIONS: [&str; 28] = [
    "3gp", "aac", "aif", "aiff", "asf", "avi", "flac", "flv", "m2ts", "m4a", "m4b", "m4v", "mka", "mkv", "mov", "mp3",
    "mp4", "mpeg", "mpg", "oga", "ogg", "ogv", "opus", "ts", "wav", "webm", "wma", "wmv",
];

/// Whether a file of that name is one.
pub(super) fn is_media(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    extension.is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// The bytes of a file of `len` bytes that are wanted when its head is read for the first time; none if it is so short
/// that its head is most of it.
pub(super) fn ends(len: u64) -> Option<[Range<u64>; 2]> {
    (len > 4 * (HEAD_LEN + TAIL_LEN)).then(|| [0..HEAD_LEN, len - TAIL_LEN..len])
}

/// Tells somebody who plays from something that looks at every file.
#[derive(Debug, Default)]
pub(super) struct ScanGuard {
    /// When media files were begun, the last few times.
    begun: VecDeque<Instant>,
}

impl ScanGuard {
    /// One more file is begun. Whether that is still somebody who plays.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        if self.begun.len() == SCAN_FILES {
            self.begun.pop_front();
        }
        self.begun.push_back(now);
        let oldest = self.begun.front().filter(|_| self.begun.len() == SCAN_FILES);
        oldest.is_none_or(|at| now.saturating_duration_since(*at) > SCAN_WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn films_and_music_are_known_by_their_names() {
        for name in ["film.mkv", "Film.MP4", "a.b.webm", "x.Opus"] {
            assert!(is_media(name), "{name}");
        }
        for name in ["mkv", "film.mkv.part", "data.csv", "", "."] {
            assert!(!is_media(name), "{name}");
        }
    }

    #[test]
    fn short_files_have_no_ends() {
        assert_eq!(ends(0), None);
        assert_eq!(ends(1 << 20), None);
        assert_eq!(ends(1 << 30), Some([0..HEAD_LEN, (1 << 30) - TAIL_LEN..1 << 30]));
    }

    #[test]
    fn a_scan_is_told_from_a_player() {
        let (mut guard, start) = (ScanGuard::default(), Instant::now());
        let admitted: Vec<bool> = (0..8).map(|_| guard.admits(start)).collect();
        assert_eq!(admitted.iter().filter(|admitted| **admitted).count(), SCAN_FILES - 1);
        assert!(!guard.admits(start + SCAN_WITHIN), "it goes on");
        let later = start + 3 * SCAN_WITHIN;
        assert!(guard.admits(later) && guard.admits(later + Duration::from_secs(1)));
    }
}

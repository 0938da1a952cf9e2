//! What pieces were that failed as a whole: when a later attempt is right, the difference tells which blocks were
//! wrong, and so who sent them.

use lru::LruCache;

use crate::types::AttemptId;

/// Bytes of digests that are kept, of all pieces: those of 2 GiB of failed pieces.
const MAX_BYTES: usize = 4 << 20;
/// Attempts that are kept of one piece.
const MAX_ATTEMPTS: usize = 2;

/// The BLAKE3 hash of a block.
pub(super) type BlockDigest = [u8; 32];

/// One failed attempt.
pub(super) struct Attempt {
    pub(super) id: AttemptId,
    /// The digest of every block of the piece, in order.
    pub(super) digests: Vec<BlockDigest>,
}

/// Failed attempts at pieces, by (object, piece): the last ones, up to a number of bytes.
pub(super) struct FailedAttempts {
    pieces: LruCache<(u32, u32), Vec<Attempt>>,
    bytes: usize,
    last_id: u64,
}

impl FailedAttempts {
    pub(super) fn new() -> Self {
        Self { pieces: LruCache::unbounded(), bytes: 0, last_id: 0 }
    }

    /// Remembers an attempt that failed.
    pub(super) fn add(&mut self, object: u32, piece: u32, digests: Vec<BlockDigest>) -> AttemptId {
        self.last_id += 1;
        let id = AttemptId(self.last_id);
        let mut attempts = self.take(object, piece);
        if attempts.len() >= MAX_ATTEMPTS {
            attempts.remove(0);
        }
        attempts.push(Attempt { id, digests });
        self.bytes += bytes_of(&attempts);
        self.pieces.put((object, piece), attempts);
        while self.bytes > MAX_BYTES
            && let Some((_, oldest)) = self.pieces.pop_lru()
        {
            self.bytes -= bytes_of(&oldest);
        }
        id
    }

    /// Forgets the attempts at a piece, oldest first, since it is verified.
    pub(super) fn take(&mut self, object: u32, piece: u32) -> Vec<Attempt> {
        let attempts = self.pieces.pop(&(object, piece)).unwrap_or_default();
        self.bytes -= bytes_of(&attempts);
        attempts
    }
}

fn bytes_of(attempts: &[Attempt]) -> usize {
    attempts.iter().map(|attempt| attempt.digests.len() * size_of::<BlockDigest>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_bounded() {
        let mut failed = FailedAttempts::new();
        let digests = || vec![[0; 32]; 4096];
        let first = failed.add(1, 1, digests());
        let ids: Vec<_> = (0..3).map(|_| failed.add(1, 2, digests())).collect();
        let kept: Vec<_> = failed.take(1, 2).iter().map(|attempt| attempt.id).collect();
        assert_eq!(kept, ids[1..]);
        assert_eq!(failed.bytes, 4096 * 32);
        for piece in 0..32 {
            failed.add(2, piece, digests());
        }
        assert_eq!(failed.bytes, MAX_BYTES);
        assert!(failed.take(1, 1).is_empty(), "{first:?} was the oldest");
        assert_eq!(failed.take(2, 0).len(), 1);
    }
}

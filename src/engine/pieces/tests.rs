use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::types::BlockDigest;

fn manager(lengths: &[u64], verifies_blocks: bool) -> PieceManager {
    let layout = Layout::new(4 * crate::types::BLOCK_LEN, verifies_blocks, lengths).unwrap();
    let none = Bitfield::new(layout.block_numbers());
    PieceManager::new(layout, none, verifies_blocks)
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Request,
    Unrequest,
    Receive,
    Settle,
    Verify,
    Lose,
}

proptest! {
    /// Whatever happens in whatever order, every block has one state and the counters agree with the states.
    #[test]
    fn counters_agree_with_states(
        ops in prop::collection::vec((0u32..12, prop::sample::select(vec![
            Op::Request, Op::Unrequest, Op::Receive, Op::Settle, Op::Verify, Op::Lose,
        ])), 0..200),
    ) {
        let mut pieces = manager(&[150_000, 1], true);
        let from = Arc::new(PeerIdentity::Memory(1));
        let now = Instant::now();
        for (number, op) in ops {
            let (piece, block) = pieces.place(number);
            if block >= pieces.blocks_in(piece) || piece >= pieces.layout().piece_count() {
                continue;
            }
            pieces.activate(piece, true);
            match op {
                Op::Request if pieces.state(number) == BlockState::Missing => {
                    pieces.requested(number, ConnId(1), now + Duration::from_secs(u64::from(number % 5)));
                }
                Op::Unrequest if pieces.asked(number).count() > 0 => { pieces.unrequested(number, ConnId(1)); }
                Op::Receive if pieces.state(number) == BlockState::Requested => {
                    pieces.received(number, ConnId(1), from.clone());
                    pieces.unrequested(number, ConnId(1));
                }
                Op::Settle if pieces.state(number) == BlockState::Received => { pieces.settled(number); }
                Op::Verify if pieces.state(number) == BlockState::Received => { pieces.verified(number); }
                Op::Lose => { pieces.set_missing(number); }
                _ => {}
            }
            check(&pieces)?;
            if op_is_last_of_piece(number) {
                pieces.retire(piece);
                check(&pieces)?;
            }
        }
    }
}

fn op_is_last_of_piece(number: u32) -> bool {
    number % 4 == 3
}

fn check(pieces: &PieceManager) -> Result<(), TestCaseError> {
    let mut bytes = 0;
    for piece in 0..pieces.layout().piece_count() {
        let numbers: Vec<_> = (0..pieces.blocks_in(piece)).map(|block| pieces.number(piece, block)).collect();
        let count = |state| numbers.iter().filter(|number| pieces.state(**number) == state).count() as u32;
        let verified = numbers.iter().filter(|number| pieces.is_verified(**number));
        bytes += verified.map(|number| u64::from(pieces.span(piece, number % 4).len)).sum::<u64>();
        prop_assert_eq!(pieces.has(piece), count(BlockState::Verified) == numbers.len() as u32);
        let first = numbers.iter().position(|number| pieces.state(*number) == BlockState::Missing);
        prop_assert_eq!(pieces.next_missing(piece, 0, 4), first.map(|at| at as u32));
        if let Some(active) = pieces.active(piece) {
            prop_assert_eq!(active.gaps.count(), count(BlockState::Missing));
            prop_assert_eq!(active.left, numbers.len() as u32 - count(BlockState::Verified));
            prop_assert_eq!(active.settled as usize, pieces.settled_blocks(piece).len());
            prop_assert_eq!(pieces.open().any(|open| open == piece), active.gaps.count() > 0);
            for block in &active.blocks {
                prop_assert!(block.state != BlockState::Requested || block.is_asked());
            }
        }
    }
    prop_assert_eq!(bytes, pieces.verified_bytes());
    let now = Instant::now();
    let due: BTreeSet<u32> = pieces.due_before_or_after(now, now).map(|(_, number)| number).collect();
    let numbers = 0..pieces.layout().block_numbers();
    prop_assert_eq!(due, numbers.filter(|number| pieces.asked(*number).next().is_some()).collect());
    Ok(())
}

#[test]
fn what_is_late_comes_before_what_takes_long() {
    let (mut pieces, now, s) = (manager(&[10 * 65_536], true), Instant::now(), Duration::from_secs(1));
    for (number, due) in [(0, 7 * s), (4, s), (8, 3 * s), (12, 9 * s), (16, 2 * s)] {
        pieces.activate(number / 4, false);
        pieces.requested(number, ConnId(1), now + due);
    }
    pieces.requested(0, ConnId(2), now + 8 * s);
    assert!(!pieces.unrequested(0, ConnId(1)) && pieces.unrequested(16, ConnId(1)));
    let due: Vec<_> = pieces.due_before_or_after(now + 2 * s, now + 5 * s).collect();
    assert_eq!(due, [(now + s, 4), (now + 8 * s, 0), (now + 9 * s, 12)]);
}

#[test]
fn what_storage_holds_is_adopted() {
    let layout = Layout::new(32768, true, &[40_000, 5]).unwrap();
    let mut verified = Bitfield::new(layout.block_numbers());
    for number in [0, 1, 4] {
        verified.insert(number);
    }
    let pieces = PieceManager::new(layout, verified, true);
    assert_eq!(pieces.have().iter().collect::<Vec<_>>(), [0, 2]);
    assert_eq!(pieces.verified_bytes(), 32768 + 5);
    let span = |begin, len| BlockSpan { piece: PieceIndex(1), begin, len };
    assert!(!pieces.holds(span(0, 1)), "missing");
    assert!(!pieces.holds(span(0, 32768)), "beyond the short piece");
    assert!(pieces.holds(BlockSpan { piece: PieceIndex(0), begin: 100, len: 20_000 }), "any part of a piece");
}

fn digests(of: [u8; 4]) -> Vec<BlockDigest> {
    of.map(|digest| BlockDigest([digest; 16])).to_vec()
}

/// Peers deliver blocks of the first piece, and the piece fails.
fn fail(pieces: &mut PieceManager, from: &[(u32, &Arc<PeerIdentity>)], now: [u8; 4]) {
    for (block, from) in from {
        pieces.set_missing(*block);
        pieces.received(*block, ConnId(1), (*from).clone());
        pieces.settled(*block);
    }
    pieces.active_mut(0).unwrap().failed(&digests(now));
}

#[test]
fn a_block_that_two_peers_sent_alike_is_confirmed() {
    let mut pieces = manager(&[65_536], false);
    let [a, b, c] = [1, 2, 3].map(|at| Arc::new(PeerIdentity::Memory(at)));
    pieces.activate(0, false);
    fail(&mut pieces, &[(0, &a), (1, &a), (2, &b), (3, &b)], [0, 1, 2, 9]);
    assert_eq!(pieces.active(0).unwrap().unconfirmed(), Some(vec![0, 1, 2, 3]));
    pieces.active_mut(0).unwrap().isolated.as_mut().unwrap().turn = Turn::Others;
    assert!(!pieces.may_deliver((0, 0), ConnId(1), &a) && pieces.may_deliver((0, 0), ConnId(1), &b));
    fail(&mut pieces, &[(0, &b), (1, &c), (2, &a), (3, &a)], [0, 8, 2, 3]);
    assert_eq!(pieces.active(0).unwrap().unconfirmed(), Some(vec![1, 3]));
    // The same peer says the same again: that confirms nothing.
    fail(&mut pieces, &[(1, &c)], [0, 8, 2, 3]);
    assert_eq!(pieces.active(0).unwrap().unconfirmed(), Some(vec![1, 3]));
    fail(&mut pieces, &[(1, &b), (3, &c)], [0, 8, 2, 3]);
    let active = pieces.active(0).unwrap();
    assert_eq!(active.unconfirmed(), None, "two conspire");
    let culprits: Vec<_> = active.culprits(&digests([0, 1, 2, 3])).into_iter().collect();
    assert_eq!(culprits, [(b, BlockIndex(3)), (c, BlockIndex(1))]);
}

#[test]
fn copies_of_a_block_are_bounded() {
    let mut pieces = manager(&[65_536], false);
    pieces.activate(0, false);
    let peers: Vec<_> = (0..10).map(|at| Arc::new(PeerIdentity::Memory(at))).collect();
    for (at, peer) in (0..).zip(&peers) {
        assert_eq!(at == 0 || pieces.active(0).unwrap().unconfirmed().is_some(), at < MAX_COPIES, "{at}");
        fail(&mut pieces, &[(0, peer)], [at as u8; 4]);
    }
    // Whose copy was not kept is not blamed.
    assert_eq!(pieces.active(0).unwrap().culprits(&digests([0; 4])).len(), MAX_COPIES - 1);
}

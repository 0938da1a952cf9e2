//! Reads of files: what waits, and how far ahead to fetch.

use std::time::Duration;

use super::Torrent;
use crate::engine::manager::Context;
use crate::engine::scheduling::{HEAD_LEN, MIN_WINDOW, WINDOW_S};
use crate::engine::{Output, Prefetch, ReadError, media};
use crate::types::{FileIndex, ReadId, ReaderId};

impl Torrent {
    pub(in crate::engine) fn open_reader(
        &mut self,
        ctx: &mut Context<'_>,
        reader: ReaderId,
        file: FileIndex,
        timeout: Duration,
    ) {
        self.readers.open(ctx.now, reader, file, timeout);
        let is_first = self.opened.insert(file.0);
        if let Some(content) = self.content.as_mut().filter(|_| is_first && self.prefetch == Prefetch::File) {
            for piece in content.metainfo.layout().pieces_of(file).filter(|piece| !content.pieces.has(*piece)) {
                content.availability.missing(piece);
            }
            self.dirty.all = true;
        }
    }

    /// A read that waits for blocks.
    pub(in crate::engine) fn read(
        &mut self,
        ctx: &mut Context<'_>,
        read: ReadId,
        reader: ReaderId,
        offset: u64,
        len: u32,
    ) {
        let Some(content) = self.content.as_ref().filter(|_| self.readers.has_reader(reader)) else {
            ctx.out.push_back(Output::ReadFailed { read, reason: ReadError::Closed });
            return;
        };
        let bytes = offset..offset.saturating_add(u64::from(len));
        if self.readers.read(ctx.now, read, reader, bytes, &content.pieces) {
            ctx.out.push_back(Output::ReadReady { read });
        } else if self.is_refused {
            self.readers.drop_read(read);
            ctx.out.push_back(Output::ReadFailed { read, reason: ReadError::Inconsistent });
            return;
        } else {
            self.wake_duties(ctx.now);
            self.make_way(ctx, read);
        }
        self.move_window(ctx, reader, offset, len);
        self.dirty.all = true;
    }

    /// A read that storage answered.
    pub(in crate::engine) fn read_cached(&mut self, ctx: &mut Context<'_>, reader: ReaderId, offset: u64, len: u32) {
        self.move_window(ctx, reader, offset, len);
    }

    fn move_window(&mut self, ctx: &mut Context<'_>, reader: ReaderId, offset: u64, len: u32) {
        let rate = self.estimate(ctx).rate.min(ctx.limits.download.rate());
        if self.prefetch == Prefetch::None {
            return;
        }
        let limit = ((rate * WINDOW_S).max(MIN_WINDOW) as u64).min(ctx.limits.window_share());
        let Some(content) = &self.content else { return };
        let bytes = offset..offset.saturating_add(u64::from(len));
        let moved = self.readers.touch(ctx.now, reader, bytes, limit, &content.pieces);
        if moved.left {
            self.cancel_unwanted(ctx);
        }
        self.dirty.all |= moved.moved;
        if offset < HEAD_LEN {
            self.begin(ctx, reader);
        }
    }

    /// A head is read: what plays it reads the tail next.
    fn begin(&mut self, ctx: &Context<'_>, reader: ReaderId) {
        let (Some(content), Some(file)) = (&self.content, self.readers.file_of(reader)) else { return };
        let is_played = |entry: &crate::metainfo::Entry| media::is_media(entry.path.as_str());
        if self.begun.contains(&file.0) || !content.metainfo.entry(file).is_some_and(is_played) {
            return;
        }
        self.begun.insert(file.0);
        let Some(ends) = media::ends(content.metainfo.layout().file_length(file)) else { return };
        if self.scans.admits(ctx.now) {
            self.readers.want_ends(reader, ends, &content.pieces);
            self.dirty.all = true;
        }
    }

    /// Readers with something to fetch ahead.
    pub(in crate::engine) fn open_windows(&self) -> usize {
        self.readers.open_windows()
    }

    /// Gives up what is ahead of readers beyond the share of each.
    pub(in crate::engine) fn limit_windows(&mut self, ctx: &mut Context<'_>) {
        let Some(content) = &self.content else { return };
        if self.readers.limit_windows(ctx.limits.window_share(), &content.pieces) {
            self.cancel_unwanted(ctx);
        }
    }

    /// Nobody waits for a read any more.
    pub(in crate::engine) fn cancel_read(&mut self, ctx: &mut Context<'_>, read: ReadId) {
        if self.readers.drop_read(read) {
            self.cancel_unwanted(ctx);
        }
    }

    /// A handle was closed.
    pub(in crate::engine) fn close_reader(&mut self, ctx: &mut Context<'_>, reader: ReaderId) {
        for read in self.readers.close(reader) {
            ctx.out.push_back(Output::ReadFailed { read, reason: ReadError::Closed });
        }
        self.cancel_unwanted(ctx);
    }

    /// Ends reads that have waited for too long without progress.
    pub(super) fn expire_reads(&mut self, ctx: &mut Context<'_>) {
        let expired = self.readers.expired(ctx.now);
        if expired.is_empty() {
            return;
        }
        let peers = self.peers.len();
        for (read, timeout) in expired {
            self.readers.drop_read(read);
            ctx.out.push_back(Output::ReadFailed { read, reason: ReadError::Timeout { timeout, peers } });
        }
        self.cancel_unwanted(ctx);
    }
}

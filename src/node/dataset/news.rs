//! What peers say where the followers of a dataset meet.

use std::sync::Weak;

use tokio::sync::mpsc;

use super::Dataset;
use crate::discovery::PushedRecord;
use crate::node::driver::{Command, MeetingNews};
use crate::node::handle::Shared;
use crate::types::RecordParts;

/// Hears peers until the node ends.
pub(in crate::node) async fn attend(node: Weak<Shared>, mut news: mpsc::Receiver<MeetingNews>) {
    while let Some(news) = news.recv().await {
        let Some(node) = node.upgrade() else { return };
        let key = match &news {
            MeetingNews::Met { torrent, .. }
            | MeetingNews::Heard { torrent, .. }
            | MeetingNews::Asked { torrent, .. } => *torrent,
        };
        let Some(dataset) = node.datasets.find(key) else { continue };
        drop(node);
        hear(&dataset, news).await;
    }
}

/// Takes what networks push until the node ends.
pub(in crate::node) async fn receive(node: Weak<Shared>, mut pushed: mpsc::Receiver<PushedRecord>) {
    while let Some(PushedRecord { dataset, record, source }) = pushed.recv().await {
        let Some(node) = node.upgrade() else { return };
        let Some(dataset) = node.datasets.named(&dataset) else { continue };
        drop(node);
        dataset.learn(record, source).await;
        dataset.answered();
    }
}

async fn hear(dataset: &Dataset, news: MeetingNews) {
    match news {
        MeetingNews::Met { addr, .. } => dataset.met(addr).await,
        MeetingNews::Heard { record, .. } => {
            if let Some(parts) = record.as_deref().and_then(RecordParts::from_bytes) {
                dataset.learn(parts, "peer").await;
            }
            dataset.answered();
        }
        MeetingNews::Asked { conn, seq, .. } => {
            let record = {
                let known = dataset.known();
                let record = if seq == 0 { known.newest_record() } else { known.record(seq) };
                record.map(|record| record.parts().to_bytes().into())
            };
            let _ = dataset.send(Command::SendRecord { conn, record }).await;
        }
    }
}

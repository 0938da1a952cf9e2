//! This process as the node of a store.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::error::CliError;
use crate::control::Server;
use crate::fuse::FuseMounter;
use crate::node::lifecycle::{Gate, StoreDir, StoreLock};
use crate::node::{Node, NodeConfig, NodeHandle};

/// A node in this process that answers commands.
pub(super) struct Host {
    // The order of the fields is the order in which they end.
    server: JoinHandle<()>,
    gate: Gate,
    node: Node,
    _lock: StoreLock,
}

impl Host {
    /// Starts the node of `store`; it answers when this returns.
    pub(super) async fn start(store: &StoreDir, lock: StoreLock, config: NodeConfig) -> Result<Self, CliError> {
        let node = Node::start(config, Arc::new(FuseMounter)).await?;
        let gate = Gate::default();
        let socket = store.socket();
        match Server::bind(&socket, Arc::new(node.handle()), gate.clone()) {
            Ok(server) => Ok(Self { server: tokio::spawn(server.run()), gate, node, _lock: lock }),
            Err(source) => {
                node.shutdown().await;
                Err(CliError::file("listen at", &socket, source))
            }
        }
    }

    /// Who uses the node.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The node.
    pub(super) fn handle(&self) -> NodeHandle {
        self.node.handle()
    }

    /// Ends everything in the node and lets the store go. Takes a bounded time.
    pub(super) async fn shutdown(self) {
        self.gate.close();
        if let Err(error) = self.server.await {
            tracing::warn!(%error, "the control server broke");
        }
        self.node.shutdown().await;
    }
}

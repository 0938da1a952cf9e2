//! `knot mount`

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;

use super::args::{Common, TorrentArgs, duration, resolved};
use super::error::CliError;
use super::node_args::NodeArgs;
use super::output::{self, Bar};
use super::session::{Role, Session};
use super::status::short;
use crate::control::Client;
use crate::node::api::{MountRequest, TorrentInfo};
use crate::node::lifecycle::Signals;

/// How often `mount -f` looks whether its mount is still there.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    torrent: TorrentArgs,
    /// Existing, empty directory
    mountpoint: PathBuf,
    /// Stay in the foreground; Ctrl-C unmounts
    #[arg(short, long)]
    pub(super) foreground: bool,
    /// Let other users look too
    #[arg(long)]
    allow_other: bool,
    /// Mount at once, and stay empty until the metainfo is there, however long that takes: `knot status` tells
    #[arg(long)]
    lazy: bool,
    /// Mount options: allow_other, ro
    #[arg(short, value_name = "OPTIONS", value_delimiter = ',')]
    options: Vec<MountOption>,
    /// What to fetch before it is read
    #[arg(long, value_enum, default_value = "window")]
    prefetch: Prefetch,
    /// How often to look for a newer version of a dataset; what others push is seen at once [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    poll: Option<Duration>,
    /// Command to run, by a shell, when the mount has moved to a newer version: KNOT_MOUNTPOINT, KNOT_SEQ,
    /// KNOT_INFOHASH and KNOT_PREVIOUS_SEQ tell which
    #[arg(long, value_name = "CMD")]
    on_update: Option<String>,
    /// Versions of a dataset of which content is kept beside the one that is shown
    #[arg(long, value_name = "N", default_value_t = 3)]
    keep_versions: u32,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MountOption {
    #[value(name = "allow_other")]
    AllowOther,
    #[value(help = "read only, as every mount is")]
    Ro,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Prefetch {
    /// Nothing: a read costs what it reads, and waits for it
    None,
    /// What a program that reads in sequence will want next
    Window,
    /// That, and with idle capacity the rest of every file that was opened
    File,
    /// That, and with idle capacity everything
    All,
}

impl From<Prefetch> for crate::engine::Prefetch {
    fn from(prefetch: Prefetch) -> Self {
        match prefetch {
            Prefetch::None => Self::None,
            Prefetch::Window => Self::Window,
            Prefetch::File => Self::File,
            Prefetch::All => Self::All,
        }
    }
}

impl Args {
    fn request(&self) -> Result<MountRequest, CliError> {
        Ok(MountRequest {
            add: self.torrent.request(&self.node, false)?,
            mountpoint: resolved(&self.mountpoint)?,
            allow_other: self.allow_other || self.options.contains(&MountOption::AllowOther),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            lazy: self.lazy,
            prefetch: self.prefetch.into(),
            poll: self.poll,
            on_update: self.on_update.clone(),
            keep_versions: self.keep_versions,
        })
    }
}

pub(super) async fn run(common: &Common, args: Args) -> Result<(), CliError> {
    let request = args.request()?;
    let session = Session::open(&common.store()?, &args.node, Role::Background).await?;
    let torrent = mount(&session.client, &request).await?;
    report(common, &request.mountpoint, &torrent)
}

pub(super) async fn run_foreground(common: &Common, args: Args) -> Result<(), CliError> {
    let request = args.request()?;
    let mut signals = Signals::new()?;
    let mut session = Session::open(&common.store()?, &args.node, Role::Foreground).await?;
    let result = tokio::select! {
        result = stay(common, &mut session, &request) => result,
        () = signals.recv() => unmount_again(&session.client, &request.mountpoint).await,
    };
    session.close().await;
    result
}

/// Mounts, and returns when the mount has been taken away or the node has ended.
async fn stay(common: &Common, session: &mut Session, request: &MountRequest) -> Result<(), CliError> {
    let client = session.client.clone();
    let torrent = mount(&client, request).await?;
    report(common, &request.mountpoint, &torrent)?;
    loop {
        tokio::select! {
            error = session.lost() => return Err(error.into()),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        if !is_mounted(&client, &request.mountpoint).await? {
            return Ok(());
        }
    }
}

async fn is_mounted(client: &Client, mountpoint: &Path) -> Result<bool, CliError> {
    Ok(client.status().await?.mounts.iter().any(|mount| mount.mountpoint == mountpoint))
}

/// What Ctrl-C means: the mount goes, if it has come at all.
async fn unmount_again(client: &Client, mountpoint: &Path) -> Result<(), CliError> {
    if is_mounted(client, mountpoint).await? {
        client.unmount(mountpoint).await?;
        return Ok(());
    }
    Err(CliError::Interrupted)
}

async fn mount(client: &Client, request: &MountRequest) -> Result<TorrentInfo, CliError> {
    let bar = Bar::new();
    Ok(client.mount(request, |progress| bar.show(&progress)).await?)
}

fn report(common: &Common, mountpoint: &Path, torrent: &TorrentInfo) -> Result<(), CliError> {
    if common.json {
        return output::json(torrent);
    }
    if torrent.name.is_empty() {
        let short = short(&torrent.info_id);
        output::note(format!("mounted at {mountpoint:?}, empty until the metainfo of {short} is there"));
        return Ok(());
    }
    output::note(format!("mounted {:?} ({}) at {mountpoint:?}", torrent.name, output::size(torrent.total_length)));
    Ok(())
}

//! The command line: one file a subcommand. Results go to stdout, progress and errors to stderr.

mod args;
mod cat;
mod completions;
mod create;
mod daemon;
mod demo;
mod diff;
mod error;
mod freeze;
mod get;
mod host;
mod inspect;
mod key;
mod metainfo_file;
mod mirror;
mod mount;
mod node_args;
mod output;
mod publish;
mod run;
mod seed;
mod session;
mod status;
mod unmount;
mod watch;

use std::future::Future;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use self::args::Common;
use self::error::CliError;
use crate::node::lifecycle::Signals;

/// Mount a torrent and read it at once, while it is still in the swarm.
#[derive(Debug, Parser)]
#[command(name = "knot", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failure, 2 usage, 3 not found in time, 4 verification failed, \
                          130 interrupted.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Hash a file or directory and write its metainfo; prints the InfoID
    Create(create::Args),
    /// Show what is in a torrent: a file, a URL, or what a magnet link says
    Inspect(inspect::Args),
    /// Serve a file or directory in place until Ctrl-C; prints the addresses that peers can dial
    Seed(seed::Args),
    /// Publish a file or directory as a dataset, or as its next version; prints the dataset's InfoSig
    Publish(publish::Args),
    /// Watch a published directory, and show or publish what changes
    Watch(watch::Args),
    /// List what changed between versions of a dataset
    Diff(diff::Args),
    /// Keep and serve a dataset of somebody else, without its key, until Ctrl-C; prints the addresses that peers can dial
    Mirror(mirror::Args),
    /// Mount a torrent; returns when it can be read
    Mount(mount::Args),
    /// Unmount what `knot mount` mounted
    Unmount(unmount::Args),
    /// Download a torrent into a directory
    Get(get::Args),
    /// Write a file of a torrent to stdout
    Cat(cat::Args),
    /// Hold a mount on the version that it shows
    Freeze(freeze::Args),
    /// Let a frozen mount follow its dataset again
    Thaw(freeze::Args),
    /// Run a command that sees one version of a mount, whatever the mount shows meanwhile
    Run(run::Args),
    /// Show the node of the store: torrents, datasets, peers, mounts, cache
    Status(status::Args),
    /// Make and show publishers' keys
    Key(key::Args),
    /// Run the node of the store in the foreground until Ctrl-C
    Daemon(daemon::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Show the main job, from a folder to a player, on this machine alone
    Demo(demo::Args),
}

/// Runs the command in this process's arguments.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report();
            ExitCode::from(error.exit_code())
        }
    }
}

impl Cli {
    fn run(self) -> Result<(), CliError> {
        let Self { common, command } = self;
        match command {
            Command::Create(args) => create::run(&common, args),
            Command::Inspect(args) => as_client(inspect::run(&common, &args)),
            Command::Key(args) => key::run(&common, args),
            Command::Completions(args) => completions::run(&args, &mut Cli::command()),
            Command::Demo(args) => demo::run(&args),
            Command::Freeze(args) => as_client(freeze::run(&common, args, true)),
            Command::Thaw(args) => as_client(freeze::run(&common, args, false)),
            // Without a runtime: see there.
            Command::Run(args) => run::run(&args),
            Command::Status(args) => as_client(status::run(&common, args)),
            Command::Unmount(args) => as_client(unmount::run(&common, args)),
            Command::Publish(args) => as_client(publish::run(&common, args)),
            Command::Watch(args) => as_node(watch::run(&common, args)),
            Command::Mirror(args) => as_node(mirror::run(&common, args)),
            Command::Diff(args) => as_client(diff::run(&common, args)),
            Command::Get(args) => as_client(get::run(&common, args)),
            Command::Cat(args) => as_client(cat::run(&common, args)),
            Command::Mount(args) if args.foreground => as_node(mount::run_foreground(&common, args)),
            Command::Mount(args) => as_client(mount::run(&common, args)),
            Command::Seed(args) => as_node(seed::run(&common, args)),
            Command::Daemon(args) => daemon::run(&common, args),
        }
    }
}

/// Runs a command that only asks; a signal ends it at once.
fn as_client(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::runtime)?;
    let result = runtime.block_on(async {
        let mut signals = Signals::new()?;
        tokio::select! {
            result = command => result,
            () = signals.recv() => Err(CliError::Interrupted),
        }
    });
    runtime.shutdown_background();
    result
}

/// Runs a command that may be the node; it handles signals itself.
fn as_node(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(network_threads()).enable_all().build().map_err(CliError::runtime)?;
    let result = runtime.block_on(command);
    // What is still blocked on a disk or a dead mount does not keep the process.
    runtime.shutdown_background();
    result
}

/// Threads that serve connections: half of the cores. The others hash, and read and write files, on threads of their
/// own; with more of these they would take the cores from each other block by block.
fn network_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

fn log_to_stderr() {
    // Gossipsub tells as errors what strangers do wrong.
    let default = "error,libp2p_gossipsub=off,knot=warn";
    let filter = EnvFilter::try_from_env("KNOT_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    // A log that cannot be written (it lies in the store, whose disk may be full) is no reason to panic: that is
    // what the subscriber would do by reporting its own errors on the same stderr.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    log.log_internal_errors(false).init();
}

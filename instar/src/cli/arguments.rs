//! The command line as data: every option of qemu-img's commands of the same name, and instar's own.
//!
//! Values stay as they were typed; what they mean is checked by the commands, in the order that users know.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

/// `instar`.
#[derive(Debug, Parser)]
#[command(name = "instar", version, about, args_override_self = true, infer_long_args = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Commit an overlay to its backing file
    #[command(args_override_self = true, infer_long_args = true)]
    Commit(Box<CommitArguments>),
    /// Show what is known of an image
    #[command(args_override_self = true, infer_long_args = true)]
    Info(Box<InfoArguments>),
    /// Change the backing file of an overlay
    #[command(args_override_self = true, infer_long_args = true)]
    Rebase(Box<RebaseArguments>),
}

/// How FILE is to be understood.
#[derive(Debug, Args)]
pub struct ImageArguments {
    /// Format of FILE; without it the format is probed
    #[arg(short = 'f', long = "format", value_name = "FMT", allow_hyphen_values = true)]
    pub format: Option<OsString>,
    /// FILE is an option string, such as driver=qcow2,file.filename=a.qcow2
    #[arg(long = "image-opts")]
    pub image_options: bool,
    /// A user object such as a secret; there is no use for one yet
    #[arg(long = "object", value_name = "OBJDEF", allow_hyphen_values = true, action = ArgAction::Append)]
    pub objects: Vec<OsString>,
    /// The image
    #[arg(value_name = "FILE")]
    pub files: Vec<OsString>,
}

/// Which files an image may name.
#[derive(Debug, Args)]
pub struct GateArguments {
    /// Follow names recorded in images into DIR too; can be given more than once (also INSTAR_ALLOW_DIRS, separated by
    /// colons). Without it only the directory of FILE is allowed
    #[arg(long = "allow-dir", value_name = "DIR", allow_hyphen_values = true, action = ArgAction::Append)]
    pub allowed_directories: Vec<PathBuf>,
    /// Follow whatever file name an image records
    #[arg(long = "allow-any-path")]
    pub any_path: bool,
}

/// What `commit` is asked for.
#[derive(Debug, Args)]
pub struct CommitArguments {
    #[command(flatten)]
    pub image: ImageArguments,
    /// Cache mode: none, directsync, writeback, unsafe or writethrough; the result is on the disk in all of them
    #[arg(short = 't', long = "cache", value_name = "CACHE", allow_hyphen_values = true)]
    pub cache: Option<OsString>,
    /// Image of the backing chain to commit into, instead of FILE's own backing file; implies -d
    #[arg(short = 'b', long = "base", value_name = "BASE", allow_hyphen_values = true)]
    pub base: Option<OsString>,
    /// Do not empty FILE afterwards
    #[arg(short = 'd', long = "drop")]
    pub drop: bool,
    /// Bytes per second, with a suffix k, M, G, T, P or E; checked, but this version does not slow down
    #[arg(short = 'r', long = "rate-limit", value_name = "RATE", allow_hyphen_values = true)]
    pub rate: Option<OsString>,
    /// Show progress
    #[arg(short = 'p', long = "progress")]
    pub progress: bool,
    /// Say nothing unless something goes wrong
    #[arg(short = 'q', long = "quiet")]
    pub quiet: bool,
    /// Form of the result: human or json
    #[arg(long = "output", value_name = "FORM", allow_hyphen_values = true)]
    pub output: Option<OsString>,
    #[command(flatten)]
    pub gate: GateArguments,
}

/// What `info` is asked for.
#[derive(Debug, Args)]
pub struct InfoArguments {
    #[command(flatten)]
    pub image: ImageArguments,
    /// Show the images below FILE too
    #[arg(short = 'b', long = "backing-chain")]
    pub backing_chain: bool,
    /// Look even while somebody writes to the image
    #[arg(short = 'U', long = "force-share")]
    pub force_share: bool,
    /// Form of the result: human or json
    #[arg(long = "output", value_name = "FORM", allow_hyphen_values = true)]
    pub output: Option<OsString>,
    /// Print what qemu-img of this version prints, such as 8.2.0
    #[arg(long = "qemu-version", value_name = "V", allow_hyphen_values = true)]
    pub qemu_version: Option<OsString>,
    #[command(flatten)]
    pub gate: GateArguments,
}

/// What `rebase` is asked for.
#[derive(Debug, Args)]
pub struct RebaseArguments {
    #[command(flatten)]
    pub image: ImageArguments,
    /// Cache mode of FILE
    #[arg(short = 't', long = "cache", value_name = "CACHE", allow_hyphen_values = true)]
    pub cache: Option<OsString>,
    /// Cache mode of the new backing file
    #[arg(short = 'T', long = "backing-cache", value_name = "CACHE", allow_hyphen_values = true)]
    pub backing_cache: Option<OsString>,
    /// The new backing file; an empty name for none
    #[arg(short = 'b', long = "backing", value_name = "NAME", allow_hyphen_values = true)]
    pub backing: Option<OsString>,
    /// Format of the new backing file
    #[arg(short = 'B', long = "backing-format", short_alias = 'F', value_name = "FMT", allow_hyphen_values = true)]
    pub backing_format: Option<OsString>,
    /// Change only the name, do not look at any data
    #[arg(short = 'u', long = "backing-unsafe")]
    pub is_unsafe: bool,
    /// Compress what has to be copied
    #[arg(short = 'c', long = "compress")]
    pub compress: bool,
    /// Use the new backing file even while somebody writes to it
    #[arg(short = 'U', long = "force-share")]
    pub force_share: bool,
    /// Bytes per second, with a suffix k, M, G, T, P or E; checked, but this version does not slow down
    #[arg(short = 'r', long = "rate-limit", value_name = "RATE", allow_hyphen_values = true)]
    pub rate: Option<OsString>,
    /// Show progress
    #[arg(short = 'p', long = "progress")]
    pub progress: bool,
    /// Say nothing unless something goes wrong
    #[arg(short = 'q', long = "quiet")]
    pub quiet: bool,
    /// Form of the result: human or json
    #[arg(long = "output", value_name = "FORM", allow_hyphen_values = true)]
    pub output: Option<OsString>,
    #[command(flatten)]
    pub gate: GateArguments,
}

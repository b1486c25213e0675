//! The command line as data: every option of qemu-img's commands of the same name, and instar's own.
//!
//! Values stay as they were typed; what they mean is checked by the commands, in the order that users know.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use super::plan::PlanArguments;

/// `instar`.
#[derive(Debug, Parser)]
#[command(name = "instar", version, about, args_override_self = true, infer_long_args = true)]
pub struct Arguments {
    /// Say on standard error what is done; twice: every batch of requests too. With --version: say what a guest is held by on
    /// this machine
    #[arg(short = 'v', long = "verbose", action = ArgAction::Count, global = true)]
    pub verbosity: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands. Options of those that are not asked for need not be made: that would take a tenth of a millisecond.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Commit an overlay to its backing file
    #[command(args_override_self = true, infer_long_args = true)]
    Commit(Box<CommitsArguments>),
    /// Say whether this machine and a directory have what is needed, and what helps where they do not
    #[command(args_override_self = true, infer_long_args = true)]
    Doctor(Box<DoctorArguments>),
    /// Show what is known of an image
    #[command(args_override_self = true, infer_long_args = true)]
    Info(Box<InfoArguments>),
    /// Change the backing file of an overlay
    #[command(args_override_self = true, infer_long_args = true)]
    Rebase(Box<RebaseArguments>),
    /// Do as qemu-img does: commit, info and rebase here, everything else by the real qemu-img
    #[command(name = "qemu-img", disable_help_flag = true)]
    QemuImg(QemuImgArguments),
    /// Say what a commit or rebase would do, and change nothing
    Plan(PlanArguments),
}

impl Command {
    /// How a guest is to be held; nothing where that is another command's.
    pub(super) fn jail(&self) -> Option<&JailArguments> {
        match self {
            Self::Commit(arguments) => Some(&arguments.each.jail),
            Self::Doctor(arguments) => Some(&arguments.jail),
            Self::Info(arguments) => Some(&arguments.jail),
            Self::Rebase(arguments) => Some(&arguments.jail),
            Self::Plan(arguments) => Some(arguments.jail()),
            Self::QemuImg(_) => None,
        }
    }
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
    /// A passphrase: secret,id=ID,file=PATH or secret,id=ID,data=TEXT, with format=base64 where it is; can be given more
    /// than once. FILE's options name it: --image-opts driver=qcow2,file.filename=FILE,encrypt.key-secret=ID
    #[arg(long = "object", value_name = "OBJDEF", allow_hyphen_values = true, action = ArgAction::Append)]
    pub objects: Vec<OsString>,
    /// Form of what is said of an error: human, or json (one object on standard error). Without it json for commit and
    /// rebase with --output json, human otherwise
    #[arg(long = "errors", value_name = "FORM", allow_hyphen_values = true)]
    pub errors: Option<OsString>,
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

/// How a guest is held.
#[derive(Debug, Args)]
pub struct JailArguments {
    /// Fail where the system lacks a layer of the jail (no_new_privs, landlock, seccomp), rather than do without it
    #[arg(long = "require-jail")]
    pub required: bool,
    /// What the guest program runs on: kvm (default), or process, where there is no /dev/kvm; a process is the weaker sandbox
    /// (also INSTAR_SANDBOX)
    #[arg(long = "sandbox", value_name = "KIND", allow_hyphen_values = true)]
    pub sandbox: Option<OsString>,
}

/// What is done and told besides.
#[derive(Debug, Args)]
pub struct CareArguments {
    /// Read the result again in a fresh sandbox, from the disk, and compare it, before FILE is emptied or names another
    /// backing file
    #[arg(long = "verify")]
    pub verify: bool,
    /// Tell what it took: exits, requests, bytes and times; on standard error, or in the JSON output
    #[arg(long = "stats")]
    pub stats: bool,
}

/// What `commit` is asked for.
#[derive(Debug, Args)]
pub struct CommitsArguments {
    /// What is asked for each image.
    #[command(flatten)]
    pub each: CommitArguments,
    /// Commit several FILEs, each in a process of its own, at most N (1 to 256) at the same time
    #[arg(long = "jobs", value_name = "N", allow_hyphen_values = true)]
    pub jobs: Option<OsString>,
}

/// What `commit` is asked for one image.
#[derive(Debug, Args)]
pub struct CommitArguments {
    #[command(flatten)]
    pub image: ImageArguments,
    /// Cache mode of all images: writeback (default); none or off, past the page cache; writethrough, on the disk at every
    /// step; directsync, both; unsafe, never flushed
    #[arg(short = 't', long = "cache", value_name = "CACHE", allow_hyphen_values = true)]
    pub cache: Option<OsString>,
    /// Image of the backing chain to commit into, instead of FILE's own backing file; implies -d
    #[arg(short = 'b', long = "base", value_name = "BASE", allow_hyphen_values = true)]
    pub base: Option<OsString>,
    /// Do not empty FILE afterwards; it stays as it is
    #[arg(short = 'd', long = "drop")]
    pub drop: bool,
    /// Most bytes to write per second, with a suffix k, M, G, T, P or E; 0 for no limit
    #[arg(short = 'r', long = "rate-limit", value_name = "RATE", allow_hyphen_values = true)]
    pub rate: Option<OsString>,
    /// Empty FILE afterwards although -b is given; BASE must be the image right below FILE
    #[arg(long = "empty")]
    pub empty: bool,
    /// Delete FILE once the base is on the disk, instead of emptying it
    #[arg(long = "delete-overlay")]
    pub delete_overlay: bool,
    /// Refuse if another image in DIR is based on the base; can be given more than once
    #[arg(long = "check-siblings", value_name = "DIR", allow_hyphen_values = true, action = ArgAction::Append)]
    pub sibling_directories: Vec<PathBuf>,
    /// Go on where --check-siblings, --delete-overlay or a base that only looks raw would be a reason to refuse
    #[arg(long = "force")]
    pub force: bool,
    /// Show progress: a bar on a terminal, otherwise a percentage
    #[arg(short = 'p')]
    pub show_progress: bool,
    /// Show progress: auto (as -p), plain, bar, json (one object a line, on standard error) or none
    #[arg(long = "progress", value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "auto")]
    pub progress: Option<OsString>,
    /// Say nothing unless something goes wrong
    #[arg(short = 'q', long = "quiet")]
    pub quiet: bool,
    /// Form of the result: human or json
    #[arg(long = "output", value_name = "FORM", allow_hyphen_values = true)]
    pub output: Option<OsString>,
    #[command(flatten)]
    pub care: CareArguments,
    #[command(flatten)]
    pub gate: GateArguments,
    #[command(flatten)]
    pub jail: JailArguments,
}

/// What `doctor` is asked for.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Where the images lie; without it the current directory
    #[arg(value_name = "DIR")]
    pub directories: Vec<PathBuf>,
    /// Form of the result: human or json
    #[arg(long = "output", value_name = "FORM", allow_hyphen_values = true)]
    pub output: Option<OsString>,
    #[command(flatten)]
    pub jail: JailArguments,
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
    /// Tell what it took on standard error: exits, requests, bytes and times
    #[arg(long = "stats")]
    pub stats: bool,
    #[command(flatten)]
    pub gate: GateArguments,
    #[command(flatten)]
    pub jail: JailArguments,
}

/// What `rebase` is asked for.
#[derive(Debug, Args)]
pub struct RebaseArguments {
    #[command(flatten)]
    pub image: ImageArguments,
    /// Cache mode of FILE and its old chain, as for commit
    #[arg(short = 't', long = "cache", value_name = "CACHE", allow_hyphen_values = true)]
    pub cache: Option<OsString>,
    /// Cache mode of the new backing file and what lies below it
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
    /// Most bytes to write per second, with a suffix k, M, G, T, P or E; 0 for no limit
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
    pub care: CareArguments,
    #[command(flatten)]
    pub gate: GateArguments,
    #[command(flatten)]
    pub jail: JailArguments,
}

/// What `qemu-img` is asked for.
#[derive(Debug, Args)]
pub struct QemuImgArguments {
    /// What would follow the word qemu-img on a command line
    #[arg(value_name = "ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

/// Words that `--progress` understands. It can stand alone, as qemu-img has it, so only these are taken for its value.
const PROGRESS_WORDS: [&str; 5] = ["auto", "plain", "bar", "json", "none"];

/// The command line of `commit` with `--progress WORD` written as `--progress=WORD`; any other unchanged.
pub(super) fn join_progress(arguments: &[OsString]) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::with_capacity(arguments.len());
    let first = arguments.iter().skip(1).find(|word| *word != "plan");
    let commits = first.is_some_and(|command| command == "commit");
    for argument in arguments {
        match joined.last_mut() {
            Some(last) if commits && last == "--progress" && PROGRESS_WORDS.iter().any(|word| argument == *word) => {
                last.push("=");
                last.push(argument);
            }
            _ => joined.push(argument.clone()),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_word_is_the_value_of_progress() {
        let join = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            join_progress(&words).join(std::ffi::OsStr::new(" ")).into_string().expect("UTF-8")
        };
        assert_eq!(join("instar commit --progress json a"), "instar commit --progress=json a");
        assert_eq!(join("instar plan commit --progress json a"), "instar plan commit --progress=json a");
        assert_eq!(join("instar commit --progress a"), "instar commit --progress a");
        assert_eq!(join("instar commit -p none"), "instar commit -p none");
        assert_eq!(join("instar rebase --progress none"), "instar rebase --progress none");
    }
}

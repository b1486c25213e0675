//! What the command line parser finds wrong, in the words of the C library's option parser that users know.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::error::Failure;
use crate::text::Printable;

/// The commands, and the plans of them.
const COMMANDS: [&str; 4] = ["commit", "doctor", "info", "rebase"];
const PLANS: [&str; 2] = ["plan commit", "plan rebase"];

/// The failure for a parser's error; `arguments` is the whole command line.
///
/// # Errors
/// The text to print on standard output if this is no failure at all, but help or version.
pub(super) fn failure(error: &clap::Error, arguments: &[impl AsRef<OsStr>]) -> Result<Failure, String> {
    let word = |at: usize| arguments.get(at).map(AsRef::as_ref);
    let command = match word(1).and_then(OsStr::to_str) {
        Some("plan") => PLANS.into_iter().find(|plan| plan.strip_prefix("plan ") == word(2).and_then(OsStr::to_str)),
        name => COMMANDS.into_iter().find(|command| name == Some(command)),
    };
    let usage = |text: String| Ok(Failure::Usage { command, by_option_parser: true, text });
    let plain = |text: String| Ok(Failure::Usage { command, by_option_parser: false, text });
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Err(error.to_string()),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            plain("Not enough arguments".to_owned())
        }
        ErrorKind::InvalidSubcommand => {
            let name = context(error, ContextKind::InvalidSubcommand);
            plain(format!("Command not found: {}", Printable(name.as_bytes())))
        }
        ErrorKind::UnknownArgument => usage(unknown(&context(error, ContextKind::InvalidArg), arguments)),
        ErrorKind::TooManyValues => {
            let option = context(error, ContextKind::InvalidArg);
            let option = option.rsplit("--").next().unwrap_or_default();
            usage(format!("option '--{option}' doesn't allow an argument"))
        }
        // Every value is accepted by the parser, so what is invalid is a value that is not there, behind the last option.
        ErrorKind::InvalidValue => usage(missing_value(error, arguments.last().map(AsRef::as_ref))),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            usage(line.strip_prefix("error: ").unwrap_or(line).to_owned())
        }
    }
}

fn context(error: &clap::Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    }
}

fn unknown(option: &str, arguments: &[impl AsRef<OsStr>]) -> String {
    match option.strip_prefix('-') {
        Some(letters) if !letters.starts_with('-') => {
            let letter: String = letters.chars().take(1).collect();
            format!("invalid option -- '{}'", Printable(letter.as_bytes()))
        }
        _ => {
            // The user's own word, with a value that may be attached to it.
            let typed = arguments.iter().map(|word| word.as_ref().as_bytes());
            let word = typed.into_iter().find(|word| {
                word.strip_prefix(option.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
            });
            format!("unrecognized option '{}'", Printable(word.unwrap_or(option.as_bytes())))
        }
    }
}

fn missing_value(error: &clap::Error, last: Option<&OsStr>) -> String {
    let last = last.map_or(&[][..], OsStrExt::as_bytes);
    if last.starts_with(b"--") {
        // The parser shows the option with its long name first: "--format <FMT>".
        let shown = context(error, ContextKind::InvalidArg);
        let option = shown.split(' ').next().unwrap_or_default();
        return format!("option '{option}' requires an argument");
    }
    format!("option requires an argument -- '{}'", Printable(last.last().map_or(&[], std::slice::from_ref)))
}

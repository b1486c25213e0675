//! How a failure is told: in words for people, or as one line of JSON for programs.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;
use tracing::info;

use super::arguments::{Command, ImageArguments};
use super::error::{Failure, Message};
use super::output::{Form, complain, complain_in_front, program};
use crate::text::Printable;

/// Whoever reads what went wrong.
#[derive(Debug, Default)]
pub(super) struct Listener {
    form: Form,
    /// FILE, for failures that do not name one themselves.
    file: Option<OsString>,
    /// FILE is one of several, so that every failure has to say whose it is.
    is_one_of_several: bool,
}

/// A failure for programs. `docs/schemas/error.schema.json` describes it.
#[derive(Serialize)]
struct Told<'a> {
    code: &'a str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overlay: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Listener {
    /// What a command line asks for: JSON where the result is JSON, but for `info`, whose errors qemu-img tells in words in
    /// any case.
    ///
    /// # Errors
    /// Another value of `--errors` than the two.
    pub(super) fn of(command: &Command) -> Result<Self, Failure> {
        let (name, image, output): (_, &ImageArguments, _) = match command {
            Command::Commit(arguments) => ("commit", &arguments.each.image, arguments.each.output.as_deref()),
            Command::Rebase(arguments) => ("rebase", &arguments.image, arguments.output.as_deref()),
            Command::Info(arguments) => ("info", &arguments.image, None),
            Command::Plan(arguments) => {
                let (image, output) = arguments.asked();
                ("plan", image, output)
            }
            Command::Doctor(_) | Command::QemuImg(_) => return Ok(Self::default()),
        };
        Self::of_command(name, image, output)
    }

    /// What the options of one of the commands ask for.
    ///
    /// # Errors
    /// As [`Listener::of`].
    pub(super) fn of_command(
        name: &'static str,
        image: &ImageArguments,
        output: Option<&OsStr>,
    ) -> Result<Self, Failure> {
        let form = match image.errors.as_deref() {
            None if output == Some(OsStr::new("json")) => Form::Json,
            errors => Form::of_option(name, "--errors", errors)?,
        };
        Ok(Self { form, file: image.files.first().cloned(), is_one_of_several: false })
    }

    /// The same listener, for failures of this FILE, which is one of several.
    pub(super) fn about(&self, file: &OsStr) -> Self {
        Self { form: self.form, file: Some(file.to_owned()), is_one_of_several: true }
    }

    /// As [`Listener::of`] for a command line that makes no sense, as far as single words of it do.
    pub(super) fn of_words(words: &[OsString]) -> Self {
        let is_info = words.get(1).is_some_and(|command| command == "info");
        let asks = |option: &str, form: &str| {
            let joined = format!("{option}={form}");
            words.iter().any(|word| *word == *joined)
                || words.windows(2).any(|pair| pair[0] == *option && pair[1] == *form)
        };
        let follows_result = !is_info && !asks("--errors", "human");
        let is_json = asks("--errors", "json") || (asks("--output", "json") && follows_result);
        let form = if is_json { Form::Json } else { Form::Human };
        Self { form, ..Self::default() }
    }

    /// Tells a failure, and gives the exit status that belongs to it.
    pub(super) fn tell(&self, failure: &Failure) -> u8 {
        info!(code = failure.code().name(), "failed");
        let program = program();
        match self.form {
            Form::Human => complain_in_front(&failure.prefix(program), &self.words(failure, program)),
            Form::Json => complain(&self.json(failure, program)),
        }
        failure.exit_status()
    }

    /// Tells something more that only people need to hear.
    pub(super) fn tell_people(&self, text: &str) {
        if self.form == Form::Human {
            complain_in_front(&format!("{}:", program()), text);
        }
    }

    /// A failure in words, which begin with FILE where it would not be known otherwise.
    fn words(&self, failure: &Failure, program: &str) -> String {
        let words = failure.words(program);
        match &self.file {
            Some(file) if self.is_one_of_several && failure.file().is_none() => {
                format!("'{}': {words}", Printable(file.as_bytes()))
            }
            _ => words,
        }
    }

    fn json(&self, failure: &Failure, program: &str) -> String {
        let own = self.file.as_deref().map(OsStrExt::as_bytes);
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let told = Told {
            code: failure.code().name(),
            message: Message(failure).to_string(),
            file: failure.file().or(own).map(text),
            overlay: own.filter(|_| self.is_one_of_several).map(text),
            hint: failure.hint(program),
        };
        // Strings are all there is, and these can always be written.
        ascii(&serde_json::to_string(&told).unwrap_or_default())
    }
}

/// The same JSON in printable ASCII: names come from images, and must do nothing to a terminal.
fn ascii(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    let mut units = [0; 2];
    for character in json.chars() {
        match character {
            ' '..='~' => shown.push(character),
            _ => {
                let units = character.encode_utf16(&mut units).iter();
                shown.extend(units.map(|unit| format!("\\u{unit:04x}")));
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Code;
    use crate::files::{Cause, OpenError};

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_line_that_makes_no_sense_is_searched_for_the_wish_for_json() {
        let form = |line| Listener::of_words(&words(line)).form;
        assert_eq!(form("instar commit --output json --bogus"), Form::Json);
        assert_eq!(form("instar rebase --output=json -Z"), Form::Json);
        assert_eq!(form("instar commit --output human json"), Form::Human);
        assert_eq!(form("instar info --output=json --bogus"), Form::Human);
        assert_eq!(form("instar info --output=json --errors json --bogus"), Form::Json);
        assert_eq!(form("instar commit --output"), Form::Human);
    }

    #[test]
    fn the_file_is_the_one_at_fault_or_else_the_one_on_the_command_line() {
        let listener = Listener { form: Form::Json, file: Some("top.qcow2".into()), ..Listener::default() };
        let json = |failure: &Failure| listener.json(failure, "instar");
        let cause = Cause::Forbidden("/etc/\u{202e}\u{9b}\u{1f4bf}\"".as_bytes().to_vec());
        let failure = Failure::Open(OpenError { image: b"top.qcow2".to_vec(), backing_depth: 1, cause });
        assert!(json(&failure).chars().all(|character| matches!(character, ' '..='~')));
        let told: serde_json::Value = serde_json::from_str(&json(&failure)).expect("JSON");
        assert_eq!(told["code"], "policy");
        assert_eq!(told["file"], "/etc/\u{202e}\u{9b}\u{1f4bf}\"");
        let message = told["message"].as_str().expect("a message");
        assert!(message.starts_with("Could not open 'top.qcow2': Could not open backing file: The image names"));
        assert_eq!(
            json(&Failure::NoBacking),
            format!(
                "{{\"code\":\"no-backing\",\"message\":\"Image does not have a backing file\",\"file\":\"top.qcow2\",\
                 \"hint\":\"{}\"}}",
                Code::NoBacking.hint().expect("a hint")
            )
        );
        let usage = Failure::usage("commit", "Expecting one image file name");
        assert!(json(&usage).ends_with("\"hint\":\"Try 'instar commit --help' for more information\"}"));
    }

    #[test]
    fn one_of_several_is_always_named() {
        let listener = Listener { form: Form::Json, ..Listener::default() }.about(OsStr::new("a\n.qcow2"));
        let lost = Failure::File(Cause::Forbidden(b"base.qcow2".to_vec()));
        let told: serde_json::Value = serde_json::from_str(&listener.json(&lost, "instar")).expect("JSON");
        assert_eq!((&told["file"], &told["overlay"]), (&"base.qcow2".into(), &"a\n.qcow2".into()));
        let words = listener.words(&Failure::NoBacking, "instar");
        assert_eq!(words, "'a\\n.qcow2': Image does not have a backing file");
        assert!(listener.words(&lost, "instar").starts_with("The image names"), "it names a file itself");
    }
}

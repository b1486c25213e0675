//! What all builders share: the image, how its names and secrets are understood, how the guest is held, and which program does it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::values::{Sandbox, Secret, as_path, push_pair};

/// Names the program, where the builder does not.
const PROGRAM_VARIABLE: &str = "INSTAR";

/// The settings of all operations.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) image: PathBuf,
    pub(super) format: Option<String>,
    pub(super) secrets: Vec<Secret>,
    /// Ids of secrets, by the number of links from the image down to the one that each opens.
    pub(super) keys: BTreeMap<u8, String>,
    pub(super) allowed_directories: Vec<PathBuf>,
    pub(super) allows_any_path: bool,
    pub(super) requires_jail: bool,
    pub(super) sandbox: Option<Sandbox>,
    pub(super) program: Option<PathBuf>,
    pub(super) directory: Option<PathBuf>,
    /// Why the program is not even asked.
    pub(super) refusal: Option<&'static str>,
}

impl Settings {
    pub(super) fn of(image: PathBuf) -> Self {
        Self { image, ..Self::default() }
    }

    /// The program to run.
    pub(super) fn program(&self) -> PathBuf {
        self.program_with(std::env::var_os(PROGRAM_VARIABLE))
    }

    /// The same, with this for what the environment says.
    pub(super) fn program_with(&self, environment: Option<OsString>) -> PathBuf {
        let named = environment.filter(|name| !name.is_empty()).map(PathBuf::from);
        self.program.clone().or(named).unwrap_or_else(|| PathBuf::from("instar"))
    }

    /// Where relative names start, if that is not the caller's working directory.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The options, with the image behind them.
    pub(super) fn finish(&self, mut words: Words) -> Vec<OsString> {
        words.many("--object", self.secrets.iter().map(Secret::object));
        words.many("--allow-dir", &self.allowed_directories);
        words.flag("--allow-any-path", self.allows_any_path);
        words.flag("--require-jail", self.requires_jail);
        words.option("--sandbox", self.sandbox.map(Sandbox::word));
        let file = if self.keys.is_empty() {
            words.option("--format", self.format.as_deref());
            as_path(&self.image)
        } else {
            words.flag("--image-opts", true);
            self.image_options()
        };
        words.0.extend(["--".into(), file]);
        words.0
    }

    /// The image as `key=value` pairs, the only form in which secrets can be named.
    fn image_options(&self) -> OsString {
        let mut text = Vec::new();
        if let Some(format) = &self.format {
            push_pair(&mut text, "driver", format.as_bytes());
        }
        push_pair(&mut text, "file.filename", self.image.as_os_str().as_bytes());
        for (&links, id) in &self.keys {
            let below = "backing.".repeat(links.into());
            // One of them is for LUKS volumes, the other for all other images; an image takes no notice of what is not for it.
            push_pair(&mut text, &format!("{below}encrypt.key-secret"), id.as_bytes());
            push_pair(&mut text, &format!("{below}key-secret"), id.as_bytes());
        }
        OsString::from_vec(text)
    }
}

/// A command line in the making. Values are attached to their options: so they may begin with a hyphen, and be empty.
#[derive(Debug)]
pub(super) struct Words(Vec<OsString>);

impl Words {
    /// A command whose result and errors are JSON.
    pub(super) fn of(command: &[&str]) -> Self {
        Self(command.iter().chain(&["--output=json", "--errors=json"]).map(OsString::from).collect())
    }

    pub(super) fn flag(&mut self, name: &str, is_given: bool) {
        self.0.extend(is_given.then(|| name.into()));
    }

    pub(super) fn option(&mut self, name: &str, value: Option<impl AsRef<OsStr>>) {
        self.0.extend(value.map(|value| [OsStr::new(name), OsStr::new("="), value.as_ref()].into_iter().collect()));
    }

    pub(super) fn many(&mut self, name: &str, values: impl IntoIterator<Item = impl AsRef<OsStr>>) {
        values.into_iter().for_each(|value| self.option(name, Some(value)));
    }
}

/// What every builder can do; its settings are in the field `settings`, and `words` gives its command line.
macro_rules! builder {
    ($builder:ident, $report:ident) => {
        impl $builder {
            /// The format of the image; without it the format is probed.
            #[must_use]
            pub fn format(mut self, format: impl Into<String>) -> Self {
                self.settings.format = Some(format.into());
                self
            }

            /// Brings a secret, for [`key`](Self::key) and for names in images that refer to it by its id. Can be given more
            /// than once.
            #[must_use]
            pub fn secret(mut self, secret: $crate::client::Secret) -> Self {
                self.settings.secrets.push(secret);
                self
            }

            /// Opens an encrypted image with the secret of this id. 0 `links` is the image itself, 1 its backing file, and so
            /// on down.
            #[must_use]
            pub fn key(mut self, links: u8, id: impl Into<String>) -> Self {
                self.settings.keys.insert(links, id.into());
                self
            }

            /// Follows names recorded in images into this directory too. Without it only the directory of the image is allowed,
            /// and what `INSTAR_ALLOW_DIRS` names. Can be given more than once.
            #[must_use]
            pub fn allow_dir(mut self, directory: impl Into<std::path::PathBuf>) -> Self {
                self.settings.allowed_directories.push(directory.into());
                self
            }

            /// Follows whatever file name an image records.
            #[must_use]
            pub fn allow_any_path(mut self, is_allowed: bool) -> Self {
                self.settings.allows_any_path = is_allowed;
                self
            }

            /// Fails where the system lacks a layer of the jail, rather than to do without it.
            #[must_use]
            pub fn require_jail(mut self, is_required: bool) -> Self {
                self.settings.requires_jail = is_required;
                self
            }

            /// What the guest program runs on. Without it, what `INSTAR_SANDBOX` says, or else KVM.
            #[must_use]
            pub fn sandbox(mut self, sandbox: $crate::client::Sandbox) -> Self {
                self.settings.sandbox = Some(sandbox);
                self
            }

            /// The program to run: a path, or a name that is searched for in `PATH`.
            #[must_use]
            pub fn program(mut self, program: impl Into<std::path::PathBuf>) -> Self {
                self.settings.program = Some(program.into());
                self
            }

            /// Where relative names start, instead of in the caller's working directory.
            #[must_use]
            pub fn current_dir(mut self, directory: impl Into<std::path::PathBuf>) -> Self {
                self.settings.directory = Some(directory.into());
                self
            }

            /// What the program will be started with, behind its own name.
            #[must_use]
            pub fn arguments(&self) -> Vec<std::ffi::OsString> {
                self.settings.finish(self.words())
            }

            /// Starts it, and comes back while it runs.
            ///
            /// # Errors
            /// If the program cannot be started.
            pub fn start(&self) -> Result<$crate::client::Running<$report>, $crate::client::Error> {
                $crate::client::running::start(&self.settings, &self.arguments())
            }

            /// Carries it out.
            ///
            /// # Errors
            /// Every way in which it can fail.
            pub fn run(&self) -> Result<$report, $crate::client::Error> {
                self.start()?.wait()
            }
        }
    };
}
pub(super) use builder;

//! The layers of the jail, and what is said of each.

use std::fmt;

use tracing::info;

/// One layer, as it is after closing the jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    name: &'static str,
    state: Result<String, String>,
}

impl Layer {
    pub(super) fn active(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: Ok(detail.into()) }
    }

    pub(crate) fn missing(name: &'static str, reason: impl Into<String>) -> Self {
        Self { name, state: Err(reason.into()) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A detail where it holds, which may be empty.
    ///
    /// # Errors
    /// The reason where it is missing.
    pub fn state(&self) -> Result<&str, &str> {
        self.state.as_deref().map_err(String::as_str)
    }

    /// Whether it holds.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state.is_ok()
    }

    /// A sentence where it is missing.
    fn warning(&self) -> Option<String> {
        let reason = self.state.as_ref().err()?;
        Some(format!(
            "{} is missing: {reason}; the other layers of the jail hold, and --require-jail makes this an error",
            self.name
        ))
    }

    /// An error where it is missing.
    pub(super) fn demand(&self) -> Result<(), String> {
        match &self.state {
            Ok(_) => Ok(()),
            Err(reason) => Err(format!(
                "--require-jail: {} is missing: {reason}; without --require-jail the other layers alone are used",
                self.name
            )),
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            Ok(detail) if detail.is_empty() => write!(f, "{}: active", self.name),
            Ok(detail) => write!(f, "{}: active ({detail})", self.name),
            Err(reason) => write!(f, "{}: missing: {reason}", self.name),
        }
    }
}

/// All layers of a closed jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    /// No program can give this process more rights than it has.
    pub no_new_privileges: Layer,
    /// No file can be reached but the open ones.
    pub landlock: Layer,
    /// Only the listed system calls can be made.
    pub seccomp: Layer,
}

impl Layers {
    /// Tells those who follow the log what holds.
    pub fn tell(&self) {
        let Self { no_new_privileges, landlock, seccomp } = self;
        info!("jail closed; {no_new_privileges}; {landlock}; {seccomp}");
    }

    /// Each of them.
    #[must_use]
    pub fn all(&self) -> [&Layer; 3] {
        [&self.no_new_privileges, &self.landlock, &self.seccomp]
    }

    /// A sentence for each that is missing.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.all().into_iter().filter_map(Layer::warning).collect()
    }
}

pub(super) fn no_new_privileges() -> Layer {
    const NAME: &str = "no_new_privs";
    match rustix::thread::set_no_new_privs(true) {
        Ok(()) => Layer::active(NAME, ""),
        Err(error) => Layer::missing(NAME, std::io::Error::from(error).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_layer_is_an_error_only_where_it_is_demanded() {
        let missing = Layer::missing("landlock", "the kernel has none");
        assert_eq!(missing.to_string(), "landlock: missing: the kernel has none");
        assert!(missing.demand().expect_err("demanded").starts_with("--require-jail: landlock is missing: "));
        let active = Layer::active("landlock", "ABI 7");
        assert_eq!(active.to_string(), "landlock: active (ABI 7)");
        assert_eq!(active.demand(), Ok(()));
    }
}

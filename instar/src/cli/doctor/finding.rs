//! What a check has found, as data.

/// How much depends on what is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing works without it.
    Always,
    /// Only this is lost without it.
    For(&'static str),
}

/// Why something does not work, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// What happened, in one line.
    pub(super) cause: String,
    /// What the operator can do, in one line.
    pub(super) remedy: String,
}

impl Trouble {
    pub(super) fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { cause: cause.into(), remedy: remedy.into() }
    }
}

/// What a check says where it finds nothing wrong: a detail for people, which may be empty.
pub(super) type Outcome = Result<String, Trouble>;

/// One check and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// A stable name, for programs.
    pub(super) check: &'static str,
    /// How much depends on it.
    pub(super) need: Need,
    /// What came out.
    pub(super) outcome: Outcome,
}

impl Finding {
    pub(super) fn new(check: &'static str, need: Need, outcome: Outcome) -> Self {
        Self { check, need, outcome }
    }

    /// Whether nothing works here because of it.
    pub(super) fn is_fatal(&self) -> bool {
        self.need == Need::Always && self.outcome.is_err()
    }
}

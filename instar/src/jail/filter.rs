//! Makes the list of system calls a program for the kernel and installs it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use super::calls::{CALLS, Call, Condition, Test, Who};
use super::layers::Layer;

const NAME: &str = "seccomp";

/// The programs for the kernel: what clone3 gets, and the list for each of [`Who`]. They are the same for all processes that
/// are forked from one.
static PROGRAMS: LazyLock<Result<[BpfProgram; 5], String>> = LazyLock::new(|| {
    let programs = || {
        let listed = |who| allow(listed(who));
        Ok([
            refuse_clone3()?,
            listed(Who::All)?,
            listed(Who::Rehearsers)?,
            listed(Who::Writers)?,
            listed(Who::Removers)?,
        ])
    };
    programs().map_err(|error: seccompiler::Error| error.to_string())
});

/// Makes the programs, so that those who install them need not.
pub(super) fn prepare() {
    LazyLock::force(&PROGRAMS);
}

/// Installs the filter for the calling thread and all that it starts.
pub(super) fn install(who: Who) -> Layer {
    let installed = PROGRAMS.as_ref().map_err(Clone::clone).and_then(|[clone3, all, rehearsers, writers, removers]| {
        let list = match who {
            Who::All => all,
            Who::Rehearsers => rehearsers,
            Who::Writers => writers,
            Who::Removers => removers,
        };
        apply_filter(clone3).and_then(|()| apply_filter(list)).map_err(|error| error.to_string())
    });
    match installed {
        Ok(()) => Layer::active(NAME, format!("{} rules", listed(who).count())),
        Err(error) => Layer::missing(NAME, error),
    }
}

/// What somebody may call.
fn listed(who: Who) -> impl Iterator<Item = &'static Call> {
    CALLS.iter().filter(move |call| call.who as u8 <= who as u8)
}

/// The arguments of this one lie in memory, where no filter can look. Told that there is no such call, C libraries use the
/// older one. Of two filters the stricter answer counts, so that the list has to allow it.
fn refuse_clone3() -> Result<BpfProgram, seccompiler::Error> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let no_such_call = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    compile(rules, SeccompAction::Allow, no_such_call)
}

fn allow<'a>(calls: impl Iterator<Item = &'a Call>) -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls {
        let alternatives = rules.entry(call.number).or_default();
        if !call.conditions.is_empty() {
            let conditions = call.conditions.iter().map(condition).collect::<Result<_, _>>()?;
            alternatives.push(SeccompRule::new(conditions)?);
        }
    }
    compile(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, seccompiler::Error> {
    Ok(SeccompFilter::new(rules, otherwise, listed, TargetArch::x86_64)?.try_into()?)
}

/// Arguments that matter here are 32 bits wide, or have only their lower half looked at by the kernel.
fn condition(condition: &Condition) -> Result<SeccompCondition, seccompiler::Error> {
    let (operator, value) = match condition.test {
        Test::Is(value) => (SeccompCmpOp::Eq, value),
        Test::Lacks(mask) => (SeccompCmpOp::MaskedEq(mask.into()), 0),
    };
    Ok(SeccompCondition::new(condition.argument, SeccompCmpArgLen::Dword, operator, value.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_listed_with_and_without_conditions() {
        for call in CALLS {
            let same = CALLS.iter().filter(|other| other.number == call.number);
            let unconditional = same.clone().filter(|other| other.conditions.is_empty()).count();
            assert!(unconditional == 0 || same.count() == 1, "{}", call.name);
        }
    }

    #[test]
    fn every_call_has_its_reason_and_the_list_compiles() {
        assert!(CALLS.iter().all(|call| !call.reason.is_empty() && !call.name.is_empty()));
        for who in [Who::All, Who::Rehearsers, Who::Writers, Who::Removers] {
            assert!(!allow(listed(who)).expect("compiles").is_empty());
        }
    }
}

//! Makes the list of system calls a program for the kernel and installs it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

use super::Runner;
use super::calls::{CALLS, Call, Condition, GUEST_CALLS, KVM_CALLS, TRACER_CALLS, Test, Who};
use super::layers::Layer;

const NAME: &str = "seccomp";

type Made = Result<BpfProgram, String>;

/// From Linux 5.11 on the kernel tries a new filter on each call that there is, to keep in mind which it always allows, and goes
/// through the whole list every time: 0.1 to 0.3 ms, more than the answers to all calls of a small job. It gives that up at an
/// instruction that it does not expect in such lists, like this one, which sets a register that nobody uses.
#[expect(clippy::cast_possible_truncation, reason = "codes of instructions are 16 bits wide")]
const OPAQUE: sock_filter = sock_filter { code: (libc::BPF_LDX | libc::BPF_IMM) as u16, jt: 0, jf: 0, k: 0 };

/// What a guest's own process gets. It is made before there is such a process, which has nothing to make it with.
static GUEST: LazyLock<Made> = LazyLock::new(|| allow(GUEST_CALLS.iter()).map_err(|error| error.to_string()));

/// Makes what cannot be made when it is needed.
pub(super) fn prepare(runner: Runner) {
    if runner == Runner::Process {
        LazyLock::force(&GUEST);
    }
}

/// The program for a guest's own process.
///
/// # Errors
/// If it cannot be made; why.
pub(super) fn of_guest() -> Result<&'static [sock_filter], String> {
    GUEST.as_deref().map_err(Clone::clone)
}

/// Installs the filter for the calling thread and all that it starts.
pub(super) fn install(who: Who, runner: Runner) -> Layer {
    let both = || Ok::<_, seccompiler::Error>([refuse_clone3()?, allow(listed(who, runner))?]);
    match both().and_then(|programs| programs.iter().try_for_each(|program| apply_filter(program))) {
        Ok(()) => Layer::active(NAME, format!("{} rules", listed(who, runner).count())),
        Err(error) => Layer::missing(NAME, error.to_string()),
    }
}

/// What somebody may call in whose jail a guest runs by this kind of sandbox.
fn listed(who: Who, runner: Runner) -> impl Iterator<Item = &'static Call> {
    let of_kind = match runner {
        Runner::Kvm => KVM_CALLS,
        Runner::Process => TRACER_CALLS,
    };
    CALLS.iter().chain(of_kind).filter(move |call| call.who as u8 <= who as u8)
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
    let mut program: BpfProgram = SeccompFilter::new(rules, otherwise, listed, TargetArch::x86_64)?.try_into()?;
    program.insert(0, OPAQUE);
    Ok(program)
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
        for of_kind in [KVM_CALLS, TRACER_CALLS] {
            let all = CALLS.iter().chain(of_kind);
            for call in all.clone() {
                // The same call for more of those who may make it is no other condition.
                let same = all.clone().filter(|other| other.number == call.number && other.who == call.who);
                let unconditional = same.clone().filter(|other| other.conditions.is_empty()).count();
                assert!(unconditional == 0 || same.count() == 1, "{}", call.name);
            }
        }
    }

    #[test]
    fn every_call_has_its_reason_and_the_list_compiles() {
        let all = [CALLS, KVM_CALLS, TRACER_CALLS, GUEST_CALLS].concat();
        assert!(all.iter().all(|call| !call.reason.is_empty() && !call.name.is_empty()));
        for runner in [Runner::Kvm, Runner::Process] {
            for who in [Who::All, Who::Rehearsers, Who::Writers, Who::Removers] {
                assert!(!allow(listed(who, runner)).expect("compiles").is_empty());
            }
        }
        assert!(!of_guest().expect("compiles").is_empty());
    }
}

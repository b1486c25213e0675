//! Resource limits of a jailed process, as data.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Limits that nothing needs any more. `RLIMIT_FSIZE` is not among them: images grow. `RLIMIT_NPROC` is not either: it
/// counts what the user runs elsewhere, and the threads that copy count too; which threads there can be says `calls`.
const LIMITS: [(Resource, u64); 3] = [
    // Guest memory, and with it pieces of images, would land in a core file.
    (Resource::Core, 0),
    // All files are open.
    (Resource::Nofile, 0),
    // Messages between processes are no business of this one.
    (Resource::Msgqueue, 0),
];

/// Sets what can be set first.
pub(super) fn set_before() {
    // Where cores are piped to a program the limit alone does not keep them from being written.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Sets what keeps the other layers from being built.
pub(super) fn set_after() {
    for (resource, most) in LIMITS {
        // Lowering a limit is always allowed.
        let _ = setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    }
}

//! The question whether tests that need the sandbox can run here.

use std::fs;

/// Says whether a test that needs the sandbox must be left out, and why. Without KVM such a test fails, unless the
/// environment says that there is none.
pub(crate) fn without_kvm(test: &str) -> bool {
    if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok() {
        return false;
    }
    let wanted = std::env::var_os("INSTAR_TEST_WITHOUT_KVM").is_some_and(|value| value == "1");
    assert!(wanted, "{test} needs /dev/kvm, which cannot be opened; INSTAR_TEST_WITHOUT_KVM=1 leaves such tests out");
    eprintln!("{test}: skipped, /dev/kvm cannot be opened and INSTAR_TEST_WITHOUT_KVM=1 is set");
    true
}

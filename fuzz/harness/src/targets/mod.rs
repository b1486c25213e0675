//! The targets: each takes a fuzzer's bytes and panics if something does not hold.

mod chains;
mod images;
mod names;
mod requests;

/// A target: its name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets. Each has a file of its name in `fuzz/fuzz_targets`, which a test checks.
pub const ALL: [Target; 17] = [
    ("image_luks", images::luks),
    ("image_luks_opened", images::luks_opened),
    ("image_parallels", images::parallels),
    ("image_qcow", images::qcow),
    ("image_qcow2", images::qcow2),
    ("image_qcow2_encrypted", images::qcow2_encrypted),
    ("image_qcow2_patched", images::qcow2_patched),
    ("image_qed", images::qed),
    ("image_vdi", images::vdi),
    ("image_vhdx", images::vhdx),
    ("image_vmdk", images::vmdk),
    ("image_vpc", images::vpc),
    ("path_policy", names::path_policy),
    ("plan_commit", chains::plan_commit),
    ("plan_rebase", chains::plan_rebase),
    ("report", requests::report),
    ("virtqueue", requests::virtqueue),
];

/// The target of a name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn named(name: &str) -> fn(&[u8]) {
    ALL.iter().find(|(own, _)| *own == name).map(|(_, target)| *target).expect("a target of that name")
}

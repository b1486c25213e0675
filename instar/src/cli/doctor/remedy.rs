//! What helps where KVM cannot be used: it depends on the device's owner, the processor, and what this machine is itself.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// What is said where a device is not KVM.
pub(super) const OTHER_DEVICE: &str =
    "remove what stands there, and load KVM: sudo modprobe kvm_intel, or sudo modprobe kvm_amd";

/// Files that engines of containers leave in them.
const CONTAINER_MARKS: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

/// What can be known of this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    /// The module of KVM for the processor, if it shows virtualisation at all.
    pub(super) module: Option<&'static str>,
    /// It is a virtual machine itself.
    pub(super) is_virtual: bool,
    /// The process runs in a container.
    pub(super) is_container: bool,
}

impl Machine {
    fn this_one() -> Self {
        let is_container = CONTAINER_MARKS.iter().any(|mark| Path::new(mark).exists())
            || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        Self { is_container, ..Self::read(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()) }
    }

    /// Reads the processor's flags out of the text of `/proc/cpuinfo`.
    pub(super) fn read(processors: &str) -> Self {
        let flags = processors.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let has = |wanted: &str| flags.split_ascii_whitespace().any(|flag| flag == wanted);
        let module = if has("vmx") {
            Some("kvm_intel")
        } else if has("svm") {
            Some("kvm_amd")
        } else {
            None
        };
        Self { module, is_virtual: has("hypervisor"), is_container: false }
    }

    /// What helps where there is no device, or no machine can be made.
    pub(super) fn remedy(self) -> String {
        let place = match self.module {
            _ if self.is_container => {
                "pass the device into the container: --device /dev/kvm, or a device plugin on Kubernetes (docs/fleet.md)"
            }
            Some(module) => {
                return format!(
                    "load KVM: sudo modprobe {module}; if that fails, enable virtualisation in the firmware"
                );
            }
            None if self.is_virtual => {
                "this is a virtual machine without virtualisation of its own: have its host enable nested virtualisation \
                 (kvm_intel or kvm_amd with nested=1, and the processor model host-passthrough), or take a type of machine that has it"
            }
            None => {
                "enable virtualisation (VT-x, AMD-V or SVM) in the firmware, then load KVM: sudo modprobe kvm_intel, or kvm_amd"
            }
        };
        place.to_owned()
    }
}

/// What helps where no machine can be made, or it does not work.
pub(super) fn for_machine() -> String {
    format!("end other hypervisors on this machine (VirtualBox, VMware); {}", Machine::this_one().remedy())
}

/// What helps where the device cannot be opened.
pub(super) fn for_device(device: &Path, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => for_permission(device),
        Some(libc::EISDIR) => OTHER_DEVICE.to_owned(),
        _ => Machine::this_one().remedy(),
    }
}

fn for_permission(device: &Path) -> String {
    let Ok(status) = fs::metadata(device) else { return Machine::this_one().remedy() };
    let is_open_to_group = status.permissions().mode() & 0o060 == 0o060;
    match group_name(status.gid()) {
        _ if !status.file_type().is_char_device() => OTHER_DEVICE.to_owned(),
        Some(group) if is_open_to_group && status.gid() != 0 => {
            format!("add the user to the device's group and log in again: sudo usermod -aG {group} \"$USER\"")
        }
        _ => "give the device to the group kvm: echo 'KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0660\"' | sudo tee \
              /etc/udev/rules.d/60-kvm.rules && sudo udevadm control --reload && sudo udevadm trigger /dev/kvm; then add the \
              user to it and log in again: sudo usermod -aG kvm \"$USER\""
            .to_owned(),
    }
}

/// The group's name, if it is one of this machine's own, as those of devices are. A C library that is linked statically cannot be asked:
/// it would have to load parts of another one.
fn group_name(number: u32) -> Option<String> {
    find_group(&fs::read_to_string("/etc/group").ok()?, number)
}

/// Looks up a group in a list as group(5) describes it.
pub(super) fn find_group(groups: &str, number: u32) -> Option<String> {
    let mut entries = groups.lines().filter_map(|line| line.split_once(':'));
    let is_it = |rest: &str| rest.split(':').nth(1).is_some_and(|entry| entry.parse() == Ok(number));
    entries.find(|(_, rest)| is_it(rest)).map(|(name, _)| name.to_owned())
}

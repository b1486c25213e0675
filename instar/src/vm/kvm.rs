//! Opens KVM and says in one sentence why it cannot be used where that is so.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_enable_cap};
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::error::{VmError, words};

/// Where KVM lives.
pub const KVM_DEVICE: &str = "/dev/kvm";
/// Pins of an interrupt controller that has nothing to do.
const INTERRUPT_PINS: u64 = 24;

/// An open and usable KVM; several runs can share it, one after the other.
#[derive(Debug)]
pub struct Hypervisor {
    kvm: Kvm,
}

impl Hypervisor {
    /// The only version of KVM's interface that there has been since 2007.
    pub const API_VERSION: i32 = 12;

    /// Opens [`KVM_DEVICE`].
    ///
    /// # Errors
    /// [`VmError::Unavailable`] with a sentence for the user.
    pub fn open() -> Result<Self, VmError> {
        Self::open_at(Path::new(KVM_DEVICE))
    }

    /// Opens KVM at another place.
    ///
    /// # Errors
    /// [`VmError::Unavailable`] with a sentence for the user.
    pub fn open_at(device: &Path) -> Result<Self, VmError> {
        let shown = device.display();
        let path = CString::new(device.as_os_str().as_bytes())
            .map_err(|_| VmError::Unavailable(format!("Could not use '{shown}': the name holds a NUL byte.")))?;
        let kvm = Kvm::new_with_path(&path).map_err(|error| {
            VmError::Unavailable(open_sentence(device, &io::Error::from_raw_os_error(error.errno())))
        })?;
        let version = kvm.get_api_version();
        if version != Self::API_VERSION {
            return Err(VmError::Unavailable(format!(
                "Could not use '{shown}': it is not KVM or speaks version {version} of its interface instead of {}; \
                 use a Linux kernel with KVM.",
                Self::API_VERSION
            )));
        }
        if !kvm.check_extension(Cap::UserMemory) {
            return Err(VmError::Unavailable(format!(
                "Could not use '{shown}': this KVM lacks user memory regions (KVM_CAP_USER_MEMORY); use a newer Linux kernel."
            )));
        }
        Ok(Self { kvm })
    }

    /// What KVM can offer of this machine's processor; nothing where it does not say.
    pub(crate) fn processor(&self) -> Vec<kvm_cpuid_entry2> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_or_else(|_| Vec::new(), |found| found.as_slice().to_vec())
    }

    /// Has KVM keep the interrupt controller of a machine's processors, which stays switched off: one that is left to this
    /// process makes KVM rewrite its own code for every machine, which takes as long as the rest of making one. Nothing
    /// depends on it, so an older KVM goes without.
    pub(crate) fn keep_interrupts_away(&self, vm: &VmFd) {
        let mut wanted = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..kvm_enable_cap::default() };
        wanted.args[0] = INTERRUPT_PINS;
        let _ = vm.enable_cap(&wanted);
    }

    /// Whether a processor can be entered and left before its first instruction.
    pub(crate) fn can_leave_at_once(&self) -> bool {
        self.kvm.check_extension(Cap::ImmediateExit)
    }

    /// Makes an empty virtual machine.
    pub(crate) fn create_vm(&self) -> Result<VmFd, VmError> {
        loop {
            match self.kvm.create_vm() {
                Ok(vm) => return Ok(vm),
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => {
                    let cause = io::Error::from_raw_os_error(error.errno());
                    return Err(VmError::Unavailable(format!(
                        "Could not use '{KVM_DEVICE}': making a virtual machine failed ({cause}); \
                         check that virtualisation is enabled in the firmware and not taken by another hypervisor."
                    )));
                }
            }
        }
    }
}

impl AsRawFd for Hypervisor {
    fn as_raw_fd(&self) -> RawFd {
        self.kvm.as_raw_fd()
    }
}

fn open_sentence(device: &Path, cause: &io::Error) -> String {
    let remedy = match cause.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            "add the user to the group kvm (sudo usermod -aG kvm \"$USER\") and log in again"
        }
        Some(libc::ENOENT) => {
            "enable virtualisation in the firmware and load KVM (sudo modprobe kvm_intel or kvm_amd), \
             or, in a container or virtual machine, pass the device in or enable nested virtualisation"
        }
        Some(libc::ENODEV | libc::ENXIO) => "load KVM (sudo modprobe kvm_intel or kvm_amd)",
        _ => "check the device and its permissions (the group kvm has to be able to read and write it)",
    };
    let without = "--sandbox process does without KVM, in a weaker sandbox";
    format!("Could not use '{}': {}; {remedy}. {without}.", device.display(), words(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_device_is_named_with_cause_and_remedy() {
        let error = Hypervisor::open_at(Path::new("/dev/no-such-kvm")).expect_err("there is no such device");
        let text = error.to_string();
        assert!(text.contains("'/dev/no-such-kvm': No such file or directory;"), "{text}");
        assert!(text.contains("modprobe"), "{text}");
    }

    #[test]
    fn another_device_is_not_taken_for_kvm() {
        let error = Hypervisor::open_at(Path::new("/dev/null")).expect_err("null is not KVM");
        assert!(error.to_string().contains("it is not KVM"), "{error}");
    }

    #[test]
    fn missing_permission_names_the_group() {
        let text = open_sentence(Path::new("/dev/kvm"), &io::Error::from_raw_os_error(libc::EACCES));
        assert!(text.contains("Permission denied; add the user to the group kvm"), "{text}");
    }
}

//! What the checks say where something is missing. That they find what is there is tested with the program itself.

use std::io;
use std::path::Path;

use super::finding::{Finding, Need, Outcome, Trouble};
use super::remedy::{self, Machine};
use super::{conclude, disk, jail, kvm, render};
use crate::jail::Layer;

fn trouble(outcome: Outcome) -> Trouble {
    outcome.expect_err("does not work")
}

#[test]
fn a_device_that_is_absent_is_named_with_what_makes_it() {
    let found = trouble(kvm::open(Path::new("/dev/no-such-kvm")));
    assert_eq!(found.cause, "'/dev/no-such-kvm': No such file or directory");
    assert!(["modprobe", "nested", "--device", "firmware"].iter().any(|word| found.remedy.contains(word)), "{found:?}");
}

#[test]
fn another_device_is_not_taken_for_kvm() {
    let found = trouble(kvm::open(Path::new("/dev/null")));
    assert!(found.cause.contains("it is not KVM"), "{found:?}");
    assert_eq!(found.remedy, remedy::OTHER_DEVICE);
    assert!(trouble(kvm::make_machine(Path::new("/dev/null"))).cause.contains("it is not KVM"));
    assert!(trouble(kvm::open(Path::new("/"))).cause.contains("Is a directory"));
}

#[test]
fn groups_are_found_by_their_numbers() {
    let groups = "root:x:0:\nbroken\nkvm:x:10:a,b\nother:y:1:10\n";
    let found = |number| remedy::find_group(groups, number);
    assert_eq!(
        [0, 10, 1, 2].map(found),
        [Some("root"), Some("kvm"), Some("other"), None].map(|name| name.map(str::to_owned))
    );
}

#[test]
fn the_remedy_fits_the_machine() {
    let read = |flags: &str| Machine::read(&format!("processor\t: 0\nflags\t\t: fpu {flags} sse\n"));
    assert!(read("vmx").remedy().contains("modprobe kvm_intel;"));
    assert!(read("svm hypervisor").remedy().contains("modprobe kvm_amd;"));
    assert!(read("hypervisor").remedy().contains("nested"));
    assert!(read("").remedy().starts_with("enable virtualisation"));
    assert!(Machine { is_container: true, ..read("svm") }.remedy().contains("--device /dev/kvm"));
    assert_eq!(Machine::read(""), Machine::default());
}

#[test]
fn what_may_not_be_opened_is_not_answered_with_a_group_unless_it_is_the_device() {
    let denied = io::Error::from_raw_os_error(libc::EACCES);
    let file = tempfile::NamedTempFile::new().expect("a file");
    assert_eq!(remedy::for_device(file.path(), &denied), remedy::OTHER_DEVICE);
    // A device that belongs to nobody's group.
    assert!(remedy::for_device(Path::new("/dev/null"), &denied).contains("udev"));
}

#[test]
fn a_directory_that_takes_no_file_is_the_only_finding() {
    let findings = disk::all(Path::new("/proc"));
    assert_eq!(findings.iter().map(|finding| finding.check).collect::<Vec<_>>(), ["directory"]);
    assert!(findings[0].is_fatal());
    assert!(disk::all(Path::new("/no/such/directory"))[0].is_fatal());
}

#[test]
fn only_what_is_needed_makes_a_machine_unfit() {
    let broken = |need| Finding::new("landlock", need, Err(Trouble::new("off", "switch it on")));
    assert!(conclude(&[broken(Need::For("one wall"))]).is_ok());
    let failure = conclude(&[broken(Need::Always)]).expect_err("unfit").to_string();
    assert_eq!(failure, "instar: This machine lacks what nothing works without: landlock");
}

#[test]
fn words_and_json_tell_cause_loss_and_remedy() {
    let findings = [
        Finding::new("kvm", Need::Always, Ok("made\x1b in 1 ms".to_owned())),
        Finding::new("reflink", Need::For("sharing"), Err(Trouble::new("cause", "remedy"))),
    ];
    let text = render::human(&findings, Path::new("a"));
    let expected = "kvm          yes  made\\x1b in 1 ms\nreflink      no   cause\n                  lost without it: sharing\n                  remedy\nThis machine is fit for images in 'a'.\n";
    assert_eq!(text, expected);
    let document: serde_json::Value = serde_json::from_str(&render::json(&findings, Path::new("a"))).expect("JSON");
    assert_eq!(document["fit"], true);
    assert_eq!(document["checks"][1]["remedy"], "remedy");
    assert_eq!(document["checks"][0]["remedy"], serde_json::Value::Null);
}

#[test]
fn a_missing_layer_comes_with_its_remedy() {
    let layer = Layer::missing("landlock", "the kernel has none");
    let found = trouble(jail::finding(&layer, Need::Always).outcome);
    assert_eq!(found.cause, "the kernel has none");
    assert!(found.remedy.contains("5.13"), "{found:?}");
}

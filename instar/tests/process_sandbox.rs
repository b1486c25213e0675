//! The sandbox without KVM, from outside: what a guest's process has, what is left of it, when it is used, and what happens where
//! the kernel refuses a part of it.
//!
//! Attacks from inside of it are in `hostile_guest`, the calls of the process that traces it in `jail`. Cannot see: kernels that
//! refuse in other ways than by an error.
#![expect(unsafe_code, reason = "making a place without /dev/kvm between fork and exec has no safe interface")]

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/program.rs"]
mod program;
#[path = "common/scattered.rs"]
mod scattered;

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Folder, finish};
use image::qcow2;
use instar::apart;
use instar::jail::{Jail, Runner};
use instar::program::GuestProgram;
use instar::session::{DeviceFile, Session};
use instar::vm::Platform;
use instar_abi::memory::DEFAULT_MEMORY_BYTES;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use program::program;
use scattered::{Backing, Disk};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    apply_filter,
};

/// How long something may take that happens at once, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A commit that takes several seconds, while its guest waits.
struct SlowCommit {
    _folder: Folder,
    instar: Child,
    guest: PathBuf,
}

impl SlowCommit {
    fn start() -> Self {
        let folder = Folder::new();
        folder.file("slow.qcow2", &Disk::full(128).as_ordered_qcow2(&Backing::Named("raw", "raw")));
        folder.file("raw", &[7; 4096]);
        let mut command = folder.instar(&["commit", "--sandbox", "process", "-r", "2M", "slow.qcow2"]);
        let instar = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        // The base grows as soon as the guest is at work.
        let base = folder.path().join("raw");
        wait_for(|| (fs::metadata(&base).expect("a file").len() > 4096).then_some(()));
        let children = format!("/proc/{0}/task/{0}/children", instar.id());
        let guest = wait_for(|| {
            let children = fs::read_to_string(&children).expect("this kernel lists children");
            let all = children.split_whitespace().map(|number| PathBuf::from(format!("/proc/{number}")));
            // The one that is stopped for its tracer, with nothing to call any more.
            all.into_iter().find(|process| field(process, "Seccomp:") == "2" && field(process, "State:") == "t")
        });
        Self { _folder: folder, instar, guest }
    }
}

impl Drop for SlowCommit {
    fn drop(&mut self) {
        let _ = self.instar.kill();
        let _ = self.instar.wait();
    }
}

#[track_caller]
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "nothing came of it");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A line of a process's status; empty where there is none.
fn field(process: &std::path::Path, name: &str) -> String {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    value.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn a_guest_has_its_memory_and_nothing_else() {
    let commit = SlowCommit::start();
    let guest = &commit.guest;
    let is = |name: &str| field(guest, name);
    assert_eq!((&*is("Seccomp:"), &*is("Seccomp_filters:"), &*is("NoNewPrivs:")), ("2", "1", "1"));
    assert_eq!(is("TracerPid:"), commit.instar.id().to_string());
    for capabilities in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(is(capabilities), "0000000000000000", "{capabilities}");
    }
    let Ok(maps) = fs::read_to_string(guest.join("maps")) else {
        eprintln!("a_guest_has_its_memory_and_nothing_else: only root can look at the rest; skipped");
        return;
    };
    for line in maps.lines().filter(|line| !line.ends_with("[vsyscall]")) {
        let (range, rest) = line.split_once(' ').expect("a range");
        let (start, end) = range.split_once('-').expect("two addresses");
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        let in_place = instar_abi::memory::PROGRAM_START <= address(start)
            && address(end) <= instar_abi::memory::DEFAULT_MEMORY_BYTES;
        assert!(in_place, "{line}");
        assert!(!rest.starts_with("rwx") && !rest.starts_with("-wx"), "{line}");
    }
    assert!(maps.lines().any(|line| line.contains(" r-xs ")), "{maps}");
    assert_eq!(fs::read_dir(guest.join("fd")).expect("descriptors").count(), 0);
    assert_eq!(fs::read_dir(guest.join("root")).map_or(0, Iterator::count), 0, "its root directory is not empty");
    for namespace in ["user", "mnt", "net", "ipc", "pid", "uts", "cgroup"] {
        let of = |process: PathBuf| fs::read_link(process.join("ns").join(namespace)).expect("a namespace");
        assert_ne!(of(guest.clone()), of("/proc/self".into()), "{namespace}");
    }
    let limits = fs::read_to_string(guest.join("limits")).expect("limits");
    for limit in ["Max open files", "Max processes", "Max file size", "Max core file size", "Max locked memory"] {
        let line = limits.lines().find(|line| line.starts_with(limit)).expect("a limit");
        let values: Vec<&str> = line[limit.len()..].split_whitespace().take(2).collect();
        assert_eq!(values, ["0", "0"], "{line}");
    }
}

#[test]
fn nothing_is_left_of_a_run_that_is_killed() {
    let mut commit = SlowCommit::start();
    commit.instar.kill().expect("a signal");
    commit.instar.wait().expect("it ends");
    let guest = commit.guest.clone();
    // What waits for somebody to take note of its end has no memory any more.
    wait_for(|| (!guest.exists() || field(&guest, "State:") == "Z").then_some(()));
}

#[test]
fn a_guest_that_somebody_kills_is_an_error() {
    let mut commit = SlowCommit::start();
    let number = commit.guest.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a process");
    let guest = rustix::process::Pid::from_raw(number).expect("a process");
    rustix::process::kill_process(guest, rustix::process::Signal::KILL).expect("a signal");
    let status = commit.instar.wait().expect("it ends");
    let mut said = String::new();
    commit.instar.stderr.take().expect("piped").read_to_string(&mut said).expect("readable");
    let message = "instar: 'slow.qcow2': the sandbox stopped: the guest's process was killed by signal 9; is there enough memory?\n";
    assert_eq!((status.code(), &*said), (Some(1), message));
}

const MEMORY: [u8; 8] = DEFAULT_MEMORY_BYTES.to_le_bytes();

/// All general registers and all vector registers are put into the address of the last instruction's access, on top of 0x1000; what
/// rdi has to hold, the size of the memory, is taken out of it before.
#[rustfmt::skip]
const SHOWS_REGISTERS: &[u8] = &[
    0x48, 0x81, 0xf7, MEMORY[0], MEMORY[1], MEMORY[2], MEMORY[3],           // xor rdi, DEFAULT_MEMORY_BYTES
    0x48, 0x09, 0xd8, 0x48, 0x09, 0xc8, 0x48, 0x09, 0xd0, 0x48, 0x09, 0xf0, // or rax, rbx; rcx; rdx; rsi
    0x48, 0x09, 0xf8, 0x48, 0x09, 0xe8, 0x4c, 0x09, 0xc0, 0x4c, 0x09, 0xc8, // or rax, rdi; rbp; r8; r9
    0x4c, 0x09, 0xd0, 0x4c, 0x09, 0xd8, 0x4c, 0x09, 0xe0, 0x4c, 0x09, 0xe8, // or rax, r10; r11; r12; r13
    0x4c, 0x09, 0xf0, 0x4c, 0x09, 0xf8,                                     // or rax, r14; r15
    0x66, 0x0f, 0xeb, 0xc1, 0x66, 0x0f, 0xeb, 0xc2, 0x66, 0x0f, 0xeb, 0xc3, // por xmm0, xmm1; 2; 3
    0x66, 0x0f, 0xeb, 0xc4, 0x66, 0x0f, 0xeb, 0xc5, 0x66, 0x0f, 0xeb, 0xc6, // por xmm0, xmm4; 5; 6
    0x66, 0x0f, 0xeb, 0xc7,                                                 // por xmm0, xmm7
    0x66, 0x41, 0x0f, 0xeb, 0xc0, 0x66, 0x41, 0x0f, 0xeb, 0xc1,             // por xmm0, xmm8; 9
    0x66, 0x41, 0x0f, 0xeb, 0xc2, 0x66, 0x41, 0x0f, 0xeb, 0xc3,             // por xmm0, xmm10; 11
    0x66, 0x41, 0x0f, 0xeb, 0xc4, 0x66, 0x41, 0x0f, 0xeb, 0xc5,             // por xmm0, xmm12; 13
    0x66, 0x41, 0x0f, 0xeb, 0xc6, 0x66, 0x41, 0x0f, 0xeb, 0xc7,             // por xmm0, xmm14; 15
    0x66, 0x48, 0x0f, 0x7e, 0xc3, 0x48, 0x09, 0xd8,                         // movq rbx, xmm0; or rax, rbx
    0x66, 0x0f, 0x6d, 0xc0,                                                 // punpckhqdq xmm0, xmm0
    0x66, 0x48, 0x0f, 0x7e, 0xc3, 0x48, 0x09, 0xd8,                         // movq rbx, xmm0; or rax, rbx
    0x8a, 0x98, 0x00, 0x10, 0x00, 0x00,                                     // mov bl, [rax + 0x1000]
];

#[test]
fn no_register_holds_anything_of_the_host() {
    let program = program(SHOWS_REGISTERS);
    let file = tempfile::tempfile().expect("a file");
    let devices = [DeviceFile::new(&file, false)];
    let platform = Platform::open(Runner::Process).expect("processes");
    let session = Session::new(&platform, GuestProgram::from_elf(&program, 0), &devices, &[0; 16]);
    let error = apart::run(session, Jail::default(), || ()).expect_err("no report").to_string();
    assert!(error.ends_with("last failed memory access at 0x1000)"), "{error}");
}

/// A folder with an image that is based on another.
fn images() -> Folder {
    let folder = Folder::new();
    folder.file("base.qcow2", &qcow2(0x11, "", ""));
    folder.file("a.qcow2", &qcow2(0x22, "base.qcow2", "qcow2"));
    folder
}

#[test]
fn only_the_option_or_the_variable_makes_up_for_missing_kvm() {
    let folder = images();
    let run = |arguments: &[&str], variable: Option<&str>| {
        let mut command = folder.instar(arguments);
        variable.map(|kind| command.env("INSTAR_SANDBOX", kind));
        let without_devices = || {
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
            let none: Option<&str> = None;
            mount(Some("none"), "/dev", Some("tmpfs"), MsFlags::empty(), none)?;
            Ok(())
        };
        // SAFETY: these are system calls and nothing else, which is fine between fork and exec.
        unsafe { command.pre_exec(without_devices) };
        finish(command.stdin(Stdio::null()))
    };
    for arguments in [&["info", "a.qcow2"][..], &["commit", "a.qcow2"], &["rebase", "-b", "", "a.qcow2"]] {
        let before = fs::read(folder.path().join("a.qcow2")).expect("an image");
        let ended = run(arguments, None);
        assert_eq!((ended.status, &*ended.stdout), (Some(1), ""), "{arguments:?}");
        assert!(ended.stderr.starts_with("instar: Could not use '/dev/kvm': No such file or directory; "), "{ended:?}");
        assert!(ended.stderr.ends_with(". --sandbox process does without KVM, in a weaker sandbox.\n"), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        // The option is stronger than the variable.
        let mut with = arguments.to_vec();
        with.extend(["--sandbox", "kvm"]);
        assert_eq!(run(&with, Some("process")), ended);
        assert_eq!(fs::read(folder.path().join("a.qcow2")).expect("an image"), before);
    }
    assert_eq!(run(&["info", "a.qcow2"], Some("process")).status, Some(0));
    let ended = run(&["commit", "--sandbox", "process", "a.qcow2"], None);
    assert_eq!((ended.status, &*ended.stdout), (Some(0), "Image committed.\n"), "{ended:?}");
    // A user without a number of his own cannot make further namespaces.
    let expected = "instar: warning: namespaces of the guest is missing: ";
    assert!(ended.stderr.lines().all(|line| line.starts_with(expected)), "{ended:?}");
    assert_eq!(run(&["rebase", "--sandbox=process", "-b", "", "a.qcow2"], Some("kvm")).status, Some(0));
}

/// Does something in a thread, and its child processes, for which the kernel refuses a call if its first argument has one of
/// these bits; or, without bits, always.
fn refusing<T: Send + 'static>(call: i64, bits: &[i32], deed: impl FnOnce() -> T + Send + 'static) -> T {
    let rule = |bit: &i32| {
        let bit = u64::from(bit.unsigned_abs());
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bit), bit);
        SeccompRule::new(vec![condition.expect("a condition")]).expect("a rule")
    };
    let rules = [(call, bits.iter().map(rule).collect())].into_iter().collect();
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, TargetArch::x86_64).expect("a filter");
    let program: seccompiler::BpfProgram = filter.try_into().expect("a program");
    let thread = thread::spawn(move || {
        apply_filter(&program).expect("a filter");
        deed()
    });
    thread.join().expect("it ends")
}

#[test]
fn without_namespaces_the_other_layers_hold_unless_all_are_required() {
    let said = |bits: &'static [i32]| {
        refusing(libc::SYS_clone, bits, move || {
            let folder = images();
            let commit = ["commit", "--sandbox", "process", "--require-jail", "a.qcow2"];
            let info = folder.run(&["info", "--sandbox", "process", "a.qcow2"]);
            (info, folder.run(&commit), folder.run(&["--version", "--verbose"]).stdout)
        })
    };
    // Users' namespaces are off, but this is an administrator.
    if rustix::process::geteuid().is_root() {
        let (info, commit, version) = said(&[libc::CLONE_NEWUSER]);
        assert_eq!((info.status, &*info.stderr, commit.status), (Some(0), "", Some(0)), "{commit:?}");
        assert!(version.contains("\nprocess: usable (namespaces of the guest: active"), "{version}");
    }
    let (info, commit, version) = said(&[libc::CLONE_NEWUSER, libc::CLONE_NEWNS]);
    let missing = "missing: Operation not permitted; user namespaces have to be allowed (sysctl user.max_user_namespaces, a \
                   container's profile); ";
    let message = format!(
        "instar: --require-jail: namespaces of the guest is {missing}without --require-jail the other layers alone are used\n"
    );
    assert_eq!((info.status, commit.status, commit.stderr), (Some(0), Some(1), message));
    let warning = format!("instar: warning: namespaces of the guest is {}; ", missing.trim_end_matches("; "));
    assert!(info.stderr.starts_with(&warning), "{}", info.stderr);
    assert_eq!(info.stderr.lines().count(), 1, "{}", info.stderr);
    let line = &format!("\nprocess: usable (namespaces of the guest: {missing}landlock of the guest: ");
    assert!(version.contains(line), "{version}");
}

#[test]
fn where_tracing_is_refused_the_error_says_what_to_do() {
    refusing(libc::SYS_ptrace, &[], || {
        let folder = images();
        folder.fails(
            &["commit", "--sandbox", "process", "a.qcow2"],
            "instar: Could not run a guest in a process: tracing it is not allowed (Operation not permitted); allow a process to \
             trace its children (sysctl kernel.yama.ptrace_scope=1, in a container --cap-add SYS_PTRACE or a seccomp profile \
             with ptrace), or use KVM (--sandbox kvm).",
        );
        assert!(folder.run(&["--version", "--verbose"]).stdout.contains("\nprocess: unusable: Could not run a guest"));
    });
}

#[test]
fn where_no_call_can_be_filtered_nothing_runs() {
    refusing(libc::SYS_seccomp, &[], || {
        images().fails(
            &["commit", "--sandbox", "process", "a.qcow2"],
            "instar: 'a.qcow2': could not build the sandbox: starting a process: filtering system calls: Operation not permitted",
        );
    });
}

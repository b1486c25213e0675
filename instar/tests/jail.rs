//! The jail, from outside: every operation runs under a tracer, and what it calls is compared with the list both ways; each layer is tried alone; layers that a kernel lacks are missed as documented.
//!
//! Cannot see: calls that only other file systems or C libraries lead to. The list names them as such.
#![expect(unsafe_code, reason = "a tracee's calls that no honest program makes have no safe interface")]

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;
#[path = "common/operations.rs"]
mod operations;
#[path = "common/program.rs"]
mod program;
#[path = "common/scattered.rs"]
mod scattered;
#[path = "common/trace.rs"]
mod trace;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::thread;

use common::{Ended, Folder};
use image::qcow2;
use instar::apart;
use instar::jail::calls::{CALLS, Call, KVM_CALLS, Seen, TRACER_CALLS};
use instar::jail::worker;
use instar::jail::{Jail, Purpose, Runner};
use instar::program::GuestProgram;
use instar::session::{DeviceFile, Session};
use instar::vm::Platform;
use kvm::without_kvm;
use nix::sys::wait::WaitStatus;
use operations::{OPERATIONS, folder};
use program::program;
use scattered::{Backing, Disk};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    apply_filter,
};
use trace::Trace;

#[test]
fn every_call_on_the_list_is_made_and_no_other() {
    if without_kvm("every_call_on_the_list_is_made_and_no_other") {
        return;
    }
    let faulting = "a_guest_that_faults_is_reported";
    compare_calls("kvm", &[CALLS, KVM_CALLS].concat(), faulting);
}

#[test]
fn every_call_on_the_tracers_list_is_made_and_no_other() {
    let faulting = "a_guest_that_faults_in_a_process_is_reported";
    compare_calls("process", &[CALLS, TRACER_CALLS].concat(), faulting);
}

/// Runs every operation in a kind of sandbox, and compares the calls that are made in a jail with those that are listed.
fn compare_calls(sandbox: &str, listed: &[Call], faulting: &str) {
    let folder = folder();
    let mut made = BTreeMap::new();
    let mut note = |title: String, trace: Trace| {
        assert!(matches!(trace.ended, Some(WaitStatus::Exited(_, 0 | 1))), "{title}: {:?}", trace.ended);
        made.extend(trace.calls.into_iter().map(|call| (call, title.clone())));
    };
    for operation in OPERATIONS {
        let mut command = folder.instar(operation);
        command.env("INSTAR_SANDBOX", sandbox);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        note(operation.join(" "), trace::run(&mut command));
    }
    note("commit on a terminal".to_owned(), on_terminal(&folder, sandbox));
    let mut fault = Command::new(std::env::current_exe().expect("this program"));
    fault.args(["--exact", faulting]).stdout(Stdio::null());
    note("a guest that faults".to_owned(), trace::run(&mut fault));

    for ((number, arguments), title) in &made {
        let allowed = listed.iter().any(|call| call.allows(*number, arguments));
        assert!(allowed, "{title} makes call {number} with {arguments:x?}, which is not on the list");
    }
    let unused: Vec<String> = listed
        .iter()
        .filter(|call| call.seen == Seen::Everywhere)
        .filter(|call| !made.keys().any(|(number, arguments)| call.allows(*number, arguments)))
        .map(|call| format!("{}: {}", call.name, call.reason))
        .collect();
    assert!(unused.is_empty(), "on the list, but no operation makes these calls:\n{}", unused.join("\n"));
}

/// A commit whose standard output is a terminal.
fn on_terminal(folder: &Folder, sandbox: &str) -> Trace {
    folder.file("terminal.qcow2", &qcow2(0x22, "base.qcow2", "qcow2"));
    let terminal = nix::pty::openpty(None, None).expect("a terminal");
    let mut command = folder.instar(&["commit", "-p", "terminal.qcow2"]);
    command.env("INSTAR_SANDBOX", sandbox);
    command.env("TERM", "xterm").stdin(Stdio::null()).stdout(Stdio::from(terminal.slave)).stderr(Stdio::null());
    trace::run(&mut command)
}

/// An instruction that ring 3 must not use.
const HALT: u8 = 0xf4;

#[test]
fn a_guest_that_faults_is_reported() {
    if without_kvm("a_guest_that_faults_is_reported") {
        return;
    }
    faults_on(Runner::Kvm);
}

#[test]
fn a_guest_that_faults_in_a_process_is_reported() {
    faults_on(Runner::Process);
}

fn faults_on(runner: Runner) {
    let program = program(&[HALT]);
    let platform = Platform::open(runner).expect("a sandbox");
    let file = tempfile::tempfile().expect("a file");
    let devices = [DeviceFile::new(&file, false)];
    let session = Session::new(&platform, GuestProgram::from_elf(&program, 0), &devices, &[0; 16]);
    let error = apart::run(session, Jail::default(), || ()).expect_err("no report").to_string();
    assert!(error.starts_with("the sandbox stopped: the guest program did what it may not do"), "{error}");
}

/// What happens to a worker that does this behind the closed jail.
fn behind_the_jail(purpose: Purpose<'_>, deed: impl FnOnce() -> i64) -> Result<String, String> {
    behind(Jail { purpose, ..Jail::default() }, deed)
}

fn behind(jail: Jail<'_>, deed: impl FnOnce() -> i64) -> Result<String, String> {
    let work = || {
        jail.close().expect("nothing is demanded");
        let result = deed();
        let errno = if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 };
        format!("{result} {errno}").into_bytes()
    };
    let answer = worker::run(work, || ()).map(|(answer, _leaving)| String::from_utf8_lossy(&answer).into_owned());
    answer.map_err(|error| error.to_string())
}

fn call(number: i64, arguments: [i64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: made only in a process of its own that ends right afterwards.
    unsafe { libc::syscall(number, a, b, c, d, e, f) }
}

#[test]
fn what_is_not_on_the_list_ends_the_process() {
    let path = c"/etc/passwd".as_ptr() as i64;
    let file = tempfile::tempfile().expect("a file");
    let number = i64::from(file.as_raw_fd());
    let (anonymous, thread) = (i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS), i64::from(libc::CLONE_VM));
    #[rustfmt::skip]
    let deeds: &[(&str, i64, [i64; 6])] = &[
        ("open", libc::SYS_openat, [i64::from(libc::AT_FDCWD), path, 0, 0, 0, 0]),
        ("socket", libc::SYS_socket, [i64::from(libc::AF_INET), i64::from(libc::SOCK_STREAM), 0, 0, 0, 0]),
        ("execve", libc::SYS_execve, [path, 0, 0, 0, 0, 0]),
        ("fork", libc::SYS_fork, [0; 6]),
        ("new_process", libc::SYS_clone, [i64::from(libc::SIGCHLD), 0, 0, 0, 0, 0]),
        ("thread_in_a_namespace", libc::SYS_clone, [thread | i64::from(libc::CLONE_NEWNS), 0, 0, 0, 0, 0]),
        ("executable_memory", libc::SYS_mmap, [0, 4096, i64::from(libc::PROT_READ | libc::PROT_EXEC), anonymous, -1, 0]),
        ("memory_of_a_file", libc::SYS_mmap, [0, 4096, i64::from(libc::PROT_READ), i64::from(libc::MAP_PRIVATE), number, 0]),
        ("make_memory_executable", libc::SYS_mprotect, [0, 0, i64::from(libc::PROT_EXEC), 0, 0, 0]),
        ("signal", libc::SYS_kill, [1, 0, 0, 0, 0, 0]),
        ("trace", libc::SYS_ptrace, [0; 6]),
        ("other_request", libc::SYS_ioctl, [1, 0x5412, 0, 0, 0, 0]),
        ("make_a_machine", libc::SYS_ioctl, [3, 0xae01, 0, 0, 0, 0]),
        ("write_elsewhere", libc::SYS_write, [number, path, 1, 0, 0, 0]),
        ("cut_a_piece_out", libc::SYS_fallocate, [number, i64::from(libc::FALLOC_FL_COLLAPSE_RANGE), 0, 4096, 0, 0]),
        ("unlink", libc::SYS_unlinkat, [i64::from(libc::AT_FDCWD), path, 0, 0, 0, 0]),
        ("prctl", libc::SYS_prctl, [i64::from(libc::PR_SET_DUMPABLE), 1, 0, 0, 0, 0]),
        ("limits", libc::SYS_prlimit64, [0; 6]),
        ("io_uring", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0, 0]),
        ("32_bit_numbers", 0x4000_0000 + libc::SYS_write, [1, path, 1, 0, 0, 0]),
    ];
    for (title, deed, arguments) in deeds {
        for purpose in [Purpose::Looking, Purpose::Writing] {
            let said = behind_the_jail(purpose, || call(*deed, *arguments));
            let error = said.expect_err(title);
            assert!(error.ends_with("that is not on its list (SIGSYS)"), "{title}: {error}");
        }
    }
    // Who only looks cannot write images either.
    let write = || call(libc::SYS_pwrite64, [number, path, 1, 0, 0, 0]);
    assert!(behind_the_jail(Purpose::Looking, write).expect_err("pwrite64").ends_with("(SIGSYS)"));
    assert_eq!(behind_the_jail(Purpose::Writing, write).as_deref(), Ok("1 0"));
    assert_eq!(behind_the_jail(Purpose::Writing, || 7).as_deref(), Ok("7 0"));
}

#[test]
fn a_tracer_makes_no_other_request() {
    let jail = Jail { runner: Runner::Process, ..Jail::default() };
    let request = |number: u32| call(libc::SYS_ptrace, [i64::from(number), 1, 0, 0, 0, 0]);
    let not_traced = format!("-1 {}", libc::ESRCH);
    // Let it go on with its calls, read and write its memory, let it go, take another process.
    let others = [
        libc::PTRACE_CONT,
        libc::PTRACE_SYSCALL,
        libc::PTRACE_PEEKDATA,
        libc::PTRACE_POKEDATA,
        libc::PTRACE_DETACH,
        libc::PTRACE_ATTACH,
        libc::PTRACE_SEIZE,
    ];
    for number in others {
        let error = behind(jail, || request(number)).expect_err("another request");
        assert!(error.ends_with("that is not on its list (SIGSYS)"), "{number:#x}: {error}");
    }
    // Of this one there is nothing to fear: process 1 is not its child.
    assert_eq!(behind(jail, || request(libc::PTRACE_GETREGS)), Ok(not_traced));
    // Whoever traces a guest has no use for KVM.
    let kvm = behind(jail, || call(libc::SYS_ioctl, [3, 0xae80, 0, 0, 0, 0])).expect_err("a request of KVM's");
    assert!(kvm.ends_with("that is not on its list (SIGSYS)"), "{kvm}");
}

/// Does something in a thread, and its child processes, for which the kernel lacks some calls.
fn without_calls<T: Send + 'static>(calls: &[i64], deed: impl FnOnce() -> T + Send + 'static) -> T {
    let rules = calls.iter().map(|number| (*number, Vec::new())).collect();
    with_calls_failing(rules, libc::ENOSYS, deed)
}

/// Does something in a thread, and its child processes, for which some calls fail with an error.
fn with_calls_failing<T: Send + 'static>(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    errno: i32,
    deed: impl FnOnce() -> T + Send + 'static,
) -> T {
    let failing = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, failing, TargetArch::x86_64).expect("a filter");
    let program: seccompiler::BpfProgram = filter.try_into().expect("a program");
    let thread = thread::spawn(move || {
        apply_filter(&program).expect("a filter");
        deed()
    });
    thread.join().expect("it ends")
}

fn kernel_has_landlock(test: &str) -> bool {
    let result = call(libc::SYS_landlock_create_ruleset, [0, 0, 1, 0, 0, 0]);
    if result < 1 {
        eprintln!("{test}: skipped, this kernel has no landlock or it is off");
    }
    result >= 1
}

#[test]
fn landlock_alone_keeps_every_file_shut() {
    if !kernel_has_landlock("landlock_alone_keeps_every_file_shut") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path().canonicalize().expect("it exists");
    let name = |name: &str| std::ffi::CString::new(format!("{}/{name}", directory.display())).expect("a name");
    let (inside, other) = (name("inside"), name("other"));
    std::fs::write(directory.join("inside"), b"x").expect("a file");
    let held = File::open(&directory).expect("a directory");
    let said = without_calls(&[libc::SYS_seccomp], move || {
        let at = i64::from(libc::AT_FDCWD);
        let (inside, other) = (inside.as_ptr() as i64, other.as_ptr() as i64);
        let removing = Purpose::Removing(held.as_fd());
        let deeds = [
            (Purpose::Looking, libc::SYS_mkdirat, [at, other, 0o700, 0, 0, 0]),
            (Purpose::Looking, libc::SYS_symlinkat, [inside, at, other, 0, 0, 0]),
            (Purpose::Looking, libc::SYS_renameat, [at, inside, at, other, 0, 0]),
            (Purpose::Writing, libc::SYS_unlinkat, [at, inside, 0, 0, 0, 0]),
            (removing, libc::SYS_mkdirat, [at, other, 0o700, 0, 0, 0]),
            // The limit of descriptors comes first where one would be opened.
            (Purpose::Writing, libc::SYS_openat, [at, inside, i64::from(libc::O_RDWR), 0, 0, 0]),
            // Only this, and only there.
            (removing, libc::SYS_unlinkat, [at, inside, 0, 0, 0, 0]),
        ];
        deeds.map(|(purpose, number, arguments)| {
            behind_the_jail(purpose, || call(number, arguments)).expect("an answer")
        })
    });
    let refused = format!("-1 {}", libc::EACCES);
    assert!(said[..5].iter().all(|said| *said == refused), "{said:?}");
    assert_eq!(said[5..], [format!("-1 {}", libc::EMFILE), "0 0".to_owned()]);
}

#[test]
fn a_kernel_without_a_layer_is_warned_of_unless_all_are_required() {
    if without_kvm("a_kernel_without_a_layer_is_warned_of_unless_all_are_required") {
        return;
    }
    let layers = [
        ("landlock", libc::SYS_landlock_create_ruleset, "the kernel has none; Linux has it from version 5.13 on"),
        ("seccomp", libc::SYS_seccomp, "Error calling `seccomp`: Function not implemented (os error 38)"),
    ];
    for (name, missing, reason) in layers {
        let folder = folder();
        let (plain, version) = without_calls(&[missing], move || {
            let message = format!(
                "instar: --require-jail: {name} is missing: {reason}; without --require-jail the other layers alone are used"
            );
            folder.fails(&["commit", "--require-jail", "b.qcow2"], &message);
            (folder.run(&["commit", "a.qcow2"]), folder.run(&["--version", "--verbose"]))
        });
        let warning = format!(
            "instar: warning: {name} is missing: {reason}; the other layers of the jail hold, and --require-jail makes this an error\n"
        );
        let done = Ended { status: Some(0), stdout: "Image committed.\n".to_owned(), stderr: warning };
        assert_eq!(plain, done, "without {name}");
        assert!(version.stdout.contains(&format!("\n{name}: missing: {reason}\n")), "{}", version.stdout);
    }
}

#[test]
fn older_kernels_and_libraries_work_as_well() {
    if without_kvm("older_kernels_and_libraries_work_as_well") {
        return;
    }
    // Linux 5.8 and older close descriptors one by one.
    let folder = folder();
    let ended = without_calls(&[libc::SYS_close_range], move || folder.run(&["commit", "large.qcow2"]));
    assert_eq!((ended.status, &*ended.stdout), (Some(0), "Image committed.\n"), "{}", ended.stderr);
}

#[test]
fn a_base_that_is_not_in_the_cache_is_compared_with_and_without_rings() {
    if without_kvm("a_base_that_is_not_in_the_cache_is_compared_with_and_without_rings") {
        return;
    }
    const CLUSTER_BYTES: usize = 64 << 10;
    const CLUSTERS: usize = 400;
    // Zeros, data that is seen at once, and data that is seen at the end alone.
    let base: Vec<u8> = (0..CLUSTERS)
        .flat_map(|cluster| {
            let mut bytes = vec![0; CLUSTER_BYTES];
            let place = [None, Some(CLUSTER_BYTES - 1), Some(0)][(cluster % 9).min(2)];
            place.into_iter().for_each(|place| bytes[place] = 7);
            bytes
        })
        .collect();
    let overlay = Disk::part(CLUSTERS, 0..0).as_ordered_qcow2(&Backing::Named("base", "raw"));
    let detached = |missing: &[i64]| {
        let folder = Folder::new();
        folder.file("overlay.qcow2", &overlay);
        let file = File::options().read(true).open(folder.file("base", &base)).expect("the base");
        file.sync_all().expect("durable");
        // Where that is not done everything is in the cache, and compared all the same.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        drop(file);
        let run = move || (folder.run(&["rebase", "--output", "json", "-b", "", "overlay.qcow2"]), folder);
        let (ended, folder) = without_calls(missing, run);
        // A lease is given only for a file that nobody else has open.
        let base = File::open(folder.path().join("base")).expect("the base");
        let lease = [i64::from(base.as_raw_fd()), libc::F_SETLEASE.into(), libc::F_WRLCK.into(), 0, 0, 0];
        let is_open =
            call(libc::SYS_fcntl, lease) < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock;
        assert_eq!((ended.status, &*ended.stderr), (Some(0), ""), "without {missing:?}");
        let copied = format!("\"clusters_copied\": {},", CLUSTERS - CLUSTERS.div_ceil(9));
        assert!(ended.stdout.contains(&copied), "without {missing:?}: {}", ended.stdout);
        (std::fs::read(folder.path().join("overlay.qcow2")).expect("the overlay"), is_open)
    };
    // Whoever unmounts next must not find the base still open. A process that another test is about to start may have a copy of its
    // descriptor for a moment, but hardly three times.
    let (whole, _) = (0..3).map(|_| detached(&[])).find(|(_, is_open)| !is_open).expect("the base is left open");
    // Linux 5.9 and older, and containers, have no rings, or none of this kind; Linux 4.5 and older cannot be asked for the cache.
    for missing in [libc::SYS_io_uring_setup, libc::SYS_io_uring_register, libc::SYS_io_uring_enter, libc::SYS_preadv2]
    {
        assert!(detached(&[missing]).0 == whole, "without call {missing} the overlay is another");
    }
}

#[test]
fn threads_that_cannot_be_started_are_done_without() {
    if without_kvm("threads_that_cannot_be_started_are_done_without") {
        return;
    }
    // What a limit of processes does; where clone3 is tried, the jail has refused it before.
    let of_thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(of_thread), of_thread);
    let rule = SeccompRule::new(vec![condition.expect("a condition")]).expect("a rule");
    let folder = folder();
    let (alone, base) = with_calls_failing(BTreeMap::from([(libc::SYS_clone, vec![rule])]), libc::EAGAIN, move || {
        // With a limit the work is in pieces, which several threads share.
        let alone = folder.run(&["commit", "-r", "1G", "slow.qcow2"]);
        (alone, std::fs::read(folder.path().join("raw")).expect("a base"))
    });
    let done = Ended { status: Some(0), stdout: "Image committed.\n".to_owned(), stderr: String::new() };
    assert_eq!(alone, done);
    assert!(base == Disk::full(128).bytes(), "the base holds something else");
}

#[test]
fn the_version_says_what_holds_here() {
    let folder = Folder::new();
    let short = folder.run(&["--version"]);
    assert_eq!(short.stdout.lines().count(), 1, "{}", short.stdout);
    for arguments in [["--version", "--verbose"], ["-v", "-V"]] {
        let ended = folder.run(&arguments);
        let names: Vec<&str> = ended.stdout.lines().skip(1).filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        assert_eq!(
            (ended.status, names),
            (Some(0), vec!["KVM", "process", "no_new_privs", "landlock", "seccomp"]),
            "{ended:?}"
        );
        assert!(ended.stdout.starts_with(&short.stdout), "{}", ended.stdout);
    }
}

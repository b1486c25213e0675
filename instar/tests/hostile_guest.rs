//! A guest program that attacks the host: each attack ends in a clear error, in time, and no file changes.
//!
//! Every guest runs as the product's guests do: in a jail, here one around a process of its own; once on KVM, and once in the
//! sandbox that needs none, where the trial's name ends in `_in_a_process`.
//!
//! Builds the guest program `hostile` itself, unless INSTAR_HOSTILE_GUEST names one that was built before. Where KVM
//! cannot be used every test on it fails, unless INSTAR_TEST_WITHOUT_KVM=1 says that this is known: then each is listed as
//! ignored and the reason is printed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use instar::apart;
use instar::jail::{Jail, Purpose, Runner};
use instar::program::GuestProgram;
use instar::session::{DeviceFile, Session};
use instar::vm::{Hypervisor, Platform, VmError};
use instar_abi::job::{ABI_VERSION, JOB_MAGIC, JobHeader};
use instar_abi::wire::Wire;
use libtest_mimic::{Arguments, Failed, Trial};

#[path = "../build/guests.rs"]
mod guests;

/// How long the guest may spin where it does nothing else. All others have the product's limit.
const LIMIT: Duration = Duration::from_millis(400);
/// How long a whole run may take on a busy machine, or on a processor in software.
const PATIENCE: Duration = Duration::from_secs(60);
/// Attacks on the host's time end in this.
const STUCK: &str = "neither ended nor made a request";
/// Attacks on memory and processor end in this, whatever the processor can tell about them.
const FAULT: &str = "the guest program did what it may not do";
const REACH: &str = "memory that devices may not reach";

/// Name, number (as in guests/bin/hostile), and what the error must say.
#[rustfmt::skip]
const ATTACKS: &[(&str, u32, &str)] = &[
    ("write_text", 0, FAULT), ("execute_stack", 1, FAULT), ("execute_heap", 2, FAULT), ("read_null", 3, FAULT),
    ("read_page_tables", 4, FAULT), ("write_page_tables", 5, FAULT), ("write_below_stack", 6, FAULT),
    ("write_above_stack", 7, FAULT), ("write_below_heap", 8, FAULT), ("write_behind_report", 9, FAULT),
    ("write_behind_program", 10, FAULT), ("write_job", 11, FAULT), ("write_device_table", 12, FAULT),
    ("read_behind_memory", 13, FAULT), ("read_far_address", 14, FAULT), ("read_noncanonical_address", 15, FAULT),
    ("read_below_control_page", 16, FAULT), ("write_page_of_absent_device", 17, FAULT),
    ("execute_device_page", 18, FAULT), ("execute_job", 19, FAULT), ("overflow_stack", 20, FAULT),
    ("exhaust_heap", 21, "memory allocation of"), ("spin", 22, STUCK),
    ("spin_with_pause", 23, STUCK), ("call_vsyscall", 24, FAULT),
    ("write_port", 30, FAULT), ("read_port", 31, FAULT), ("halt", 32, FAULT), ("system_call", 33, FAULT),
    ("software_interrupt", 34, FAULT), ("undefined_instruction", 35, FAULT), ("load_page_table_register", 36, FAULT),
    ("write_model_register", 37, FAULT), ("disable_interrupts", 38, FAULT), ("breakpoint", 39, FAULT),
    ("divide_by_zero", 40, FAULT), ("load_interrupt_table", 41, FAULT), ("return_to_no_segment", 44, FAULT),
    ("return_from_no_interrupt", 45, FAULT), ("enter_32_bit_code", 46, FAULT), ("enter_system", 47, FAULT),
    ("single_step", 48, FAULT),

    ("doorbell_before_attach", 100, "a doorbell rang before its device was ready"),
    ("attach_in_page_tables", 101, REACH), ("attach_at_the_end_of_addresses", 102, REACH),
    ("descriptors_in_page_tables", 103, "without a usable queue"), ("used_ring_in_text", 104, "without a usable queue"),
    ("available_ring_at_the_end_of_addresses", 105, "without a usable queue"),
    ("queue_of_three", 106, "queue size is impossible"), ("queue_of_a_million", 107, "queue size is impossible"),
    ("all_features", 108, "features that were not offered"), ("unaligned_queue", 109, "not aligned"),
    ("used_ring_leaves_memory", 110, "without a usable queue"),
    ("chain_with_loop", 120, "has no end"), ("chain_leaves_table", 121, "out of range"),
    ("indirect_descriptor", 122, "indirect"), ("no_answer", 123, "length does not match"),
    ("header_to_write", 124, "cut short"), ("short_answer", 125, "no room for an answer"),
    ("short_header", 126, "cut short"), ("long_header", 127, "longer than it says"),
    ("read_into_page_tables", 130, REACH), ("read_into_text", 131, REACH), ("read_into_report", 132, REACH),
    ("read_across_heap_start", 133, REACH), ("read_across_memory_end", 134, REACH),
    ("read_across_the_end_of_addresses", 135, REACH), ("read_4_gib", 136, REACH),
    ("read_32_mib", 137, "too many bytes"), ("read_nothing", 138, REACH), ("answer_in_text", 139, REACH),
    ("length_unlike_descriptors", 140, "length does not match"), ("records_without_list", 141, "too many records"),
    ("too_long_list", 142, "too many records"), ("list_without_records", 143, "cut short"),
    ("record_in_read", 144, "too many records"),
    ("available_index_too_far", 150, "ring is broken"), ("head_behind_table", 151, "out of range"),
    ("head_far_behind_table", 152, "out of range"),
    ("last_sector", 160, "sector number is out of range"), ("odd_range_list", 161, "impossible length"),

    ("write_read_only", 200, "(error 13)"), ("unmap_read_only", 201, "(error 13)"), ("zero_read_only", 202, "(error 13)"),
    ("discard_read_only", 203, "(error 13)"), ("resize_read_only", 204, "(error 13)"),
    ("copy_to_read_only", 205, "(error 13)"), ("copy_from_absent_device", 206, "(error 19)"),
    ("copy_from_last_device_number", 207, "(error 19)"), ("copy_to_far_offset", 208, "(error 27)"),
    ("copy_from_far_offset", 209, "(error 27)"), ("copy_onto_itself", 210, "(error 22)"),
    ("write_far_offset", 211, "(error 27)"), ("zero_far_offset", 212, "(error 27)"), ("resize_far", 213, "(error 27)"),
    ("read_far_offset", 214, "(error 27)"), ("read_absent_device", 215, "(error 19)"),

    ("report_without_magic", 300, "does not start like a report"), ("report_with_unknown_outcome", 301, "unknown outcome 2"),
    ("report_with_long_text", 302, "a text of 1025 bytes"), ("report_with_endless_payload", 303, "a payload of"),
    ("report_with_long_payload", 304, "a payload of 4194304 bytes"), ("no_report", 306, "does not start like a report"),
];

/// The check that writes to the writable file.
const DEVICES: u32 = 402;
/// Honest work: what the attacks' failures are measured against.
const HONEST: &[(&str, u32)] = &[
    ("honest_report_is_taken", 305),
    ("memory_functions_work", 400),
    ("heap_survives_heavy_use", 401),
    ("devices_read_write_and_copy", DEVICES),
];

fn main() {
    let arguments = Arguments::from_args();
    let hypervisor = Hypervisor::open();
    let without = std::env::var_os("INSTAR_TEST_WITHOUT_KVM").is_some_and(|value| value == "1");
    let skip = hypervisor.is_err() && without;
    if let (Err(error), true) = (&hypervisor, skip) {
        for name in ATTACKS.iter().map(|(name, ..)| name).chain(HONEST.iter().map(|(name, _)| name)) {
            eprintln!("skipped {name}: INSTAR_TEST_WITHOUT_KVM=1, and: {error}");
        }
    }
    let program = if arguments.list { Ok(Vec::new()) } else { build() };
    let kvm_missing =
        hypervisor.err().map(|error| format!("{error} Set INSTAR_TEST_WITHOUT_KVM=1 where that is known."));
    let trials = [Runner::Kvm, Runner::Process].into_iter().flat_map(|runner| {
        let (program, missing) = match runner {
            Runner::Kvm => (kvm_missing.clone().map_or_else(|| program.clone(), Err), skip),
            Runner::Process => (program.clone(), false),
        };
        let title = move |name: &str| match runner {
            Runner::Kvm => name.to_owned(),
            Runner::Process => format!("{name}_in_a_process"),
        };
        let attacks = ATTACKS.iter().map({
            let program = program.clone();
            move |(name, number, expected)| {
                let program = program.clone();
                let trial = move || attack(&program.map_err(Failed::from)?, runner, name, *number, expected);
                Trial::test(title(name), trial).with_ignored_flag(missing)
            }
        });
        let honest = HONEST.iter().map(move |(name, number)| {
            let program = program.clone();
            let trial = move || honest(&program.map_err(Failed::from)?, runner, *number);
            Trial::test(title(name), trial).with_ignored_flag(missing)
        });
        attacks.chain(honest).collect::<Vec<_>>()
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn build() -> Result<Vec<u8>, String> {
    if let Some(built) = std::env::var_os("INSTAR_HOSTILE_GUEST") {
        return fs::read(&built).map_err(|error| format!("{}: {error}", built.display()));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the package has no parent directory")?;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    let built = guests::build(env!("CARGO"), &root.join("guests"), &target, &["hostile"])?;
    fs::read(built.join("hostile")).map_err(|error| format!("the guest program is not there: {error}"))
}

struct Scene {
    _dir: tempfile::TempDir,
    read_only: PathBuf,
    writable: PathBuf,
}

impl Scene {
    fn new() -> std::io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let (read_only, writable) = (dir.path().join("read-only"), dir.path().join("writable"));
        fs::write(&read_only, contents(3))?;
        fs::write(&writable, contents(5))?;
        Ok(Self { _dir: dir, read_only, writable })
    }

    fn run(
        &self,
        program: &[u8],
        runner: Runner,
        number: u32,
        limit: Option<Duration>,
    ) -> Result<Result<(), VmError>, Failed> {
        let platform = Platform::open(runner)?;
        let read_only = File::open(&self.read_only)?;
        let writable = File::options().read(true).write(true).open(&self.writable)?;
        let devices = [DeviceFile::new(&read_only, false), DeviceFile::new(&writable, true)];
        let mut job = vec![0; 16 << 10];
        JobHeader { magic: JOB_MAGIC, abi_version: ABI_VERSION, operation: number, device_count: 2, layer_count: 1 }
            .put(&mut job);
        let mut session = Session::new(&platform, GuestProgram::from_elf(program, 0), &devices, &job);
        session.limit = limit.unwrap_or(session.limit);
        let jail = Jail { purpose: Purpose::Writing, ..Jail::default() };
        Ok(apart::run(session, jail, || ()).map(drop))
    }
}

fn contents(seed: u8) -> Vec<u8> {
    (0..40_000u32).map(|at| seed.wrapping_add((at % 251).to_le_bytes()[0])).collect()
}

fn attack(program: &[u8], runner: Runner, name: &str, number: u32, expected: &str) -> Result<(), Failed> {
    let scene = Scene::new()?;
    let limit = (expected == STUCK).then_some(LIMIT);
    let start = Instant::now();
    let result = scene.run(program, runner, number, limit)?;
    let took = start.elapsed();
    let Err(error) = result else { return Err(format!("{name} ended in a report").into()) };
    let text = error.to_string();
    if !text.contains(expected) || !text.starts_with("the sandbox stopped: ") {
        return Err(format!("{name} ended in: {text}\nexpected: {expected}").into());
    }
    if took > PATIENCE {
        return Err(format!("{name} took {took:?}").into());
    }
    for (path, seed) in [(&scene.read_only, 3), (&scene.writable, 5)] {
        if fs::read(path)? != contents(seed) {
            return Err(format!("{name} changed {}", path.display()).into());
        }
    }
    Ok(())
}

fn honest(program: &[u8], runner: Runner, number: u32) -> Result<(), Failed> {
    let scene = Scene::new()?;
    scene.run(program, runner, number, None)?.map_err(|error| Failed::from(error.to_string()))?;
    if fs::read(&scene.read_only)? != contents(3) {
        return Err("an honest program changed a read-only file".into());
    }
    if number == DEVICES {
        let (source, target) = (contents(3), fs::read(&scene.writable)?);
        if target.len() != 3 * source.len() || target[source.len()..2 * source.len()] != source {
            return Err("what was written did not arrive".into());
        }
    }
    Ok(())
}

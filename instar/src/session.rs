//! One run of a guest program: files and a job go in, a report comes out.
//!
//! Knows the shape of a report but not what it says; of the job it knows nothing but its length.

use std::cell::RefCell;
use std::fs::File;
use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use instar_abi::codec_machine::CODEC_MEMORY_BYTES;
use instar_abi::memory::{
    DEFAULT_MEMORY_BYTES, JOB_BYTES, JOB_START, REPORT_BYTES, REPORT_START, SHARED_DONE_BYTES, SHARED_START,
    SHARED_TOTAL_BYTES,
};
use instar_abi::report::{MAX_TEXT_BYTES, REPORT_MAGIC, ReportHeader, outcome};
use instar_abi::wire::Wire;

use crate::devices::{Backend, Bus, CodecMachines, Counters, Effects, Flushing, Rings};
use crate::effort::Effort;
use crate::jail::{Jail, Layer, Runner};
use crate::program::{self, GuestProgram};
use crate::series;
use crate::vm::{GuestRam, Platform, Prepared, Run, Vm, VmError, Watchdog};

/// How long a guest may run without a request where nobody says otherwise.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

/// The most machines that pack and unpack for one job: more of them than disks can follow only take memory.
const CODEC_MACHINES_MAX: usize = 4;

/// Makes machines that pack and unpack for [`Session::codec_machines`]: as many as there are processors; none where there is one
/// processor alone, or where guests run in processes, which only the thread that made them can run. What cannot be made is done without.
#[must_use]
pub fn prepare_codec_machines(platform: &Platform) -> Vec<Prepared> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    if processors < 2 || platform.kind() != Runner::Kvm {
        return Vec::new();
    }
    (0..processors.min(CODEC_MACHINES_MAX))
        .map_while(|_| Prepared::resident(platform, program::codec(), CODEC_MEMORY_BYTES).ok())
        .collect()
}

/// A file that becomes a device; its place in the list is the device's number.
#[derive(Clone, Copy, Debug)]
pub struct DeviceFile<'a> {
    /// Opened for reading, and for writing only if `writable`.
    pub file: &'a File,
    /// Whether the guest may write.
    pub writable: bool,
    /// The same file, opened with `O_DIRECT`: then data goes past the page cache.
    pub direct: Option<&'a File>,
    /// The same file, opened with `O_DIRECT`: then long runs are written past the page cache.
    pub bulk: Option<&'a File>,
    /// The same file, opened with `O_DIRECT`: then single blocks of it are compared past the page cache.
    pub probed: Option<&'a File>,
    /// When what was written becomes durable.
    pub flushing: Flushing,
    /// A file that takes what is written, so that nothing is done to `file`, which need not be open for writing then.
    pub scratch: Option<&'a File>,
}

impl<'a> DeviceFile<'a> {
    /// A file behind the page cache that is flushed when the guest asks for it.
    #[must_use]
    pub fn new(file: &'a File, writable: bool) -> Self {
        Self { file, writable, direct: None, bulk: None, probed: None, flushing: Flushing::default(), scratch: None }
    }

    /// Every way in which the file is open: what a process that runs the job must keep.
    pub fn descriptors(&self) -> impl Iterator<Item = &'a File> {
        let Self { file, writable: _, direct, bulk, probed, flushing: _, scratch } = *self;
        [file].into_iter().chain(direct).chain(bulk).chain(probed).chain(scratch)
    }
}

/// What can take the virtual machine's place: carries out a guest program's job on open files.
pub trait Guest {
    /// Carries out a job of [`instar_abi::job::operation`] and gives the bytes of the report area: as many as were written.
    /// `progress` is told bytes done and bytes in total.
    ///
    /// # Errors
    /// Every way to end without an answer.
    fn run(
        &mut self,
        job_operation: u32,
        devices: &[DeviceFile<'_>],
        job: &[u8],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<u8>, VmError>;
}

/// Everything that one run needs.
pub struct Session<'a> {
    /// What it runs on.
    pub platform: &'a Platform,
    /// What runs.
    pub program: GuestProgram<'a>,
    /// The devices.
    pub devices: &'a [DeviceFile<'a>],
    /// The job as the guest reads it: header, device table, the operation's own part.
    pub job: &'a [u8],
    /// Size of the sandbox's memory: a multiple of 2 MiB.
    pub memory_bytes: u64,
    /// How long the guest may run without a request.
    pub limit: Duration,
    /// The machine, if there is one already; of another size than `memory_bytes` it is of no use.
    pub prepared: Option<Prepared>,
    /// Machines for packing and unpacking that the job may use, made by [`prepare_codec_machines`].
    pub codec_machines: Vec<Prepared>,
    /// Whether the job has ciphers to compute, for which the processor may have instructions.
    pub has_ciphers: bool,
    /// The most bytes to write in a second, on all devices together; 0 for no limit.
    pub bytes_per_second: u64,
    /// Is told how far the guest says it is: bytes done and bytes in total, whenever one has changed.
    pub progress: Option<&'a mut dyn FnMut(u64, u64)>,
    /// Is closed around this process when everything is ready for the guest's first instruction. The process is then taken
    /// for one that ends soon, and the machine is left to that end.
    pub jail: Option<Jail<'a>>,
}

impl<'a> Session<'a> {
    /// A session with the default memory and limit, and without progress.
    #[must_use]
    pub fn new(
        platform: &'a Platform,
        program: GuestProgram<'a>,
        devices: &'a [DeviceFile<'a>],
        job: &'a [u8],
    ) -> Self {
        Self {
            platform,
            program,
            devices,
            job,
            memory_bytes: DEFAULT_MEMORY_BYTES,
            limit: DEFAULT_LIMIT,
            prepared: None,
            codec_machines: Vec::new(),
            has_ciphers: false,
            bytes_per_second: 0,
            progress: None,
            jail: None,
        }
    }

    /// Runs the guest to its end.
    ///
    /// # Errors
    /// Every way to end without a report that can be read.
    pub fn run(self) -> Result<Report, VmError> {
        self.run_counted().map(|(report, _)| report)
    }

    /// As [`Session::run`], and what it took.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_counted(mut self) -> Result<(Report, Effort), VmError> {
        let jail = self.jail.take();
        let mut runs = series::run(vec![self], jail, &mut |_, _| true)?;
        runs.pop().ok_or_else(|| VmError::Config("there is nothing to run".to_owned()))
    }

    /// The files as devices.
    pub(crate) fn backends(&self) -> Result<Vec<Backend<'a>>, VmError> {
        let files: Arc<[&File]> = self.devices.iter().map(|device| device.file).collect();
        let backend = |device: &DeviceFile<'a>| {
            let backend = Backend::new(device.file, device.writable)?;
            let backend = backend.past_the_cache(device.direct).bulk(device.bulk).flushing(device.flushing);
            Ok(backend.rehearsed_on(device.scratch, &files))
        };
        let backends = self.devices.iter().map(backend).collect::<std::io::Result<Vec<_>>>();
        let backends = backends.map_err(|error| VmError::setup("looking at a file", error))?;
        let probed = |(backend, device): (&Backend<'a>, &DeviceFile<'a>)| device.probed.filter(|_| backend.has_disk());
        let probed: Vec<_> = backends.iter().zip(self.devices).map(probed).collect();
        let rings = Arc::new(Rings::new(probed.iter().flatten().count()));
        Ok(backends.into_iter().zip(probed).map(|(backend, probed)| backend.probed_through(probed, &rings)).collect())
    }

    /// The machine, with its job; where there is a jail, one that is held as that demands. `warnings` gets a sentence for each
    /// layer around the machine that is missing.
    pub(crate) fn machine(&mut self, jail: Option<&Jail<'_>>, warnings: &mut Vec<String>) -> Result<Vm, VmError> {
        if self.job.len() as u64 > JOB_BYTES {
            return Err(VmError::Config(format!("a job of {} bytes is too long", self.job.len())));
        }
        let prepared = match self.prepared.take().filter(|machine| machine.memory_bytes() == self.memory_bytes) {
            Some(machine) => machine,
            None => self.program.prepare(self.platform, self.memory_bytes)?,
        };
        self.program.make_heap(&prepared);
        if let Some(jail) = jail {
            jail.demand(prepared.layers()).map_err(VmError::Jail)?;
            warnings.extend(prepared.layers().iter().filter_map(Layer::warning));
        }
        let device_count = u32::try_from(self.devices.len()).unwrap_or(u32::MAX);
        let vm = prepared.complete(self.platform, device_count, self.has_ciphers)?;
        vm.ram().write_low(JOB_START, self.job)?;
        Ok(vm)
    }

    /// The machines for packing and unpacking, if there are some.
    pub(crate) fn codec_machines(&mut self) -> Result<Option<CodecMachines>, VmError> {
        let prepared = mem::take(&mut self.codec_machines).into_iter();
        let machines = prepared.map(|machine| machine.complete(self.platform, 0, false));
        let machines = machines.collect::<Result<Vec<_>, _>>()?;
        Ok((!machines.is_empty()).then(|| CodecMachines::new(machines, self.limit)))
    }

    /// Runs the guest of a machine on its devices, which are given back.
    pub(crate) fn carry_out<'f>(
        self,
        vm: &mut Vm,
        codec_machines: Option<CodecMachines>,
        backends: Vec<Backend<'f>>,
        watchdog: &mut Watchdog,
    ) -> Result<(Report, Vec<Backend<'f>>, Counters), VmError> {
        let meter = RefCell::new(Meter { progress: self.progress, guest: (0, 0), shown: (0, 0) });
        let mut on_copied = |copied, total| meter.borrow_mut().host_copied(copied, total);
        let mut bus = Bus::new(backends)?
            .limited_to(self.bytes_per_second)
            .with_codec_machines(codec_machines)
            .watched_by(&mut on_copied);
        bus.publish(vm.ram())?;
        vm.run(Run {
            bus: &mut bus,
            watchdog,
            after_request: &mut |ram| {
                meter.borrow_mut().guest_says(word(ram, SHARED_DONE_BYTES), word(ram, SHARED_TOTAL_BYTES));
            },
        })?;
        let (backends, counters) = bus.into_parts();
        let area = |offset, bytes: &mut [u8]| vm.ram().read_low(REPORT_START + offset, bytes);
        let effects = backends.iter().map(Backend::effects).collect();
        let report = Report { effects, ..Report::read(area, self.program.report_bytes())? };
        // The machine may live on for a while, and there may be secrets in its job.
        vm.ram().write_low(JOB_START, &vec![0; self.job.len()])?;
        Ok((report, backends, counters))
    }
}

/// Puts together what the guest says of its progress between doorbells and what the host copies during them.
struct Meter<'a> {
    progress: Option<&'a mut dyn FnMut(u64, u64)>,
    guest: (u64, u64),
    shown: (u64, u64),
}

impl Meter<'_> {
    fn guest_says(&mut self, done: u64, total: u64) {
        self.guest = (done, total);
        self.show(done);
    }

    fn host_copied(&mut self, copied: u64, total: u64) {
        self.guest.1 = total;
        self.show(copied);
    }

    /// Never goes back, but to another total.
    fn show(&mut self, done: u64) {
        let total = self.guest.1;
        let done = if total == self.shown.1 { done.max(self.shown.0) } else { done.max(self.guest.0) };
        let now = (done.min(total), total);
        if now != self.shown {
            self.shown = now;
            if let Some(progress) = self.progress.as_deref_mut() {
                progress(now.0, now.1);
            }
        }
    }
}

fn word(ram: &GuestRam, offset: u64) -> u64 {
    ram.read_low_u64(SHARED_START + offset).unwrap_or(0)
}

/// A report whose lengths are right. What it says is still only what a hostile guest may have written.
#[derive(Clone, Debug)]
pub struct Report {
    header: ReportHeader,
    body: Vec<u8>,
    payload_start: usize,
    effects: Vec<Effects>,
    warnings: Vec<String>,
}

impl Report {
    /// Reads the report of `program` in a report area, of which the rest is zero.
    ///
    /// # Errors
    /// If it is none, or its lengths are not right.
    pub fn in_area(area: &[u8], program: GuestProgram<'_>) -> Result<Self, VmError> {
        let read = |offset: u64, bytes: &mut [u8]| {
            let rest = usize::try_from(offset).ok().and_then(|offset| area.get(offset..)).unwrap_or_default();
            let count = rest.len().min(bytes.len());
            bytes[..count].copy_from_slice(&rest[..count]);
            Ok(())
        };
        Self::read(read, program.report_bytes())
    }

    /// `area` reads from an offset in the report area.
    fn read(area: impl Fn(u64, &mut [u8]) -> Result<(), VmError>, report_bytes: usize) -> Result<Self, VmError> {
        let mut bytes = vec![0; ReportHeader::SIZE_BYTES];
        area(0, &mut bytes)?;
        let header = ReportHeader::get(&bytes);
        let lie = |finding: String| Err(VmError::Report(finding));
        if header.magic != REPORT_MAGIC {
            return lie("it does not start like a report".into());
        }
        if !matches!(header.outcome, outcome::DONE | outcome::FAILED) {
            return lie(format!("unknown outcome {}", header.outcome));
        }
        if header.text_length_bytes as usize > MAX_TEXT_BYTES {
            return lie(format!("a text of {} bytes", header.text_length_bytes));
        }
        let length = report_bytes + header.payload_length_bytes as usize;
        if (ReportHeader::SIZE_BYTES + length) as u64 > REPORT_BYTES {
            return lie(format!("a payload of {} bytes", header.payload_length_bytes));
        }
        let mut body = vec![0; length];
        area(ReportHeader::SIZE_BYTES as u64, &mut body)?;
        Ok(Self { header, body, payload_start: report_bytes, warnings: Vec::new(), effects: Vec::new() })
    }

    /// The same, with what was lacking around the guest.
    pub(crate) fn with_warnings(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }

    /// A sentence for each layer of the jail that did not hold while the guest ran. Of a worker process, and hostile.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The report area up to the report's end, as [`Report::in_area`] reads it.
    #[must_use]
    pub fn area(&self) -> Vec<u8> {
        let mut area = vec![0; ReportHeader::SIZE_BYTES];
        self.header.put(&mut area);
        area.extend_from_slice(&self.body);
        area
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &ReportHeader {
        &self.header
    }

    /// The error text; not escaped.
    #[must_use]
    pub fn text(&self) -> String {
        let length = (self.header.text_length_bytes as usize).min(MAX_TEXT_BYTES);
        String::from_utf8_lossy(&self.header.text[..length]).into_owned()
    }

    /// What was rehearsed, for each device of the session; unless that has run elsewhere.
    #[must_use]
    pub fn effects(&self) -> &[Effects] {
        &self.effects
    }

    /// The operation's report, to be decoded with [`Wire::get`]. All zeros if the guest did not get so far.
    #[must_use]
    pub fn operation(&self) -> &[u8] {
        &self.body[..self.payload_start]
    }

    /// What stands behind the operation's report.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.body[self.payload_start..]
    }
}

//! Runs one or more guest programs on the same files, one after the other and in one jail.
//!
//! In the jail nothing can be made any more, so that all machines are there before it closes. The files stay open all the time,
//! and so do their locks: nobody else can write between two runs.

use std::mem;
use std::time::{Duration, Instant};

use tracing::info;

use crate::devices::{CodecMachines, Counters};
use crate::effort::Effort;
use crate::jail::Jail;
use crate::session::{Report, Session};
use crate::vm::{Vm, VmError, Watchdog};

/// Runs sessions on the same files, of which each may write to some. `goes_on` looks at each report, counted from 0, and says
/// whether the next session is run. Gives the reports of those that were, and what they took. The jail is closed right before
/// the first guest's first instruction; the process is then taken for one that ends soon, and the machines are left to that
/// end. The first session's limit counts for all.
///
/// # Errors
/// Every way in which one of them ends without a report that can be read; sessions on different files.
pub fn run(
    mut sessions: Vec<Session<'_>>,
    jail: Option<Jail<'_>>,
    goes_on: &mut dyn FnMut(usize, &Report) -> bool,
) -> Result<Vec<(Report, Effort)>, VmError> {
    let Some(first) = sessions.first() else { return Ok(Vec::new()) };
    if sessions.iter().any(|session| !uses_files_of(session, first)) {
        return Err(VmError::Config("a series of jobs has different files".to_owned()));
    }
    let (platform, limit, mut backends) = (first.platform, first.limit, first.backends()?);
    let jail = jail.map(|jail| Jail { runner: platform.kind(), ..jail });
    let mut began = Instant::now();
    let mut machines = Vec::with_capacity(sessions.len());
    let mut codec_machines = Vec::with_capacity(sessions.len());
    let mut efforts = Vec::with_capacity(sessions.len());
    let mut warnings = Vec::new();
    for session in &mut sessions {
        machines.push(session.machine(jail.as_ref(), &mut warnings)?);
        codec_machines.push(session.codec_machines()?);
        let now = Instant::now();
        efforts.push(Effort { start: now - began, ..Effort::default() });
        began = now;
    }
    let mut watchdog = platform.watchdog(limit)?;
    if let Some(jail) = &jail {
        let layers = jail.close().map_err(VmError::Jail)?;
        layers.tell();
        warnings.extend(layers.warnings());
    }
    if let Some(effort) = efforts.first_mut() {
        effort.start += began.elapsed();
    }
    let start: Duration = efforts.iter().map(|effort| effort.start).sum();
    info!(machines = machines.len(), devices = backends.len(), took = ?start, "sandbox ready");
    let mut done = Vec::with_capacity(sessions.len());
    let mut result = Ok(());
    let runs = sessions.into_iter().zip(&mut machines).zip(codec_machines).zip(efforts);
    for (index, (((session, vm), codec_machines), mut effort)) in runs.enumerate() {
        match one(session, vm, codec_machines, backends, &mut watchdog, &mut effort) {
            Ok((report, given_back)) => {
                backends = given_back;
                let report = report.with_warnings(mem::take(&mut warnings));
                let goes_on = goes_on(index, &report);
                done.push((report, effort));
                if !goes_on {
                    break;
                }
            }
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    machines.into_iter().for_each(|machine| machine.leave(jail.is_some()));
    result.map(|()| done)
}

type Backends<'f> = Vec<crate::devices::Backend<'f>>;

fn one<'f>(
    session: Session<'_>,
    vm: &mut Vm,
    codec_machines: Option<CodecMachines>,
    mut backends: Backends<'f>,
    watchdog: &mut Watchdog,
    effort: &mut Effort,
) -> Result<(Report, Backends<'f>), VmError> {
    for (backend, device) in backends.iter_mut().zip(session.devices) {
        backend.hand_over(device.writable).map_err(|error| VmError::setup("making what was written durable", error))?;
    }
    let began = Instant::now();
    let (report, backends, counters) = session.carry_out(vm, codec_machines, backends, watchdog)?;
    info!(took = ?began.elapsed(), exits = vm.exits(), "guest ended");
    let Counters { read_bytes, written_bytes, copied_bytes, compared_bytes, .. } = counters;
    let Counters { unpacked_bytes, packed_bytes, zeroed_bytes, barriers, failures, .. } = counters;
    info!(
        read_bytes,
        written_bytes,
        copied_bytes,
        compared_bytes,
        unpacked_bytes,
        packed_bytes,
        zeroed_bytes,
        barriers,
        failures,
        "requests served"
    );
    *effort = Effort { run: began.elapsed(), exits: vm.exits(), devices: counters, ..effort.clone() };
    Ok((report, backends))
}

fn uses_files_of(session: &Session<'_>, other: &Session<'_>) -> bool {
    session.devices.len() == other.devices.len()
        && session.devices.iter().zip(other.devices).all(|(own, other)| std::ptr::eq(own.file, other.file))
}

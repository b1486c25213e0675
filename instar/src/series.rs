//! Runs one or more guest programs on the same files, one after the other and in one jail.
//!
//! In the jail nothing can be made any more, so that all machines are there before it closes. The files stay open all the time,
//! and so do their locks: nobody else can write between two runs.

use std::time::Instant;

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
    let (limit, mut backends) = (first.limit, first.backends()?);
    let mut began = Instant::now();
    let mut machines = Vec::with_capacity(sessions.len());
    let mut efforts = Vec::with_capacity(sessions.len());
    for session in &mut sessions {
        machines.push(session.machine()?);
        let now = Instant::now();
        efforts.push(Effort { start: now - began, ..Effort::default() });
        began = now;
    }
    let mut watchdog = Watchdog::start(limit)?;
    let mut warnings = match &jail {
        Some(jail) => jail.close().map_err(VmError::Unavailable)?.warnings(),
        None => Vec::new(),
    };
    if let Some(effort) = efforts.first_mut() {
        effort.start += began.elapsed();
    }
    let mut done = Vec::with_capacity(sessions.len());
    let mut result = Ok(());
    for (index, ((session, vm), mut effort)) in sessions.into_iter().zip(&mut machines).zip(efforts).enumerate() {
        match one(session, vm, backends, &mut watchdog, &mut effort) {
            Ok((report, given_back)) => {
                backends = given_back;
                let report = report.with_warnings(std::mem::take(&mut warnings));
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
    if jail.is_some() {
        std::mem::forget(machines);
    } else {
        // The kernel takes its time to take a machine apart, and the next session need not wait for that. Without a thread
        // it happens here: a closure that is not run is dropped, and the machine with it.
        drop(std::thread::Builder::new().spawn(move || drop(machines)));
    }
    result.map(|()| done)
}

type Backends<'f> = Vec<crate::devices::Backend<'f>>;

fn one<'f>(
    session: Session<'_>,
    vm: &mut Vm,
    mut backends: Backends<'f>,
    watchdog: &mut Watchdog,
    effort: &mut Effort,
) -> Result<(Report, Backends<'f>), VmError> {
    for (backend, device) in backends.iter_mut().zip(session.devices) {
        backend.hand_over(device.writable).map_err(|error| VmError::setup("making what was written durable", error))?;
    }
    let began = Instant::now();
    let (report, backends, counters) = session.carry_out(vm, backends, watchdog)?;
    *effort = Effort { run: began.elapsed(), exits: vm.exits(), devices: counters, ..effort.clone() };
    Ok((report, backends))
}

fn uses_files_of(session: &Session<'_>, other: &Session<'_>) -> bool {
    session.devices.len() == other.devices.len()
        && session.devices.iter().zip(other.devices).all(|(own, other)| std::ptr::eq(own.file, other.file))
}

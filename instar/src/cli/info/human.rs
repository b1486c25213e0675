//! An image's facts for people, in the words and the layout of each version of qemu-img.
//!
//! One deliberate difference: names come from images and go to a terminal, so what is not printable is escaped.

use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;

use super::describe::{self, actual_size, child_files, file_length, format_name};
use super::image::Snapshot;
use super::node::{Node, Object};
use super::size::for_people;
use super::{FileFacts, ImageEntry, Version};
use crate::text::Printable;

/// Turns seconds since the epoch into date and time of the user's time zone, such as `2026-11-22 07:00:10`.
pub type Clock<'a> = &'a dyn Fn(u32) -> String;

/// The text of one image.
pub(super) fn image(entry: &ImageEntry, version: Version, clock: Clock<'_>) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_image(&mut text, entry, version, clock);
    text
}

fn write_image(out: &mut String, entry: &ImageEntry, version: Version, clock: Clock<'_>) -> fmt::Result {
    let info = &entry.info;
    writeln!(out, "image: {}", file_name(&entry.file))?;
    writeln!(out, "file format: {}", format_name(info.format))?;
    let virtual_size = info.virtual_size_bytes;
    writeln!(out, "virtual size: {} ({virtual_size} bytes)", for_people(virtual_size))?;
    writeln!(out, "disk size: {}", for_people(actual_size(entry, version)))?;
    if info.qcow2.as_ref().is_some_and(|qcow2| qcow2.encryption.is_some()) {
        writeln!(out, "encrypted: yes")?;
    }
    if let Some(cluster_size) = info.cluster_size_bytes {
        writeln!(out, "cluster_size: {cluster_size}")?;
    }
    if describe::is_dirty(info, version) {
        writeln!(out, "cleanly shut down: no")?;
    }
    write_backing(out, entry)?;
    let snapshots = describe::snapshots(info);
    if !snapshots.is_empty() {
        write_snapshots(out, snapshots, version, clock)?;
    }
    if let Some((_, data)) = describe::format_data(entry, version) {
        writeln!(out, "Format specific information:")?;
        write_members(out, &data, 1)?;
    }
    for (name, file) in child_files(entry, version) {
        let length = file_length(file);
        writeln!(out, "Child node '/{name}':")?;
        writeln!(out, "    filename: {}", file_name(file))?;
        writeln!(out, "    protocol type: file")?;
        writeln!(out, "    file length: {} ({length} bytes)", for_people(length))?;
        writeln!(out, "    disk size: {}", for_people(file.allocated_bytes))?;
    }
    Ok(())
}

fn file_name(file: &FileFacts) -> Printable<'_> {
    Printable(file.filename.as_bytes())
}

fn write_backing(out: &mut String, entry: &ImageEntry) -> fmt::Result {
    if let Some(name) = entry.info.backing_name.as_deref() {
        write!(out, "backing file: {}", Printable(name))?;
        let full_name = describe::full_backing_name(entry).unwrap_or_default();
        if full_name != name {
            write!(out, " (actual path: {})", Printable(&full_name))?;
        }
        out.write_char('\n')?;
    }
    match describe::backing_format(&entry.info) {
        Some(format) => writeln!(out, "backing file format: {}", Printable(format)),
        None => Ok(()),
    }
}

fn write_snapshots(out: &mut String, snapshots: &[Snapshot], version: Version, clock: Clock<'_>) -> fmt::Result {
    writeln!(out, "Snapshot list:")?;
    if version.has_wide_snapshot_table() {
        writeln!(out, "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT")?;
    } else {
        writeln!(out, "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT")?;
    }
    for snapshot in snapshots {
        let id = Printable(&snapshot.id).to_string();
        let name = Printable(&snapshot.name).to_string();
        // A size that is negative as recorded is shown as what it is in 64 bits.
        let vm_state_size = for_people(snapshot.vm_state_size_bytes.cast_unsigned());
        let date = clock(snapshot.date_seconds);
        let icount = snapshot.icount.map(|icount| icount.to_string());
        let milliseconds = snapshot.vm_clock_nanoseconds / 1_000_000;
        let (hours, minutes) = (milliseconds / 3_600_000, milliseconds / 60_000 % 60);
        let (seconds, milliseconds) = (milliseconds / 1000 % 60, milliseconds % 1000);
        if version.has_wide_snapshot_table() {
            let vm_clock = format!("{hours:04}:{minutes:02}:{seconds:02}.{milliseconds:03}");
            let icount = icount.as_deref().unwrap_or("--");
            writeln!(out, "{id:<7} {name:<16} {vm_state_size:>8} {date:>19} {vm_clock:>15} {icount:>10}")?;
        } else {
            let vm_clock = format!("{hours:02}:{minutes:02}:{seconds:02}.{milliseconds:03}");
            let icount = icount.unwrap_or_default();
            writeln!(out, "{id:<9} {name:<16} {vm_state_size:>8}{date:>20}{vm_clock:>13}{icount:>11}")?;
        }
    }
    Ok(())
}

fn write_members(out: &mut String, object: &Object, level: usize) -> fmt::Result {
    object.0.iter().try_for_each(|(name, value)| write_value(out, &name.replace('-', " "), value, level))
}

fn write_value(out: &mut String, name: &str, value: &Node, level: usize) -> fmt::Result {
    write!(out, "{:1$}{name}:", "", 4 * level)?;
    match value {
        Node::Bool(value) => writeln!(out, " {value}"),
        Node::Unsigned(value) => writeln!(out, " {value}"),
        Node::Signed(value) => writeln!(out, " {value}"),
        Node::Bytes(value) => writeln!(out, " {}", Printable(value)),
        Node::List(values) => {
            out.write_char('\n')?;
            values
                .iter()
                .enumerate()
                .try_for_each(|(index, item)| write_value(out, &format!("[{index}]"), item, level + 1))
        }
        Node::Object(object) => {
            out.write_char('\n')?;
            write_members(out, object, level + 1)
        }
    }
}

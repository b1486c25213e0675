//! Copies in a rehearsal: where bytes would come from is noted, and only those that exist nowhere else are moved.

use std::io;

use super::pieces::{Content, Origin};
use super::{BUFFER_BYTES, Rehearsal, to_index};
use crate::devices::backend::{Backend, end_of};
use crate::devices::runs::Part;

impl Rehearsal<'_> {
    /// Notes a copy from `source`, which may itself be rehearsed, or the very file. What lies beyond the end of the source
    /// reads as zeros.
    pub(in crate::devices) fn copy(&self, source: &Backend<'_>, part: &Part) -> io::Result<()> {
        let source_end = end_of(part.source_offset, part.length)?;
        let there = source_end.min(source.length_bytes()).saturating_sub(part.source_offset);
        let mut at = part.target_offset;
        let (found, visible_end) = match source.rehearsal() {
            Some(rehearsal) => rehearsal.within(part.source_offset, part.source_offset + there),
            None => (vec![(part.source_offset..part.source_offset + there, None)], u64::MAX),
        };
        for (range, content) in found {
            let end = at + (range.end - range.start);
            match content {
                None => {
                    let seen = range.end.min(visible_end).saturating_sub(range.start);
                    let origin = Origin::File { device: part.source_device, offset: range.start };
                    self.note(at, at + seen, origin)?;
                    self.note(at + seen, end, Origin::Zeros)?;
                }
                Some(Content::Written | Content::Copied(Origin::Scratch)) => {
                    self.move_written(source, range.start, at, end)?
                }
                Some(Content::Copied(origin)) => self.note(at, end, origin)?,
                Some(Content::Zeroed { .. } | Content::Released) => self.note(at, end, Origin::Zeros)?,
            }
            at = end;
        }
        self.zero(at, part.target_offset + part.length, false)
    }

    fn note(&self, start: u64, end: u64, origin: Origin) -> io::Result<()> {
        self.state().put(start, end, Content::Copied(origin))
    }

    fn move_written(&self, source: &Backend<'_>, mut from: u64, mut at: u64, end: u64) -> io::Result<()> {
        let mut buffer = vec![0; to_index(end - at).min(BUFFER_BYTES)];
        while at < end {
            let piece = &mut buffer[..to_index(end - at).min(BUFFER_BYTES)];
            source.read_exact(piece, from)?;
            self.keep(piece, at, Content::Copied(Origin::Scratch))?;
            (from, at) = (from + piece.len() as u64, at + piece.len() as u64);
        }
        Ok(())
    }
}

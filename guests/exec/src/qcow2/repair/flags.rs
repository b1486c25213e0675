//! The flag in table entries that says that nothing else refers to a cluster, so that it may be written in place.

use alloc::vec::Vec;

use instar_abi::report::{RepairItem, repair_kind};
use instar_formats::qcow2::entry::L2Entry;

use super::Repair;
use crate::bytes::{read_vec, to_index};
use crate::layer::Result;
use crate::repairs::Repairs;
use crate::storage::Storage;

impl Repair {
    /// Corrects the flags of the active tables; the refcounts are right already. Tells whether anything was written.
    pub(super) fn correct_flags(&mut self, storage: &mut dyn Storage, repairs: &mut Repairs) -> Result<bool> {
        let geometry = self.image.geometry;
        let layer = self.image.layer;
        let mut has_written = false;
        let tables: Vec<(u64, u64)> = self.image.l1.tables_from(0).collect();
        for (index, table) in tables {
            let entry = self.image.l1.get(index);
            let references = self.refcounts.get(storage, geometry.cluster_index(table))?;
            let right = entry.with_copied(references == 1);
            if right != entry {
                let place = self.image.header.l1_offset + index * 8;
                self.write(storage, place, &right.0.to_be_bytes())?;
                has_written = true;
                let (kind, subject) = (repair_kind::L1_FLAG, index);
                repairs.push(RepairItem { layer, kind, subject, recorded: entry.0, references });
            }
            has_written |= self.correct_table(storage, table, repairs)?;
        }
        Ok(has_written)
    }

    fn correct_table(&mut self, storage: &mut dyn Storage, table: u64, repairs: &mut Repairs) -> Result<bool> {
        let geometry = self.image.geometry;
        let layer = self.image.layer;
        if geometry.external_data {
            // There the flag says where data lies, and there are no refcounts.
            return Ok(false);
        }
        let mut bytes = read_vec(storage, layer, self.image.device, table, geometry.cluster_size_bytes())?;
        let mut has_changed = false;
        for index in 0..to_index(geometry.l2_entries()) {
            let entry = L2Entry::read(&geometry, &bytes, index);
            let references = match entry.host_offset(&geometry) {
                Some(offset) => self.refcounts.get(storage, geometry.cluster_index(offset))?,
                // Packed clusters are never written in place.
                None if entry.is_compressed() => 0,
                None => continue,
            };
            let right = entry.with_copied(references == 1);
            if right != entry {
                right.write(&geometry, &mut bytes, index);
                has_changed = true;
                let (kind, recorded) = (repair_kind::L2_FLAG, entry.descriptor);
                repairs.push(RepairItem { layer, kind, subject: index as u64, recorded, references });
            }
        }
        if has_changed {
            self.write(storage, table, &bytes)?;
        }
        Ok(has_changed)
    }
}

//! Fills clusters of an image that is written: those that have a place at once, new ones when they are given theirs.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_formats::qcow2::entry::L2Entry;
use instar_plan::commit::{Place, Step};
use instar_plan::extent::{self, Extent, Source};
use instar_plan::planted::{self, Bug};

use super::target::Qcow2Target;
use super::waiting::NewCluster;
use crate::layer::{Layer, Result, map_chain};
use crate::storage::Storage;

impl Qcow2Target {
    /// Does what the planner says. What is to be written to a new place waits for [`Qcow2Target::place_waiting`].
    pub(super) fn carry_out(
        &mut self,
        storage: &mut dyn Storage,
        below: &mut [Box<dyn Layer>],
        step: Step,
    ) -> Result<()> {
        match step {
            Step::Replace { cluster, entry } => self.replace(storage, cluster, entry),
            Step::Write { cluster, place, pieces, entry } => {
                let pieces = self.resolved(storage, below, pieces)?;
                match place {
                    Place::Existing(offset) => self.fill(storage, cluster, offset, false, &pieces, entry),
                    Place::New if self.image.geometry.external_data => {
                        let offset = cluster << self.image.geometry.cluster_bits;
                        self.fill(storage, cluster, offset, false, &pieces, entry)
                    }
                    Place::New => self.wait(storage, NewCluster { cluster, pieces, entry }),
                }
            }
        }
    }

    /// Lets a cluster wait for its place, which its table gets at once: as in qemu-img a file that ends with data may end
    /// within the cluster.
    fn wait(&mut self, storage: &mut dyn Storage, cluster: NewCluster) -> Result<()> {
        let guest_offset = cluster.cluster << self.image.geometry.cluster_bits;
        let table = self.own_l2_table(storage, guest_offset)?;
        let (slice, _) = self.image.slice_of(table, guest_offset);
        self.waiting.push(cluster, slice);
        if self.waiting.is_full() { self.place_waiting(storage) } else { Ok(()) }
    }

    /// Gives the clusters that wait their places.
    pub(super) fn place_waiting(&mut self, storage: &mut dyn Storage) -> Result<()> {
        for NewCluster { cluster, pieces, entry } in self.waiting.take() {
            let (host, is_fresh) = self.allocator.allocate(storage, &mut self.refcounts)?;
            // Zeros in the file are no zeros to whoever decrypts them.
            let reads_zero = is_fresh && !self.image.header.is_encrypted();
            self.fill(storage, cluster, host << self.image.geometry.cluster_bits, reads_zero, &pieces, entry)?;
        }
        Ok(())
    }

    /// Sees to it that `pieces` get into a guest cluster at `host_offset`, and that its entry says so. None is `Absent`.
    fn fill(
        &mut self,
        storage: &mut dyn Storage,
        cluster: u64,
        host_offset: u64,
        reads_zero: bool,
        pieces: &[Extent],
        entry: L2Entry,
    ) -> Result<()> {
        let start = cluster << self.image.geometry.cluster_bits;
        if let Some(last) = pieces.last().filter(|_| !self.image.geometry.external_data) {
            let end = if self.image.geometry.extended_l2 {
                last.end().next_multiple_of(self.image.geometry.subcluster_size_bytes())
            } else {
                start + self.image.geometry.cluster_size_bytes()
            };
            self.note_end(host_offset + (end - start));
        }
        for piece in pieces {
            if !(reads_zero && piece.source == Source::Zero) {
                let offset = host_offset + (piece.guest_offset - start);
                self.transfer.push(storage, offset, piece.length_bytes, piece.source)?;
            }
        }
        let mut entry = entry.moved_to(host_offset);
        if planted::is(Bug::WrongCopiedFlag) {
            entry.descriptor &= !(1 << 63);
        }
        self.replace(storage, cluster, entry)
    }

    /// Pieces of one cluster, with what the target's chain shows now in place of those that are `Absent`.
    fn resolved(
        &mut self,
        storage: &mut dyn Storage,
        below: &mut [Box<dyn Layer>],
        pieces: Vec<Extent>,
    ) -> Result<Vec<Extent>> {
        if pieces.iter().all(|piece| piece.source != Source::Absent) {
            return Ok(pieces);
        }
        let mut resolved = Vec::with_capacity(pieces.len());
        for piece in pieces {
            if piece.source == Source::Absent {
                resolved.extend(self.current_view(storage, below, piece.guest_offset, piece.end())?);
            } else {
                resolved.push(piece);
            }
        }
        Ok(resolved)
    }

    /// What the target and the layers below it show in a range that lies within one cluster.
    fn current_view(
        &mut self,
        storage: &mut dyn Storage,
        below: &mut [Box<dyn Layer>],
        start: u64,
        end: u64,
    ) -> Result<Vec<Extent>> {
        let mut own = Vec::new();
        self.image.map(storage, start, end, &mut own)?;
        let mut view = Vec::new();
        for found in own {
            if found.source == Source::Absent {
                for piece in map_chain(below, storage, found.guest_offset, found.end())? {
                    extent::push(&mut view, piece);
                }
            } else {
                extent::push(&mut view, found);
            }
        }
        Ok(view)
    }
}

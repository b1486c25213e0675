//! What the sandbox reported of an image, as typed values. The report is hostile: every length and number is checked.

use std::fmt;

use instar_abi::job::format;
use instar_abi::report::{BitmapItem, InfoReport, PayloadItem, SnapshotItem, info_flag, payload_kind};
use instar_abi::wire::Wire;

use super::luks::Luks;
use super::vmdk::VmdkInfo;

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// One of [`instar_abi::job::format`], never [`format::PROBE`].
    pub format: u32,
    /// Whether the format was found by probing.
    pub is_probed: bool,
    /// Size of the guest's disk.
    pub virtual_size_bytes: u64,
    /// Cluster size, where the format has clusters.
    pub cluster_size_bytes: Option<u64>,
    /// Entries of the active L1 table (qcow2).
    pub l1_entries: u64,
    /// The backing name as recorded.
    pub backing_name: Option<Vec<u8>>,
    /// The backing format as recorded.
    pub backing_format: Option<Vec<u8>>,
    /// Internal snapshots in the order of the image.
    pub snapshots: Vec<Snapshot>,
    /// What only qcow2 images have.
    pub qcow2: Option<Qcow2Info>,
    /// What only vmdk images have.
    pub vmdk: Option<VmdkInfo>,
}

/// What only qcow2 images have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qcow2Info {
    /// 2 or 3.
    pub version: u32,
    /// Width of a refcount.
    pub refcount_bits: u32,
    /// Marked dirty.
    pub is_dirty: bool,
    /// Marked corrupt.
    pub is_corrupt: bool,
    /// Refcounts may be written late.
    pub has_lazy_refcounts: bool,
    /// L2 entries carry subcluster bitmaps.
    pub has_extended_l2: bool,
    /// Compressed with zstd; otherwise with zlib.
    pub is_zstd: bool,
    /// Guest data lies in an external data file.
    pub has_data_file: bool,
    /// That file is, by itself, a raw image.
    pub is_data_file_raw: bool,
    /// Its name, where recorded; an image without external data file can have one, too, which then means nothing.
    pub data_file_name: Option<Vec<u8>>,
    /// Persistent bitmaps in the order of the image.
    pub bitmaps: Vec<Bitmap>,
    /// How guest data is encrypted, if it is.
    pub encryption: Option<Encryption>,
}

/// How guest data is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// AES-CBC with the password as key.
    Aes,
    /// LUKS.
    Luks(Box<Luks>),
}

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id.
    pub id: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// When it was made: seconds since the epoch.
    pub date_seconds: u32,
    /// And nanoseconds, as recorded.
    pub date_nanoseconds: u32,
    /// How long the guest had been running.
    pub vm_clock_nanoseconds: u64,
    /// Length of the saved machine state; a recorded value beyond the largest file is negative.
    pub vm_state_size_bytes: i64,
    /// Instructions executed, where recorded.
    pub icount: Option<i64>,
}

/// A persistent bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name.
    pub name: Vec<u8>,
    /// Bytes of the disk that one bit stands for.
    pub granularity_bytes: u64,
    /// It was not saved properly.
    pub is_in_use: bool,
    /// Every write is recorded.
    pub is_enabled: bool,
}

/// A report that contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadReport(&'static str);

impl fmt::Display for BadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the sandbox's report is wrong: {}", self.0)
    }
}

impl std::error::Error for BadReport {}

impl ImageInfo {
    /// Reads what stands behind the report header of a job that succeeded: the bytes of an [`InfoReport`], and the payload.
    ///
    /// # Errors
    /// If a length or a number is impossible.
    pub fn decode(operation: &[u8], payload: &[u8]) -> Result<Self, BadReport> {
        let report = operation.get(..InfoReport::SIZE_BYTES).map(InfoReport::get).ok_or(BadReport("it is cut off"))?;
        if !(format::RAW..=format::OTHER).contains(&report.format) {
            return Err(BadReport("unknown format"));
        }
        let has = |flag| report.flags & flag != 0;
        let name = |flag, field: &[u8], length: u32| match usize::try_from(length).ok().and_then(|end| field.get(..end))
        {
            None => Err(BadReport("a name is longer than its field")),
            Some(name) => Ok(has(flag).then(|| name.to_vec())),
        };
        let backing_name = name(info_flag::HAS_BACKING, &report.backing_name, report.backing_name_length_bytes)?;
        let backing_format =
            name(info_flag::HAS_BACKING_FORMAT, &report.backing_format, report.backing_format_length_bytes)?;
        let data_file_name =
            name(info_flag::HAS_DATA_FILE_NAME, &report.data_file_name, report.data_file_name_length_bytes)?;
        let items = Items::decode(payload)?;
        let qcow2 = (report.format == format::QCOW2)
            .then(|| Qcow2Info::new(&report, data_file_name, items.bitmaps, items.luks))
            .transpose()?;
        if items.vmdk.is_some() != (report.format == format::VMDK) {
            return Err(BadReport("vmdk items do not fit the format"));
        }
        Ok(Self {
            format: report.format,
            is_probed: has(info_flag::PROBED),
            virtual_size_bytes: report.virtual_size_bytes,
            cluster_size_bytes: Some(report.cluster_size_bytes).filter(|&size| size != 0),
            l1_entries: report.l1_entries,
            backing_name,
            backing_format,
            snapshots: items.snapshots,
            qcow2,
            vmdk: items.vmdk,
        })
    }
}

impl Qcow2Info {
    fn new(
        report: &InfoReport,
        data_file_name: Option<Vec<u8>>,
        bitmaps: Vec<Bitmap>,
        luks: Option<Luks>,
    ) -> Result<Self, BadReport> {
        let has = |flag| report.flags & flag != 0;
        if !matches!(report.version, 2 | 3) || !report.refcount_bits.is_power_of_two() || report.refcount_bits > 64 {
            return Err(BadReport("an impossible qcow2 header"));
        }
        let encryption = match (has(info_flag::ENCRYPT_AES), has(info_flag::ENCRYPT_LUKS), luks) {
            (false, false, None) => None,
            (true, false, None) => Some(Encryption::Aes),
            (false, true, Some(luks)) => Some(Encryption::Luks(Box::new(luks))),
            _ => return Err(BadReport("contradictory encryption")),
        };
        Ok(Self {
            version: report.version,
            refcount_bits: report.refcount_bits,
            is_dirty: has(info_flag::DIRTY),
            is_corrupt: has(info_flag::CORRUPT),
            has_lazy_refcounts: has(info_flag::LAZY_REFCOUNTS),
            has_extended_l2: has(info_flag::EXTENDED_L2),
            is_zstd: has(info_flag::ZSTD),
            has_data_file: has(info_flag::DATA_FILE),
            is_data_file_raw: has(info_flag::DATA_FILE_RAW),
            data_file_name,
            bitmaps,
            encryption,
        })
    }
}

const IMPOSSIBLE_VMDK: BadReport = BadReport("an impossible vmdk image");

/// What a payload holds.
#[derive(Default)]
struct Items {
    snapshots: Vec<Snapshot>,
    bitmaps: Vec<Bitmap>,
    luks: Option<Luks>,
    vmdk: Option<VmdkInfo>,
}

impl Items {
    fn decode(mut payload: &[u8]) -> Result<Self, BadReport> {
        let mut items = Self::default();
        while !payload.is_empty() {
            let head: PayloadItem = take(&mut payload)?;
            let mut data = take_bytes(&mut payload, head.length_bytes)?;
            match head.kind {
                payload_kind::SNAPSHOT => items.snapshots.push(Snapshot::decode(&mut data)?),
                payload_kind::BITMAP => items.bitmaps.push(Bitmap::decode(&mut data)?),
                payload_kind::LUKS if items.luks.is_none() => {
                    items.luks =
                        Some(Luks::decode(std::mem::take(&mut data)).ok_or(BadReport("an impossible LUKS header"))?);
                }
                payload_kind::VMDK if items.vmdk.is_none() => {
                    items.vmdk = Some(VmdkInfo::decode(std::mem::take(&mut data)).ok_or(IMPOSSIBLE_VMDK)?);
                }
                payload_kind::EXTENT => {
                    let vmdk = items.vmdk.as_mut().ok_or(IMPOSSIBLE_VMDK)?;
                    vmdk.push(std::mem::take(&mut data)).ok_or(IMPOSSIBLE_VMDK)?;
                }
                _ => return Err(BadReport("an unexpected item")),
            }
            if !data.is_empty() {
                return Err(BadReport("an item is too long"));
            }
        }
        if items.vmdk.as_ref().is_some_and(|vmdk| !vmdk.is_complete()) {
            return Err(IMPOSSIBLE_VMDK);
        }
        Ok(items)
    }
}

impl Snapshot {
    fn decode(data: &mut &[u8]) -> Result<Self, BadReport> {
        let item: SnapshotItem = take(data)?;
        Ok(Self {
            id: take_bytes(data, item.id_length_bytes)?.to_vec(),
            name: take_bytes(data, item.name_length_bytes)?.to_vec(),
            date_seconds: item.date_seconds,
            date_nanoseconds: item.date_nanoseconds,
            vm_clock_nanoseconds: item.vm_clock_nanoseconds,
            vm_state_size_bytes: item.vm_state_size_bytes.cast_signed(),
            icount: (item.icount != u64::MAX).then_some(item.icount.cast_signed()),
        })
    }
}

impl Bitmap {
    fn decode(data: &mut &[u8]) -> Result<Self, BadReport> {
        let item: BitmapItem = take(data)?;
        Ok(Self {
            name: take_bytes(data, item.name_length_bytes)?.to_vec(),
            granularity_bytes: item.granularity_bytes,
            is_in_use: item.flags & 1 != 0,
            is_enabled: item.flags & 2 != 0,
        })
    }
}

fn take<T: Wire>(bytes: &mut &[u8]) -> Result<T, BadReport> {
    let (head, tail) = bytes.split_at_checked(T::SIZE_BYTES).ok_or(BadReport("an item is cut off"))?;
    *bytes = tail;
    Ok(T::get(head))
}

fn take_bytes<'a>(bytes: &mut &'a [u8], length: u32) -> Result<&'a [u8], BadReport> {
    let length = usize::try_from(length).map_err(|_| BadReport("an item is cut off"))?;
    let (head, tail) = bytes.split_at_checked(length).ok_or(BadReport("an item is cut off"))?;
    *bytes = tail;
    Ok(head)
}

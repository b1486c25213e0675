//! What is known of one image, with the names of qemu-img's JSON.

use serde::Deserialize;

use super::specifics::FormatSpecific;

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ImageInfo {
    /// Its name, as given or as found from a backing name.
    pub filename: String,
    /// Its format.
    pub format: String,
    /// Size of the disk, in bytes.
    pub virtual_size: u64,
    /// What its files take up on the file system, in bytes.
    pub actual_size: u64,
    /// Size of a cluster in bytes, where the format has clusters.
    pub cluster_size: Option<u64>,
    /// Whether it was not closed properly; `None` where that is not known.
    pub dirty_flag: Option<bool>,
    /// Whether it is encrypted.
    #[serde(default)]
    pub encrypted: bool,
    /// The backing name, as recorded.
    pub backing_filename: Option<String>,
    /// The backing name, as found from the directory of the image.
    pub full_backing_filename: Option<String>,
    /// The format of the backing file, as recorded.
    pub backing_filename_format: Option<String>,
    /// Its internal snapshots.
    #[serde(default)]
    pub snapshots: Vec<Snapshot>,
    /// Its files. Versions of qemu-img before 8.0 tell of none.
    #[serde(default)]
    pub children: Vec<Child>,
    /// What only its format has.
    pub format_specific: Option<FormatSpecific>,
}

/// A file of an image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Child {
    /// `file`, `data-file`, or `extents.` and a number.
    pub name: String,
    /// What is known of the file.
    pub info: ImageInfo,
}

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Snapshot {
    /// Its number, as recorded.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub date_sec: u32,
    /// The nanoseconds that belong to the seconds.
    pub date_nsec: u32,
    /// For how many seconds the virtual machine had run.
    pub vm_clock_sec: u64,
    /// The nanoseconds that belong to the seconds.
    pub vm_clock_nsec: u32,
    /// Bytes of saved memory.
    pub vm_state_size: i64,
    /// Instructions executed, where they were counted.
    pub icount: Option<i64>,
}

//! What only certain formats have, with the names of qemu-img's JSON.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// What only the image's format has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormatSpecific {
    /// A file as such.
    File(File),
    /// qcow2.
    Qcow2(Qcow2),
    /// vmdk.
    Vmdk(Vmdk),
    /// A LUKS volume.
    Luks(Luks),
    /// Of a kind that this library does not know; its name.
    Other(String),
}

impl<'de> Deserialize<'de> for FormatSpecific {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Tagged {
            #[serde(rename = "type")]
            kind: String,
            data: Value,
        }
        let Tagged { kind, data } = Tagged::deserialize(deserializer)?;
        let read = match kind.as_str() {
            "file" => serde_json::from_value(data).map(Self::File),
            "qcow2" => serde_json::from_value(data).map(Self::Qcow2),
            "vmdk" => serde_json::from_value(data).map(Self::Vmdk),
            "luks" => serde_json::from_value(data).map(Self::Luks),
            _ => Ok(Self::Other(kind)),
        };
        read.map_err(serde::de::Error::custom)
    }
}

/// What is known of a file as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct File {
    /// The file system's unit of allocation for it, in bytes, where it has one of its own.
    pub extent_size_hint: Option<u64>,
}

/// What only qcow2 images have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Qcow2 {
    /// `0.10` is version 2 of the format, `1.1` version 3.
    pub compat: String,
    /// `zlib` or `zstd`.
    pub compression_type: String,
    /// Width of a refcount, in bits.
    pub refcount_bits: u32,
    /// Whether refcounts may be out of date after a crash. `None` in version 2, as for the following.
    pub lazy_refcounts: Option<bool>,
    /// Whether it is marked corrupt.
    pub corrupt: Option<bool>,
    /// Whether its clusters have subclusters.
    pub extended_l2: Option<bool>,
    /// The external data file, as recorded.
    pub data_file: Option<String>,
    /// Whether the external data file reads like a raw image of the disk.
    pub data_file_raw: Option<bool>,
    /// Its persistent bitmaps.
    #[serde(default)]
    pub bitmaps: Vec<Bitmap>,
    /// How it is encrypted.
    pub encrypt: Option<Encryption>,
}

/// A persistent bitmap.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// Bytes of the disk that one bit stands for.
    pub granularity: u64,
    /// `in-use`, `auto`.
    pub flags: Vec<String>,
}

/// How a qcow2 image is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encryption {
    /// In the old way, which is not supported for data.
    Aes,
    /// With a LUKS header.
    Luks(Luks),
    /// In a way that this library does not know; its name.
    Other(String),
}

impl<'de> Deserialize<'de> for Encryption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Tagged {
            format: String,
            #[serde(flatten)]
            more: Value,
        }
        let Tagged { format, more } = Tagged::deserialize(deserializer)?;
        match format.as_str() {
            "aes" => Ok(Self::Aes),
            "luks" => serde_json::from_value(more).map(Self::Luks).map_err(serde::de::Error::custom),
            _ => Ok(Self::Other(format)),
        }
    }
}

/// A LUKS header, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Luks {
    /// The cipher, such as `aes-256`.
    pub cipher_alg: String,
    /// Its mode, such as `xts`.
    pub cipher_mode: String,
    /// The hash that keys are derived with.
    pub hash_alg: String,
    /// How initialisation vectors are made.
    pub ivgen_alg: String,
    /// The hash that these are made with, where there is one.
    pub ivgen_hash_alg: Option<String>,
    /// The number of the volume.
    pub uuid: String,
    /// Whether the header lies in another file. Versions of qemu-img before 9.0 do not say it.
    pub detached_header: Option<bool>,
    /// Where the data begins, in bytes.
    pub payload_offset: u64,
    /// Iterations to derive the digest of the key.
    pub master_key_iters: u32,
    /// All key slots.
    pub slots: Vec<LuksSlot>,
}

/// A key slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct LuksSlot {
    /// Whether a passphrase is in it.
    pub active: bool,
    /// Where its key material lies, in bytes.
    pub key_offset: u64,
    /// Iterations to derive its key, where it is active.
    pub iters: Option<u32>,
    /// Stripes of the key material, where it is active.
    pub stripes: Option<u32>,
}

/// What only vmdk images have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Vmdk {
    /// The kind of image, such as `monolithicSparse`.
    pub create_type: String,
    /// The content identifier.
    pub cid: u32,
    /// That of the parent; [`u32::MAX`] stands for no parent.
    pub parent_cid: u32,
    /// Its parts.
    pub extents: Vec<VmdkExtent>,
}

/// A part of a vmdk image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct VmdkExtent {
    /// Its file.
    pub filename: String,
    /// Its kind, such as `SPARSE`; empty for the only part of an image that is one file.
    pub format: String,
    /// Size of its part of the disk, in bytes.
    pub virtual_size: u64,
    /// Size of a grain in bytes, where it has grains.
    pub cluster_size: Option<u64>,
    /// Whether its grains are compressed.
    #[serde(default)]
    pub compressed: bool,
}

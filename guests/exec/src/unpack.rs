//! Unpacks compressed clusters.

use alloc::vec;
use alloc::vec::Vec;

use instar_abi::report::error_kind;
use instar_plan::extent::{Codec, CompressedSource};

use crate::bytes::read_vec;
use crate::layer::Result;
use crate::report::Failure;
use crate::storage::{DeviceId, Storage};

/// Reads and unpacks a compressed cluster; what the packed bytes leave open at its end is zero.
///
/// # Errors
/// If the device refuses, or the bytes are not what the codec packs.
pub fn cluster(storage: &mut dyn Storage, layer: u32, source: &CompressedSource) -> Result<Vec<u8>> {
    let packed = read_vec(storage, layer, DeviceId(source.device), source.host_offset, source.length_bytes)?;
    let size = usize::try_from(source.cluster_size_bytes).map_err(|_| broken(layer, source))?;
    let mut bytes = vec![0; size];
    let unpacked = match source.codec {
        Codec::Deflate => inflate(&packed, &mut bytes),
        Codec::Zlib => inflate_zlib(&packed, &mut bytes),
        Codec::Zstd => unpack_zstd(&packed, &mut bytes),
    };
    unpacked.ok_or_else(|| broken(layer, source))?;
    Ok(bytes)
}

fn broken(layer: u32, source: &CompressedSource) -> Failure {
    Failure::new(
        error_kind::CORRUPT,
        layer,
        format_args!("the compressed cluster at byte {:#x} cannot be unpacked", source.host_offset),
    )
}

/// The packed length is only known to the sector, so bytes behind the end of the stream are fine; a full buffer is the end.
fn inflate(packed: &[u8], bytes: &mut [u8]) -> Option<()> {
    use miniz_oxide::inflate::TINFLStatus;
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
    let mut state = DecompressorOxide::new();
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (status, _, produced) = decompress(&mut state, packed, bytes, 0, flags);
    let full = produced == bytes.len() && matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput);
    full.then_some(())
}

/// A whole stream, whose checksum is right; it may be shorter than the cluster.
fn inflate_zlib(packed: &[u8], bytes: &mut [u8]) -> Option<()> {
    use miniz_oxide::inflate::TINFLStatus;
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
    let mut state = DecompressorOxide::new();
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER;
    let (status, _, produced) = decompress(&mut state, packed, bytes, 0, flags);
    (status == TINFLStatus::Done && produced > 0).then_some(())
}

fn unpack_zstd(packed: &[u8], bytes: &mut [u8]) -> Option<()> {
    use ruzstd::decoding::StreamingDecoder;
    use ruzstd::io::Read;
    let mut decoder = StreamingDecoder::new(packed).ok()?;
    let mut filled = 0;
    while filled < bytes.len() {
        match decoder.read(&mut bytes[filled..]).ok()? {
            0 => return None,
            count => filled += count,
        }
    }
    Some(())
}

//! Reading and writing integers at byte offsets, with the length checked.

/// The 16-bit big-endian integer at `offset`, if `bytes` reaches that far.
pub(crate) fn be_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(array(bytes, offset)?))
}

/// The 32-bit big-endian integer at `offset`, if `bytes` reaches that far.
pub(crate) fn be_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(array(bytes, offset)?))
}

/// The 64-bit big-endian integer at `offset`, if `bytes` reaches that far.
pub(crate) fn be_u64(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_be_bytes(array(bytes, offset)?))
}

/// The 32-bit little-endian integer at `offset`, if `bytes` reaches that far.
pub(crate) fn le_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(array(bytes, offset)?))
}

/// The 64-bit little-endian integer at `offset`, if `bytes` reaches that far.
pub(crate) fn le_u64(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(array(bytes, offset)?))
}

/// `N` bytes from `offset`, if `bytes` reaches that far.
pub(crate) fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// What stands before the first zero byte: recorded strings end there, whatever their recorded length says.
pub(crate) fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.iter().position(|&byte| byte == 0).map_or(bytes, |end| &bytes[..end])
}

//! Structures with a fixed little-endian layout, without padding and without `unsafe`.
//!
//! Both sides encode and decode field by field, so no side ever reinterprets the other's memory as a Rust value.

/// A value with a fixed size and a fixed byte representation.
pub trait Wire: Sized {
    /// Length of the representation in bytes.
    const SIZE_BYTES: usize;
    /// Writes the representation to the start of `bytes`.
    ///
    /// # Panics
    /// If `bytes` is shorter than [`Wire::SIZE_BYTES`].
    fn put(&self, bytes: &mut [u8]);
    /// Reads a value from the start of `bytes`. Every bit pattern is a value; meaning is checked by the reader.
    ///
    /// # Panics
    /// If `bytes` is shorter than [`Wire::SIZE_BYTES`].
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! wire_integer {
    ($($integer:ty),*) => {$(
        impl Wire for $integer {
            const SIZE_BYTES: usize = size_of::<$integer>();
            fn put(&self, bytes: &mut [u8]) {
                bytes[..Self::SIZE_BYTES].copy_from_slice(&self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Self {
                let mut raw = [0; Self::SIZE_BYTES];
                raw.copy_from_slice(&bytes[..Self::SIZE_BYTES]);
                Self::from_le_bytes(raw)
            }
        }
    )*};
}

wire_integer!(u8, u16, u32, u64, i32);

impl<const N: usize> Wire for [u8; N] {
    const SIZE_BYTES: usize = N;
    fn put(&self, bytes: &mut [u8]) {
        bytes[..N].copy_from_slice(self);
    }
    fn get(bytes: &[u8]) -> Self {
        let mut raw = [0; N];
        raw.copy_from_slice(&bytes[..N]);
        raw
    }
}

/// Declares a structure whose fields follow each other in memory, each a [`Wire`] value.
#[macro_export]
macro_rules! wire_struct {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)+ }

        impl $crate::wire::Wire for $name {
            const SIZE_BYTES: usize = 0 $(+ <$type as $crate::wire::Wire>::SIZE_BYTES)+;
            fn put(&self, bytes: &mut [u8]) {
                let mut rest = bytes;
                $({
                    let (head, tail) = rest.split_at_mut(<$type as $crate::wire::Wire>::SIZE_BYTES);
                    $crate::wire::Wire::put(&self.$field, head);
                    rest = tail;
                })+
                let _ = rest;
            }
            fn get(bytes: &[u8]) -> Self {
                let mut rest = bytes;
                $(
                    let (head, tail) = rest.split_at(<$type as $crate::wire::Wire>::SIZE_BYTES);
                    let $field = <$type as $crate::wire::Wire>::get(head);
                    rest = tail;
                )+
                let _ = rest;
                Self { $($field,)+ }
            }
        }
    };
}

//! The memory functions that compiled code calls and that a C library would bring. `rep movsb` and `rep stosb` run at the
//! memory's speed here; comparing goes by 16 bytes, for whole disks are compared with it.
#![expect(unsafe_code, reason = "these functions are defined by pointers")]
#![expect(clippy::multiple_unsafe_ops_per_block, reason = "one load and its address belong together")]

use core::arch::asm;
use core::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8};

/// Below this many bytes a simple loop beats the start of a string instruction.
const SHORT_BYTES: usize = 32;

/// Copies; the ranges do not overlap.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(target: *mut u8, source: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges; the direction flag is clear by convention.
    unsafe {
        asm!("rep movsb", inout("rcx") length => _, inout("rdi") target => _, inout("rsi") source => _,
            options(nostack, preserves_flags));
    }
    target
}

/// Copies; the ranges may overlap.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(target: *mut u8, source: *const u8, length: usize) -> *mut u8 {
    if target.addr().wrapping_sub(source.addr()) >= length {
        // SAFETY: the caller vouches for both ranges, and going forwards overwrites nothing that is still to be read.
        return unsafe { memcpy(target, source, length) };
    }
    let mut rest = length;
    while rest >= 8 {
        rest -= 8;
        // SAFETY: `rest` and the 7 bytes behind it lie below `length`; all 8 are read before any is written.
        unsafe { target.add(rest).cast::<u64>().write_unaligned(source.add(rest).cast::<u64>().read_unaligned()) };
    }
    // SAFETY: the caller vouches for both ranges; going backwards, nothing is overwritten that is still to be read.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") rest => _,
            inout("rdi") target.wrapping_add(rest).wrapping_sub(1) => _,
            inout("rsi") source.wrapping_add(rest).wrapping_sub(1) => _, options(nostack));
    }
    target
}

/// Fills.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(target: *mut u8, value: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the range; the direction flag is clear by convention.
    unsafe {
        asm!("rep stosb", inout("rcx") length => _, inout("rdi") target => _, in("al") value.to_le_bytes()[0],
            options(nostack, preserves_flags));
    }
    target
}

/// Compares: negative, zero or positive as the first byte that differs is less in `left`, does not exist, or is greater.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    let mut at = 0;
    if length >= SHORT_BYTES {
        while at + 16 <= length {
            // SAFETY: the 16 bytes from `at` on lie in both ranges, for which the caller vouches.
            let equal = unsafe {
                let a = _mm_loadu_si128(left.add(at).cast::<__m128i>());
                let b = _mm_loadu_si128(right.add(at).cast::<__m128i>());
                _mm_movemask_epi8(_mm_cmpeq_epi8(a, b))
            };
            if equal != 0xffff {
                break;
            }
            at += 16;
        }
    }
    while at < length {
        // SAFETY: `at` lies in both ranges, for which the caller vouches.
        let (a, b) = unsafe { (left.add(at).read(), right.add(at).read()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
        at += 1;
    }
    0
}

/// Compares for equality only.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    // SAFETY: the caller keeps the rules of this very function.
    unsafe { memcmp(left, right, length) }
}

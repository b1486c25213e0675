//! Instructions that access a device page, as a guest's driver makes them: a move of 4 or 8 bytes between a register and
//! memory. Everything else that touches such a page is a fault.
//!
//! Knows the processor's encoding of these few; the address is told by the processor and need not be computed.

use libc::user_regs_struct;

/// The longest instruction of the processor in bytes.
pub(super) const MAX_INSTRUCTION_BYTES: usize = 15;
/// `mov memory, register` and `mov register, memory`.
const STORE: u8 = 0x89;
const LOAD: u8 = 0x8b;

/// One access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) stores: bool,
    /// Number of the general register, as the processor counts them.
    pub(super) register: u8,
    /// 4 or 8.
    pub(super) width_bytes: usize,
    /// Length of the instruction.
    pub(super) length_bytes: u64,
}

impl Access {
    /// Reads the instruction at the start of `code`.
    pub(super) fn decode(code: &[u8]) -> Option<Self> {
        let (extension, code_at) = match *code.first()? {
            prefix @ 0x40..=0x4f => (prefix, 1),
            _ => (0, 0),
        };
        let stores = match *code.get(code_at)? {
            STORE => true,
            LOAD => false,
            _ => return None,
        };
        let modes = *code.get(code_at + 1)?;
        let (mode, low) = (modes >> 6, modes & 7);
        // The low bits of a second byte of modes, where there is one, name the base.
        let (base, has_scale) = if low == 4 { (*code.get(code_at + 2)? & 7, true) } else { (low, false) };
        let displacement_bytes = match (mode, base) {
            (0, 5) | (2, _) => 4,
            (0, _) => 0,
            (1, _) => 1,
            // Between registers.
            _ => return None,
        };
        let length = code_at + 2 + usize::from(has_scale) + displacement_bytes;
        Some(Self {
            stores,
            register: (modes >> 3 & 7) | (extension & 4) << 1,
            width_bytes: if extension & 8 == 0 { 4 } else { 8 },
            length_bytes: code.get(..length)?.len() as u64,
        })
    }
}

/// A general register by its number; none for numbers that the processor does not have.
pub(super) fn general(registers: &mut user_regs_struct, number: u8) -> Option<&mut u64> {
    Some(match number {
        0 => &mut registers.rax,
        1 => &mut registers.rcx,
        2 => &mut registers.rdx,
        3 => &mut registers.rbx,
        4 => &mut registers.rsp,
        5 => &mut registers.rbp,
        6 => &mut registers.rsi,
        7 => &mut registers.rdi,
        8 => &mut registers.r8,
        9 => &mut registers.r9,
        10 => &mut registers.r10,
        11 => &mut registers.r11,
        12 => &mut registers.r12,
        13 => &mut registers.r13,
        14 => &mut registers.r14,
        15 => &mut registers.r15,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_move_is_understood() {
        #[rustfmt::skip]
        let forms: &[(&[u8], bool, u8, usize)] = &[
            (&[0x89, 0x08], true, 1, 4),                                     // mov [rax], ecx
            (&[0x48, 0x89, 0x0f], true, 1, 8),                               // mov [rdi], rcx
            (&[0x48, 0x8b, 0x00], false, 0, 8),                              // mov rax, [rax]
            (&[0x45, 0x89, 0x3c, 0x24], true, 15, 4),                        // mov [r12], r15d
            (&[0x41, 0x89, 0x45, 0x00], true, 0, 4),                         // mov [r13], eax
            (&[0x4c, 0x8b, 0x55, 0xf8], false, 10, 8),                       // mov r10, [rbp - 8]
            (&[0x89, 0x35, 0, 0, 0, 0], true, 6, 4),                         // mov [rip], esi
            (&[0x89, 0x04, 0x25, 0, 0, 0, 0xd0], true, 0, 4),                // mov [0xffffffffd0000000], eax
            (&[0x89, 0x84, 0x8b, 0, 1, 0, 0], true, 0, 4),                   // mov [rbx + 4 * rcx + 256], eax
            (&[0x89, 0x44, 0x8b, 0x10], true, 0, 4),                         // mov [rbx + 4 * rcx + 16], eax
        ];
        for (code, stores, register, width_bytes) in forms {
            let wanted = Access {
                stores: *stores,
                register: *register,
                width_bytes: *width_bytes,
                length_bytes: code.len() as u64,
            };
            assert_eq!(Access::decode(code), Some(wanted), "{code:x?}");
            assert_eq!(Access::decode(&[*code, &[0x90; 8]].concat()), Some(wanted), "{code:x?}");
            for cut in 0..code.len() {
                assert_eq!(Access::decode(&code[..cut]), None, "{code:x?} cut to {cut}");
            }
        }
    }

    #[test]
    fn other_instructions_are_none() {
        // Between registers; a byte; two bytes; a string move; an addition; a locked exchange; an immediate value.
        for code in [
            &[0x89, 0xc8][..],
            &[0x88, 0x08],
            &[0x66, 0x89, 0x08],
            &[0xf3, 0xa4],
            &[0x01, 0x08],
            &[0xf0, 0x87, 0x08],
            &[0xc7, 0x00, 0, 0, 0, 0],
        ] {
            assert_eq!(Access::decode(&[code, &[0; 8]].concat()), None, "{code:x?}");
        }
    }
}

//! Guest programs of a few instructions.

use instar_abi::memory::PROGRAM_START;

/// Where the instructions lie in the file and behind the start of the program's place.
const CODE: usize = 0x100;

/// A program that consists of this machine code.
pub(crate) fn program(code: &[u8]) -> Vec<u8> {
    let mut program = vec![0; CODE + code.len()];
    let length = program.len() as u64;
    program[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (program[16], program[18], program[32], program[54], program[56]) = (2, 62, 64, 56, 1);
    program[24..32].copy_from_slice(&(PROGRAM_START + CODE as u64).to_le_bytes());
    // One segment to read and execute.
    (program[64], program[68]) = (1, 5);
    program[80..88].copy_from_slice(&PROGRAM_START.to_le_bytes());
    program[96..104].copy_from_slice(&length.to_le_bytes());
    program[104..112].copy_from_slice(&length.to_le_bytes());
    program[CODE..].copy_from_slice(code);
    program
}

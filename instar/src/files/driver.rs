//! Names of image formats and their numbers in the contract with the sandbox.

use instar_abi::job::format;

/// Every format that the contract knows, by the name that users and images give it.
const DRIVERS: &[(&str, u32)] = &[
    ("raw", format::RAW),
    ("qcow2", format::QCOW2),
    ("vmdk", format::VMDK),
    ("vdi", format::VDI),
    ("vhdx", format::VHDX),
    ("vpc", format::VPC),
    ("qed", format::QED),
    ("parallels", format::PARALLELS),
    ("qcow", format::QCOW),
    ("luks", format::LUKS),
];

/// The number of a format; names are case-sensitive.
pub fn number(name: &[u8]) -> Option<u32> {
    DRIVERS.iter().find(|(known, _)| known.as_bytes() == name).map(|&(_, number)| number)
}

/// The name of a format.
pub fn name(number: u32) -> Option<&'static str> {
    DRIVERS.iter().find(|&&(_, known)| known == number).map(|&(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for &(driver, known) in DRIVERS {
            assert_eq!(number(driver.as_bytes()), Some(known));
            assert_eq!(name(known), Some(driver));
        }
        assert_eq!(number(b"QCOW2"), None);
        assert_eq!(name(format::PROBE), None);
    }
}

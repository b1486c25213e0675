//! Images of every format, as strangers make them.

use arbitrary::Unstructured;
use instar_abi::job::format;

use crate::generators::{patches, secret};
use crate::oracles::image::survives_everything;
use crate::oracles::secret::survives_with_secret;

macro_rules! formats {
    ($($name:ident: $number:ident),* $(,)?) => {$(
        pub(super) fn $name(bytes: &[u8]) {
            survives_everything(bytes, format::$number);
        }
    )*};
}

formats! {
    luks: LUKS, parallels: PARALLELS, qcow: QCOW, qcow2: QCOW2, qed: QED, vdi: VDI, vhdx: VHDX, vmdk: VMDK, vpc: VPC,
}

pub(super) fn qcow2_patched(bytes: &[u8]) {
    if let Ok(image) = patches::qcow2(&mut Unstructured::new(bytes)) {
        survives_everything(&image, format::QCOW2);
    }
}

/// With the secret that opens it.
pub(super) fn luks_opened(bytes: &[u8]) {
    if let Ok((image, is_changed)) = secret::luks(&mut Unstructured::new(bytes)) {
        survives_with_secret(&image, format::LUKS, !is_changed);
    }
}

/// With the secret that opens it.
pub(super) fn qcow2_encrypted(bytes: &[u8]) {
    if let Ok((image, is_changed)) = secret::qcow2(&mut Unstructured::new(bytes)) {
        survives_with_secret(&image, format::QCOW2, !is_changed);
    }
}

//! Images of every format, as strangers make them.

use arbitrary::Unstructured;
use instar_abi::job::format;

use crate::generators::patches;
use crate::oracles::image::survives_everything;

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

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| instar_fuzz::targets::named("image_qcow2_encrypted")(bytes));

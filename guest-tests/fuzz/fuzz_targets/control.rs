//! One of the targets; see the function.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| manatee_fuzz::control::run(data));

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twinsite_fuzz::target_session(data));

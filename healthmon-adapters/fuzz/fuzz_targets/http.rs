#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| healthmon_adapters::fuzzing::http(data));

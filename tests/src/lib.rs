//! Harness, demo, benchmarks and whole-system tests.

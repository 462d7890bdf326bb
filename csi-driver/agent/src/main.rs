//! `twinsite-agent`: wires the library together.
fn main() {}

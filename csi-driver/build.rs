//! Compiles the two interfaces without a protoc on the machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["csi.proto", "pluginregistration.proto"];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}

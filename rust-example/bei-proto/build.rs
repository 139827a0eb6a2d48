//! Compiles the files of proto/ with protox, so that no protoc is needed.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    for name in ["embedding", "tei"] {
        let descriptors = protox::compile([format!("proto/{name}.proto")], ["proto"])?;
        std::fs::write(out.join(format!("{name}.bin")), descriptors.encode_to_vec())?;
        // Without the transport's `connect`: clients are made of a channel.
        tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    }
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}

//! Finds libbei.so and links it: in `BEI_LIB_DIR`, otherwise in `dist/` of this repository.
//!
//! A link argument for the run-time path cannot travel from here to the final program. Crates that link one read the
//! folder from `DEP_BEI_LIB_DIR` in their own build script (see those of bei-backend and bei-router).

use std::env;
use std::path::PathBuf;
use std::process::exit;

fn main() {
    println!("cargo::rerun-if-env-changed=BEI_LIB_DIR");
    let chosen = env::var_os("BEI_LIB_DIR").map(PathBuf::from);
    let dir = chosen.clone().unwrap_or_else(|| {
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../../dist")
    });
    let dir = dir.canonicalize().unwrap_or(dir);
    if !dir.join("libbei.so").is_file() {
        let from = if chosen.is_some() { "BEI_LIB_DIR" } else { "the default, as BEI_LIB_DIR is not set" };
        println!(
            "cargo::error=libbei.so is not in {} ({from}); run `make build` in the repository, or set BEI_LIB_DIR to the \
             folder that holds libbei.so",
            dir.display()
        );
        exit(1);
    }
    println!("cargo::rustc-link-search=native={}", dir.display());
    println!("cargo::rustc-link-lib=dylib=bei");
    // For dependents, as DEP_BEI_LIB_DIR, and for this package's own tests.
    println!("cargo::metadata=lib_dir={}", dir.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", dir.display());
    println!("cargo::rustc-env=BEI_LIB_DIR={}", dir.display());
}

//! Sets where the programs of this package look for libbei.so at run time: beside themselves, as in `dist/`, and, in what
//! is not released, where bei-sys found it.

fn main() {
    println!("cargo::rustc-link-arg-bins=-Wl,-rpath,$ORIGIN");
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let kind = if release { "rustc-link-arg-tests" } else { "rustc-link-arg" };
    if let Some(dir) = std::env::var_os("DEP_BEI_LIB_DIR") {
        println!("cargo::{kind}=-Wl,-rpath,{}", dir.display());
    }
}

//! Lets this package's tests and examples find libbei.so where bei-sys found it.
//!
//! A program that depends on this crate does the same for itself; bei-router's build script is an example.

fn main() {
    if let Some(dir) = std::env::var_os("DEP_BEI_LIB_DIR") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", dir.display());
    }
}

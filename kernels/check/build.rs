//! Compiles every kernel as C++ against the shim. A kernel file is registered by a file of its own in
//! `register/`, found here by listing the folder; `shim/register.h` shows one.

mod build_metal;

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

/// The shim's own sources, and what Rust calls.
const SHIM: [&str; 3] = ["kernels.cpp", "shim/fibers.cpp", "shim/grid.cpp"];

fn main() -> Result<(), Box<dyn Error>> {
    let kernels = Path::new("..");
    for watched in ["build_metal.rs", "register", "shim", "kernels.cpp", "probes.cu"] {
        println!("cargo:rerun-if-changed={watched}");
    }
    for entry in fs::read_dir(kernels)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "cu" || e == "cuh" || e == "metal" || e == "h") {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    let mut files: Vec<PathBuf> = fs::read_dir("register")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, Box<dyn Error>>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "cpp"));
    files.sort();
    files.extend(build_metal::translate(kernels, Path::new(&env::var("OUT_DIR")?))?);
    // While one kernel is worked on: `KERNEL_CHECK_ONLY=conv2d,metal_norm cargo test --test conv2d`.
    println!("cargo:rerun-if-env-changed=KERNEL_CHECK_ONLY");
    if let Ok(only) = env::var("KERNEL_CHECK_ONLY") {
        files.retain(|path| {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            only.split(',').any(|name| name == stem)
        });
    }
    files.extend(SHIM.map(PathBuf::from));

    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(true)
        .include(".")
        .include(kernels)
        .files(&files)
        // nvcc lets a kernel read memory as any type, and so do the kernels.
        .flag("-fno-strict-aliasing")
        // A product and a sum stay two operations, on every processor.
        .flag("-ffp-contract=off")
        .flag("-Wno-unknown-pragmas")
        // Misaligned accesses, indices beyond arrays and overflows end the process.
        .flag("-fsanitize=undefined")
        .flag("-fsanitize-undefined-trap-on-error")
        .cargo_metadata(false)
        .try_compile("kernels")?;
    // Kernels register themselves, so nothing refers to their files: the whole archive is linked.
    println!("cargo:rustc-link-search=native={}", env::var("OUT_DIR")?);
    println!("cargo:rustc-link-lib=static:+whole-archive=kernels");
    let library = if env::var("CARGO_CFG_TARGET_VENDOR")? == "apple" { "c++" } else { "stdc++" };
    println!("cargo:rustc-link-lib={library}");
    Ok(())
}

//! With the feature `cuda`: compiles the kernels in `kernels/*.cu` to PTX, which the program carries and the driver
//! compiles for the GPU that it finds.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

/// The oldest generation that has all instructions; its PTX runs on every later one.
const ARCHITECTURE: &str = "compute_80";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN", "PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let folder = Path::new("kernels");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let files = fs::read_dir(folder).expect("the folder of kernels can be read");
    let mut names = Vec::new();
    println!("cargo:rerun-if-changed={}", folder.display());
    for path in files.flatten().map(|file| file.path()) {
        let extension = path.extension().unwrap_or_default();
        if extension == "cu" || extension == "cuh" {
            println!("cargo:rerun-if-changed={}", path.display());
        }
        if extension == "cu" {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();

    let nvcc = nvcc();
    let at_once = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    for names in names.chunks(at_once) {
        let running: Vec<_> = names.iter().map(|name| compile(&nvcc, folder, &out, name)).collect();
        for (name, mut child) in names.iter().zip(running) {
            let status = child.wait().expect("nvcc can be waited for");
            assert!(status.success(), "nvcc could not compile kernels/{name}.cu ({status})");
        }
    }

    // A device has the modules of candle and of other crates under their names as well.
    let modules: String = names
        .iter()
        .map(|name| {
            let ptx = out.join(format!("{name}.ptx"));
            format!("    (\"cupscale {name}\", include_str!({ptx:?})),\n")
        })
        .collect();
    let (major, minor) = release(&nvcc);
    let table = format!(
        "const MODULES: &[(&str, &str)] = &[\n{modules}];\nconst TOOLKIT: (i32, i32) = ({major}, {minor});\n"
    );
    fs::write(out.join("ptx.rs"), table).expect("OUT_DIR can be written");
}

/// Path of the compiler: what `NVCC` names, that of the toolkit that candle's kernels are compiled with, or the one in
/// `PATH`.
fn nvcc() -> PathBuf {
    if let Some(named) = env::var_os("NVCC") {
        return named.into();
    }
    let program = format!("nvcc{}", env::consts::EXE_SUFFIX);
    ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os)
        .map(|toolkit| Path::new(&toolkit).join("bin").join(&program))
        .find(|nvcc| nvcc.exists())
        .unwrap_or_else(|| program.into())
}

/// The compiler's release of CUDA, from the line `Cuda compilation tools, release 13.0, V13.0.88`: a driver reads PTX of its
/// own release and of earlier ones.
fn release(nvcc: &Path) -> (i32, i32) {
    let output = Command::new(nvcc).arg("--version").output().expect("nvcc tells its version");
    let text = String::from_utf8_lossy(&output.stdout);
    let release = text.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    let numbers = release.and_then(|release| release.split_once('.'));
    numbers
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .unwrap_or_else(|| panic!("{}: no release in its version: {text}", nvcc.display()))
}

/// Starts the compilation of one file. Fast mathematics would change the canvas's bits and the norms' NaNs, so none are
/// asked for.
fn compile(nvcc: &Path, folder: &Path, out: &Path, name: &str) -> Child {
    Command::new(nvcc)
        .args(["-O3", "-std=c++17", "-ptx", &format!("-arch={ARCHITECTURE}"), "-o"])
        .arg(out.join(format!("{name}.ptx")))
        .arg(folder.join(format!("{name}.cu")))
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "{}: {error}. The feature `cuda` needs NVIDIA's compiler: install the CUDA toolkit, or on Linux without \
                 root: vars=$(bash tools/cuda-env.sh DIR) && eval \"$vars\"",
                nvcc.display()
            )
        })
}

//! The kernels' types and address spaces, as clang sees them; g++ knows no address spaces.

use std::{fs, io::Write, path::PathBuf, process::Command};

const COMPILERS: [&str; 3] = ["clang++-19", "clang++", "clang++-18"];

/// What clang says about a translated kernel file, or `None` where there is no clang that can say it.
fn checked(file: &str, text: &str) -> Option<Result<(), String>> {
    let clang =
        COMPILERS.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok())?;
    let path = PathBuf::from(env!("OUT_DIR")).join(format!("checked_{file}"));
    fs::write(&path, text).unwrap();
    let output = Command::new(clang)
        .args(["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-DMETAL_CHECK"])
        .arg(concat!("-I", env!("CARGO_MANIFEST_DIR")))
        .arg(&path)
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(if output.status.success() { Ok(()) } else { Err(message) })
}

fn translated(file: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("OUT_DIR")).join(file)).unwrap()
}

#[test]
fn every_kernel_has_fitting_types_and_address_spaces() {
    let files: Vec<String> = fs::read_dir(env!("OUT_DIR"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.starts_with("metal_") && name.ends_with(".cpp"))
        .collect();
    assert!(!files.is_empty());
    for file in files {
        match checked(&file, &translated(&file)) {
            Some(Ok(())) => {}
            Some(Err(message)) => panic!("{file}: {message}"),
            None => {
                writeln!(
                    std::io::stderr(),
                    "address spaces are not checked: no clang++ is installed"
                )
                .unwrap();
                return;
            }
        }
    }
}

#[test]
fn a_pointer_into_the_wrong_address_space_is_found() {
    let wrong = translated("metal_conv2d.cpp")
        .replace("device const T* sample = x", "threadgroup const T* sample = x");
    if let Some(result) = checked("wrong.cpp", &wrong) {
        assert!(result.unwrap_err().contains("cannot initialize a variable of type"));
    }
}

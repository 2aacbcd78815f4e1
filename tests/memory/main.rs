//! Memory that is taken against memory that was promised. On Linux the kernel tells the peak of a process;
//! what is measured is always a process that does nothing else, never this one with its other tests.

#[path = "../common/mod.rs"]
mod common;
mod counting;

#[cfg(target_os = "linux")]
mod encoders;
mod jobs;
#[cfg(target_os = "linux")]
mod llava;
mod models;
mod ops;
mod random_params;

/// The most memory that a process (its number, or `self`) has had resident so far, in KiB; of one that has
/// ended, nothing.
#[cfg(target_os = "linux")]
fn peak_kib(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next().unwrap().parse().unwrap())
}

/// Runs a job and follows the peak of its resident set, in bytes, until it ends.
#[cfg(target_os = "linux")]
fn measure(mut job: std::process::Command) -> f64 {
    let mut child = job.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        peak = peak.max(peak_kib(&child.id().to_string()).unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{job:?}: {}", common::stderr(&output));
    peak as f64 * 1024.0
}

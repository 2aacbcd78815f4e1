//! Jobs that are killed and begun again: at any moment, as soon as the journal has grown so far, while the output is being
//! written. What every kind of model is held to is here; `resume.rs` has what is the same for all.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::common::{Shell, pause, stderr};

/// Where a job with the output `out.png` works.
pub const WORK: &str = ".out.png.cupscale";
const PARTIAL: &str = ".out.png.cupscale.part";

/// When a job is killed.
pub enum Moment {
    After(Duration),
    /// As soon as the journal has so many bytes: while the next work is written, or its line.
    JournalHas(u64),
    /// As soon as the output is being written.
    WritingOutput,
}

/// Runs a job to its end: the bytes of its output, beside which it leaves nothing.
pub fn complete(shell: &Shell, mut job: Command) -> Vec<u8> {
    let output = job.output().unwrap();
    assert!(output.status.success(), "{job:?}: {}", stderr(&output));
    let names = shell.names();
    assert!(names.iter().all(|name| !name.contains("cupscale")), "left behind: {names:?}");
    shell.bytes("out.png")
}

/// Starts a job and kills it (SIGKILL) at that moment; false if it was finished before.
pub fn kill(shell: &Shell, mut job: Command, moment: &Moment) -> bool {
    let started = Instant::now();
    let mut child: Child = job.stdout(Stdio::null()).spawn().unwrap();
    let journal = shell.path(WORK).join("journal");
    let partial = shell.path(PARTIAL);
    let come = || match moment {
        Moment::After(delay) => started.elapsed() >= *delay,
        Moment::JournalHas(bytes) => fs::metadata(&journal).is_ok_and(|file| file.len() >= *bytes),
        Moment::WritingOutput => partial.exists(),
    };
    loop {
        if come() {
            // Dead already or not: what matters is how it ended.
            let _ = child.kill();
            return !child.wait().unwrap().success();
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        pause();
    }
}

/// Kills so many of these jobs, at the beginning and within steps, and runs them again: each time the bytes are those of a
/// job that nobody disturbs, which are returned.
pub fn same_bytes_after_kills(shell: &Shell, job: &dyn Fn() -> Command, enough: usize) -> Vec<u8> {
    let started = Instant::now();
    let undisturbed = complete(shell, job());
    let whole = started.elapsed();
    // A journal of such jobs has some 40 lines of about 35 bytes.
    let (mut kills, mut resumed, mut attempts, mut random) = (0, 0, 0, 0x2545_f491_4f6c_dd1d_u64);
    while kills < enough {
        attempts += 1;
        assert!(attempts < 400, "only {kills} of {attempts} jobs lived long enough to be killed");
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let share = (random >> 40) as f64 / f64::from(1 << 24);
        let moment = match attempts % 4 {
            0 => Moment::JournalHas(1 + (share * 1400.0) as u64),
            1 => Moment::WritingOutput,
            _ => Moment::After(whole.mul_f64(share)),
        };
        if !kill(shell, job(), &moment) {
            let _ = fs::remove_file(shell.path("out.png"));
            continue;
        }
        kills += 1;
        // A killed job leaves its picture complete, or not at all.
        if shell.path("out.png").exists() {
            assert_eq!(shell.bytes("out.png"), undisturbed, "kill {kills}");
        }
        // Every third resumed job is killed again.
        let again = kills % 3 == 0 && kills < enough;
        if again && kill(shell, job(), &Moment::After(whole.mul_f64(share / 2.0))) {
            kills += 1;
        }
        resumed += usize::from(shell.path(WORK).join("job.json").exists());
        assert_eq!(complete(shell, job()), undisturbed, "after kill {kills}");
        fs::remove_file(shell.path("out.png")).unwrap();
    }
    assert!(resumed > enough / 5, "only {resumed} jobs had something to go on with");
    undisturbed
}

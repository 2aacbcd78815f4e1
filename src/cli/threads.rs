//! Number of threads: what is asked for by `--threads` or `RAYON_NUM_THREADS`, within what the machine can use. Every
//! thread takes addresses and a buffer of its own, and a product that is split for a thousand threads takes longer
//! than for two.

use std::{env, num::NonZero, sync::OnceLock, thread};

use cupscale::backend::limited_room;

/// The variable by which the thread pool, and the tensor library, are told a number of threads.
const VARIABLE: &str = "RAYON_NUM_THREADS";

/// Most threads for each core; more than one only makes a job slower, but is no harm.
const PER_CORE: usize = 4;

/// Bytes of addresses for each thread where these are limited: its stack, and its part of what is computed.
const ROOM: usize = 16 << 20;

/// Number of threads, and a note if it is less than asked for: by `option`, else by the environment.
pub fn chosen(option: Option<usize>) -> (usize, Option<String>) {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let (asked, by) = match (option, of_environment()) {
        (Some(threads), _) => (Some(threads), "--threads "),
        (None, Some(threads)) => (Some(threads), "RAYON_NUM_THREADS="),
        (None, None) => (None, ""),
    };
    let (threads, why) = bounded(asked.unwrap_or(cores), cores, limited_room());
    let note = asked.zip(why).map(|(asked, why)| format!("{by}{asked}: {threads} are used, {why}"));
    (threads, note)
}

/// The number in the environment as the program found it; `None` without one.
fn of_environment() -> Option<usize> {
    static FOUND: OnceLock<Option<usize>> = OnceLock::new();
    let find = || env::var(VARIABLE).ok()?.trim().parse().ok().filter(|&number| number > 0);
    *FOUND.get_or_init(find)
}

/// Number of threads within what `cores`, and `room` bytes of addresses, can use; with the reason if it is less.
fn bounded(asked: usize, cores: usize, room: Option<usize>) -> (usize, Option<String>) {
    let most = cores * PER_CORE;
    let fit = room.map_or(most, |room| (room / 2 / ROOM).max(1));
    let threads = asked.min(most).min(fit);
    let why = if threads == asked {
        None
    } else if threads == fit && fit < most {
        Some("which is what the limits of this process leave room for (ulimit -v, -d)".to_owned())
    } else {
        let cores = if cores == 1 { "one core".to_owned() } else { format!("{cores} cores") };
        Some(format!("since more only wait for each other on {cores}"))
    };
    (threads, why)
}

/// Brings the environment's number of threads within bounds: libraries read it too, each at a time of its own.
///
/// Must be called before any thread is started.
pub fn bound_environment() {
    if env::var_os(VARIABLE).is_some() {
        let (threads, _) = chosen(None);
        // SAFETY: no other thread reads the environment yet.
        unsafe { env::set_var(VARIABLE, threads.to_string()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_as_many_as_asked_for_within_what_can_be_used() {
        for (asked, cores, room, expected, reason) in [
            (2, 2, None, 2, ""),
            (8, 2, None, 8, ""),
            (100_000, 2, None, 8, "2 cores"),
            (9, 1, None, 4, "one core"),
            (64, 64, Some(640 << 20), 20, "ulimit"),
            (2, 2, Some(1), 1, "ulimit"),
            (999, 2, Some(8 << 30), 8, "2 cores"),
        ] {
            let (threads, why) = bounded(asked, cores, room);
            assert_eq!(threads, expected, "{asked} on {cores} in {room:?}");
            assert_eq!(why.is_none(), reason.is_empty(), "{why:?}");
            assert!(why.unwrap_or_default().contains(reason));
        }
    }
}

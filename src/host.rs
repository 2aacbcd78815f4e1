//! Who this process is among the processes of other machines: what a lease and a record are signed with.

use std::{fs, process, sync::LazyLock};

/// Where Linux says which boot of which machine this is.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Name of this machine, for people; nothing is decided by it.
#[must_use]
pub fn host_name() -> String {
    named().unwrap_or_else(|| "a machine without a name".to_owned())
}

#[cfg(unix)]
fn named() -> Option<String> {
    let mut name = [0_u8; 256];
    // SAFETY: the call writes at most so many bytes there.
    let result = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) };
    let end = name.iter().position(|&byte| byte == 0)?;
    let name = String::from_utf8_lossy(&name[..end]).into_owned();
    (result == 0 && !name.is_empty()).then_some(name)
}

#[cfg(not(unix))]
fn named() -> Option<String> {
    std::env::var("COMPUTERNAME").ok().filter(|name| !name.is_empty())
}

/// The running kernel that this process shares with others: within one, locks of files are seen by all, whatever the file
/// system. Two machines never have the same; a machine has another after each boot. Containers on one kernel share it.
pub(crate) fn kernel() -> &'static str {
    static KERNEL: LazyLock<String> = LazyLock::new(|| {
        let boot = fs::read_to_string(BOOT).ok().map(|id| id.trim().to_owned());
        boot.filter(|id| !id.is_empty()).unwrap_or_else(host_name)
    });
    &KERNEL
}

/// A word that no other process, and no other call in this one, has.
pub(crate) fn unique() -> String {
    use std::{
        hash::{BuildHasher as _, Hasher as _, RandomState},
        sync::atomic::{AtomicU64, Ordering},
    };

    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Keys of the standard library's hashes come from the system's source of random numbers.
    let word = || {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(process::id());
        hasher.write_u64(COUNT.fetch_add(1, Ordering::Relaxed));
        hasher.finish()
    };
    format!("{:016x}{:016x}", word(), word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_host_and_words_of_its_own() {
        assert!(!host_name().is_empty() && !kernel().is_empty());
        assert_eq!(kernel(), kernel());
        let words: std::collections::HashSet<_> = (0..1000).map(|_| unique()).collect();
        assert_eq!(words.len(), 1000);
        assert!(words.iter().all(|word| word.len() == 32));
    }
}

//! Memory budget of a device for this process.

use std::sync::OnceLock;

use candle_core::Device;

/// Bounds of the margin that is left to other processes: a tenth of the free memory.
const MARGIN: std::ops::RangeInclusive<usize> = 256 << 20..=2 << 30;

/// Bounds of the margin within the process's own limits, for what is mapped besides: a tenth as well.
const OWN_MARGIN: std::ops::RangeInclusive<usize> = 64 << 20..=2 << 30;

/// The bytes that this process may use in all on a device, what it has already included: what is free,
/// less a margin. `held` is what it holds on a GPU; on the CPU the system knows. `None` where nothing
/// tells.
#[must_use]
pub fn usable_memory(device: &Device, held: usize) -> Option<usize> {
    let usable = match device {
        Device::Cpu => host::usable()?,
        Device::Cuda(device) => cuda::free(device)? + held,
        Device::Metal(device) => metal::working_set(device)?,
    };
    let less = |bytes: usize, margin: std::ops::RangeInclusive<usize>| {
        bytes.saturating_sub((bytes / 10).clamp(*margin.start(), *margin.end()))
    };
    let usable = less(usable, MARGIN);
    match device {
        Device::Cpu => {
            let limited = limited_room().map(|room| less(room + host::own(), OWN_MARGIN));
            Some(limited.map_or(usable, |limited| limited.min(usable)))
        }
        _ => Some(usable),
    }
}

/// The bytes that the process's own limits (`ulimit -v`, `-d`) leave beside what it has; `None` without limits.
#[must_use]
pub fn limited_room() -> Option<usize> {
    host::limited_room()
}

/// Hook by which the program's own allocator gives memory back.
static RELEASE: OnceLock<fn()> = OnceLock::new();

/// Sets what [`give_back_freed`] calls first, once for the whole process: a program whose global allocator keeps
/// freed pages tells the library here how to have them given back. A second call changes nothing.
pub fn set_release_hook(release: fn()) {
    // The first hook stays.
    let _ = RELEASE.set(release);
}

/// Gives the system back what allocators of host memory keep of freed memory for later.
///
/// A stage frees its weights and its activations in pieces of all sizes; the next stage would take its own
/// beside those.
pub fn give_back_freed() {
    if let Some(release) = RELEASE.get() {
        release();
    }
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time, from any thread, and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives back what a device keeps of freed memory as well, for another process: of an NVIDIA GPU the driver's pool, after
/// waiting for what runs on it.
pub fn give_back_all(device: &Device) {
    if let Device::Cuda(device) = device {
        cuda::give_back(device);
    }
    give_back_freed();
}

/// The most bytes of a device that this process had at once: allocations of an NVIDIA GPU, or of the CPU the resident set.
/// `None` where nothing tells.
#[must_use]
pub fn peak_memory(device: &Device) -> Option<usize> {
    match device {
        Device::Cpu => host::peak(),
        Device::Cuda(device) => cuda::peak(device),
        Device::Metal(_) => None,
    }
}

mod cuda {
    use candle_core::CudaDevice;

    #[cfg(feature = "cuda")]
    use crate::backend::cuda::pool;

    #[cfg(feature = "cuda")]
    pub(super) fn free(device: &CudaDevice) -> Option<usize> {
        pool::free_bytes(device.cuda_stream().context()).ok()
    }

    #[cfg(feature = "cuda")]
    pub(super) fn peak(device: &CudaDevice) -> Option<usize> {
        pool::peak_bytes(device.cuda_stream().context()).ok().flatten()
    }

    #[cfg(feature = "cuda")]
    pub(super) fn give_back(device: &CudaDevice) {
        // Memory that cannot be given back is none that is lost.
        let _ = pool::give_back(device.cuda_stream().context());
    }

    #[cfg(not(feature = "cuda"))]
    pub(super) fn free(_: &CudaDevice) -> Option<usize> {
        None
    }

    #[cfg(not(feature = "cuda"))]
    pub(super) fn peak(_: &CudaDevice) -> Option<usize> {
        None
    }

    #[cfg(not(feature = "cuda"))]
    pub(super) fn give_back(_: &CudaDevice) {}
}

mod metal {
    use candle_core::MetalDevice;

    /// Working set that the system recommends for a process on the GPU, whatever else is running.
    #[cfg(feature = "metal")]
    pub(super) fn working_set(device: &MetalDevice) -> Option<usize> {
        Some(device.metal_device().recommended_max_working_set_size())
    }

    #[cfg(not(feature = "metal"))]
    pub(super) fn working_set(_: &MetalDevice) -> Option<usize> {
        None
    }
}

#[cfg(target_os = "linux")]
mod host {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    /// Memory that the kernel would give without swapping, or that the strictest control group would,
    /// and the part of it that this process has already.
    pub(super) fn usable() -> Option<usize> {
        let available = field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let of_groups = group_room(Path::new("/sys/fs/cgroup"), &groups);
        Some(of_groups.map_or(available, |room| room.min(available)) + own())
    }

    /// Memory that this process has.
    pub(super) fn own() -> usize {
        let status = fs::read_to_string("/proc/self/status").ok();
        status.and_then(|status| field(&status, "VmRSS:")).unwrap_or(0)
    }

    /// The most memory that this process had.
    pub(super) fn peak() -> Option<usize> {
        field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
    }

    /// The least that RLIMIT_AS and RLIMIT_DATA (getrlimit(2)) leave beside what counts towards each already.
    pub(super) fn limited_room() -> Option<usize> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let room = |resource, used| room_within(limit(resource)?, field(&status, used)?);
        let rooms = [(libc::RLIMIT_AS, "VmSize:"), (libc::RLIMIT_DATA, "VmData:")];
        rooms.into_iter().filter_map(|(resource, used)| room(resource, used)).min()
    }

    /// What is left of a limit; `None` where there is no limit.
    fn room_within(limit: libc::rlim_t, used: usize) -> Option<usize> {
        if limit == libc::RLIM_INFINITY {
            return None;
        }
        Some(usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(used))
    }

    #[cfg(target_env = "gnu")]
    type Resource = libc::__rlimit_resource_t;
    #[cfg(not(target_env = "gnu"))]
    type Resource = libc::c_int;

    fn limit(resource: Resource) -> Option<libc::rlim_t> {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: it writes to the place that is passed along, which outlives the call.
        let status = unsafe { libc::getrlimit(resource, &raw mut limit) };
        (status == 0).then_some(limit.rlim_cur)
    }

    /// A field in kilobytes of a file in `/proc`.
    fn field(text: &str, name: &str) -> Option<usize> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: usize = line.split_whitespace().next()?.parse().ok()?;
        Some(kilobytes * 1024)
    }

    /// The least room in the control groups that `membership` (`/proc/self/cgroup`) names and in those
    /// around them: the limit, less what is used and is no cache. Version 2 has one hierarchy
    /// (`0::/path`), version 1 one for memory (`N:memory:/path`); kernel documentation
    /// `admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`.
    pub(super) fn group_room(root: &Path, membership: &str) -> Option<usize> {
        let rooms = membership.lines().flat_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next(), parts.next(), parts.next());
            let (base, files) = match controllers {
                Some("") => (root.to_owned(), ["memory.max", "memory.current", "inactive_file "]),
                Some(list) if list.split(',').any(|name| name == "memory") => (
                    root.join("memory"),
                    ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "],
                ),
                _ => (PathBuf::new(), [""; 3]),
            };
            // Inside a container the path may be that of the host, and only the root is there.
            let own = base.join(path.unwrap_or_default().trim_start_matches('/'));
            let around: Vec<PathBuf> = own
                .ancestors()
                .take_while(|folder| folder.starts_with(&base) && !files[0].is_empty())
                .map(Path::to_owned)
                .collect();
            around.into_iter().filter_map(move |folder| room(&folder, files))
        });
        rooms.min()
    }

    fn room(folder: &Path, [limit, used, cache]: [&str; 3]) -> Option<usize> {
        let number = |name: &str| -> Option<usize> {
            fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
        };
        // `max` is no number, and no limit.
        let (limit, used) = (number(limit)?, number(used)?);
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let cache = stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse().ok());
        Some(limit.saturating_sub(used.saturating_sub(cache.unwrap_or(0))))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn group(folder: &Path, files: &[(&str, &str)]) {
            fs::create_dir_all(folder).unwrap();
            for (name, text) in files {
                fs::write(folder.join(name), text).unwrap();
            }
        }

        #[test]
        fn the_strictest_group_around_the_process_decides_and_cache_is_room() {
            let root = tempfile::tempdir().unwrap();
            let root = root.path();
            group(&root.join("a"), &[("memory.max", "1000\n"), ("memory.current", "400\n")]);
            group(
                &root.join("a/b"),
                &[
                    ("memory.max", "900\n"),
                    ("memory.current", "800\n"),
                    ("memory.stat", "active_file 7\ninactive_file 50\n"),
                ],
            );
            assert_eq!(group_room(root, "0::/a/b\n"), Some(150));
            assert_eq!(group_room(root, "0::/a\n"), Some(600));
            // No limit, and a path that is not visible from here.
            group(&root.join("c"), &[("memory.max", "max\n"), ("memory.current", "1\n")]);
            assert_eq!(group_room(root, "0::/c\n"), None);
            assert_eq!(group_room(root, "0::/elsewhere/b\n"), None);
        }

        #[test]
        fn the_first_version_of_control_groups_is_read_too() {
            let root = tempfile::tempdir().unwrap();
            group(
                &root.path().join("memory/x"),
                &[
                    ("memory.limit_in_bytes", "5000\n"),
                    ("memory.usage_in_bytes", "3000\n"),
                    ("memory.stat", "inactive_file 1\ntotal_inactive_file 500\n"),
                ],
            );
            let membership = "9:cpu,cpuacct:/x\n4:memory:/x\n";
            assert_eq!(group_room(root.path(), membership), Some(2500));
        }

        #[test]
        fn a_limit_of_the_process_leaves_what_is_not_used_of_it() {
            assert_eq!(room_within(1000, 400), Some(600));
            assert_eq!(room_within(1000, 4000), Some(0));
            assert_eq!(room_within(libc::RLIM_INFINITY, 400), None);
        }

        #[test]
        fn this_machine_has_memory() {
            assert!(usable().unwrap() > 64 << 20);
            // Other tests take memory meanwhile.
            let own = own();
            assert!(peak().unwrap() >= own);
        }
    }
}

#[cfg(target_os = "macos")]
mod host {
    /// macOS does not keep to such limits.
    pub(super) fn limited_room() -> Option<usize> {
        None
    }

    pub(super) fn own() -> usize {
        0
    }

    pub(super) fn peak() -> Option<usize> {
        None
    }

    /// Three quarters of the machine's memory: macOS makes room by compressing what others hold, so
    /// that what is free at a moment says little.
    pub(super) fn usable() -> Option<usize> {
        let mut bytes = 0u64;
        let mut size = size_of::<u64>();
        // SAFETY: the name ends with a zero, and the result is written to a number of the size that
        // is passed along.
        let status = unsafe {
            libc::sysctlbyname(
                c"hw.memsize".as_ptr(),
                (&raw mut bytes).cast(),
                &mut size,
                std::ptr::null_mut(),
                0,
            )
        };
        (status == 0).then(|| usize::try_from(bytes / 4 * 3).ok()).flatten()
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod host {
    pub(super) fn limited_room() -> Option<usize> {
        None
    }

    pub(super) fn own() -> usize {
        0
    }

    pub(super) fn peak() -> Option<usize> {
        None
    }

    pub(super) fn usable() -> Option<usize> {
        None
    }
}

//! Faults of mapped files, told in one line: when somebody shortens a canvas or a model that is mapped into memory, or
//! its disk fails, the system sends SIGBUS at the next access, and a process that does not catch it dies without a word.
//!
//! The handler only reports and ends the process: the work folder stays as after a kill. It uses system calls and memory
//! of its own alone, because the fault may happen anywhere, within the allocator as well. The library installs nothing.

use std::{
    mem::MaybeUninit,
    ptr::null_mut,
    sync::atomic::{AtomicBool, Ordering},
};

/// Exit code of a process that this ends: an input failed.
const FAILED: i32 = 1;
/// Bytes of the longest path that is told; a longer one is cut.
const LONGEST: usize = 1024;

/// Installs the handler. Without it (an old kernel may refuse) the process dies of the signal as it would have.
pub fn install() {
    // SAFETY: `action` is a whole sigaction, whose handler has the signature that SA_SIGINFO asks for and does only
    // what a signal handler may. On the alternative stack, if a thread has one, as the standard library's handler runs.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = report as extern "C" fn(_, _, _) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, null_mut());
    }
}

extern "C" fn report(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    /// Set by the first thread that comes here; others wait for the end.
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if REPORTED.swap(true, Ordering::Relaxed) {
        loop {
            // SAFETY: the call only waits.
            unsafe { libc::pause() };
        }
    }
    // SAFETY: the kernel gives a valid siginfo, and for SIGBUS its address.
    let address = unsafe { (*info).si_addr() } as usize;
    let mut path = Path { bytes: [0; LONGEST], length: 0 };
    if !path.find(address) {
        // Not a mapped file: a fault of the memory or of this program. The access is tried again on return, and ends
        // the process as without this handler.
        // SAFETY: the call is allowed in a handler.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        return;
    }
    // A progress bar may stand on the line.
    // SAFETY: the call only asks.
    if unsafe { libc::isatty(libc::STDERR_FILENO) } == 1 {
        write(b"\r\x1b[K");
    }
    write(b"cupscale-fast: ");
    write(path.shown());
    write(b": shortened while it was in use, or its disk failed; run the same command again\n");
    // SAFETY: the call ends the process without running anything else of it.
    unsafe { libc::_exit(FAILED) };
}

fn write(bytes: &[u8]) {
    // SAFETY: the pointer and the length are those of a slice. What cannot be written is not missed by anybody.
    unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

/// The path of a mapped file, as far as it is told.
struct Path {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Path {
    /// Looks for the file that is mapped at `address`; false if there is none.
    fn find(&mut self, address: usize) -> bool {
        // SAFETY: the string ends with a zero.
        let maps =
            unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        if maps < 0 {
            return false;
        }
        let mut parser = Parser::new(address);
        let mut buffer = [0u8; 512];
        loop {
            // SAFETY: the buffer has that length.
            let count = unsafe { libc::read(maps, buffer.as_mut_ptr().cast(), buffer.len()) };
            let Some(read) = usize::try_from(count).ok().and_then(|count| buffer.get(..count))
            else {
                return false;
            };
            if read.is_empty() {
                return false;
            }
            for &byte in read {
                if parser.take(byte, self) {
                    return self.bytes.first() == Some(&b'/');
                }
            }
        }
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            // A control character would reach the terminal.
            *place = if byte.is_ascii_control() { b'?' } else { byte };
            self.length += 1;
        }
    }

    fn shown(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// A reader of `/proc/self/maps`, byte by byte: `FROM-TO rights offset device inode    PATH`.
struct Parser {
    address: usize,
    from: usize,
    to: usize,
    field: usize,
    in_gap: bool,
}

impl Parser {
    fn new(address: usize) -> Self {
        Self { address, from: 0, to: 0, field: 0, in_gap: false }
    }

    /// Takes one byte; true at the end of the line of the address, whose path is then in `path`.
    fn take(&mut self, byte: u8, path: &mut Path) -> bool {
        const RANGE_END: usize = 1;
        const NAME: usize = 6;
        let is_ours = (self.from..self.to).contains(&self.address);
        match (byte, self.field) {
            (b'\n', _) => {
                if is_ours {
                    return true;
                }
                *self = Self::new(self.address);
            }
            (b'-', 0) => self.field = RANGE_END,
            (digit, 0) => self.from = self.from << 4 | hexadecimal(digit),
            // Spaces before the path fill the line up.
            (b' ', NAME) if path.length == 0 => {}
            (_, NAME) if is_ours => path.push(byte),
            (_, NAME) => {}
            (b' ', field) => {
                if !self.in_gap {
                    self.field = field + 1;
                }
                self.in_gap = true;
                return false;
            }
            (digit, RANGE_END) => self.to = self.to << 4 | hexadecimal(digit),
            _ => {}
        }
        self.in_gap = false;
        false
    }
}

fn hexadecimal(digit: u8) -> usize {
    char::from(digit).to_digit(16).unwrap_or(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(maps: &str, address: usize) -> Option<String> {
        let mut path = Path { bytes: [0; LONGEST], length: 0 };
        let mut parser = Parser::new(address);
        let found = maps.bytes().any(|byte| parser.take(byte, &mut path));
        found.then(|| String::from_utf8_lossy(path.shown()).into_owned())
    }

    #[test]
    fn the_file_at_an_address_is_found_by_its_path() {
        let maps = "\
55680ba36000-55680ba38000 r--p 00000000 fe:00 247282                     /usr/bin/head
55681410d000-55681412e000 rw-p 00000000 00:00 0                          [heap]
7f34dbe52000-7f34dbea9000 rw-s 00000000 fe:00 316534                     /a/b c/\x1b[31mz0 (deleted)
7f34dbea9000-7f34dbeaa000 rw-p 00000000 00:00 0 \n";
        for (address, expected) in [
            (0x5568_0ba3_6000, Some("/usr/bin/head")),
            (0x5568_0ba3_7fff, Some("/usr/bin/head")),
            (0x5568_0ba3_8000, None),
            (0x5568_1410_d010, Some("[heap]")),
            (0x7f34_dbe5_2001, Some("/a/b c/?[31mz0 (deleted)")),
            (0x7f34_dbea_9000, Some("")),
            (0, None),
        ] {
            assert_eq!(found(maps, address).as_deref(), expected, "{address:x}");
        }
        let long = format!("1000-2000 rw-s 0 fe:00 1 /{}\n", "x".repeat(2 * LONGEST));
        assert_eq!(found(&long, 0x1000).unwrap().len(), LONGEST);
    }

    #[test]
    fn this_process_can_be_looked_through() {
        let mut path = Path { bytes: [0; LONGEST], length: 0 };
        assert!(path.find(install as fn() as usize));
        assert!(!path.find(8));
        let mut stack = Path { bytes: [0; LONGEST], length: 0 };
        assert!(!stack.find((&raw const path) as usize));
    }
}

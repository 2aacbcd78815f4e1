//! Launches.

use std::{ffi::CString, os::raw::c_char, ptr};

use crate::{Buffer, backend::launch::Launch, buffer::Memory};

/// The order in which the threads of a block run between two meetings, and blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Forward,
    Reverse,
    Shuffled,
}

/// A way to run a launch. A kernel that is right gives the same bytes in every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    pub order: Order,
    /// `true` if asynchronous copies arrive when they are waited for, not at once.
    pub delayed: bool,
}

impl Mode {
    /// Those that a test runs.
    pub const ALL: [Self; 4] = [
        Self { order: Order::Forward, delayed: false },
        Self { order: Order::Reverse, delayed: true },
        Self { order: Order::Shuffled, delayed: true },
        Self { order: Order::Forward, delayed: true },
    ];
}

/// An argument of a kernel.
pub enum Arg<'a> {
    /// A buffer that the kernel reads; the launch checks that it does no more.
    In(&'a mut (dyn Memory + 'static)),
    /// A buffer that the kernel writes.
    Out(&'a mut (dyn Memory + 'static)),
    /// No buffer: a null pointer.
    Null,
    /// The bytes of a number or of a struct.
    Value(Vec<u8>),
}

impl<'a> Arg<'a> {
    pub fn input<T: Copy + 'static>(buffer: &'a mut Buffer<T>) -> Self {
        Self::In(buffer)
    }

    pub fn output<T: Copy + 'static>(buffer: &'a mut Buffer<T>) -> Self {
        Self::Out(buffer)
    }

    /// A null pointer for `None`.
    pub fn maybe<T: Copy + 'static>(buffer: Option<&'a mut Buffer<T>>) -> Self {
        buffer.map_or(Self::Null, |buffer| Self::In(buffer))
    }

    /// A number, or a struct with `#[repr(C)]` and no padding.
    pub fn value<T: Copy>(value: T) -> Self {
        let mut bytes = vec![0; size_of::<T>()];
        // SAFETY: the target has room for the value.
        unsafe {
            ptr::copy_nonoverlapping(ptr::from_ref(&value).cast(), bytes.as_mut_ptr(), bytes.len())
        };
        Self::Value(bytes)
    }
}

/// An argument as the other side takes it.
#[repr(C)]
struct Argument {
    place: *const u8,
    size: usize,
    /// Bytes of the buffer that it points to, or 0.
    buffer: usize,
}

unsafe extern "C" {
    fn kernel_check_launch(
        name: *const c_char,
        grid: &[u32; 3],
        block: u32,
        shared: u32,
        arguments: *const Argument,
        count: usize,
        order: i32,
        delayed: bool,
        message: *mut u8,
        length: usize,
    ) -> bool;
    safe fn kernel_check_take_conflicts() -> u64;
}

/// How often two rows of a matrix that `ldmatrix` reads at once fell into the same banks of shared memory, in
/// this thread's launches since the last call.
pub fn take_conflicts() -> u64 {
    kernel_check_take_conflicts()
}

/// Runs a launch; `arguments` in the order of the kernel's parameters.
///
/// # Panics
/// If the launch fails, with what went wrong and where.
#[track_caller]
pub fn launch(launch: &Launch, arguments: &mut [Arg], mode: Mode) {
    if let Err(message) = try_launch(launch, arguments, mode) {
        panic!("{} in {mode:?}: {message}", launch.kernel);
    }
}

/// Runs a launch.
///
/// # Errors
/// What went wrong first: a barrier or collective that not all threads reach, a write beside a buffer or
/// into an input, a misaligned copy, arguments of other sizes than the kernel's parameters.
pub fn try_launch(launch: &Launch, arguments: &mut [Arg], mode: Mode) -> Result<(), String> {
    let name = CString::new(launch.kernel).map_err(|error| error.to_string())?;
    let inputs: Vec<Option<Vec<u8>>> = arguments
        .iter()
        .map(|argument| match argument {
            Arg::In(buffer) => Some(buffer.content().to_vec()),
            _ => None,
        })
        .collect();
    // Values of 16-byte words, so that a struct lies as its type demands.
    let values: Vec<(Vec<u128>, usize)> = arguments
        .iter_mut()
        .map(|argument| {
            let address;
            let bytes: &[u8] = match argument {
                Arg::In(buffer) | Arg::Out(buffer) => {
                    address = buffer.pointer().expose_provenance().to_ne_bytes();
                    &address
                }
                Arg::Null => &[0; size_of::<usize>()],
                Arg::Value(bytes) => bytes,
            };
            let mut words = vec![0u128; bytes.len().div_ceil(16)];
            // SAFETY: the words have room for the bytes.
            unsafe {
                ptr::copy_nonoverlapping(bytes.as_ptr(), words.as_mut_ptr().cast(), bytes.len())
            };
            (words, bytes.len())
        })
        .collect();
    let given: Vec<Argument> = values
        .iter()
        .zip(arguments.iter())
        .map(|((words, size), argument)| {
            let buffer = match argument {
                Arg::In(buffer) | Arg::Out(buffer) => buffer.content().len(),
                Arg::Null | Arg::Value(_) => 0,
            };
            Argument { place: words.as_ptr().cast(), size: *size, buffer }
        })
        .collect();
    let mut message = vec![0u8; 2048];
    // SAFETY: the arrays are as long as `count` and `length` say. Kernels write where their arguments
    // point, and with them to whatever else they do wrong: guards show what is near.
    let well = unsafe {
        kernel_check_launch(
            name.as_ptr(),
            &launch.grid,
            launch.block,
            launch.shared,
            given.as_ptr(),
            given.len(),
            mode.order as i32,
            mode.delayed,
            message.as_mut_ptr(),
            message.len(),
        )
    };
    if !well {
        let end = message.iter().position(|&byte| byte == 0).unwrap_or(message.len());
        return Err(String::from_utf8_lossy(&message[..end]).into_owned());
    }
    for (index, (argument, before)) in arguments.iter().zip(inputs).enumerate() {
        let (Arg::In(buffer) | Arg::Out(buffer)) = argument else { continue };
        if !buffer.is_guarded() {
            return Err(format!(
                "argument {index}: written before its first or after its last value"
            ));
        }
        if before.is_some_and(|before| before != buffer.content()) {
            return Err(format!("argument {index}: an input that was written"));
        }
    }
    Ok(())
}

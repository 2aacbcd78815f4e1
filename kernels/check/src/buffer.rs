//! Memory of a device, with guards around it.

use std::{marker::PhantomData, ptr};

/// Bytes before and after the values, which no kernel may write. They are no numbers, so that what is
/// computed from them shows.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xff;

/// A tensor in the memory of a device. It begins on a multiple of 16 bytes and of no more, as a view
/// into a larger tensor may.
#[derive(Clone)]
pub struct Buffer<T> {
    words: Vec<u128>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Copy> Buffer<T> {
    /// A copy of the values.
    pub fn new(values: &[T]) -> Self {
        let mut buffer = Self::unwritten(values.len());
        // SAFETY: the target has room for as many values, and is another allocation.
        unsafe { ptr::copy_nonoverlapping(values.as_ptr(), buffer.as_mut_ptr(), values.len()) };
        buffer
    }

    /// So many values that are no numbers: an output or a workspace, of which every part that is not
    /// written shows.
    pub fn unwritten(len: usize) -> Self {
        let words = (2 * GUARD + len * size_of::<T>()).div_ceil(16) + 1;
        Self { words: vec![u128::MAX; words], len, element: PhantomData }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values.
    pub fn to_vec(&self) -> Vec<T> {
        // SAFETY: so many values lie there, and every pattern of bits is a value of `T`: the types of elements
        // and structs of integers are.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }.to_vec()
    }

    /// The bytes of the values.
    pub fn bytes(&self) -> &[u8] {
        let start = self.start();
        &self.all()[start..start + self.len * size_of::<T>()]
    }

    /// The first byte of the values among all.
    fn start(&self) -> usize {
        // The guard, and one word more where that would be a multiple of 32.
        GUARD + if self.words.as_ptr().addr().is_multiple_of(32) { 16 } else { 0 }
    }

    fn all(&self) -> &[u8] {
        // SAFETY: the words are so many bytes.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.words.len() * 16) }
    }

    pub(crate) fn as_ptr(&self) -> *const T {
        self.all()[self.start()..].as_ptr().cast()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        let start = self.start();
        // SAFETY: `start` lies within the words.
        unsafe { self.words.as_mut_ptr().cast::<u8>().add(start) }.cast()
    }
}

/// What a launch asks of a buffer, whatever its type.
pub trait Memory {
    fn pointer(&mut self) -> *mut u8;
    /// `true` if nothing before or after the values was written.
    fn is_guarded(&self) -> bool;
    /// The values, to compare them.
    fn content(&self) -> &[u8];
}

impl<T: Copy> Memory for Buffer<T> {
    fn pointer(&mut self) -> *mut u8 {
        self.as_mut_ptr().cast()
    }

    fn is_guarded(&self) -> bool {
        let (start, all) = (self.start(), self.all());
        let end = start + self.len * size_of::<T>();
        all[..start].iter().chain(&all[end..]).all(|&byte| byte == GUARD_BYTE)
    }

    fn content(&self) -> &[u8] {
        self.bytes()
    }
}

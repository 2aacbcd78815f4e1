//! Host memory for activations and weights: large blocks from a heap of their own.
//!
//! A job allocates and frees blocks of many megabytes a thousand times. glibc either maps each block anew, so that
//! the kernel zeroes its pages (a tenth of a VAE's run time), or places it among the small blocks of all threads,
//! which stay in tcaches and fragment the heap: the same job then takes up to a seventh more memory in one run than
//! in another. Here large blocks have a heap of their own. Allocation is first fit by address, and free pages stay
//! mapped until [`give_back_pages`], which the library calls between stages after [`install`].
//!
//! A process whose memory is limited (`ulimit -v`, `-d`) has no addresses to set aside: there every large block is
//! mapped for itself and unmapped when it is freed. Where nothing is left, the program ends with one line instead of
//! an abort.

mod exhausted;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr::{NonNull, null_mut},
    sync::{Mutex, MutexGuard, PoisonError},
};

use exhausted::{is_limited, or_exhausted};

/// A program's global allocator: large blocks from one heap, all others from the system's allocator.
#[derive(Clone, Copy, Debug)]
pub struct Allocator;

/// Blocks of at least this many bytes are large.
const LARGE: usize = 128 << 10;

/// Blocks begin at multiples of this, a cache line.
const GRAIN: usize = 64;

/// Padding of each block. Most blocks are whole numbers of pages; without it, neighbours would begin at equal
/// page offsets and suffer 4K aliasing of loads and stores.
const STAGGER: usize = 64;

/// Size of the reserved address range; halved while the system refuses it, down to the minimum.
const ADDRESSES: usize = 1 << 40;
const LEAST_ADDRESSES: usize = 1 << 30;

/// Granularity, in bytes, in which the heap grows.
const STEP: usize = 64 << 20;

/// Limit of free ranges. A block lies between any two of them, so this also limits the blocks.
const RANGES: usize = 1 << 13;

/// Size of a page in bytes.
fn page() -> usize {
    // SAFETY: it may be called at any time.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

static HEAP: Mutex<Heap> = Mutex::new(Heap::NEW);

fn heap() -> MutexGuard<'static, Heap> {
    HEAP.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers [`give_back_pages`] with the library, which calls it wherever it returns freed memory. Must be called
/// before any thread is started, so that none sets addresses aside where they are limited.
pub fn install() {
    if is_limited() {
        spare_addresses();
    }
    cupscale::backend::set_release_hook(give_back_pages);
}

/// Returns the pages of free ranges of the heap to the system.
fn give_back_pages() {
    heap().give_back();
}

/// Size of a block in the heap, with its padding.
fn taken(size: usize) -> usize {
    size.next_multiple_of(GRAIN) + STAGGER
}

/// Has the system's allocator map every large block for itself, and all threads share one heap: each heap of a
/// thread would set 64 MiB of addresses aside.
fn spare_addresses() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE as libc::c_int);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= GRAIN
}

// SAFETY: blocks of the heap do not overlap and are aligned to a cache line; the address of a block decides which
// allocator frees it.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout)
            && let Some((block, _)) = heap().take(taken(layout.size()))
        {
            return block.as_ptr();
        }
        // SAFETY: the caller's promise.
        or_exhausted(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let block = if is_large(layout) { heap().take(taken(layout.size())) } else { None };
        let Some((block, used)) = block else {
            // SAFETY: the caller's promise.
            return or_exhausted(unsafe { System.alloc_zeroed(layout) }, layout.size());
        };
        // SAFETY: the block has at least this many bytes and no other owner. Memory past `used` is still zero.
        unsafe { block.write_bytes(0, used.min(layout.size())) };
        block.as_ptr()
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_large(layout) {
            let mut heap = heap();
            if heap.contains(block) {
                return heap.give(block, taken(layout.size()));
            }
        }
        // SAFETY: the caller's promise; the block was allocated by `System`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size is valid for the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if is_large(layout) || is_large(wanted) {
            if is_large(layout) && is_large(wanted) {
                let mut heap = heap();
                if heap.contains(block) && heap.resize(block, taken(layout.size()), taken(size)) {
                    return block;
                }
            }
            // SAFETY: the caller's promise; both blocks have as many bytes as are copied.
            unsafe {
                let moved = self.alloc(wanted);
                moved.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
                moved
            }
        } else {
            // SAFETY: the caller's promise; the block was allocated by `System`.
            or_exhausted(unsafe { System.realloc(block, layout, size) }, size)
        }
    }
}

/// Offsets from the heap's first address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: usize,
    end: usize,
}

struct Heap {
    /// First address of the reservation; null before the first block, or if it was refused.
    base: *mut u8,
    addresses: usize,
    refused: bool,
    /// Free ranges in the order of their addresses, no two of them neighbours.
    free: [Range; RANGES],
    count: usize,
    blocks: usize,
    /// End of the committed pages.
    ready: usize,
    /// Highest end of any block so far; memory beyond it is still zero.
    used: usize,
}

// SAFETY: the addresses belong to the process, not to a thread.
unsafe impl Send for Heap {}

impl Heap {
    const NEW: Self = Self {
        base: null_mut(),
        addresses: 0,
        refused: false,
        free: [Range { start: 0, end: 0 }; RANGES],
        count: 0,
        blocks: 0,
        ready: 0,
        used: 0,
    };

    /// Reserves the address range, which takes no memory; `false` where addresses are limited.
    fn reserve(&mut self) -> bool {
        if self.base.is_null() && !self.refused && is_limited() {
            self.refused = true;
        }
        let mut addresses = ADDRESSES;
        while self.base.is_null() && !self.refused {
            // SAFETY: it may be called at any time, and changes nothing that exists.
            let base = unsafe {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
                libc::mmap(null_mut(), addresses, libc::PROT_NONE, flags, -1, 0)
            };
            if base == libc::MAP_FAILED {
                addresses /= 2;
                self.refused = addresses < LEAST_ADDRESSES;
            } else {
                (self.base, self.addresses) = (base.cast(), addresses);
                (self.free[0], self.count) = (Range { start: 0, end: addresses }, 1);
            }
        }
        !self.base.is_null()
    }

    /// Allocates a block; also returns the length of its prefix that may hold old data.
    fn take(&mut self, bytes: usize) -> Option<(NonNull<u8>, usize)> {
        if !self.reserve() || self.blocks + 2 > RANGES {
            return None;
        }
        let free = &mut self.free[..self.count];
        let index = free.iter().position(|range| range.end - range.start >= bytes)?;
        let start = free[index].start;
        let end = start + bytes;
        if !self.make_ready(end) {
            return None;
        }
        self.cut(index, end);
        self.blocks += 1;
        let used = self.used.saturating_sub(start).min(bytes);
        self.used = self.used.max(end);
        NonNull::new(self.base.wrapping_add(start)).map(|block| (block, used))
    }

    /// Commits pages up to at least this offset.
    fn make_ready(&mut self, end: usize) -> bool {
        if end <= self.ready {
            return true;
        }
        // Where a whole step is more than there is, the block alone may be there.
        [STEP, page()].into_iter().any(|step| {
            let bytes = (end - self.ready).next_multiple_of(step).min(self.addresses - self.ready);
            let from = self.base.wrapping_add(self.ready).cast();
            // SAFETY: addresses that were set aside, which nobody uses yet. Large pages are 512 times
            // as few to hand out; an older system refuses them, which changes nothing.
            unsafe {
                if libc::mprotect(from, bytes, libc::PROT_READ | libc::PROT_WRITE) != 0 {
                    return false;
                }
                libc::madvise(from, bytes, libc::MADV_HUGEPAGE);
            }
            self.ready += bytes;
            true
        })
    }

    /// Moves the start of a free range to `start`, or removes it.
    fn cut(&mut self, index: usize, start: usize) {
        self.free[index].start = start;
        if start == self.free[index].end {
            self.free.copy_within(index + 1..self.count, index);
            self.count -= 1;
        }
    }

    fn contains(&self, block: *const u8) -> bool {
        !self.base.is_null() && (block.addr().wrapping_sub(self.base.addr())) < self.addresses
    }

    fn give(&mut self, block: *const u8, bytes: usize) {
        let start = block.addr() - self.base.addr();
        self.release(Range { start, end: start + bytes });
        self.blocks -= 1;
    }

    /// Frees a range and merges it with its neighbours.
    fn release(&mut self, Range { start, end }: Range) {
        let index = self.free[..self.count].partition_point(|range| range.start < start);
        let follows = index > 0 && self.free[index - 1].end == start;
        let precedes = index < self.count && self.free[index].start == end;
        match (follows, precedes) {
            (true, true) => {
                self.free[index - 1].end = self.free[index].end;
                self.free.copy_within(index + 1..self.count, index);
                self.count -= 1;
            }
            (true, false) => self.free[index - 1].end = end,
            (false, true) => self.free[index].start = start,
            (false, false) => {
                self.free.copy_within(index..self.count, index + 1);
                self.free[index] = Range { start, end };
                self.count += 1;
            }
        }
    }

    /// Resizes a block in place; `false` if there is no room.
    fn resize(&mut self, block: *const u8, bytes: usize, wanted: usize) -> bool {
        let start = block.addr() - self.base.addr();
        let (end, wanted) = (start + bytes, start + wanted);
        if wanted < end {
            self.release(Range { start: wanted, end });
        } else if wanted > end {
            let free = &self.free[..self.count];
            let follows = |range: &Range| range.start == end && range.end >= wanted;
            let Some(index) = free.iter().position(follows) else { return false };
            if !self.make_ready(wanted) {
                return false;
            }
            self.cut(index, wanted);
            self.used = self.used.max(wanted);
        }
        true
    }

    fn give_back(&self) {
        if self.base.is_null() {
            return;
        }
        let page = page();
        for range in &self.free[..self.count] {
            let (start, end) = (range.start.next_multiple_of(page), range.end.min(self.used));
            let length = (end / page * page).saturating_sub(start);
            if length > 0 {
                // SAFETY: whole pages of a free range, whose contents nobody needs. They stay usable.
                unsafe {
                    libc::madvise(
                        self.base.wrapping_add(start).cast(),
                        length,
                        libc::MADV_DONTNEED,
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum HeapOperation {
        Take { bytes: usize, zeroed: bool },
        Give { which: usize },
        Resize { which: usize, bytes: usize },
        GiveBack,
    }

    fn step() -> impl Strategy<Value = HeapOperation> {
        // On both sides of what is large.
        let bytes = LARGE / 2..8 * LARGE;
        prop_oneof![
            4 => (bytes.clone(), any::<bool>()).prop_map(|(bytes, zeroed)| HeapOperation::Take { bytes, zeroed }),
            2 => any::<usize>().prop_map(|which| HeapOperation::Give { which }),
            2 => (any::<usize>(), bytes).prop_map(|(which, bytes)| HeapOperation::Resize { which, bytes }),
            1 => Just(HeapOperation::GiveBack),
        ]
    }

    struct Owned {
        block: *mut u8,
        layout: Layout,
        mark: u8,
    }

    impl Owned {
        /// Marks both ends and the middle.
        fn places(&self) -> [usize; 3] {
            [0, self.layout.size() / 2, self.layout.size() - 1]
        }

        fn write(&self) {
            for place in self.places() {
                // SAFETY: places in the block.
                unsafe { self.block.add(place).write(self.mark) };
            }
        }

        fn holds_its_mark(&self, places: impl IntoIterator<Item = usize>) -> bool {
            // SAFETY: places in the block, which have been written to.
            places.into_iter().all(|place| unsafe { self.block.add(place).read() } == self.mark)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn blocks_keep_what_is_written_to_them_and_never_overlap(
            steps in prop::collection::vec(step(), 1..80),
        ) {
            let mut owned: Vec<Owned> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let mark = number as u8 | 1;
                match step {
                    HeapOperation::Take { bytes, zeroed } => {
                        let layout = Layout::from_size_align(bytes, 16).unwrap();
                        // SAFETY: the size is not zero.
                        let block = unsafe {
                            if zeroed { Allocator.alloc_zeroed(layout) } else { Allocator.alloc(layout) }
                        };
                        prop_assert!(!block.is_null() && block.addr().is_multiple_of(16));
                        let taken = Owned { block, layout, mark: 0 };
                        if zeroed {
                            prop_assert!(taken.holds_its_mark((0..bytes).step_by(61)));
                        }
                        let taken = Owned { mark, ..taken };
                        taken.write();
                        owned.push(taken);
                    }
                    HeapOperation::Give { which } if !owned.is_empty() => {
                        let Owned { block, layout, .. } = owned.swap_remove(which % owned.len());
                        // SAFETY: a block of this layout.
                        unsafe { Allocator.dealloc(block, layout) };
                    }
                    HeapOperation::Resize { which, bytes } if !owned.is_empty() => {
                        let index = which % owned.len();
                        let it = &mut owned[index];
                        // SAFETY: a block of this layout, and a size that is not zero.
                        it.block = unsafe { Allocator.realloc(it.block, it.layout, bytes) };
                        let before = it.layout.size();
                        it.layout = Layout::from_size_align(bytes, 16).unwrap();
                        prop_assert!(it.holds_its_mark([0, before / 2].into_iter().filter(|&at| at < bytes)));
                        it.write();
                    }
                    HeapOperation::GiveBack => give_back_pages(),
                    _ => {}
                }
                prop_assert!(owned.iter().all(|it| it.holds_its_mark(it.places())));
                let heap = heap();
                let free = &heap.free[..heap.count];
                prop_assert!(free.iter().all(|range| range.start < range.end));
                prop_assert!(free.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
            for Owned { block, layout, .. } in owned {
                // SAFETY: a block of this layout.
                unsafe { Allocator.dealloc(block, layout) };
            }
        }
    }

    #[test]
    fn what_is_freed_is_used_again_and_its_pages_go_when_they_are_given_back() {
        let mut heap = Box::new(Heap::NEW);
        let (first, used) = heap.take(taken(1 << 20)).unwrap();
        assert_eq!(used, 0);
        let (second, _) = heap.take(taken(1 << 20)).unwrap();
        // SAFETY: both are blocks of so many bytes.
        unsafe { first.write_bytes(7, 1 << 20) };
        heap.give(first.as_ptr(), taken(1 << 20));
        let (again, used) = heap.take(taken(1 << 19)).unwrap();
        assert_eq!((again, used), (first, taken(1 << 19)));
        heap.give(again.as_ptr(), taken(1 << 19));
        heap.give_back();
        // SAFETY: the pages are still there, without what they held.
        assert_eq!(unsafe { first.add(1 << 19).read() }, 0);
        heap.give(second.as_ptr(), taken(1 << 20));
        assert_eq!((heap.count, heap.blocks), (1, 0));
        assert_eq!(heap.free[0], Range { start: 0, end: heap.addresses });
    }
}

// Runs a kernel's threads on the CPU: blocks one after the other, a fiber for each thread of a block,
// barriers and collectives of a warp as meetings of fibers. What a GPU would do wrong without a word is
// a failure with a message here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "fibers.h"

namespace shim {

constexpr unsigned LANES = 32;

struct Index {
    unsigned x, y, z;
};

// Bytes of a buffer in global memory.
struct Buffer {
    const unsigned char* first;
    std::size_t size;
};

struct Geometry {
    Index grid;
    unsigned threads; // of a block: whole warps
    unsigned shared;  // bytes of dynamic shared memory
    std::vector<Buffer> buffers; // that the launch was given
};

// The order in which threads run from one meeting to the next. One that is right gives the same bytes in
// each. Forward and reverse run a warp as far as it gets before the next one begins.
enum class Order { forward, reverse, shuffled };

struct Mode {
    Order order;
    bool delayed; // asynchronous copies arrive when they are waited for, and not at once
};

// Runs `body` once for each thread of the grid. Returns what went wrong first, or nothing.
std::string run(const Geometry& geometry, Mode mode, const std::function<void()>& body);

// ---------------------------------------------------------------------------------------------------
// For a kernel's thread that runs.

struct Block;
struct Warp;

struct Thread {
    Index thread, block, block_size, grid_size;
    Block* owner;
    Warp* warp;
    unsigned lane;
};

// The thread that runs in this thread of the system.
extern __thread Thread* self;

// Ends the launch with a message.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// The launch's `Mode::delayed`.
bool is_delayed();

// What all threads of a block, or all lanes of a warp, come together for.
enum class Meeting { barrier, sync_warp, shuffle, vote, load_matrices, multiply };

// Waits for all threads of the block.
void barrier();

// What a lane hands to the others.
struct alignas(16) Slot {
    unsigned char bytes[48];
};

// Hands over `size` bytes and waits for all lanes of the warp, which must come for the same purpose. Returns
// what each lane has handed over; it holds until this lane's second next meeting.
const Slot* meet(Meeting purpose, const void* data, std::size_t size);

// Dynamic shared memory of the block.
unsigned char* dynamic_shared();

// Shared memory of a fixed size: one place for each `key` in a block.
void* fixed_shared(const void* key, std::size_t size);

// How often rows of a matrix that `ldmatrix` reads at once fell into the same banks of shared memory, since this
// was asked last in this thread of the system.
std::uint64_t take_conflicts();

// Counts them for eight rows of 16 bytes.
void count_conflicts(const std::uintptr_t (&rows)[8]);

// Fails if these bytes do not lie in the block's shared memory, or not on a multiple of 16.
void check_shared(const void* pointer, std::size_t size, const char* user);

// `cp.async` of 16 bytes, which must lie in a buffer of the launch if they are valid; `cp.async.commit_group` and `cp.async.wait_group`.
void copy_16(void* shared, const void* global, bool valid);
void copies_commit();
void copies_wait(unsigned groups);

} // namespace shim

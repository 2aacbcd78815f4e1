#include "grid.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace shim {

__thread Thread* self = nullptr;

// No number of any type: all bits set is a NaN in bf16, f16 and f32.
constexpr unsigned char POISON = 0xff;
// Around dynamic shared memory, and after each array of a fixed size.
constexpr std::size_t GUARD = 256;
constexpr unsigned char GUARD_BYTE = 0xa5;
// What a block may have: of an H100, and of any GPU without asking for more.
constexpr std::size_t MOST_DYNAMIC = 227 * 1024, MOST_FIXED = 48 * 1024;

struct Copy {
    void* shared;
    const void* global;
    bool valid;
};

enum class State { ready, waits, done };

struct KernelThread : Thread {
    Fiber fiber;
    State state;
    Meeting waits_for;
    unsigned meetings;           // of its warp, that it has come to
    std::vector<Copy> copies;    // under way
    std::vector<size_t> groups;  // their ends
};

struct Warp {
    Slot slots[2][LANES];
    Meeting purpose;
    unsigned arrived;
    uint32_t ready; // lanes
};

struct Fixed {
    const void* key;
    std::size_t place, size;
};

struct Block {
    std::vector<std::unique_ptr<KernelThread>> threads;
    std::vector<Warp> warps;
    std::vector<unsigned char> memory; // guard, dynamic, guard, arrays of fixed sizes and their guards
    unsigned char* dynamic;
    std::size_t dynamic_bytes;
    unsigned char* fixed;
    std::vector<Fixed> arrays;
    std::size_t fixed_bytes;
    unsigned arrived, left;
    Mode mode;
    const std::vector<Buffer>* buffers;
    const std::function<void()>* body;
    std::string failure;
};

static KernelThread* current() { return static_cast<KernelThread*>(self); }

static void suspend() {
    KernelThread* thread = current();
    thread->fiber.suspend();
}

void fail(const char* format, ...) {
    char message[1024];
    va_list values;
    va_start(values, format);
    vsnprintf(message, sizeof message, format, values);
    va_end(values);
    char where[160];
    snprintf(where, sizeof where, "block (%u, %u, %u), thread %u: ", self->block.x, self->block.y, self->block.z,
             self->thread.x);
    self->owner->failure = std::string(where) + message;
    for (;;) suspend();
}

static void begin(void* argument) {
    KernelThread* thread = static_cast<KernelThread*>(argument);
    (*thread->owner->body)();
    thread->state = State::done;
    thread->owner->left--;
    for (;;) suspend();
}

static const char* name(Meeting purpose) {
    switch (purpose) {
    case Meeting::barrier: return "__syncthreads";
    case Meeting::sync_warp: return "__syncwarp";
    case Meeting::shuffle: return "a shuffle";
    case Meeting::vote: return "a vote";
    case Meeting::load_matrices: return "ldmatrix";
    case Meeting::multiply: return "mma";
    }
    return "";
}

static void wait(Meeting purpose) {
    KernelThread* thread = current();
    thread->state = State::waits;
    thread->waits_for = purpose;
    suspend();
}

static void wake(Block& block, unsigned warp) {
    for (unsigned lane = 0; lane < LANES; lane++) {
        KernelThread& thread = *block.threads[warp * LANES + lane];
        if (&thread == self) continue;
        thread.state = State::ready;
        block.warps[warp].ready |= 1u << lane;
    }
}

void barrier() {
    Block& block = *self->owner;
    if (++block.arrived < block.warps.size() * LANES) {
        wait(Meeting::barrier);
        return;
    }
    block.arrived = 0;
    for (unsigned warp = 0; warp < block.warps.size(); warp++) wake(block, warp);
}

const Slot* meet(Meeting purpose, const void* data, std::size_t size) {
    KernelThread* thread = current();
    Warp& warp = *thread->warp;
    // Two sets in turn: nobody comes to the meeting after the next before all have left this one.
    Slot* slots = warp.slots[thread->meetings++ % 2];
    if (size > 0) std::memcpy(slots[thread->lane].bytes, data, size);
    if (warp.arrived == 0) warp.purpose = purpose;
    if (warp.purpose != purpose)
        fail("comes to %s, and another lane of its warp to %s", name(purpose), name(warp.purpose));
    if (++warp.arrived < LANES) {
        wait(purpose);
    } else {
        warp.arrived = 0;
        wake(*thread->owner, thread->thread.x / LANES);
    }
    return slots;
}

bool is_delayed() { return self->owner->mode.delayed; }

unsigned char* dynamic_shared() { return self->owner->dynamic; }

void* fixed_shared(const void* key, std::size_t size) {
    Block& block = *self->owner;
    for (const Fixed& array : block.arrays)
        if (array.key == key) return block.fixed + array.place;
    const std::size_t place = block.arrays.empty() ? 0 : block.arrays.back().place + block.arrays.back().size + GUARD;
    block.fixed_bytes += size;
    if (block.fixed_bytes > MOST_FIXED) fail("more than %zu bytes of shared memory of fixed sizes", MOST_FIXED);
    if (place + size + GUARD > MOST_FIXED * 2) fail("too many shared arrays");
    // Guards begin on a multiple of 16, so that the next array does.
    block.arrays.push_back({key, place, (size + 15) / 16 * 16});
    std::memset(block.fixed + place + size, GUARD_BYTE, block.arrays.back().size - size + GUARD);
    return block.fixed + place;
}

void check_shared(const void* pointer, std::size_t size, const char* user) {
    const Block& block = *self->owner;
    const unsigned char* first = static_cast<const unsigned char*>(pointer);
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) fail("%s of an address that is not aligned to 16 bytes", user);
    if (first >= block.dynamic && first + size <= block.dynamic + block.dynamic_bytes) return;
    for (const Fixed& array : block.arrays)
        if (first >= block.fixed + array.place && first + size <= block.fixed + array.place + array.size) return;
    fail("%s outside of shared memory, at byte %td of the dynamic one", user, first - block.dynamic);
}

static __thread uint64_t conflicts = 0;

uint64_t take_conflicts() { return std::exchange(conflicts, 0); }

void count_conflicts(const uintptr_t (&rows)[8]) {
    // A line of all 32 banks is 128 bytes. Lanes that read the same row share it.
    for (unsigned i = 0; i < 8; i++)
        for (unsigned j = 0; j < i; j++) conflicts += rows[i] != rows[j] && rows[i] % 128 == rows[j] % 128;
}

static void arrive(const Copy& copy) {
    if (copy.valid) {
        std::memcpy(copy.shared, copy.global, 16);
    } else {
        std::memset(copy.shared, 0, 16);
    }
}

void copy_16(void* shared, const void* global, bool valid) {
    check_shared(shared, 16, "cp.async");
    if (reinterpret_cast<uintptr_t>(global) % 16 != 0) fail("cp.async from an address that is not aligned to 16 bytes");
    KernelThread* thread = current();
    const Block& block = *thread->owner;
    const unsigned char* from = static_cast<const unsigned char*>(global);
    const auto holds = [&](const Buffer& b) { return from >= b.first && from + 16 <= b.first + b.size; };
    if (valid && std::none_of(block.buffers->begin(), block.buffers->end(), holds))
        fail("cp.async from outside of every buffer");
    if (!block.mode.delayed) return arrive({shared, global, valid});
    // What was there may be gone from now on.
    std::memset(shared, POISON, 16);
    thread->copies.push_back({shared, global, valid});
}

void copies_commit() {
    KernelThread* thread = current();
    thread->groups.push_back(thread->copies.size());
}

void copies_wait(unsigned groups) {
    KernelThread* thread = current();
    if (thread->groups.size() <= groups) return;
    const auto last = thread->groups.end() - groups - 1;
    const std::size_t count = *last;
    for (std::size_t i = 0; i < count; i++) arrive(thread->copies[i]);
    thread->copies.erase(thread->copies.begin(), thread->copies.begin() + count);
    thread->groups.erase(thread->groups.begin(), last + 1);
    for (std::size_t& end : thread->groups) end -= count;
}

// Nothing in a block can run: says who waits for whom.
static std::string stuck(const Block& block) {
    const KernelThread *waits = nullptr, *other = nullptr;
    for (const auto& thread : block.threads)
        if (thread->state == State::waits && !waits) waits = thread.get();
    for (const auto& thread : block.threads) {
        const bool in_reach = waits->waits_for == Meeting::barrier || thread->warp == waits->warp;
        const bool elsewhere = thread->state == State::done || thread->waits_for != waits->waits_for;
        if (in_reach && elsewhere && !other) other = thread.get();
    }
    std::string message = "thread " + std::to_string(waits->thread.x) + " waits at " + name(waits->waits_for);
    if (!other) return message;
    message += ", thread " + std::to_string(other->thread.x);
    return message + (other->state == State::done ? " has ended" : std::string(" at ") + name(other->waits_for));
}

static bool is_whole(const unsigned char* bytes, std::size_t count) {
    return std::all_of(bytes, bytes + count, [](unsigned char byte) { return byte == GUARD_BYTE; });
}

// Runs lanes of a warp that are ready, each until it waits.
static bool run_lanes(Block& block, unsigned index, std::mt19937& random) {
    Warp& warp = block.warps[index];
    unsigned order[LANES];
    for (unsigned i = 0; i < LANES; i++) order[i] = block.mode.order == Order::reverse ? LANES - 1 - i : i;
    bool ran = false;
    while (warp.ready != 0) {
        if (block.mode.order == Order::shuffled) std::shuffle(order, order + LANES, random);
        for (unsigned lane : order) {
            if (!(warp.ready >> lane & 1)) continue;
            warp.ready &= ~(1u << lane);
            ran = true;
            KernelThread& thread = *block.threads[index * LANES + lane];
            self = &thread;
            thread.fiber.resume();
            if (!block.failure.empty()) return true;
        }
        // Shuffled warps take turns; in the other orders a warp goes as far as it gets.
        if (block.mode.order == Order::shuffled) break;
    }
    return ran;
}

static void run_block(Block& block, Index index, std::mt19937& random) {
    const std::size_t count = block.threads.size();
    block.arrived = 0;
    block.left = count;
    block.arrays.clear();
    block.fixed_bytes = 0;
    std::fill(block.memory.begin(), block.memory.end(), POISON);
    std::memset(block.dynamic - GUARD, GUARD_BYTE, GUARD);
    std::memset(block.dynamic + block.dynamic_bytes, GUARD_BYTE, GUARD);
    for (Warp& warp : block.warps) {
        warp.arrived = 0;
        warp.ready = 0xffffffffu;
    }
    for (auto& thread : block.threads) {
        thread->block = index;
        thread->state = State::ready;
        thread->meetings = 0;
        thread->copies.clear();
        thread->groups.clear();
        thread->fiber.start(begin, thread.get());
    }
    std::vector<unsigned> warps(block.warps.size());
    for (unsigned i = 0; i < warps.size(); i++) warps[i] = i;
    if (block.mode.order == Order::reverse) std::reverse(warps.begin(), warps.end());
    while (block.left > 0) {
        if (block.mode.order == Order::shuffled) std::shuffle(warps.begin(), warps.end(), random);
        bool ran = false;
        for (unsigned warp : warps) {
            ran |= run_lanes(block, warp, random);
            if (!block.failure.empty()) return;
        }
        if (!ran) {
            block.failure = stuck(block);
            return;
        }
    }
    const bool whole = is_whole(block.dynamic - GUARD, GUARD) && is_whole(block.dynamic + block.dynamic_bytes, GUARD);
    if (!whole) block.failure = "a thread wrote outside of dynamic shared memory";
    for (const Fixed& array : block.arrays)
        if (!is_whole(block.fixed + array.place + array.size, GUARD))
            block.failure = "a thread wrote outside of a shared array";
}

std::string run(const Geometry& geometry, Mode mode, const std::function<void()>& body) {
    const Index grid = geometry.grid;
    if (geometry.threads == 0 || geometry.threads % LANES != 0 || geometry.threads > 1024)
        return "a block of " + std::to_string(geometry.threads) + " threads, which is not 1 to 32 whole warps";
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
        return "a grid that no GPU takes";
    if (geometry.shared > MOST_DYNAMIC) return "more dynamic shared memory than an H100 has";

    // Stacks are kept for the next launch from this thread of the system.
    static thread_local std::vector<std::unique_ptr<KernelThread>> kept;
    Block block;
    while (kept.size() < geometry.threads) kept.push_back(std::make_unique<KernelThread>());
    block.threads.assign(std::make_move_iterator(kept.begin()), std::make_move_iterator(kept.begin() + geometry.threads));
    block.warps.resize(geometry.threads / LANES);
    block.mode = mode;
    block.buffers = &geometry.buffers;
    block.body = &body;
    const std::size_t dynamic_bytes = (geometry.shared + 15) / 16 * 16;
    block.memory.resize(128 + GUARD + dynamic_bytes + GUARD + MOST_FIXED * 2);
    const uintptr_t start = reinterpret_cast<uintptr_t>(block.memory.data()) + GUARD;
    block.dynamic = block.memory.data() + GUARD + (128 - start % 128) % 128;
    block.dynamic_bytes = geometry.shared;
    block.fixed = block.dynamic + dynamic_bytes + GUARD;
    for (unsigned i = 0; i < geometry.threads; i++) {
        KernelThread& thread = *block.threads[i];
        thread.thread = {i, 0, 0};
        thread.block_size = {geometry.threads, 1, 1};
        thread.grid_size = grid;
        thread.owner = &block;
        thread.warp = &block.warps[i / LANES];
        thread.lane = i % LANES;
    }

    const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    std::mt19937 random(20);
    std::vector<uint64_t> order(blocks);
    for (uint64_t i = 0; i < blocks; i++) order[i] = mode.order == Order::reverse ? blocks - 1 - i : i;
    if (mode.order == Order::shuffled) std::shuffle(order.begin(), order.end(), random);
    for (uint64_t i : order) {
        run_block(block, {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)}, random);
        if (!block.failure.empty()) break;
    }
    self = nullptr;
    std::move(block.threads.begin(), block.threads.end(), kept.begin());
    return block.failure;
}

} // namespace shim

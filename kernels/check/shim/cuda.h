// The parts of CUDA C++ that the kernels use, in software. Every name is CUDA's own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "grid.h"

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

#define SHARED_MEMORY(name) unsigned char* const name = ::shim::dynamic_shared()
#define SHARED_ARRAY(type, name, count)                                                                                \
    static const char name##_key = 0;                                                                                  \
    type* const name = static_cast<type*>(::shim::fixed_shared(&name##_key, sizeof(type) * (count)))

#define threadIdx (::shim::self->thread)
#define blockIdx (::shim::self->block)
#define blockDim (::shim::self->block_size)
#define gridDim (::shim::self->grid_size)

using std::max;
using std::min;

// ---------------------------------------------------------------------------------------------------
// Vectors

template <class T, int BYTES> struct alignas(BYTES) shim_vector2 {
    T x, y;
};
template <class T, int BYTES> struct alignas(BYTES) shim_vector4 {
    T x, y, z, w;
};
using float2 = shim_vector2<float, 8>;
using int2 = shim_vector2<int, 8>;
using uint2 = shim_vector2<unsigned, 8>;
using float4 = shim_vector4<float, 16>;
using int4 = shim_vector4<int, 16>;
using uint4 = shim_vector4<unsigned, 16>;

inline float2 make_float2(float x, float y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---------------------------------------------------------------------------------------------------
// Numbers

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
inline int __float_as_int(float value) { return static_cast<int>(__float_as_uint(value)); }

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __saturatef(float x) { return std::fmin(std::fmax(x, 0.0f), 1.0f); }
// Products and sums that the compiler must not contract into one instruction.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t(a) * b >> 32); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
    return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
}

struct __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
struct __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;
using half = __half;
using half2 = __half2;

inline float __bfloat162float(__nv_bfloat16 value) { return __uint_as_float(uint32_t(value.bits) << 16); }

inline __nv_bfloat16 __float2bfloat16(float value) {
    const uint32_t bits = __float_as_uint(value);
    if (value != value) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float __half2float(__half value) {
    const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, rest = value.bits & 0x7fff;
    if (rest >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | rest << 13);
    if (rest >= 0x0400) return __uint_as_float(sign | ((rest << 13) + (112u << 23)));
    const float small = static_cast<float>(rest) * 0x1p-24f;
    return __uint_as_float(sign | __float_as_uint(small));
}

inline __half __float2half(float value) {
    const uint32_t bits = __float_as_uint(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return {0x7fff};
    if (rest >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};
    if (rest < 0x38800000) {
        // Below 2^-14 the unit is 2^-24: the sum with 0.5 has it as its last place, and rounds to it.
        const uint32_t unit = __float_as_uint(__uint_as_float(rest) + 0.5f) - 0x3f000000;
        return {static_cast<uint16_t>(sign | unit)};
    }
    return {static_cast<uint16_t>(sign | (rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13)};
}

inline __nv_bfloat16 __float2bfloat16_rn(float value) { return __float2bfloat16(value); }
inline __half __float2half_rn(float value) { return __float2half(value); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16(x), __float2bfloat16(y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half(x), __float2half(y)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 pair) { return {__bfloat162float(pair.x), __bfloat162float(pair.y)}; }
inline float2 __half22float2(__half2 pair) { return {__half2float(pair.x), __half2float(pair.y)}; }

template <class T> T __ldg(const T* place) { return *place; }

// ---------------------------------------------------------------------------------------------------
// Meetings of threads

inline void __syncthreads() { shim::barrier(); }

namespace shim {

inline void check_mask(unsigned mask) {
    if (mask != 0xffffffffu) fail("a collective of some lanes, 0x%08x: all 32 take part here", mask);
}

template <class T> T shuffle(unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= 8, "a shuffle moves up to 8 bytes");
    check_mask(mask);
    const Slot* slots = meet(Meeting::shuffle, &value, sizeof value);
    std::memcpy(&value, slots[source].bytes, sizeof value);
    return value;
}

inline unsigned votes(unsigned mask, bool vote) {
    check_mask(mask);
    const Slot* slots = meet(Meeting::vote, &vote, sizeof vote);
    unsigned all = 0;
    for (unsigned lane = 0; lane < LANES; lane++) all |= unsigned(slots[lane].bytes[0] != 0) << lane;
    return all;
}

// A row of a matrix, as a lane names it.
struct Row {
    unsigned char bytes[16];
    uintptr_t address;
};

template <int COUNT, bool TRANSPOSED> void load_matrices(uint32_t (&r)[COUNT], const void* row) {
    const unsigned lane = self->lane;
    Row mine = {};
    if (lane < 8 * COUNT) {
        check_shared(row, 16, "ldmatrix");
        std::memcpy(mine.bytes, row, 16);
        mine.address = reinterpret_cast<uintptr_t>(row);
    }
    const Slot* slots = meet(Meeting::load_matrices, &mine, sizeof mine);
    if (lane < COUNT) {
        uintptr_t rows[8];
        for (unsigned i = 0; i < 8; i++) rows[i] = reinterpret_cast<const Row&>(slots[lane * 8 + i]).address;
        count_conflicts(rows);
    }
    for (unsigned i = 0; i < COUNT; i++) {
        uint16_t pair[2];
        for (unsigned e = 0; e < 2; e++) {
            const unsigned along = lane / 4, across = lane % 4 * 2 + e;
            const unsigned matrix_row = TRANSPOSED ? across : along, column = TRANSPOSED ? along : across;
            std::memcpy(&pair[e], slots[i * 8 + matrix_row].bytes + 2 * column, 2);
        }
        std::memcpy(&r[i], pair, 4);
    }
}

inline float widen(__nv_bfloat16, uint16_t bits) { return __bfloat162float({bits}); }
inline float widen(__half, uint16_t bits) { return __half2float({bits}); }

// The fragments as numbers, so that each is converted once for all lanes that meet it.
struct Fragments {
    float a[4][2], b[2][2];
};
static_assert(sizeof(Fragments) == sizeof(Slot), "a slot holds the fragments of a lane");

using Four = float __attribute__((vector_size(16)));

template <class T> void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    Fragments mine;
    for (int i = 0; i < 4; i++)
        for (int e = 0; e < 2; e++) mine.a[i][e] = widen(T(), static_cast<uint16_t>(a[i] >> 16 * e));
    for (int i = 0; i < 2; i++)
        for (int e = 0; e < 2; e++) mine.b[i][e] = widen(T(), static_cast<uint16_t>(b[i] >> 16 * e));
    const Slot* slots = meet(Meeting::multiply, &mine, sizeof mine);
    const Slot* rows = slots + self->lane / 4 * 4;
    const Slot* columns = slots + self->lane % 4 * 8;
    // Two words of the upper row and two of the lower one, which lie side by side, by those of either column.
    Four first = {}, second = {};
    for (unsigned t = 0; t < 4; t++) {
        Fragments left, right, next;
        std::memcpy(&left, rows[t].bytes, sizeof left);
        std::memcpy(&right, columns[t].bytes, sizeof right);
        std::memcpy(&next, columns[4 + t].bytes, sizeof next);
        for (unsigned half = 0; half < 2; half++) {
            const float(&upper)[2] = left.a[half * 2], (&lower)[2] = left.a[half * 2 + 1];
            const float(&p)[2] = right.b[half], (&q)[2] = next.b[half];
            const Four words = {upper[0], upper[1], lower[0], lower[1]};
            first += words * Four{p[0], p[1], p[0], p[1]};
            second += words * Four{q[0], q[1], q[0], q[1]};
        }
    }
    d[0] += first[0] + first[1];
    d[1] += second[0] + second[1];
    d[2] += first[2] + first[3];
    d[3] += second[2] + second[3];
}

} // namespace shim

inline void __syncwarp(unsigned mask = 0xffffffffu) {
    shim::check_mask(mask);
    shim::meet(shim::Meeting::sync_warp, nullptr, 0);
}

template <class T> T __shfl_sync(unsigned mask, T value, int source) {
    return shim::shuffle(mask, value, static_cast<unsigned>(source) % shim::LANES);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    return shim::shuffle(mask, value, (shim::self->lane ^ static_cast<unsigned>(lanes)) % shim::LANES);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned distance) {
    const unsigned source = shim::self->lane + distance;
    return shim::shuffle(mask, value, source < shim::LANES ? source : shim::self->lane);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned distance) {
    const unsigned lane = shim::self->lane;
    return shim::shuffle(mask, value, distance <= lane ? lane - distance : lane);
}

inline unsigned __ballot_sync(unsigned mask, int vote) { return shim::votes(mask, vote != 0); }
inline int __any_sync(unsigned mask, int vote) { return shim::votes(mask, vote != 0) != 0; }
inline int __all_sync(unsigned mask, int vote) { return shim::votes(mask, vote != 0) == 0xffffffffu; }

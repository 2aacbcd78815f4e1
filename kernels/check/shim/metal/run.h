// Metal's types and functions for kernels that run.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "shim/grid.h"
#include "shim/metal/vector.h"

namespace metal {

template <class T, int N> using vec = shim::Vector<T, N>;
using float2 = vec<float, 2>;
using float4 = vec<float, 4>;
using uint3 = vec<uint, 3>;
using ulong2 = vec<ulong, 2>;

inline uint min(uint a, uint b) { return std::min(a, b); }
inline uint max(uint a, uint b) { return std::max(a, b); }
inline int min(int a, int b) { return std::min(a, b); }
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline float fabs(float x) { return std::fabs(x); }
inline float exp2(float x) { return std::exp2(x); }

namespace precise {
inline float exp(float x) { return std::exp(x); }
inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
} // namespace precise

template <class To, class From> To as_type(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

enum class mem_flags { mem_none, mem_device, mem_threadgroup };

inline void threadgroup_barrier(mem_flags) { shim::barrier(); }
inline void simdgroup_barrier(mem_flags) { shim::meet(shim::Meeting::sync_warp, nullptr, 0); }

inline float simd_shuffle_xor(float value, ushort mask) {
    const shim::Slot* slots = shim::meet(shim::Meeting::shuffle, &value, sizeof value);
    float other;
    std::memcpy(&other, slots[(shim::self->lane ^ mask) % shim::LANES].bytes, sizeof other);
    return other;
}

inline bool simd_any(bool value) {
    const shim::Slot* slots = shim::meet(shim::Meeting::vote, &value, sizeof value);
    return std::any_of(slots, slots + shim::LANES, [](const shim::Slot& slot) { return slot.bytes[0] != 0; });
}

// A matrix in the registers of a SIMD group: two neighbours of a row in each lane. Kernels cannot see which.
template <class T, int Columns, int Rows> struct simdgroup_matrix;
template <class T> struct simdgroup_matrix<T, 8, 8> {
    T own[2];
};

template <class T, int Columns, int Rows> simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T value) {
    return {{value, value}};
}

// Where in memory a lane's element of a matrix lies.
inline ulong place_of_element(uint element, ulong row_length, ulong2 origin, bool transposed) {
    ulong row = shim::self->lane / 4, column = shim::self->lane % 4 * 2 + element;
    if (transposed) std::swap(row, column);
    return (origin.y + row) * row_length + origin.x + column;
}

// A lane reads and writes its elements before it meets the others or after it, so that a barrier that is
// missing before or behind the access shows in one of the modes.
template <class Access> void together(Access access) {
    const bool late = shim::is_delayed();
    if (!late) access();
    shim::meet(shim::Meeting::load_matrices, nullptr, 0);
    if (late) access();
}

template <class T>
void simdgroup_load(simdgroup_matrix<T, 8, 8>& matrix, const T* source, ulong row_length = 8, ulong2 origin = {0, 0},
                    bool transposed = false) {
    together([&] {
        for (uint i = 0; i < 2; i++) matrix.own[i] = source[place_of_element(i, row_length, origin, transposed)];
    });
}

template <class T>
void simdgroup_store(simdgroup_matrix<T, 8, 8> matrix, T* target, ulong row_length = 8, ulong2 origin = {0, 0},
                     bool transposed = false) {
    together([&] {
        for (uint i = 0; i < 2; i++) target[place_of_element(i, row_length, origin, transposed)] = matrix.own[i];
    });
}

template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                                   simdgroup_matrix<B, 8, 8> b, simdgroup_matrix<C, 8, 8> c) {
    const float shared[4] = {float(a.own[0]), float(a.own[1]), float(b.own[0]), float(b.own[1])};
    const shim::Slot* slots = shim::meet(shim::Meeting::multiply, shared, sizeof shared);
    const auto element = [&](uint matrix, uint row, uint column) {
        float value;
        std::memcpy(&value, slots[row * 4 + column / 2].bytes + (matrix * 2 + column % 2) * sizeof value, sizeof value);
        return value;
    };
    const uint row = shim::self->lane / 4;
    for (uint i = 0; i < 2; i++) {
        float sum = float(c.own[i]);
        for (uint k = 0; k < 8; k++) sum += element(0, row, k) * element(1, k, shim::self->lane % 4 * 2 + i);
        d.own[i] = D(sum);
    }
}

template <class D, class A, class B>
void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a, simdgroup_matrix<B, 8, 8> b) {
    simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8, 8>(D(0.0f)));
}

} // namespace metal

#include "shim/metal/register.h"

#define METAL_ARRAY(name, count, ...) auto& name = shim::threadgroup_array<__VA_ARGS__, (count), __LINE__>()
// Their names have a prefix, because kernels for CUDA may have the same.
#define METAL_KERNEL(name, function, ...) \
    static const shim::MetalKernel<&function, __VA_ARGS__> kernel_##name("metal/" #name);

#define device
#define thread
#define constant const
#define threadgroup

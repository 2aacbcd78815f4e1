// Loads and stores of several neighbouring elements at once, as f32 values.
#pragma once

#include "device.cuh"

// Elements in 16 bytes, the widest load of a thread.
template <class T> constexpr int WIDE = 16 / static_cast<int>(sizeof(T));

// `V` elements from here on: one, or 16 bytes of them at an address that is a multiple of 16.
template <class T, int V> __device__ __forceinline__ void load(const T* from, float (&to)[V]) {
    static_assert(V == 1 || V == WIDE<T>, "one element or 16 bytes of them");
    if constexpr (V == 1) {
        to[0] = to_float(from[0]);
    } else if constexpr (sizeof(T) == 4) {
        const float4 values = *reinterpret_cast<const float4*>(from);
        to[0] = values.x, to[1] = values.y, to[2] = values.z, to[3] = values.w;
    } else {
        const uint4 pairs = *reinterpret_cast<const uint4*>(from);
        const uint32_t pair[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 values = unpack2<T>(pair[i]);
            to[2 * i] = values.x, to[2 * i + 1] = values.y;
        }
    }
}

// The reverse of `load`; rounds to nearest.
template <class T, int V> __device__ __forceinline__ void store(T* to, const float (&from)[V]) {
    static_assert(V == 1 || V == WIDE<T>, "one element or 16 bytes of them");
    if constexpr (V == 1) {
        to[0] = from_float<T>(from[0]);
    } else if constexpr (sizeof(T) == 4) {
        *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
    } else {
        *reinterpret_cast<uint4*>(to) = make_uint4(pack2<T>(from[0], from[1]), pack2<T>(from[2], from[3]),
                                                   pack2<T>(from[4], from[5]), pack2<T>(from[6], from[7]));
    }
}

// `V` f32 parameters from here on, for elements that are loaded `V` at a time: 4 or 8 of them aligned to 16.
template <int V> __device__ __forceinline__ void load_parameters(const float* from, float (&to)[V]) {
    if constexpr (V == 1) {
        to[0] = from[0];
    } else {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            const float4 values = *reinterpret_cast<const float4*>(from + i);
            to[i] = values.x, to[i + 1] = values.y, to[i + 2] = values.z, to[i + 3] = values.w;
        }
    }
}

// `true` if 16 bytes may be loaded from there.
__device__ __forceinline__ bool is_aligned(const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

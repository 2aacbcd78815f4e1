// Loads and stores of several neighbouring elements at once, as f32 values.
#pragma once

#include "device.cuh"

// Elements in 16 bytes, the widest load of a thread.
template <class T> constexpr int WIDE = 16 / static_cast<int>(sizeof(T));

// `V` elements as they lie in memory: one, or 16 bytes of them at an address that is a multiple of 16. They take
// half the registers of their values, or less.
template <class T, int V> struct Packed {
    static_assert(V == WIDE<T> && sizeof(T) == 2, "16 bytes");
    uint32_t pairs[4];

    __device__ __forceinline__ void load(const T* from) {
        const uint4 four = *reinterpret_cast<const uint4*>(from);
        pairs[0] = four.x, pairs[1] = four.y, pairs[2] = four.z, pairs[3] = four.w;
    }
    __device__ __forceinline__ float operator[](int i) const {
        const float2 pair = unpack2<T>(pairs[i / 2]);
        return i % 2 == 0 ? pair.x : pair.y;
    }
};

template <> struct Packed<float, 4> {
    float values[4];

    __device__ __forceinline__ void load(const float* from) {
        const float4 four = *reinterpret_cast<const float4*>(from);
        values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
    }
    __device__ __forceinline__ float operator[](int i) const { return values[i]; }
};

template <class T> struct Packed<T, 1> {
    T value;

    __device__ __forceinline__ void load(const T* from) { value = *from; }
    __device__ __forceinline__ float operator[](int) const { return to_float(value); }
};

// `V` elements from here on, as f32.
template <class T, int V> __device__ __forceinline__ void load(const T* from, float (&to)[V]) {
    Packed<T, V> packed;
    packed.load(from);
#pragma unroll
    for (int i = 0; i < V; i++) to[i] = packed[i];
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

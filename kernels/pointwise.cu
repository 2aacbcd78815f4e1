// Functions of every value by itself, sums of tensors, and the doubling of a picture. Arithmetic is f32, and
// each value is rounded once. Tensors that begin on multiples of 16 bytes are read 16 bytes at a time; the
// last values, and other tensors, one by one, with the same results.
#include "functions.cuh"
#include "vectors.cuh"

struct RowSizes {
    uint64_t rows;
    uint64_t width; // values of a row of the output
};

struct PictureSizes {
    uint64_t rows; // of all pictures
    uint32_t width, channels;
};

namespace {

// The place of a thread among all, and their number.
__device__ __forceinline__ uint64_t first_place() { return uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ uint64_t places() { return uint64_t(gridDim.x) * blockDim.x; }

// Quotient and remainder, in 32 bits where they do: most of the time, and several times as fast.
struct Division {
    uint64_t quotient, remainder;

    __device__ __forceinline__ Division(uint64_t value, uint64_t by) {
        if ((value | by) >> 32) {
            quotient = value / by;
            remainder = value % by;
        } else {
            const uint32_t small = static_cast<uint32_t>(value), divisor = static_cast<uint32_t>(by);
            quotient = small / divisor;
            remainder = small % divisor;
        }
    }
};

struct Silu {
    __device__ __forceinline__ float operator()(float x) const { return silu(x); }
};
struct Gelu {
    __device__ __forceinline__ float operator()(float x) const { return gelu(x); }
};
struct QuickGelu {
    __device__ __forceinline__ float operator()(float x) const { return swish(x, 1.702f); }
};
struct Add {
    __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};
struct SwiGlu {
    __device__ __forceinline__ float operator()(float gate, float value) const { return silu(gate) * value; }
};

template <class T, int V, class F>
__device__ __forceinline__ void map_at(const T* x, T* y, uint64_t at, F f) {
    float values[V];
    load<T, V>(x + at, values);
#pragma unroll
    for (int i = 0; i < V; i++) values[i] = f(values[i]);
    store<T, V>(y + at, values);
}

// y = f(x)
template <class T, class F>
__device__ __forceinline__ void map(const T* __restrict__ x, T* __restrict__ y, uint64_t length, F f) {
    constexpr int V = WIDE<T>;
    const uint64_t vectors = is_aligned(x) && is_aligned(y) ? length / V : 0;
    for (uint64_t i = first_place(); i < vectors; i += places()) map_at<T, V>(x, y, i * V, f);
    for (uint64_t i = vectors * V + first_place(); i < length; i += places()) map_at<T, 1>(x, y, i, f);
}

template <class T, int V, class F>
__device__ __forceinline__ void zip_at(const T* a, const T* b, T* y, uint64_t at, F f) {
    float left[V], right[V];
    load<T, V>(a + at, left);
    load<T, V>(b + at, right);
#pragma unroll
    for (int i = 0; i < V; i++) left[i] = f(left[i], right[i]);
    store<T, V>(y + at, left);
}

// y = f(a, b)
template <class T, class F>
__device__ __forceinline__ void zip(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y,
                                    uint64_t length, F f) {
    constexpr int V = WIDE<T>;
    const uint64_t vectors = is_aligned(a) && is_aligned(b) && is_aligned(y) ? length / V : 0;
    for (uint64_t i = first_place(); i < vectors; i += places()) zip_at<T, V>(a, b, y, i * V, f);
    for (uint64_t i = vectors * V + first_place(); i < length; i += places()) zip_at<T, 1>(a, b, y, i, f);
}

template <class T, int V>
__device__ __forceinline__ void geglu_in(const T* x, T* y, const RowSizes& s) {
    const uint64_t vectors = s.width / V, length = s.rows * vectors;
    for (uint64_t i = first_place(); i < length; i += places()) {
        const Division place(i, vectors);
        const T* const row = x + place.quotient * 2 * s.width + place.remainder * V;
        float value[V], gate[V];
        load<T, V>(row, value);
        load<T, V>(row + s.width, gate);
#pragma unroll
        for (int e = 0; e < V; e++) value[e] *= gelu(gate[e]);
        store<T, V>(y + i * V, value);
    }
}

// `[rows, 2·width]`, values and then gates → `[rows, width]`: value·gelu(gate)
template <class T>
__device__ __forceinline__ void geglu(const T* __restrict__ x, T* __restrict__ y, const RowSizes& s) {
    if (s.width % WIDE<T> == 0 && is_aligned(x) && is_aligned(y))
        geglu_in<T, WIDE<T>>(x, y, s);
    else
        geglu_in<T, 1>(x, y, s);
}

template <class T, int V>
__device__ __forceinline__ void add_bias_in(const T* x, const T* bias, const T* other, T* y, const RowSizes& s) {
    const uint64_t vectors = s.width / V, length = s.rows * vectors;
    for (uint64_t i = first_place(); i < length; i += places()) {
        float sum[V], term[V];
        load<T, V>(x + i * V, sum);
        load<T, V>(bias + Division(i, vectors).remainder * V, term);
#pragma unroll
        for (int e = 0; e < V; e++) sum[e] += term[e];
        if (other != nullptr) {
            load<T, V>(other + i * V, term);
#pragma unroll
            for (int e = 0; e < V; e++) sum[e] += term[e];
        }
        store<T, V>(y + i * V, sum);
    }
}

// y = x + bias + other, with a bias for each place of a row, and without `other` where that is null
template <class T>
__device__ __forceinline__ void add_bias(const T* __restrict__ x, const T* __restrict__ bias,
                                         const T* __restrict__ other, T* __restrict__ y, const RowSizes& s) {
    if (s.width % WIDE<T> == 0 && is_aligned(x) && is_aligned(bias) && is_aligned(other) && is_aligned(y))
        add_bias_in<T, WIDE<T>>(x, bias, other, y, s);
    else
        add_bias_in<T, 1>(x, bias, other, y, s);
}

// Pieces of a pixel, of any type: a row of one picture is `width` pixels of `pieces` of them.
template <class P>
__device__ __forceinline__ void double_row(const P* x, P* y, uint64_t row, uint32_t width, uint32_t pieces) {
    const uint32_t length = width * pieces, threads = gridDim.y * blockDim.x;
    const P* const from = x + row * length;
    P* const above = y + row * length * 4;
    P* const below = above + uint64_t(length) * 2;
    for (uint32_t i = blockIdx.y * blockDim.x + threadIdx.x; i < length; i += threads) {
        const P piece = from[i];
        // Its pixel goes twice into each of two rows.
        const uint32_t left = i + i / pieces * pieces, right = left + pieces;
        above[left] = piece, above[right] = piece;
        below[left] = piece, below[right] = piece;
    }
}

// `[rows, width, channels]` → `[2·rows, 2·width, channels]`
template <class T>
__device__ __forceinline__ void upsample_nearest_2x(const T* __restrict__ x, T* __restrict__ y,
                                                    const PictureSizes& s) {
    const bool wide = s.channels % WIDE<T> == 0 && is_aligned(x) && is_aligned(y);
    for (uint64_t row = blockIdx.x; row < s.rows; row += gridDim.x) {
        if (wide)
            double_row(reinterpret_cast<const uint4*>(x), reinterpret_cast<uint4*>(y), row, s.width,
                       s.channels / WIDE<T>);
        else
            double_row(x, y, row, s.width, s.channels);
    }
}

} // namespace

#define POINTWISE_KERNELS(SUFFIX, T)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        silu_##SUFFIX(const T* __restrict__ x, T* __restrict__ y, uint64_t length) {                                   \
        map(x, y, length, Silu());                                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        gelu_##SUFFIX(const T* __restrict__ x, T* __restrict__ y, uint64_t length) {                                   \
        map(x, y, length, Gelu());                                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        quick_gelu_##SUFFIX(const T* __restrict__ x, T* __restrict__ y, uint64_t length) {                             \
        map(x, y, length, QuickGelu());                                                                                \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        add_##SUFFIX(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y, uint64_t length) {           \
        zip(a, b, y, length, Add());                                                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) swiglu_##SUFFIX(                                                 \
        const T* __restrict__ gate, const T* __restrict__ value, T* __restrict__ y, uint64_t length) {                 \
        zip(gate, value, y, length, SwiGlu());                                                                         \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        geglu_##SUFFIX(const T* __restrict__ x, T* __restrict__ y, RowSizes s) {                                       \
        geglu(x, y, s);                                                                                                \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        add_bias_##SUFFIX(const T* __restrict__ x, const T* __restrict__ bias, const T* __restrict__ other,            \
                          T* __restrict__ y, RowSizes s) {                                                             \
        add_bias(x, bias, other, y, s);                                                                                \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        upsample_nearest_2x_##SUFFIX(const T* __restrict__ x, T* __restrict__ y, PictureSizes s) {                     \
        upsample_nearest_2x(x, y, s);                                                                                  \
    }

POINTWISE_KERNELS(bf16, __nv_bfloat16)
POINTWISE_KERNELS(f16, __half)
POINTWISE_KERNELS(f32, float)

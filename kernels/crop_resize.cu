// The attention prior of regions, blended into the output of a cross-attention: bilinear samples of the
// low-resolution pass's feature map, where the place of each region lies in it (docs/method.md, 4).
#include "vectors.cuh"

struct BlendSizes {
    uint32_t height, width, channels; // of an output
    uint32_t map_height, map_width;
    uint32_t regions; // outputs that share one map; the next map is that of as many more
    float weight;     // of the map, 0 to 1
    uint32_t in_place; // 1: maps have the output's size, and every pixel is blended with the one at its place
};

// Where an axis of a map is sampled: two neighbouring places, and the distance from the first, 0 to 1.
struct AxisSample {
    uint32_t low, high;
    float fraction;
};

namespace {

// Where an axis is sampled for a place of the output.
__device__ __forceinline__ AxisSample sample_of(const BlendSizes& s, const AxisSample* samples, uint32_t region,
                                                uint32_t length, uint32_t place) {
    if (s.in_place) return {place, place, 0.0f};
    return samples[uint64_t(region) * length + place];
}

template <class T, int V>
__device__ __forceinline__ void blend_in(const T* own, const T* maps, const AxisSample* rows,
                                         const AxisSample* columns, T* out, const BlendSizes& s) {
    const uint32_t vectors = s.channels / V, length = s.height * s.width * vectors;
    const uint32_t sample = blockIdx.y, region = sample % s.regions;
    const uint64_t before = uint64_t(sample) * length;
    const T* const map = maps + uint64_t(sample / s.regions) * s.map_height * s.map_width * s.channels;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < length; i += gridDim.x * blockDim.x) {
        const uint32_t pixel = i / vectors, channel = i % vectors * V;
        const AxisSample row = sample_of(s, rows, region, s.height, pixel / s.width);
        const AxisSample column = sample_of(s, columns, region, s.width, pixel % s.width);
        const auto corner = [&](uint32_t y, uint32_t x) {
            return map + (uint64_t(y) * s.map_width + x) * s.channels + channel;
        };
        float a[V], b[V], c[V], d[V], result[V];
        load<T, V>(corner(row.low, column.low), a);
        load<T, V>(corner(row.low, column.high), b);
        load<T, V>(corner(row.high, column.low), c);
        load<T, V>(corner(row.high, column.high), d);
        load<T, V>(own + (before + i) * V, result);
        const float x = column.fraction, y = row.fraction;
#pragma unroll
        for (int e = 0; e < V; e++) {
            const float above = a[e] * (1.0f - x) + b[e] * x, below = c[e] * (1.0f - x) + d[e] * x;
            const float prior = above * (1.0f - y) + below * y;
            result[e] = (1.0f - s.weight) * result[e] + s.weight * prior;
        }
        store<T, V>(out + (before + i) * V, result);
    }
}

// out = (1 − weight)·own + weight·prior: own and out `[samples, height·width, C]`, maps `[samples / regions,
// map height, map width, C]`, rows `[regions, height]` and columns `[regions, width]`, which are not read if `in_place`.
template <class T>
__device__ __forceinline__ void blend_prior(const T* __restrict__ own, const T* __restrict__ maps,
                                            const AxisSample* __restrict__ rows,
                                            const AxisSample* __restrict__ columns, T* __restrict__ out,
                                            const BlendSizes& s) {
    if (s.channels % WIDE<T> == 0 && is_aligned(own) && is_aligned(maps) && is_aligned(out))
        blend_in<T, WIDE<T>>(own, maps, rows, columns, out, s);
    else
        blend_in<T, 1>(own, maps, rows, columns, out, s);
}

} // namespace

#define CROP_RESIZE_KERNELS(SUFFIX, T)                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        blend_prior_##SUFFIX(const T* __restrict__ own, const T* __restrict__ maps,                                    \
                             const AxisSample* __restrict__ rows, const AxisSample* __restrict__ columns,              \
                             T* __restrict__ out, BlendSizes s) {                                                      \
        blend_prior(own, maps, rows, columns, out, s);                                                                 \
    }

CROP_RESIZE_KERNELS(bf16, __nv_bfloat16)
CROP_RESIZE_KERNELS(f16, __half)
CROP_RESIZE_KERNELS(f32, float)

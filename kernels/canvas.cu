// The canvas on the device, f32 and channels-last `[H, W, C]`: noise, regions cut out and fused, the sampler's
// step with the structure prior. Its arithmetic is that of src/canvas, src/priors/structure.rs and
// src/sampler/update.rs, operation by operation, so that its bits are the CPU's.
#include "noise.cuh"
#include "vectors.cuh"

// A piece of the canvas: whole rows of it.
struct BandSizes {
    uint32_t height, width, channels;
    uint32_t top; // row of the canvas that is the piece's first
};

struct DiffuseNumbers {
    BandSizes band;
    NoiseField noise;
    float signal, spread;
};

struct GatherSizes {
    uint32_t height, width, channels; // of the canvas
    uint32_t region_height, region_width;
    uint32_t pixel, first; // channels of a pixel of the output, and the first one that is written
};

// Predictions of some regions of a grid, one after the other in the grid's order.
struct PredictionSizes {
    uint32_t side, channels; // of a region
    uint32_t count;          // of regions
    uint32_t guided;         // 1: predictions for the negative prompt, and behind them those for the prompt
    float guidance;
};

struct FuseSizes {
    PredictionSizes predictions;
    uint32_t width;         // of the canvas
    uint32_t top;           // first row of the canvas that the regions reach
    uint32_t rows, columns; // of the grid
    uint32_t first;         // number of the first region
};

// A factor of z and one of the prediction.
struct Factors {
    float z, prediction;
};

// Limits of the clean latent; 1 is a range.
constexpr uint32_t NO_LIMIT = 0, SCALED_RANGE = 2;

struct StepNumbers {
    BandSizes band;
    // The model's output brought to the prediction: `output·from.prediction + z·from.z`, if `converts`.
    uint32_t converts;
    Factors from;
    // The structure prior, on z with the noise, or on the clean latent.
    uint32_t clean;
    float signal, spread, lambda;
    // The sampler's step.
    Factors step;
    float noise; // factor of fresh noise, 0 for none
    NoiseField field;
    uint32_t keeps; // 1: `kept` is written, with the factors below
    Factors kept;
    uint32_t limit; // of the clean latent, which is `clean_latent` combined
    float most;
    Factors clean_latent;
    float limited; // factor of the limited clean latent
    uint32_t earlier;
    float history[2]; // factors of what earlier steps kept
};

namespace {

// `i` on an axis that is mirrored at both ends without repeating the end itself.
__device__ __forceinline__ uint32_t reflect(uint32_t i, uint32_t length) {
    if (i < length) return i;
    if (length == 1) return 0;
    const uint32_t period = 2 * (length - 1), place = i % period;
    return place < length ? place : period - place;
}

// A place of a row of a canvas: threads along `y` and `threadIdx` cover it, rows are blocks along `x`.
__device__ __forceinline__ uint32_t place_in_row() { return blockIdx.y * blockDim.x + threadIdx.x; }

__device__ __forceinline__ uint64_t element_of(const BandSizes& band, uint32_t row, uint32_t place) {
    return uint64_t(row) * band.width * band.channels + place;
}

__device__ __forceinline__ float noise_in(const NoiseField& field, const BandSizes& band, uint32_t row,
                                          uint32_t place) {
    return noise_at(field, place % band.channels, band.top + row, place / band.channels);
}

// The prediction of a region, the `index`-th of those at hand.
template <class T>
__device__ __forceinline__ float prediction_of(const T* predictions, const PredictionSizes& s, uint32_t index,
                                               uint32_t place) {
    const uint64_t size = uint64_t(s.side) * s.side * s.channels, at = index * size + place;
    const float value = to_float(predictions[at]);
    if (!s.guided) return value;
    const float text = to_float(predictions[at + s.count * size]);
    return plus(value, times(s.guidance, minus(text, value)));
}

template <class T>
__device__ __forceinline__ void gather_regions(const float* __restrict__ canvas, const uint32_t* __restrict__ places,
                                               T* __restrict__ out, const GatherSizes& s) {
    const uint32_t length = s.region_height * s.region_width * s.channels;
    const uint32_t region = blockIdx.y, i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= length) return;
    const uint32_t pixel = i / s.channels, c = i % s.channels;
    const uint32_t y = reflect(places[2 * region] + pixel / s.region_width, s.height);
    const uint32_t x = reflect(places[2 * region + 1] + pixel % s.region_width, s.width);
    const float value = canvas[(uint64_t(y) * s.width + x) * s.channels + c];
    const uint64_t pixels = uint64_t(s.region_height) * s.region_width;
    out[(region * pixels + pixel) * s.pixel + s.first + c] = from_float<T>(value);
}

// sums += w·ε, region by region in the grid's order.
template <class T>
__device__ __forceinline__ void add_regions(const T* __restrict__ predictions, const uint32_t* __restrict__ ys,
                                            const uint32_t* __restrict__ xs, const float* __restrict__ profile,
                                            float* __restrict__ sums, const FuseSizes& s) {
    const PredictionSizes& of = s.predictions;
    const uint32_t place = place_in_row();
    if (place >= s.width * of.channels) return;
    const uint32_t y = s.top + blockIdx.x, x = place / of.channels, c = place % of.channels;
    float* const target = sums + uint64_t(y) * s.width * of.channels + place;
    float sum = *target;
    for (uint32_t row = 0; row < s.rows; row++) {
        // Places before a region wrap around, and are beyond its side as well.
        const uint32_t down = y - ys[row];
        if (down >= of.side) continue;
        for (uint32_t column = 0; column < s.columns; column++) {
            const uint32_t right = x - xs[column], index = row * s.columns + column - s.first;
            if (right >= of.side || index >= of.count) continue;
            const uint32_t within = (down * of.side + right) * of.channels + c;
            const float weight = times(profile[down], profile[right]);
            sum = plus(sum, times(weight, prediction_of(predictions, of, index, within)));
        }
    }
    *target = sum;
}

// flags[region] = 1 if a value of the region's prediction is not finite.
template <class T>
__device__ __forceinline__ void find_non_finite(const T* __restrict__ predictions, uint32_t* __restrict__ flags,
                                                const PredictionSizes& s) {
    SHARED_ARRAY(uint32_t, found, 32);
    const uint32_t length = s.side * s.side * s.channels;
    bool any = false;
    for (uint32_t place = threadIdx.x; place < length; place += blockDim.x) {
        const float value = prediction_of(predictions, s, blockIdx.x, place);
        any = any || !(fabsf(value) <= 3.402823466e38f);
    }
    const bool of_warp = __any_sync(ALL_LANES, any);
    if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = of_warp;
    __syncthreads();
    if (threadIdx.x > 0) return;
    uint32_t of_block = 0;
    for (uint32_t warp = 0; warp < blockDim.x / 32; warp++) of_block |= found[warp];
    flags[blockIdx.x] = of_block;
}

// Up to 2 × 2 places of one channel: a block of the Haar transform, or what of it lies on the canvas.
struct Block {
    uint64_t at[4];
    bool there[4];
    float count;
};

// values −= λ·P(values − spread·noise − signal·zl), P the mean over the block.
__device__ __forceinline__ void pull(float (&values)[4], const float (&noise)[4], const float (&zl)[4],
                                     const Block& block, float spread, float signal, float lambda) {
    if (lambda == 0.0f) return;
    const float share = over(lambda, block.count);
    // The first place is always there, and a sum that begins with it needs no zero.
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (!block.there[i]) continue;
        const float term = minus(minus(values[i], times(spread, noise[i])), times(signal, zl[i]));
        sum = i == 0 ? term : plus(sum, term);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) values[i] = minus(values[i], times(share, sum));
}

__device__ __forceinline__ float combined(const Factors& factors, float z, float prediction) {
    return plus(times(factors.z, z), times(factors.prediction, prediction));
}

// The clean latent within the limit. What is not a number passes.
__device__ __forceinline__ float within_limit(const StepNumbers& s, float x) {
    if (x < -s.most) x = -s.most;
    if (x > s.most) x = s.most;
    return s.limit == SCALED_RANGE ? over(x, s.most) : x;
}

// One place of the sampler's step; `draw` is asked for fresh noise if there is any.
template <class Draw>
__device__ __forceinline__ float stepped(const StepNumbers& s, float z, float prediction, Draw draw) {
    float next = combined(s.step, z, prediction);
    if (s.limit != NO_LIMIT)
        next = plus(next, times(s.limited, within_limit(s, combined(s.clean_latent, z, prediction))));
    return s.noise == 0.0f ? next : plus(next, times(s.noise, draw()));
}

} // namespace

// out[y, x, c] = n
extern "C" __global__ void __launch_bounds__(128) noise_field_f32(float* __restrict__ out, BandSizes band,
                                                                  NoiseField field) {
    const uint32_t place = place_in_row();
    if (place < band.width * band.channels)
        out[element_of(band, blockIdx.x, place)] = noise_in(field, band, blockIdx.x, place);
}

// z = signal·zL + spread·n
extern "C" __global__ void __launch_bounds__(128) diffuse_f32(const float* __restrict__ zl, float* __restrict__ z,
                                                              DiffuseNumbers s) {
    const uint32_t place = place_in_row();
    if (place >= s.band.width * s.band.channels) return;
    const uint64_t at = element_of(s.band, blockIdx.x, place);
    const float noise = noise_in(s.noise, s.band, blockIdx.x, place);
    z[at] = plus(times(s.signal, zl[at]), times(s.spread, noise));
}

// Sums of weighted predictions → the prediction → the structure prior → the sampler's step. `before` and `after` may
// be the same; `earlier` 0 and 1, and `kept`, are null where the step has no use for them.
extern "C" __global__ void __launch_bounds__(128)
    canvas_step_f32(const float* before, const float* __restrict__ sums, const float* __restrict__ sum_y,
                    const float* __restrict__ sum_x, const float* __restrict__ zl_canvas,
                    const float* __restrict__ earlier_0, const float* __restrict__ earlier_1,
                    float* __restrict__ kept, float* after, StepNumbers s) {
    const uint32_t channels = s.band.channels, place = place_in_row();
    const uint32_t left = place / channels * 2, c = place % channels, upper = blockIdx.x * 2;
    if (left >= s.band.width) return;
    Block block;
    float z[4] = {}, prediction[4] = {}, zl[4] = {};
    const uint32_t height = s.band.height - upper < 2 ? 1 : 2, width = s.band.width - left < 2 ? 1 : 2;
    block.count = static_cast<float>(height * width);
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t y = upper + i / 2, x = left + i % 2;
        block.there[i] = i / 2 < height && i % 2 < width;
        block.at[i] = element_of(s.band, y, x * channels + c);
        if (!block.there[i]) continue;
        z[i] = before[block.at[i]];
        zl[i] = zl_canvas[block.at[i]];
        const float weight = times(sum_y[s.band.top + y], sum_x[x]);
        prediction[i] = over(sums[block.at[i]], weight);
        if (s.converts) prediction[i] = plus(times(s.from.prediction, prediction[i]), times(s.from.z, z[i]));
    }
    if (s.clean) {
#pragma unroll
        for (int i = 0; i < 4; i++) z[i] = minus(z[i], times(s.signal, prediction[i]));
        pull(prediction, z, zl, block, 0.0f, 1.0f, s.lambda);
#pragma unroll
        for (int i = 0; i < 4; i++) z[i] = plus(z[i], times(s.signal, prediction[i]));
    } else {
        pull(z, prediction, zl, block, s.spread, s.signal, s.lambda);
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        if (!block.there[i]) continue;
        if (s.keeps) {
            const float value = combined(s.kept, z[i], prediction[i]);
            kept[block.at[i]] = s.limit == NO_LIMIT ? value : within_limit(s, value);
        }
        float next = stepped(s, z[i], prediction[i], [&] {
            return noise_at(s.field, c, s.band.top + upper + i / 2, left + i % 2);
        });
        if (s.earlier > 0) next = plus(next, times(s.history[0], earlier_0[block.at[i]]));
        if (s.earlier > 1) next = plus(next, times(s.history[1], earlier_1[block.at[i]]));
        after[block.at[i]] = next;
    }
}

#define CANVAS_KERNELS(SUFFIX, T)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        gather_regions_##SUFFIX(const float* __restrict__ canvas, const uint32_t* __restrict__ places,                 \
                                T* __restrict__ out, GatherSizes s) {                                                  \
        gather_regions(canvas, places, out, s);                                                                        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) add_regions_##SUFFIX(                                            \
        const T* __restrict__ predictions, const uint32_t* __restrict__ ys, const uint32_t* __restrict__ xs,           \
        const float* __restrict__ profile, float* __restrict__ sums, FuseSizes s) {                                    \
        add_regions(predictions, ys, xs, profile, sums, s);                                                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(1024)                                                                 \
        find_non_finite_##SUFFIX(const T* __restrict__ predictions, uint32_t* __restrict__ flags, PredictionSizes s) { \
        find_non_finite(predictions, flags, s);                                                                        \
    }

CANVAS_KERNELS(bf16, __nv_bfloat16)
CANVAS_KERNELS(f16, __half)
CANVAS_KERNELS(f32, float)

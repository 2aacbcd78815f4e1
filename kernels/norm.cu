// Group, layer and root-mean-square normalization, statistics in f32 whatever the type of the activations.
//
// Sums of squares lose a variance that is small beside the mean, so nothing here takes them of the values
// themselves. Values are counted from a member of what they are compared with (the first position of their
// channel, the first value of their row), and moments are merged as (count, mean, sum of squared distances).
//
// A group norm is three launches: moments of each channel over pieces of a sample, the merge of the pieces
// to statistics of groups, and their application. Pieces follow from the shape of one sample, and each sum
// is taken in one order, so bytes do not depend on the batch.
#include "functions.cuh"
#include "vectors.cuh"

// Threads of a block that merges pieces.
constexpr uint32_t MERGE_THREADS = 128;
// Positions that a thread loads before it computes with the first.
constexpr int ROWS_AHEAD = 4;

struct GroupNormSizes {
    uint64_t positions; // of one sample
    double eps;
    uint32_t samples, channels, groups;
    uint32_t piece, pieces;  // positions of a piece, and pieces of a sample
    uint32_t columns, lines; // threads of a block: side by side over the channels, and one behind the other
    uint32_t vector;         // channels of a thread: 16 bytes of them, or 1
    uint32_t silu;           // 1: SiLU follows
    uint32_t shared;         // 1: all samples are normalized with the same statistics
};

struct RowNormSizes {
    uint64_t rows;
    double eps;
    uint32_t width;  // of a row
    uint32_t warps;  // of a row
    uint32_t block;  // rows of a block
    uint32_t vector; // values that a thread loads at once: 16 bytes of them, or 1
};

namespace {

// The part of a group norm's input that a thread walks: some channels, every `lines`-th position of a piece.
struct Walk {
    uint32_t column, line, channel;
    uint64_t first; // element of the piece's first position, channel 0
    uint32_t rows;  // positions of the piece
    bool works;

    __device__ __forceinline__ Walk(const GroupNormSizes& s, uint32_t vector) {
        column = threadIdx.x % s.columns;
        line = threadIdx.x / s.columns;
        channel = (blockIdx.y * s.columns + column) * vector;
        const uint64_t before = uint64_t(blockIdx.x) * s.piece;
        first = (uint64_t(blockIdx.z) * s.positions + before) * s.channels;
        rows = static_cast<uint32_t>(min(uint64_t(s.piece), s.positions - before));
        works = line < s.lines && channel < s.channels;
    }
};

// Loads `ROWS` positions.
template <int ROWS, class T, int V>
__device__ __forceinline__ void load_rows(const T* from, uint64_t stride, Packed<T, V> (&to)[ROWS]) {
#pragma unroll
    for (int row = 0; row < ROWS; row++) to[row].load(from + row * stride);
}

// Takes `ROWS` values of each channel, counted from `origin`, into the moments of `count` earlier ones.
template <int ROWS, class T, int V>
__device__ __forceinline__ void take_in(const Packed<T, V> (&values)[ROWS], const float (&origin)[V], float& count,
                                        float (&mean)[V], float (&squares)[V]) {
    const float after = count + ROWS, share = ROWS / after, weight = count * share;
    count = after;
#pragma unroll
    for (int i = 0; i < V; i++) {
        float sum = 0;
#pragma unroll
        for (int row = 0; row < ROWS; row++) sum += values[row][i] - origin[i];
        const float own = sum * (1.0f / ROWS);
        float distances = 0;
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            const float distance = values[row][i] - origin[i] - own;
            distances = fmaf(distance, distance, distances);
        }
        const float apart = own - mean[i];
        mean[i] = fmaf(apart, share, mean[i]);
        squares[i] += fmaf(apart * apart, weight, distances);
    }
}

// Mean and sum of squared distances of each channel over a piece, into `partial`, `[samples, pieces, C]`.
// Means are counted from the sample's first position.
template <class T, int V>
__device__ __forceinline__ void moments_of_piece(const T* __restrict__ x, float2* __restrict__ partial,
                                                 const GroupNormSizes& s, float2* lines) {
    const Walk walk(s, V);
    if (walk.works) {
        float origin[V], mean[V] = {}, squares[V] = {}, count = 0;
        load<T, V>(x + uint64_t(blockIdx.z) * s.positions * s.channels + walk.channel, origin);
        const uint64_t stride = uint64_t(s.lines) * s.channels;
        const T* at = x + walk.first + uint64_t(walk.line) * s.channels + walk.channel;
        uint64_t row = walk.line;
        for (; row + (ROWS_AHEAD - 1) * s.lines < walk.rows; row += ROWS_AHEAD * s.lines) {
            Packed<T, V> values[ROWS_AHEAD];
            load_rows(at, stride, values);
            take_in(values, origin, count, mean, squares);
            at += ROWS_AHEAD * stride;
        }
        for (; row < walk.rows; row += s.lines) {
            Packed<T, V> values[1];
            load_rows(at, stride, values);
            take_in(values, origin, count, mean, squares);
            at += stride;
        }
#pragma unroll
        for (int i = 0; i < V; i++)
            lines[(walk.line * V + i) * s.columns + walk.column] = make_float2(mean[i], squares[i]);
    }
    __syncthreads();
    // Lines that have one position more than the others come first.
    const uint32_t slots = V * s.columns, least = walk.rows / s.lines, longer = walk.rows % s.lines;
    const auto count = [&](uint32_t line) { return static_cast<float>(least + (line < longer)); };
    for (uint32_t slot = threadIdx.x; slot < slots; slot += blockDim.x) {
        const uint32_t channel = (blockIdx.y * s.columns + slot % s.columns) * V + slot / s.columns;
        if (channel >= s.channels) continue;
        float sum = 0;
        for (uint32_t line = 0; line < s.lines; line++) sum += count(line) * lines[line * slots + slot].x;
        const float mean = sum / static_cast<float>(walk.rows);
        float squares = 0;
        for (uint32_t line = 0; line < s.lines; line++) {
            const float2 moments = lines[line * slots + slot];
            const float apart = moments.x - mean;
            squares += moments.y + count(line) * apart * apart;
        }
        partial[(uint64_t(blockIdx.z) * s.pieces + blockIdx.x) * s.channels + channel] = make_float2(mean, squares);
    }
}

template <class T>
__device__ __forceinline__ void group_norm_moments(const T* __restrict__ x, float2* __restrict__ partial,
                                                   const GroupNormSizes& s) {
    SHARED_MEMORY(memory);
    float2* const lines = reinterpret_cast<float2*>(memory);
    if (s.vector == 1)
        moments_of_piece<T, 1>(x, partial, s, lines);
    else
        moments_of_piece<T, WIDE<T>>(x, partial, s, lines);
}

// The sum over the threads of a block of `MERGE_THREADS`, for all of them.
__device__ __forceinline__ double block_sum(double value, double* sums) {
    sums[threadIdx.x] = value;
    __syncthreads();
    for (uint32_t distance = MERGE_THREADS / 2; distance > 0; distance /= 2) {
        if (threadIdx.x < distance) sums[threadIdx.x] += sums[threadIdx.x + distance];
        __syncthreads();
    }
    const double total = sums[0];
    __syncthreads();
    return total;
}

// Moments of a channel over a piece.
struct Part {
    double count, mean, squares;

    // The `index`-th of a group, channel by channel of piece by piece, from piece `first` of all samples on.
    template <class T>
    __device__ __forceinline__ Part(const T* x, const float2* partial, const GroupNormSizes& s, uint32_t first,
                                    uint32_t index) {
        const uint32_t width = s.channels / s.groups, piece = first + index / width;
        const uint32_t channel = blockIdx.x * width + index % width, sample = piece / s.pieces;
        const uint64_t before = uint64_t(piece % s.pieces) * s.piece;
        const float2 moments = partial[uint64_t(piece) * s.channels + channel];
        count = static_cast<double>(min(uint64_t(s.piece), s.positions - before));
        mean = double(to_float(x[uint64_t(sample) * s.positions * s.channels + channel])) + double(moments.x);
        squares = moments.y;
    }
};

struct GroupMoments {
    double mean, variance;
};

// Mean and variance of group `blockIdx.x` over `samples` samples from sample `first` on.
template <class T>
__device__ __forceinline__ GroupMoments merge_pieces(const T* __restrict__ x, const float2* __restrict__ partial,
                                                     const GroupNormSizes& s, uint32_t first, uint32_t samples) {
    SHARED_ARRAY(double, sums, MERGE_THREADS);
    const uint32_t width = s.channels / s.groups, parts = samples * s.pieces * width;
    const uint32_t piece = first * s.pieces;
    const double count = double(s.positions) * width * samples;
    double sum = 0, squares = 0;
    for (uint32_t index = threadIdx.x; index < parts; index += MERGE_THREADS) {
        const Part part(x, partial, s, piece, index);
        sum += part.count * part.mean;
    }
    const double mean = block_sum(sum, sums) / count;
    for (uint32_t index = threadIdx.x; index < parts; index += MERGE_THREADS) {
        const Part part(x, partial, s, piece, index);
        const double apart = part.mean - mean;
        squares += part.squares + part.count * apart * apart;
    }
    return {mean, block_sum(squares, sums) / count};
}

// Statistics of each group of each sample, `[samples, groups]`: the mean rounded to f32, what the rounding
// left, and the inverse deviation. Where values were not finite, neither are these.
template <class T>
__device__ __forceinline__ void group_norm_merge(const T* __restrict__ x, const float2* __restrict__ partial,
                                                 float4* __restrict__ statistics, const GroupNormSizes& s) {
    const GroupMoments moments = merge_pieces(x, partial, s, blockIdx.y, 1);
    if (threadIdx.x > 0) return;
    const float mean = static_cast<float>(moments.mean);
    const float rest = static_cast<float>(moments.mean - double(mean));
    // An infinite variance would hide behind a deviation's inverse of 0.
    const double finite = moments.variance - moments.variance;
    const float scale = static_cast<float>(1.0 / sqrt(moments.variance + s.eps) + finite);
    statistics[uint64_t(blockIdx.y) * s.groups + blockIdx.x] = make_float4(mean, rest, scale, 0);
}

// Means and variances of the groups over all samples together, `[2, groups]`.
template <class T>
__device__ __forceinline__ void group_moments_merge(const T* __restrict__ x, const float2* __restrict__ partial,
                                                    double* __restrict__ pooled, const GroupNormSizes& s) {
    const GroupMoments moments = merge_pieces(x, partial, s, 0, s.samples);
    if (threadIdx.x > 0) return;
    pooled[blockIdx.x] = moments.mean;
    pooled[s.groups + blockIdx.x] = moments.variance;
}

// `ROWS` positions, normalized.
template <int ROWS, class T, int V>
__device__ __forceinline__ void normalize(const T* from, T* to, uint64_t stride, const float (&mean)[V],
                                          const float (&scale)[V], const float (&shift)[V], bool then_silu) {
    Packed<T, V> values[ROWS];
    load_rows(from, stride, values);
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        float results[V];
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float value = fmaf(values[row][i] - mean[i], scale[i], shift[i]);
            results[i] = then_silu ? silu(value) : value;
        }
        store<T, V>(to + row * stride, results);
    }
}

template <class T, int V>
__device__ __forceinline__ void apply_to_piece(const T* __restrict__ x, const float4* __restrict__ statistics,
                                               const float* __restrict__ weight, const float* __restrict__ bias,
                                               T* __restrict__ y, const GroupNormSizes& s) {
    const Walk walk(s, V);
    if (!walk.works) return;
    const uint32_t width = s.channels / s.groups;
    const float4* const of_sample = statistics + (s.shared ? 0 : uint64_t(blockIdx.z) * s.groups);
    float mean[V], scale[V], shift[V];
    load_parameters<V>(weight + walk.channel, scale);
    load_parameters<V>(bias + walk.channel, shift);
    uint32_t group = walk.channel / width, next = (group + 1) * width;
#pragma unroll
    for (int i = 0; i < V; i++) {
        if (walk.channel + i == next) group++, next += width;
        const float4 of_group = of_sample[group];
        mean[i] = of_group.x;
        scale[i] *= of_group.z;
        shift[i] = fmaf(-of_group.y, scale[i], shift[i]);
    }
    const uint64_t stride = uint64_t(s.lines) * s.channels;
    uint64_t at = walk.first + uint64_t(walk.line) * s.channels + walk.channel;
    uint64_t row = walk.line;
    for (; row + (ROWS_AHEAD - 1) * s.lines < walk.rows; row += ROWS_AHEAD * s.lines) {
        normalize<ROWS_AHEAD>(x + at, y + at, stride, mean, scale, shift, s.silu);
        at += ROWS_AHEAD * stride;
    }
    for (; row < walk.rows; row += s.lines) {
        normalize<1>(x + at, y + at, stride, mean, scale, shift, s.silu);
        at += stride;
    }
}

template <class T>
__device__ __forceinline__ void group_norm_apply(const T* __restrict__ x, const float4* __restrict__ statistics,
                                                 const float* __restrict__ weight, const float* __restrict__ bias,
                                                 T* __restrict__ y, const GroupNormSizes& s) {
    if (s.vector == 1)
        apply_to_piece<T, 1>(x, statistics, weight, bias, y, s);
    else
        apply_to_piece<T, WIDE<T>>(x, statistics, weight, bias, y, s);
}

// The sum over the warps of a row, for all of its threads; one row a block if it has several. Calls in a row
// alternate between the halves of `sums`.
__device__ __forceinline__ float row_sum(float value, uint32_t warps, float* sums) {
    value = warp_sum(value);
    if (warps == 1) return value;
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
    __syncthreads();
    float total = 0;
    for (uint32_t warp = 0; warp < warps; warp++) total += sums[warp];
    return total;
}

// The part of a row norm's input that a thread walks: every `threads`-th load of one row.
template <class T> struct RowWalk {
    uint32_t threads, thread;
    const T* from;
    T* to;
    float origin; // from which values are counted, so that their squares are small where they lie far from zero

    __device__ __forceinline__ RowWalk(const T* x, T* y, const RowNormSizes& s, uint64_t row, bool centred) {
        threads = 32 * s.warps;
        thread = threadIdx.x % threads;
        from = x + row * s.width;
        to = y + row * s.width;
        origin = centred ? to_float(from[0]) : 0.0f;
    }
};

// A row in registers: up to 64 bytes a thread.
template <class T, bool CENTRED>
__device__ __forceinline__ void normalize_row(const T* __restrict__ x, const float* __restrict__ weight,
                                              const float* __restrict__ bias, T* __restrict__ y,
                                              const RowNormSizes& s, uint64_t row, float* sums) {
    constexpr int V = WIDE<T>, LOADS = 4;
    const RowWalk<T> walk(x, y, s, row, CENTRED);
    Packed<T, V> kept[LOADS];
    float sum = 0;
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        const uint32_t place = (i * walk.threads + walk.thread) * V;
        if (place < s.width) {
            kept[i].load(walk.from + place);
#pragma unroll
            for (int e = 0; e < V; e++) sum += kept[i][e] - walk.origin;
        }
    }
    const float inverse = 1.0f / static_cast<float>(s.width);
    const float mean = CENTRED ? row_sum(sum, s.warps, sums) * inverse : 0.0f;
    float squares = 0;
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        if ((i * walk.threads + walk.thread) * V < s.width) {
#pragma unroll
            for (int e = 0; e < V; e++) {
                const float distance = kept[i][e] - walk.origin - mean;
                squares = fmaf(distance, distance, squares);
            }
        }
    }
    const float scale = rsqrtf(row_sum(squares, s.warps, sums + 32) * inverse + static_cast<float>(s.eps));
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        const uint32_t place = (i * walk.threads + walk.thread) * V;
        if (place < s.width) {
            float factor[V], shift[V] = {};
            load_parameters<V>(weight + place, factor);
            if constexpr (CENTRED) load_parameters<V>(bias + place, shift);
#pragma unroll
            for (int e = 0; e < V; e++)
                factor[e] = fmaf((kept[i][e] - walk.origin - mean) * scale, factor[e], shift[e]);
            store<T, V>(walk.to + place, factor);
        }
    }
}

// A row value by value, read three times.
template <class T, bool CENTRED>
__device__ __forceinline__ void normalize_plain_row(const T* __restrict__ x, const float* __restrict__ weight,
                                                    const float* __restrict__ bias, T* __restrict__ y,
                                                    const RowNormSizes& s, uint64_t row, float* sums) {
    const RowWalk<T> walk(x, y, s, row, CENTRED);
    const float inverse = 1.0f / static_cast<float>(s.width);
    float mean = 0;
    if constexpr (CENTRED) {
        float sum = 0;
        for (uint32_t place = walk.thread; place < s.width; place += walk.threads)
            sum += to_float(walk.from[place]) - walk.origin;
        mean = row_sum(sum, s.warps, sums) * inverse;
    }
    float squares = 0;
    for (uint32_t place = walk.thread; place < s.width; place += walk.threads) {
        const float distance = to_float(walk.from[place]) - walk.origin - mean;
        squares = fmaf(distance, distance, squares);
    }
    const float scale = rsqrtf(row_sum(squares, s.warps, sums + 32) * inverse + static_cast<float>(s.eps));
    for (uint32_t place = walk.thread; place < s.width; place += walk.threads) {
        const float distance = to_float(walk.from[place]) - walk.origin - mean;
        const float shift = CENTRED ? bias[place] : 0.0f;
        walk.to[place] = from_float<T>(fmaf(distance * scale, weight[place], shift));
    }
}

template <class T, bool CENTRED>
__device__ __forceinline__ void row_norm(const T* __restrict__ x, const float* __restrict__ weight,
                                         const float* __restrict__ bias, T* __restrict__ y, const RowNormSizes& s) {
    SHARED_ARRAY(float, sums, 64);
    const uint64_t row = uint64_t(blockIdx.x) * s.block + threadIdx.x / (32 * s.warps);
    // Where a row has one warp, the last block may have fewer rows; else a block is a row.
    if (row >= s.rows) return;
    if (s.vector == 1)
        normalize_plain_row<T, CENTRED>(x, weight, bias, y, s, row, sums);
    else
        normalize_row<T, CENTRED>(x, weight, bias, y, s, row, sums);
}

} // namespace

#define NORM_KERNELS(SUFFIX, T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(256, 3) group_norm_moments_##SUFFIX(                                  \
        const T* __restrict__ x, float2* __restrict__ partial, GroupNormSizes s) {                                     \
        group_norm_moments<T>(x, partial, s);                                                                          \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(MERGE_THREADS, 8)                                                     \
        group_norm_merge_##SUFFIX(const T* __restrict__ x, const float2* __restrict__ partial,                         \
                                  float4* __restrict__ statistics, GroupNormSizes s) {                                 \
        group_norm_merge<T>(x, partial, statistics, s);                                                                \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(MERGE_THREADS, 8)                                                     \
        group_moments_merge_##SUFFIX(const T* __restrict__ x, const float2* __restrict__ partial,                      \
                                     double* __restrict__ pooled, GroupNormSizes s) {                                  \
        group_moments_merge<T>(x, partial, pooled, s);                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 3) group_norm_apply_##SUFFIX(                                    \
        const T* __restrict__ x, const float4* __restrict__ statistics, const float* __restrict__ weight,              \
        const float* __restrict__ bias, T* __restrict__ y, GroupNormSizes s) {                                         \
        group_norm_apply<T>(x, statistics, weight, bias, y, s);                                                        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(512, 1)                                                               \
        layer_norm_##SUFFIX(const T* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias, \
                            T* __restrict__ y, RowNormSizes s) {                                                       \
        row_norm<T, true>(x, weight, bias, y, s);                                                                      \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(512, 1)                                                               \
        rms_norm_##SUFFIX(const T* __restrict__ x, const float* __restrict__ weight, T* __restrict__ y,                \
                          RowNormSizes s) {                                                                            \
        row_norm<T, false>(x, weight, nullptr, y, s);                                                                  \
    }

NORM_KERNELS(bf16, __nv_bfloat16)
NORM_KERNELS(f16, __half)
NORM_KERNELS(f32, float)

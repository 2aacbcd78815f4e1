// What the attention kernels share: sizes, masks, tiles of keys and values in shared memory, fragments of
// them, and the softmax of a row that goes on from tile to tile. README.md has the design.
#pragma once

#include "device.cuh"

// `AttentionSizes` of src/backend/ops/attention/launch.rs. Distances of samples and of tokens are in
// elements, multiples of 8. Query `i` sees the keys from `past + i + 1 - window` to `past + i`, as far as
// there are such; without a mask `past` is the number of keys, so that each sees all of them.
struct AttentionSizes {
    uint64_t q_sample, q_row;
    uint64_t k_sample, k_row;
    uint64_t v_sample, v_row;
    uint64_t out_sample, out_row;
    uint32_t queries, keys;
    uint32_t heads; // of the queries
    uint32_t group; // heads of the queries that share one of the keys
    uint32_t past, window;
    uint32_t splits, split_keys; // parts of a split over keys, and the keys of one
    uint32_t width;              // of a head
    float scale;                 // width^-1/2 · log2 e: scores become exponents of 2
};

// The thread's warp, as a number that the compiler knows to be the same in all lanes: branches on it need no
// code for lanes that part. Every lane has to call it.
__device__ __forceinline__ int warp_index() { return __shfl_sync(ALL_LANES, static_cast<int>(threadIdx.x / 32), 0); }

// ---------------------------------------------------------------------------------------------------
// Masks

struct KeyRange {
    int first, end;
};

// The keys that a query sees.
__device__ __forceinline__ KeyRange keys_of(const AttentionSizes& sizes, int query) {
    const int next = static_cast<int>(sizes.past) + query + 1;
    return {max(next - static_cast<int>(sizes.window), 0), min(next, static_cast<int>(sizes.keys))};
}

// What one of the queries `first..=last` may see, and what all of them do.
struct TileRange {
    KeyRange some, all;

    __device__ __forceinline__ TileRange(const AttentionSizes& sizes, int first, int last) {
        const KeyRange of_first = keys_of(sizes, first), of_last = keys_of(sizes, last);
        some = {of_first.first, of_last.end};
        all = {of_last.first, of_first.end};
    }
    __device__ __forceinline__ bool hides(int key, int count) const {
        return key >= some.end || key + count <= some.first;
    }
    __device__ __forceinline__ bool shows(int key, int count) const {
        return key >= all.first && key + count <= all.end;
    }
};

// ---------------------------------------------------------------------------------------------------
// Tiles: rows of 16-byte chunks at an odd number of chunks from each other. The eight rows of a matrix that
// `ldmatrix` reads then begin in eight different groups of four banks, whatever the width.

__host__ __device__ constexpr int tile_pitch(int width) { return (width / 8 | 1) * 16; }

// Begins to copy `ROWS` rows of `WIDTH` elements, from row `first` on; those from `end` on become zeros, so
// that no weight, not even one of zero, meets what lies behind the keys.
template <int ROWS, int WIDTH, int THREADS, class T>
__device__ __forceinline__ void load_tile(unsigned char* tile, const T* rows, uint64_t row_stride, int first, int end) {
    // A thread always has the same chunk of rows at equal distances, so that its addresses are sums.
    constexpr int CHUNKS = WIDTH / 8, ROWS_AT_ONCE = THREADS / CHUNKS, PITCH = tile_pitch(WIDTH);
    const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    if (THREADS % CHUNKS != 0 && row >= ROWS_AT_ONCE) return;
    const T* source = rows + (first + row) * row_stride + chunk * 8;
    unsigned char* target = tile + row * PITCH + chunk * 16;
#pragma unroll
    for (int n = 0; n < ROWS; n += ROWS_AT_ONCE) {
        if (n + ROWS_AT_ONCE <= ROWS || n + row < ROWS) {
            const bool valid = first + n + row < end;
            cp_async_16(target + n * PITCH, valid ? source : rows, valid);
        }
        source += ROWS_AT_ONCE * row_stride;
    }
}

// ---------------------------------------------------------------------------------------------------
// Products. A step is 16 of the width, or for a width of 40 or 72 the last 8: the other half of the
// fragments is zero then, and shared memory needs no padding.

// Steps of the products of queries and keys.
__host__ __device__ constexpr int width_steps(int width) { return (width + 15) / 16; }

// Row `row` of a 16 × 16 fragment `a` of queries for step `step`, straight from memory: `half` 0 is row
// `lane / 4`, 1 the one eight below. `row` is null where there is no such query.
template <int WIDTH, class T>
__device__ __forceinline__ void load_query(uint32_t (&a)[4], const T* row, int step, int half) {
    const int column = step * 16 + static_cast<int>(threadIdx.x % 4) * 2;
    a[half] = row ? __ldg(reinterpret_cast<const uint32_t*>(row + column)) : 0;
    const bool whole = step * 16 + 16 <= WIDTH;
    a[half + 2] = row && whole ? __ldg(reinterpret_cast<const uint32_t*>(row + column + 8)) : 0;
}

// Fragments of 16 keys for step `step`, for the 8 first and the 8 last of them.
template <int WIDTH>
__device__ __forceinline__ void load_keys(uint32_t (&low)[2], uint32_t (&high)[2], const unsigned char* keys, int step) {
    const int lane = threadIdx.x % 32;
    if (step * 16 + 16 <= WIDTH) {
        const int row = lane / 16 * 8 + lane % 8, chunk = lane / 8 % 2;
        uint32_t r[4];
        ldmatrix_x4(r, keys + row * tile_pitch(WIDTH) + chunk * 16 + step * 32);
        low[0] = r[0], low[1] = r[1], high[0] = r[2], high[1] = r[3];
    } else {
        uint32_t r[2];
        ldmatrix_x2(r, keys + lane % 16 * tile_pitch(WIDTH) + step * 32);
        low[0] = r[0], low[1] = 0, high[0] = r[1], high[1] = 0;
    }
}

// out += weights · values, for 16 rows of values, `COLUMNS` of them, and `ROW_TILES` times 16 rows of weights.
template <class T, int COLUMNS, int PITCH, int ROW_TILES>
__device__ __forceinline__ void add_values(float (&out)[ROW_TILES][COLUMNS / 8][4],
                                           const uint32_t (&weights)[ROW_TILES][4], const unsigned char* values) {
    const int lane = threadIdx.x % 32;
    const unsigned char* row = values + lane % 16 * PITCH;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n += 2) {
        uint32_t low[2], high[2];
        const bool whole = n + 1 < COLUMNS / 8;
        if (whole) {
            uint32_t r[4];
            ldmatrix_x4_trans(r, row + n * 16 + lane / 16 * 16);
            low[0] = r[0], low[1] = r[1], high[0] = r[2], high[1] = r[3];
        } else {
            ldmatrix_x2_trans(low, row + n * 16);
        }
#pragma unroll
        for (int m = 0; m < ROW_TILES; m++) {
            mma_m16n8k16<T>(out[m][n], weights[m], low);
            if (whole) mma_m16n8k16<T>(out[m][n + 1], weights[m], high);
        }
    }
}

// Scores of 16 rows and 16 keys, once they are weights, as the left side of a product.
template <class T>
__device__ __forceinline__ void pack_weights(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack2<T>(left[0], left[1]);
    a[1] = pack2<T>(left[2], left[3]);
    a[2] = pack2<T>(right[0], right[1]);
    a[3] = pack2<T>(right[2], right[3]);
}

// Hides what a row does not see of the keys from `key` on: `half` is that of `load_query`. All is relative to
// the lane's first key, so that what is compared with are constants.
template <int COUNT>
__device__ __forceinline__ void mask_scores(float (&scores)[COUNT][4], int half, int key, KeyRange seen) {
    const int lane_key = key + static_cast<int>(threadIdx.x % 4) * 2;
    const int first = seen.first - lane_key, end = seen.end - lane_key;
#pragma unroll
    for (int n = 0; n < COUNT; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const bool is_seen = n * 8 + e >= first && n * 8 + e < end;
            scores[n][half * 2 + e] = is_seen ? scores[n][half * 2 + e] : -INFINITY;
        }
}

// ---------------------------------------------------------------------------------------------------
// Softmax

// 2^x, 0 for −∞; less than 2^-126 is 0.
__device__ __forceinline__ float exp2_flushed(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return x < -126.0f ? 0.0f : exp2f(x);
#endif
}

// Maximum over the four lanes that hold a row.
__device__ __forceinline__ float row_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

// What a row's weights are relative to: its largest score so far. The weight of that key is exactly 1, whatever
// the type.
struct Base {
    float score = -INFINITY;

    // Takes the largest score of further keys, equal in the row's four lanes. Returns the factor for what was
    // summed up before, exactly 1 if the base stays.
    __device__ __forceinline__ float raise(float largest, float scale) {
        if (!(largest > score)) return 1;
        const float factor = exp2_flushed((score - largest) * scale);
        score = largest;
        return factor;
    }
    // A score's weight: zero for a key that is not seen, also where there was none yet.
    __device__ __forceinline__ float weigh(float of_key, float scale) const {
        return exp2_flushed(fmaf(of_key, scale, score == -INFINITY ? 0.0f : -score * scale));
    }
};

// Adds the weights of 16 keys to their sums, as if there were a column of values that are all 1. So the sums are of
// weights as they are multiplied with values, rounded, and a mean of equal values is exact. Each lane has the
// sum of row `lane / 4` in elements 0 and 1, and that of the row eight below in 2 and 3.
template <class T> __device__ __forceinline__ void add_weights(float (&sums)[4], const uint32_t (&weights)[4]) {
    const uint32_t one = pack2<T>(1, 1), ones[2] = {one, one};
    mma_m16n8k16<T>(sums, weights, ones);
}

// The factor that turns a sum of weighted values into their mean: zero for a row that sees no key.
__device__ __forceinline__ float reciprocal_or_zero(float sum) { return sum > 0 ? 1 / sum : 0.0f; }

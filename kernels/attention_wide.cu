// Attention for heads of 512, the single one of autoencoders: 64 queries and their means (64 × 512 sums) are
// all that a block can hold, the first in shared memory and the second spread over the registers of eight
// warps. Keys and values come in slices of 32 tokens and a quarter of the width, through a ring of three.
//
// Scores and means are shared out differently: for scores a warp has 16 queries and 16 of the 32 keys, over
// the whole width; for means it has 32 queries and a quarter of each slice. In between weights go through
// shared memory.
#include "attention.cuh"

namespace {

constexpr int WIDTH = 512, WARPS = 8, THREADS = 32 * WARPS;
constexpr int ROWS = 64, KEYS = 32; // of a block, of a tile
constexpr int SLICE = 128, SLICES = WIDTH / SLICE, SLICE_PITCH = tile_pitch(SLICE);
constexpr int SLOTS = 3, SLOT = KEYS * SLICE_PITCH;
constexpr int STEPS = 2 * SLICES; // slices of keys, then of values
constexpr int QUERY_PITCH = tile_pitch(WIDTH), WEIGHT_PITCH = tile_pitch(KEYS);

// Offsets in shared memory.
constexpr int AT_SLOTS = ROWS * QUERY_PITCH;
constexpr int AT_WEIGHTS = AT_SLOTS + SLOTS * SLOT;
constexpr int AT_HALVES = AT_WEIGHTS + ROWS * WEIGHT_PITCH; // of each row, from the keys' first and last half
constexpr int AT_FACTORS = AT_HALVES + 2 * ROWS * 4;
constexpr int SHARED = AT_FACTORS + ROWS * 4;
static_assert(SHARED <= 99 * 1024, "what a block may have on every device");

template <class T> struct AttentionWide {
    // Even and odd steps of the width apart: more sums that do not wait for each other.
    float scores[2][2][4];
    float out[SLICES][2][4][4] = {};
    float sums[2][4] = {}; // of weights
    Base bases[2];

    // The slice's share of the scores of 16 queries and 16 keys.
    __device__ __forceinline__ void add_scores(const unsigned char* queries, const unsigned char* keys) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int step = 0; step < SLICE / 16; step++) {
            uint32_t a[4], low[2], high[2];
            ldmatrix_x4(a, queries + lane % 16 * QUERY_PITCH + lane / 16 * 16 + step * 32);
            load_keys<SLICE>(low, high, keys, step);
            mma_m16n8k16<T>(scores[step % 2][0], a, low);
            mma_m16n8k16<T>(scores[step % 2][1], a, high);
        }
    }

    // Scores to weights in shared memory. `first` is the query of the warp's row 0, `row` its place in the block.
    __device__ __forceinline__ void weigh(const AttentionSizes& sizes, unsigned char* shared, int first, int row,
                                          int key, int side, bool masked) {
        const int lane = threadIdx.x % 32, own = row + lane / 4;
        float* halves = reinterpret_cast<float*>(shared + AT_HALVES);
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int e = half * 2; e < half * 2 + 2; e++) scores[0][n][e] += scores[1][n][e];
            if (masked) mask_scores(scores[0], half, key + side * 16, keys_of(sizes, first + own + half * 8));
            float largest = -INFINITY;
#pragma unroll
            for (int n = 0; n < 2; n++)
                largest = fmaxf(largest, fmaxf(scores[0][n][half * 2], scores[0][n][half * 2 + 1]));
            largest = row_max(largest);
            if (lane % 4 == 0) halves[side * ROWS + own + half * 8] = largest;
        }
        __syncthreads();
        float* factors = reinterpret_cast<float*>(shared + AT_FACTORS);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int place = own + half * 8;
            const float factor = bases[half].raise(fmaxf(halves[place], halves[ROWS + place]), sizes.scale);
            if (side == 0 && lane % 4 == 0) factors[place] = factor;
            unsigned char* weights = shared + AT_WEIGHTS + place * WEIGHT_PITCH + side * 32 + lane % 4 * 4;
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const float low = bases[half].weigh(scores[0][n][half * 2], sizes.scale);
                const float high = bases[half].weigh(scores[0][n][half * 2 + 1], sizes.scale);
                *reinterpret_cast<uint32_t*>(weights + n * 16) = pack2<T>(low, high);
            }
        }
    }

    // Multiplies the means of 32 rows from `row` on by a number for each row.
    __device__ __forceinline__ void scale_rows(const float (&factors)[2][2]) {
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                sums[m][e] *= factors[m][e / 2];
#pragma unroll
                for (int i = 0; i < 4 * SLICES; i++) out[i / 4][m][i % 4][e] *= factors[m][e / 2];
            }
    }

    // Grid: tiles of queries, heads, samples.
    static __device__ __forceinline__ void run(const T* q, const T* k, const T* v, T* out, const AttentionSizes& sizes,
                                               unsigned char* shared) {
        const int queries = sizes.queries, warp = warp_index(), lane = threadIdx.x % 32;
        // The last queries first: under a mask they see the most keys.
        const int first = (gridDim.x - 1 - blockIdx.x) * ROWS;
        const uint64_t head = blockIdx.y, key_head = blockIdx.y / sizes.group, sample = blockIdx.z;
        q += sample * sizes.q_sample + head * WIDTH;
        k += sample * sizes.k_sample + key_head * WIDTH;
        v += sample * sizes.v_sample + key_head * WIDTH;
        out += sample * sizes.out_sample + head * WIDTH;
        const int score_row = warp / 2 * 16, side = warp % 2;
        const int mean_row = warp / 4 * 32, mean_column = warp % 4 * (SLICE / 4);

        const TileRange range(sizes, first, min(first + ROWS, queries) - 1);
        const int begin = range.some.first / KEYS * KEYS, end = range.some.end;
        const auto load = [&](int step) {
            const int key = begin + step / STEPS * KEYS, slice = step % SLICES * SLICE;
            unsigned char* slot = shared + AT_SLOTS + step % SLOTS * SLOT;
            if (key < end) {
                if (step % STEPS < SLICES)
                    load_tile<KEYS, SLICE, THREADS>(slot, k + slice, sizes.k_row, key, end);
                else
                    load_tile<KEYS, SLICE, THREADS>(slot, v + slice, sizes.v_row, key, end);
            }
            cp_async_commit();
        };
        int step = 0;
        // The next slice, once it has arrived for all; the one before it is done with by all.
        const auto next_slice = [&]() -> const unsigned char* {
            cp_async_wait<SLOTS - 2>();
            __syncthreads();
            load(step + SLOTS - 1);
            return shared + AT_SLOTS + step++ % SLOTS * SLOT;
        };

        // In the group of the first slice.
        load_tile<ROWS, WIDTH, THREADS>(shared, q, sizes.q_row, first, queries);
        for (int ahead = 0; ahead < SLOTS - 1; ahead++) load(ahead);

        AttentionWide own;
        for (int key = begin; key < end; key += KEYS) {
#pragma unroll
            for (int i = 0; i < 16; i++) own.scores[i / 8][i / 4 % 2][i % 4] = 0;
#pragma unroll
            for (int slice = 0; slice < SLICES; slice++) {
                const unsigned char* keys = next_slice();
                own.add_scores(shared + score_row * QUERY_PITCH + slice * SLICE * 2, keys + side * 16 * SLICE_PITCH);
            }
            own.weigh(sizes, shared, first, score_row, key, side, !range.shows(key, KEYS));

            uint32_t weights[2][2][4];
#pragma unroll
            for (int slice = 0; slice < SLICES; slice++) {
                const unsigned char* values = next_slice();
                if (slice == 0) {
                    const float* factors = reinterpret_cast<const float*>(shared + AT_FACTORS) + mean_row + lane / 4;
                    const float of_rows[2][2] = {{factors[0], factors[8]}, {factors[16], factors[24]}};
                    const bool stays = of_rows[0][0] == 1 && of_rows[0][1] == 1 && of_rows[1][0] == 1 && of_rows[1][1] == 1;
                    if (!__all_sync(ALL_LANES, stays)) own.scale_rows(of_rows);
#pragma unroll
                    for (int part = 0; part < 2; part++)
#pragma unroll
                        for (int m = 0; m < 2; m++) {
                            const int row = mean_row + m * 16 + lane % 16;
                            ldmatrix_x4(weights[part][m],
                                        shared + AT_WEIGHTS + row * WEIGHT_PITCH + part * 32 + lane / 16 * 16);
                            add_weights<T>(own.sums[m], weights[part][m]);
                        }
                }
#pragma unroll
                for (int part = 0; part < 2; part++)
                    add_values<T, SLICE / 4, SLICE_PITCH>(own.out[slice], weights[part],
                                                          values + part * 16 * SLICE_PITCH + mean_column * 2);
            }
        }

        // Without any key the queries have not been waited for yet.
        cp_async_wait<0>();
        __syncthreads();
        own.store(shared, out, sizes.out_row, first, queries, mean_row, mean_column);
    }

    // Writes the block's rows, gathered where the queries were so that they leave in whole chunks.
    __device__ __forceinline__ void store(unsigned char* shared, T* rows, uint64_t row_stride, int first, int queries,
                                          int mean_row, int mean_column) {
        const int lane = threadIdx.x % 32;
        float factors[2][2];
#pragma unroll
        for (int i = 0; i < 4; i++) factors[i / 2][i % 2] = reciprocal_or_zero(sums[i / 2][i % 2 * 2]);
        scale_rows(factors);
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                unsigned char* row = shared + (mean_row + i * 8 + lane / 4) * QUERY_PITCH;
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    const float(&pair)[4] = out[slice][i / 2][n];
                    const int column = slice * SLICE + mean_column + n * 8 + lane % 4 * 2;
                    *reinterpret_cast<uint32_t*>(row + column * 2) = pack2<T>(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
                }
            }
        __syncthreads();
        constexpr int CHUNKS = WIDTH / 8;
        for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
            const int row = i / CHUNKS, chunk = i % CHUNKS;
            if (first + row < queries)
                *reinterpret_cast<uint4*>(rows + (first + row) * row_stride + chunk * 8) =
                    *reinterpret_cast<const uint4*>(shared + row * QUERY_PITCH + chunk * 16);
        }
    }
};

} // namespace

#define ATTENTION_WIDE(NAME, T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        NAME(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, T* __restrict__ out,           \
             AttentionSizes sizes) {                                                                                   \
        SHARED_MEMORY(shared);                                                                                         \
        AttentionWide<T>::run(q, k, v, out, sizes, shared);                                                            \
    }

ATTENTION_WIDE(attention_512_bf16, __nv_bfloat16)
ATTENTION_WIDE(attention_512_f16, __half)

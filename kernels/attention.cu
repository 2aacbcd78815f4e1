// Attention for the widths of UNets and text encoders: no matrix of scores, the online softmax of
// FlashAttention-2. A block has one head of one sample and 64 or 128 queries, a warp 16 or 32 of them with
// all of their state in registers; keys and values go through two stages of shared memory.
#include "attention.cuh"

namespace {

constexpr int STAGES = 2;

// `ROW_TILES`: 16 queries each, of a warp. `KEYS`: of a tile.
template <class T, int WIDTH, int ROW_TILES, int WARPS, int KEYS> struct Attention {
    static constexpr int STEPS = width_steps(WIDTH), PITCH = tile_pitch(WIDTH), THREADS = 32 * WARPS;
    static constexpr int TILE = KEYS * PITCH, STAGE = 2 * TILE;
    static constexpr int WARP_ROWS = 16 * ROW_TILES, ROWS = WARP_ROWS * WARPS;
    static_assert(WIDTH % 8 == 0 && KEYS % 16 == 0, "whole chunks and fragments");
    static_assert(ROWS * PITCH <= STAGES * STAGE, "the output is gathered where keys and values were");

    uint32_t q[ROW_TILES][STEPS][4];
    float out[ROW_TILES][WIDTH / 8][4] = {};
    float sums[ROW_TILES][4] = {}; // of weights
    Base bases[ROW_TILES][2];

    // `rows` is the head's first element of query 0.
    __device__ __forceinline__ void load_queries(const T* rows, uint64_t row_stride, int first, int queries) {
#pragma unroll
        for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int query = first + m * 16 + half * 8 + static_cast<int>(threadIdx.x % 32 / 4);
                const T* row = query < queries ? rows + query * row_stride : nullptr;
#pragma unroll
                for (int step = 0; step < STEPS; step++) load_query<WIDTH>(q[m][step], row, step, half);
            }
    }

    // The keys from `key` on. `MASKED`: some of them may be hidden from some of the warp's queries; 16 that
    // are hidden from all of them are left out.
    template <bool MASKED>
    __device__ __forceinline__ void attend(const AttentionSizes& sizes, const unsigned char* stage, int key, int query,
                                           const TileRange& range) {
        float scores[ROW_TILES][KEYS / 8][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int n = 0; n < KEYS / 8; n += 2) {
                if (MASKED && range.hides(key + n * 8, 16)) continue;
                uint32_t low[2], high[2];
                load_keys<WIDTH>(low, high, stage + n * 8 * PITCH, step);
#pragma unroll
                for (int m = 0; m < ROW_TILES; m++) {
                    mma_m16n8k16<T>(scores[m][n], q[m][step], low);
                    mma_m16n8k16<T>(scores[m][n + 1], q[m][step], high);
                }
            }

        float factors[ROW_TILES][2];
        bool stays = true;
#pragma unroll
        for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if (MASKED) {
                    const int index = query + m * 16 + half * 8 + static_cast<int>(threadIdx.x % 32 / 4);
                    mask_scores(scores[m], half, key, keys_of(sizes, index));
                }
                float largest = -INFINITY;
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
                    largest = fmaxf(largest, fmaxf(scores[m][n][half * 2], scores[m][n][half * 2 + 1]));
                Base& base = bases[m][half];
                factors[m][half] = base.raise(row_max(largest), sizes.scale);
                stays &= factors[m][half] == 1;
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
                    if (MASKED && range.hides(key + n / 2 * 16, 16)) continue;
#pragma unroll
                    for (int e = half * 2; e < half * 2 + 2; e++)
                        scores[m][n][e] = base.weigh(scores[m][n][e], sizes.scale);
                }
            }
        if (!__all_sync(ALL_LANES, stays)) scale_rows(factors);

#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2) {
            if (MASKED && range.hides(key + n * 8, 16)) continue;
            uint32_t weights[ROW_TILES][4];
#pragma unroll
            for (int m = 0; m < ROW_TILES; m++) {
                pack_weights<T>(weights[m], scores[m][n], scores[m][n + 1]);
                add_weights<T>(sums[m], weights[m]);
            }
            add_values<T, WIDTH, PITCH>(out, weights, stage + TILE + n * 8 * PITCH);
        }
    }

    // Multiplies what was summed up by a number for each row.
    __device__ __forceinline__ void scale_rows(const float (&factors)[ROW_TILES][2]) {
#pragma unroll
        for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                sums[m][e] *= factors[m][e / 2];
#pragma unroll
                for (int n = 0; n < WIDTH / 8; n++) out[m][n][e] *= factors[m][e / 2];
            }
    }

    // Writes the warp's rows, gathered in shared memory so that they leave in whole chunks. `rows` is the
    // head's first element of query 0.
    __device__ __forceinline__ void store(unsigned char* gathered, T* rows, uint64_t row_stride, int first, int queries) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float mean = reciprocal_or_zero(sums[m][half * 2]);
                unsigned char* row = gathered + (m * 16 + half * 8 + lane / 4) * PITCH + lane % 4 * 4;
#pragma unroll
                for (int n = 0; n < WIDTH / 8; n++)
                    *reinterpret_cast<uint32_t*>(row + n * 16) =
                        pack2<T>(out[m][n][half * 2] * mean, out[m][n][half * 2 + 1] * mean);
            }
        __syncwarp();
        constexpr int CHUNKS = WIDTH / 8;
        for (int i = lane; i < WARP_ROWS * CHUNKS; i += 32) {
            const int row = i / CHUNKS, chunk = i % CHUNKS;
            if (first + row < queries)
                *reinterpret_cast<uint4*>(rows + (first + row) * row_stride + chunk * 8) =
                    *reinterpret_cast<const uint4*>(gathered + row * PITCH + chunk * 16);
        }
    }

    // Grid: tiles of queries, heads, samples.
    static __device__ __forceinline__ void run(const T* q, const T* k, const T* v, T* out, const AttentionSizes& sizes,
                                               unsigned char* shared) {
        const int queries = sizes.queries, warp = warp_index();
        // The last queries first: under a mask they see the most keys.
        const int block_first = (gridDim.x - 1 - blockIdx.x) * ROWS, first = block_first + warp * WARP_ROWS;
        const uint64_t head = blockIdx.y, key_head = blockIdx.y / sizes.group, sample = blockIdx.z;
        q += sample * sizes.q_sample + head * WIDTH;
        k += sample * sizes.k_sample + key_head * WIDTH;
        v += sample * sizes.v_sample + key_head * WIDTH;

        // The block loads what one of its queries sees; a warp leaves out what none of its own does.
        const TileRange block_range(sizes, block_first, min(block_first + ROWS, queries) - 1);
        const TileRange range(sizes, first, min(first + WARP_ROWS, queries) - 1);
        const int begin = block_range.some.first / KEYS * KEYS, end = block_range.some.end;
        const auto load = [&](int tile) {
            const int key = begin + tile * KEYS;
            unsigned char* stage = shared + tile % STAGES * STAGE;
            if (key < end) {
                load_tile<KEYS, WIDTH, THREADS>(stage, k, sizes.k_row, key, end);
                load_tile<KEYS, WIDTH, THREADS>(stage + TILE, v, sizes.v_row, key, end);
            }
            cp_async_commit();
        };

        for (int tile = 0; tile < STAGES - 1; tile++) load(tile);
        Attention own;
        own.load_queries(q, sizes.q_row, first, queries);
        for (int tile = 0; begin + tile * KEYS < end; tile++) {
            cp_async_wait<STAGES - 2>();
            // The tile has arrived for all, and the one before it is done with by all.
            __syncthreads();
            load(tile + STAGES - 1);
            const int key = begin + tile * KEYS;
            const unsigned char* stage = shared + tile % STAGES * STAGE;
            if (first >= queries || range.hides(key, KEYS)) continue;
            if (range.shows(key, KEYS))
                own.attend<false>(sizes, stage, key, first, range);
            else
                own.attend<true>(sizes, stage, key, first, range);
        }
        __syncthreads();
        out += sample * sizes.out_sample + head * WIDTH;
        own.store(shared + warp * WARP_ROWS * PITCH, out, sizes.out_row, first, queries);
    }
};

} // namespace

// `BLOCKS`: of a multiprocessor at the same time, as far as registers go.
#define ATTENTION(NAME, T, WIDTH, ROW_TILES, WARPS, KEYS, BLOCKS)                                                      \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS)                                                   \
        NAME(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, T* __restrict__ out,           \
             AttentionSizes sizes) {                                                                                   \
        SHARED_MEMORY(shared);                                                                                         \
        Attention<T, WIDTH, ROW_TILES, WARPS, KEYS>::run(q, k, v, out, sizes, shared);                                 \
    }

// As `TILES` in src/backend/ops/attention/launch.rs.
#define ATTENTIONS(SUFFIX, T)                                                                                          \
    ATTENTION(attention_40_##SUFFIX, T, 40, 2, 4, 48, 3)                                                               \
    ATTENTION(attention_64_##SUFFIX, T, 64, 2, 4, 64, 2)                                                               \
    ATTENTION(attention_72_##SUFFIX, T, 72, 2, 4, 32, 2)                                                               \
    ATTENTION(attention_80_##SUFFIX, T, 80, 2, 4, 32, 2)                                                               \
    ATTENTION(attention_128_##SUFFIX, T, 128, 1, 8, 64, 1)                                                             \
    ATTENTION(attention_160_##SUFFIX, T, 160, 1, 4, 32, 2)

ATTENTIONS(bf16, __nv_bfloat16)
ATTENTIONS(f16, __half)

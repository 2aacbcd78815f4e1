// Attention for a few queries and many keys, as when a decoder writes token by token: the keys of one sample
// are cut into parts, a block has one of them, and a second kernel puts their results together.
//
// All heads that share keys are rows of the same 16 × 16 fragments, so that keys and values are read once
// for all of them. With one query most of those rows are empty; but the time goes into reading keys, and the
// tensor cores keep up with that several times over, where dot products would have to convert every element
// once for each head.
#include "attention.cuh"

namespace {

constexpr int STAGES = 2, WARPS = 4, THREADS = 32 * WARPS;
constexpr int WARP_KEYS = 16, KEYS = WARP_KEYS * WARPS; // of a tile
constexpr int ROWS = 16;

// Partial results in the workspace: for each sample, head, query and part the sum of weighted values relative
// to the part's base; behind all of them, in the same order, that base as an exponent of 2 and the sum of weights.
struct Partials {
    float* values;
    float2* states;

    __device__ __forceinline__ Partials(float* workspace, const AttentionSizes& sizes, unsigned samples)
        : values(workspace),
          states(reinterpret_cast<float2*>(workspace + uint64_t(samples) * sizes.heads * sizes.queries * sizes.splits *
                                                           sizes.width)) {}
    static __device__ __forceinline__ uint64_t place(const AttentionSizes& sizes, unsigned sample, unsigned head,
                                                     unsigned query, unsigned split) {
        return ((uint64_t(sample) * sizes.heads + head) * sizes.queries + query) * sizes.splits + split;
    }
};

// Factor of what was summed up relative to one exponent, for a sum relative to another, the largest of several.
__device__ __forceinline__ float rebase(float exponent, float largest) {
    return exponent == -INFINITY ? 0.0f : exp2_flushed(exponent - largest);
}

template <class T, int WIDTH> struct AttentionSplit {
    static constexpr int STEPS = width_steps(WIDTH), PITCH = tile_pitch(WIDTH);
    static constexpr int TILE = KEYS * PITCH, STAGE = 2 * TILE;
    // Results of the warps, where keys and values were; eight floats more in a row, so that the lanes of half
    // a warp write to different banks.
    static constexpr int RESULT_ROW = WIDTH + 8, RESULTS = WARPS * ROWS * RESULT_ROW;
    static_assert((RESULTS + WARPS * ROWS * 2) * sizeof(float) <= STAGES * STAGE, "results fit into the stages");

    // The warp's 16 keys of a tile.
    static __device__ __forceinline__ void attend(float (&out)[1][WIDTH / 8][4], float (&sums)[4], Base (&bases)[2],
                                                  const uint32_t (&q)[STEPS][4], const unsigned char* stage, int key,
                                                  const KeyRange (&seen)[2], float scale) {
        float scores[2][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            uint32_t low[2], high[2];
            load_keys<WIDTH>(low, high, stage, step);
            mma_m16n8k16<T>(scores[0], q[step], low);
            mma_m16n8k16<T>(scores[1], q[step], high);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            mask_scores(scores, half, key, seen[half]);
            float largest = -INFINITY;
#pragma unroll
            for (int n = 0; n < 2; n++)
                largest = fmaxf(largest, fmaxf(scores[n][half * 2], scores[n][half * 2 + 1]));
            const float factor = bases[half].raise(row_max(largest), scale);
            const bool stays = __all_sync(ALL_LANES, factor == 1);
#pragma unroll
            for (int e = half * 2; e < half * 2 + 2; e++) {
#pragma unroll
                for (int n = 0; n < 2; n++) scores[n][e] = bases[half].weigh(scores[n][e], scale);
                if (stays) continue;
                sums[e] *= factor;
#pragma unroll
                for (int n = 0; n < WIDTH / 8; n++) out[0][n][e] *= factor;
            }
        }
        uint32_t weights[1][4];
        pack_weights<T>(weights[0], scores[0], scores[1]);
        add_weights<T>(sums, weights[0]);
        add_values<T, WIDTH, PITCH>(out, weights, stage + TILE);
    }

    // Grid: parts, tiles of rows of each head of the keys, samples.
    static __device__ __forceinline__ void run(const T* q, const T* k, const T* v, T* out, float* workspace,
                                               const AttentionSizes& sizes, unsigned char* shared) {
        const int lane = threadIdx.x % 32, warp = warp_index(), queries = sizes.queries, group = sizes.group;
        const int rows = queries * group, row_tiles = (rows + ROWS - 1) / ROWS;
        const int split = blockIdx.x, key_head = blockIdx.y / row_tiles, first_row = blockIdx.y % row_tiles * ROWS;
        const uint64_t sample = blockIdx.z;
        q += sample * sizes.q_sample;
        k += sample * sizes.k_sample + key_head * WIDTH;
        v += sample * sizes.v_sample + key_head * WIDTH;

        const int begin = keys_of(sizes, 0).first + split * static_cast<int>(sizes.split_keys);
        const int end = min(begin + static_cast<int>(sizes.split_keys), keys_of(sizes, queries - 1).end);
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

        uint32_t fragments[STEPS][4];
        KeyRange seen[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first_row + half * 8 + lane / 4, query = row / group;
            const T* place = row < rows ? q + query * sizes.q_row + (key_head * group + row % group) * WIDTH : nullptr;
            seen[half] = keys_of(sizes, query);
#pragma unroll
            for (int step = 0; step < STEPS; step++) load_query<WIDTH>(fragments[step], place, step, half);
        }

        float of_values[1][WIDTH / 8][4] = {}, of_weights[4] = {};
        Base bases[2];
        for (int tile = 0; begin + tile * KEYS < end; tile++) {
            cp_async_wait<STAGES - 2>();
            // The tile has arrived for all, and the one before it is done with by all.
            __syncthreads();
            load(tile + STAGES - 1);
            const int key = begin + tile * KEYS;
            const unsigned char* stage = shared + tile % STAGES * STAGE;
            const int own = warp * WARP_KEYS;
            if (key + own < end) attend(of_values, of_weights, bases, fragments, stage + own * PITCH, key + own, seen, sizes.scale);
        }
        __syncthreads();

        float* results = reinterpret_cast<float*>(shared);
        float2* states = reinterpret_cast<float2*>(results + RESULTS);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = warp * ROWS + half * 8 + lane / 4;
            if (lane % 4 == 0) states[row] = make_float2(bases[half].score * sizes.scale, of_weights[half * 2]);
#pragma unroll
            for (int n = 0; n < WIDTH / 8; n++)
                *reinterpret_cast<float2*>(results + row * RESULT_ROW + n * 8 + lane % 4 * 2) =
                    make_float2(of_values[0][n][half * 2], of_values[0][n][half * 2 + 1]);
        }
        __syncthreads();

        // What the warps have of each row, put together: the output if this is the only part.
        const Partials partials(workspace, sizes, gridDim.z);
        for (int i = threadIdx.x; i < ROWS * WIDTH / 2; i += THREADS) {
            const int row = i / (WIDTH / 2), column = i % (WIDTH / 2) * 2;
            if (first_row + row >= rows) break;
            float largest = -INFINITY;
#pragma unroll
            for (int w = 0; w < WARPS; w++) largest = fmaxf(largest, states[w * ROWS + row].x);
            float sum = 0;
            float2 mean = make_float2(0, 0);
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                const float factor = rebase(states[w * ROWS + row].x, largest);
                const float2 pair =
                    *reinterpret_cast<const float2*>(results + (w * ROWS + row) * RESULT_ROW + column);
                sum = fmaf(factor, states[w * ROWS + row].y, sum);
                mean.x = fmaf(factor, pair.x, mean.x);
                mean.y = fmaf(factor, pair.y, mean.y);
            }
            const int query = (first_row + row) / group, head = key_head * group + (first_row + row) % group;
            if (sizes.splits == 1) {
                const float factor = reciprocal_or_zero(sum);
                T* place = out + sample * sizes.out_sample + query * sizes.out_row + head * WIDTH + column;
                *reinterpret_cast<uint32_t*>(place) = pack2<T>(mean.x * factor, mean.y * factor);
            } else {
                const uint64_t place = Partials::place(sizes, sample, head, query, split);
                *reinterpret_cast<float2*>(partials.values + place * WIDTH + column) = mean;
                if (column == 0) partials.states[place] = make_float2(largest, sum);
            }
        }
    }
};

// A warp puts the parts of one head of one query together. Grid: four of these, samples.
template <class T> __device__ __forceinline__ void combine(float* workspace, T* out, const AttentionSizes& sizes) {
    const unsigned row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= sizes.heads * sizes.queries) return;
    const unsigned head = row / sizes.queries, query = row % sizes.queries;
    const Partials partials(workspace, sizes, gridDim.y);
    const uint64_t first = Partials::place(sizes, blockIdx.y, head, query, 0);
    const float2* states = partials.states + first;
    const float* values = partials.values + first * sizes.width;

    float largest = -INFINITY, sum = 0;
    for (unsigned split = lane; split < sizes.splits; split += 32) largest = fmaxf(largest, states[split].x);
    largest = warp_max(largest);
    for (unsigned split = lane; split < sizes.splits; split += 32)
        sum = fmaf(rebase(states[split].x, largest), states[split].y, sum);
    const float factor = reciprocal_or_zero(warp_sum(sum));

    T* place = out + blockIdx.y * sizes.out_sample + query * sizes.out_row + uint64_t(head) * sizes.width;
    for (unsigned column = lane * 2; column < sizes.width; column += 64) {
        float2 mean = make_float2(0, 0);
        for (unsigned split = 0; split < sizes.splits; split++) {
            const float weight = rebase(states[split].x, largest);
            const float2 pair = *reinterpret_cast<const float2*>(values + uint64_t(split) * sizes.width + column);
            mean.x = fmaf(weight, pair.x, mean.x);
            mean.y = fmaf(weight, pair.y, mean.y);
        }
        *reinterpret_cast<uint32_t*>(place + column) = pack2<T>(mean.x * factor, mean.y * factor);
    }
}

} // namespace

#define ATTENTION_SPLIT(NAME, T, WIDTH)                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, T* __restrict__ out,           \
             float* __restrict__ workspace, AttentionSizes sizes) {                                                    \
        SHARED_MEMORY(shared);                                                                                         \
        AttentionSplit<T, WIDTH>::run(q, k, v, out, workspace, sizes, shared);                                         \
    }

#define ATTENTION_COMBINE(NAME, T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(float* __restrict__ workspace, T* __restrict__ out, AttentionSizes sizes) {                               \
        combine<T>(workspace, out, sizes);                                                                             \
    }

// As `SPLITS` in src/backend/ops/attention/launch.rs.
#define ATTENTION_SPLITS(SUFFIX, T)                                                                                    \
    ATTENTION_SPLIT(attention_split_64_##SUFFIX, T, 64)                                                                \
    ATTENTION_SPLIT(attention_split_80_##SUFFIX, T, 80)                                                                \
    ATTENTION_SPLIT(attention_split_128_##SUFFIX, T, 128)                                                              \
    ATTENTION_COMBINE(attention_combine_##SUFFIX, T)

ATTENTION_SPLITS(bf16, __nv_bfloat16)
ATTENTION_SPLITS(f16, __half)

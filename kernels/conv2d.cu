// Two-dimensional convolution on channels-last activations as one matrix product: an output pixel is a row,
// an output channel a column, and a sum runs over the words under the kernel: its pixels row by row, channels
// innermost. README.md has a drawing.
//
// x [B, H, W, C], weight [k·k·C, O], bias [O] or [B, O] or null, other [B, H', W', O] or null,
// y [B, H', W', O]; each begins on a multiple of 16 bytes.
#include "conv2d.cuh"

// What is added to the sums of one output channel, or to eight, from `column` on.
template <class T> struct Summands {
    const T* bias;
    const T* other;

    __device__ __forceinline__ const T* bias_of(const Conv2dSizes& sizes, int row, int column) const {
        const int sample = sizes.bias_stride == 0 ? 0 : row / (sizes.out_height * sizes.out_width);
        return bias + static_cast<size_t>(sample) * sizes.bias_stride + column;
    }

    // Writes eight outputs, where O is a multiple of 8.
    __device__ __forceinline__ void finish_8(float (&sums)[8], const Conv2dSizes& sizes, int row, int column,
                                             T* y) const {
        const size_t place = static_cast<size_t>(row) * sizes.outputs + column;
        if (bias != nullptr) add_8(sums, bias_of(sizes, row, column));
        if (other != nullptr) add_8(sums, other + place);
        uint4 words;
        words.x = pack2<T>(sums[0], sums[1]);
        words.y = pack2<T>(sums[2], sums[3]);
        words.z = pack2<T>(sums[4], sums[5]);
        words.w = pack2<T>(sums[6], sums[7]);
        *reinterpret_cast<uint4*>(y + place) = words;
    }

    __device__ __forceinline__ void finish_1(float sum, const Conv2dSizes& sizes, int row, int column, T* y) const {
        const size_t place = static_cast<size_t>(row) * sizes.outputs + column;
        if (bias != nullptr) sum += to_float(*bias_of(sizes, row, column));
        if (other != nullptr) sum += to_float(other[place]);
        y[place] = from_float<T>(sum);
    }
};

// The fragments of a warp for 16 words of the sum, of every row and column that it computes.
template <class Tile> struct Fragments {
    uint32_t left[Tile::ROW_FRAGMENTS][4], right[Tile::COLUMN_FRAGMENTS][4];

    // `left_lane` and `right_lane`: where this lane's first row of either matrix lies in a stage.
    __device__ __forceinline__ void load(const unsigned char* stage, int left_lane, int right_lane, int k) {
#pragma unroll
        for (int i = 0; i < Tile::ROW_FRAGMENTS; i++)
            ldmatrix_x4(left[i], stage + (left_lane ^ k * 32) + i * 16 * Tile::LEFT_ROW_BYTES);
#pragma unroll
        for (int j = 0; j < Tile::COLUMN_FRAGMENTS; j++)
            ldmatrix_x4_trans(right[j], stage + (right_lane ^ j * 32) + k * 16 * Tile::RIGHT_ROW_BYTES);
    }

    template <class T>
    __device__ __forceinline__ void multiply(float (&sums)[Tile::ROW_FRAGMENTS][Tile::COLUMN_FRAGMENTS * 2][4]) const {
#pragma unroll
        for (int i = 0; i < Tile::ROW_FRAGMENTS; i++) {
#pragma unroll
            for (int j = 0; j < Tile::COLUMN_FRAGMENTS; j++) {
                mma_m16n8k16<T>(sums[i][2 * j], left[i], {right[j][0], right[j][1]});
                mma_m16n8k16<T>(sums[i][2 * j + 1], left[i], {right[j][2], right[j][3]});
            }
        }
    }
};

// The sums of a warp's tile.
template <class Tile> using Sums = float[Tile::ROW_FRAGMENTS][Tile::COLUMN_FRAGMENTS * 2][4];

// Hands `write` eight neighbouring sums at a time, with their row and first column in the tile.
template <class Tile, class Write>
__device__ __forceinline__ void by_eights(const Sums<Tile>& sums, int warp_row, int warp_column, Write write) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < Tile::ROW_FRAGMENTS * 2; i++) {
#pragma unroll
        for (int j = 0; j < Tile::COLUMN_FRAGMENTS / 2; j++) {
            float eight[8];
#pragma unroll
            for (int e = 0; e < 8; e++) eight[e] = sums[i / 2][j * 4 + e / 2][i % 2 * 2 + e % 2];
            gather_eight(eight);
            write(eight, warp_row + i * 8 + lane / 4, warp_column + j * 32 + lane % 4 * 8);
        }
    }
}

// One tile of outputs, or of a part of their sums. WHOLE_LEFT: C is a multiple of 8; WHOLE_RIGHT: O is; PARTS: the
// sums may be cut.
template <class T, class Tile, bool WHOLE_LEFT, bool WHOLE_RIGHT, bool PARTS>
__device__ __forceinline__ void convolve(const T* x, const T* weight, const Summands<T> summands, T* y, float* partial,
                                         const Conv2dSizes& sizes) {
    SHARED_MEMORY(memory);
    // Tiles of the same rows are neighbours, so that they meet the same pixels in the second-level cache.
    const int across = (sizes.outputs + Tile::COLUMNS - 1) / Tile::COLUMNS;
    const int tile_row = static_cast<int>(blockIdx.x) / across;
    const int first_row = tile_row * Tile::ROWS;
    const int first_column = (static_cast<int>(blockIdx.x) - tile_row * across) * Tile::COLUMNS;
    const int first_word = PARTS ? static_cast<int>(blockIdx.y) * sizes.steps * Tile::DEPTH : 0;
    const int steps = min(sizes.steps, (sizes.inner - first_word + Tile::DEPTH - 1) / Tile::DEPTH);

    LeftCopies<T, Tile, WHOLE_LEFT> left(x, sizes, first_row, first_word);
    RightCopies<T, Tile, WHOLE_RIGHT> right(weight, sizes, first_column, first_word);
#pragma unroll 1
    for (int stage = 0; stage < Tile::STAGES - 1; stage++) {
        if (stage < steps) {
            left.copy(memory + stage * Tile::STAGE_BYTES, sizes);
            right.copy(memory + stage * Tile::STAGE_BYTES + Tile::LEFT_BYTES, sizes);
        }
        cp_async_commit();
    }

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Which column a warp has alternates with the rows: a warp's number decides which quarter of a multiprocessor it
    // is on, and those that are beyond the last column should not all be on the same ones.
    const int warp_row = warp / 2 * Tile::WARP_ROWS, warp_column = (warp + tile_row) % 2 * Tile::WARP_COLUMNS;
    const int left_lane = Tile::left_place(warp_row + lane % 16, lane / 16);
    const int right_lane = Tile::LEFT_BYTES + Tile::right_place(lane % 16, warp_column / 8 + lane / 16);
    // Beyond the last row or column a warp copies, but has nothing to multiply.
    const bool computes = first_row + warp_row < sizes.rows && first_column + warp_column < sizes.outputs;

    Sums<Tile> sums = {};
    Fragments<Tile> fragments[2];
    int reads = 0, writes = (Tile::STAGES - 1) * Tile::STAGE_BYTES;
    cp_async_wait<Tile::STAGES - 2>();
    __syncthreads();
    if (computes) fragments[0].load(memory, left_lane, right_lane, 0);
    for (int step = 0; step < steps; step++) {
#pragma unroll
        for (int k = 0; k < Tile::INNER_STEPS; k++) {
            if (k == Tile::INNER_STEPS - 1) {
                // The next stage has arrived, and every warp has read what this one holds. After the last step
                // the fragments that are read are not used.
                cp_async_wait<Tile::STAGES - 2>();
                __syncthreads();
                reads = reads == (Tile::STAGES - 1) * Tile::STAGE_BYTES ? 0 : reads + Tile::STAGE_BYTES;
            }
            if (computes)
                fragments[(k + 1) % 2].load(memory + reads, left_lane, right_lane, (k + 1) % Tile::INNER_STEPS);
            if (k == 0) {
                if (step + Tile::STAGES - 1 < steps) {
                    left.copy(memory + writes, sizes);
                    right.copy(memory + writes + Tile::LEFT_BYTES, sizes);
                }
                // A group for each step, though it be empty: waiting counts groups.
                cp_async_commit();
                writes = writes == (Tile::STAGES - 1) * Tile::STAGE_BYTES ? 0 : writes + Tile::STAGE_BYTES;
            }
            if (computes) fragments[k % 2].template multiply<T>(sums);
        }
    }

    if constexpr (WHOLE_RIGHT) {
        if (!computes) return;
        by_eights<Tile>(sums, warp_row, warp_column, [&](float(&eight)[8], int tile_row, int tile_column) {
            const int row = first_row + tile_row, column = first_column + tile_column;
            if (row >= sizes.rows || column >= sizes.outputs) return;
            if (!PARTS || sizes.parts == 1) {
                summands.finish_8(eight, sizes, row, column, y);
                return;
            }
            const size_t part_row = static_cast<size_t>(blockIdx.y) * sizes.rows + row;
            store_8(partial + part_row * sizes.outputs + column, eight);
        });
    } else {
        // A row of outputs is no whole number of chunks: through shared memory, so that neighbouring threads write
        // neighbouring outputs. After the last step's barrier no copy is under way, and no fragment that is read is
        // used.
        float* staged = reinterpret_cast<float*>(memory);
        by_eights<Tile>(sums, warp_row, warp_column, [&](float(&eight)[8], int tile_row, int tile_column) {
            store_8(staged + tile_row * Tile::COLUMNS + tile_column, eight);
        });
        __syncthreads();
        const int columns = min(Tile::COLUMNS, sizes.outputs - first_column);
        const int count = min(Tile::ROWS, sizes.rows - first_row) * columns;
        for (int i = threadIdx.x; i < count; i += Tile::THREADS) {
            const int row = i / columns, column = i - row * columns;
            summands.finish_1(staged[row * Tile::COLUMNS + column], sizes, first_row + row, first_column + column, y);
        }
    }
}

// The sums of all parts, [parts, B · H' · W', O], to the output; a thread has eight outputs of a pixel.
template <class T>
__device__ __forceinline__ void sum_parts(const float* partial, const Summands<T> summands, T* y,
                                          const Conv2dSizes& sizes) {
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x, across = sizes.outputs / 8;
    if (index >= sizes.rows * across) return;
    const int row = index / across, column = index % across * 8;
    const size_t part = static_cast<size_t>(sizes.rows) * sizes.outputs;
    partial += static_cast<size_t>(row) * sizes.outputs + column;
    float sums[8] = {};
    for (int i = 0; i < sizes.parts; i++, partial += part) {
        const float4 low = reinterpret_cast<const float4*>(partial)[0];
        const float4 high = reinterpret_cast<const float4*>(partial)[1];
        sums[0] += low.x, sums[1] += low.y, sums[2] += low.z, sums[3] += low.w;
        sums[4] += high.x, sums[5] += high.y, sums[6] += high.z, sums[7] += high.w;
    }
    summands.finish_8(sums, sizes, row, column, y);
}

// At 64 × 64 sums for each warp the larger tile needs nearly all registers that a thread may have.
using Large = Tile<128, 128, 32, 3>;
using Small = Tile<64, 64, 64, 3>;

#define CONV2D(NAME, T, TILE, BLOCKS, WHOLE_LEFT, WHOLE_RIGHT, PARTS)                                                  \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS)                                                \
        NAME(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias,                       \
             const T* __restrict__ other, T* __restrict__ y, float* __restrict__ partial, const Conv2dSizes sizes) {   \
        convolve<T, TILE, WHOLE_LEFT, WHOLE_RIGHT, PARTS>(x, weight, {bias, other}, y, partial, sizes);                \
    }

#define CONV2D_FORMS(T, SUFFIX)                                                                                        \
    CONV2D(conv2d_large_##SUFFIX, T, Large, 2, true, true, false)                                                      \
    CONV2D(conv2d_small_##SUFFIX, T, Small, 4, true, true, true)                                                       \
    CONV2D(conv2d_any_inputs_##SUFFIX, T, Small, 2, false, true, false)                                                \
    CONV2D(conv2d_any_outputs_##SUFFIX, T, Small, 3, true, false, false)                                               \
    CONV2D(conv2d_any_##SUFFIX, T, Small, 2, false, false, false)                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        conv2d_sum_##SUFFIX(const float* __restrict__ partial, const T* __restrict__ bias,                             \
                            const T* __restrict__ other, T* __restrict__ y, const Conv2dSizes sizes) {                 \
        sum_parts<T>(partial, {bias, other}, y, sizes);                                                                \
    }

CONV2D_FORMS(__nv_bfloat16, bf16)
CONV2D_FORMS(__half, f16)

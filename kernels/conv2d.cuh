// Parts of conv2d.cu: its tile, and how both matrices come into shared memory.
#pragma once

#include "device.cuh"

// `Conv2dSizes` of src/backend/ops/conv2d/launch.rs.
struct Conv2dSizes {
    int height, width;                 // of x
    int channels, outputs;
    int picture_height, picture_width; // that the kernel moves over: x, or x doubled
    int doubled;                       // 1 if every pixel of x stands for two by two of the picture
    int out_height, out_width;
    int kernel, stride, padding;
    int rows;                          // B · H' · W'
    int inner;                         // k · k · C
    int bias_stride;                   // from one sample's bias to the next: O, or 0
    int parts;                         // that the sums are taken in
    int steps;                         // of a part
};

// A block computes ROWS × COLUMNS outputs. Its four warps share them two by two. A step multiplies DEPTH words
// of every row and column; the steps that STAGES hold are under way, or are being read.
template <int ROWS_, int COLUMNS_, int DEPTH_, int STAGES_> struct Tile {
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, DEPTH = DEPTH_, STAGES = STAGES_;
    static constexpr int THREADS = 128;
    static constexpr int WARP_ROWS = ROWS / 2, WARP_COLUMNS = COLUMNS / 2;
    static constexpr int ROW_FRAGMENTS = WARP_ROWS / 16, COLUMN_FRAGMENTS = WARP_COLUMNS / 16;
    static constexpr int INNER_STEPS = DEPTH / 16;
    static_assert(INNER_STEPS % 2 == 0, "fragments are read into two sets in turn");
    static_assert(COLUMN_FRAGMENTS % 2 == 0, "outputs are written 32 columns at a time");

    // A chunk is a copy of 16 bytes. A pass of all threads copies one chunk each.
    static constexpr int LEFT_CHUNKS = DEPTH / 8, RIGHT_CHUNKS = COLUMNS / 8;
    static constexpr int LEFT_PASS = THREADS / LEFT_CHUNKS, RIGHT_PASS = THREADS / RIGHT_CHUNKS;
    static constexpr int LEFT_COPIES = ROWS / LEFT_PASS, RIGHT_COPIES = DEPTH / RIGHT_PASS;
    static_assert(LEFT_PASS % 8 == 0 && RIGHT_PASS % 8 == 0, "chunks of a thread lie alike in their rows");

    static constexpr int LEFT_ROW_BYTES = DEPTH * 2, RIGHT_ROW_BYTES = COLUMNS * 2;
    static constexpr int LEFT_BYTES = ROWS * LEFT_ROW_BYTES;
    static constexpr int STAGE_BYTES = LEFT_BYTES + DEPTH * RIGHT_ROW_BYTES;

    // Where a chunk lies. Eight rows that one `ldmatrix` reads together fall into different banks, and so do the
    // chunks of eight neighbouring threads. It depends on the row modulo 8.
    static __device__ __forceinline__ int left_place(int row, int chunk) {
        // Two rows of 64 bytes share a line of all banks.
        const int turn = LEFT_CHUNKS == 4 ? row / 2 % 4 : row % 8;
        return row * LEFT_ROW_BYTES + (chunk ^ turn) * 16;
    }
    static __device__ __forceinline__ int right_place(int row, int chunk) {
        return row * RIGHT_ROW_BYTES + (chunk ^ row % 8) * 16;
    }
};

// Copies of the left matrix: the words under the kernel, for each output pixel. WHOLE: C is a multiple of 8, so
// that a chunk is eight channels of one pixel. A thread copies the same words for several rows, and goes from
// step to step by additions.
template <class T, class Tile, bool WHOLE> struct LeftCopies {
    static constexpr int COUNT = Tile::LEFT_COPIES;

    const T* x;
    int top[COUNT], left[COUNT]; // pixel of the picture under the kernel's first
    int image[COUNT];            // first line of the sample among those of all samples
    unsigned place[COUNT];       // of the pixel under the kernel, in chunks from the first
    unsigned seen;               // bits: which of these pixels lie in the picture
    int channel;                 // in chunks if WHOLE, else in words
    int tap_x, tap_y;            // pixel of the kernel
    int offset;                  // of the thread's first chunk in a stage

    __device__ __forceinline__ LeftCopies(const T* x, const Conv2dSizes& sizes, int first_row, int first_word) : x(x) {
        const int thread_row = threadIdx.x / Tile::LEFT_CHUNKS, chunk = threadIdx.x % Tile::LEFT_CHUNKS;
        offset = Tile::left_place(thread_row, chunk);
        const int word = first_word + chunk * 8, tap = word / sizes.channels;
        channel = (word - tap * sizes.channels) / (WHOLE ? 8 : 1);
        tap_y = tap / sizes.kernel;
        tap_x = tap - tap_y * sizes.kernel;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int row = first_row + thread_row + i * Tile::LEFT_PASS;
            const int area = sizes.out_height * sizes.out_width, sample = row / area, pixel = row - sample * area;
            const int y = pixel / sizes.out_width;
            // Beyond the last row: above the first picture.
            top[i] = row < sizes.rows ? y * sizes.stride - sizes.padding : -0x40000000;
            left[i] = (pixel - y * sizes.out_width) * sizes.stride - sizes.padding;
            image[i] = row < sizes.rows ? sample * sizes.height : 0;
        }
        if constexpr (WHOLE) locate(sizes);
    }

    // Whether the pixel under the kernel lies in the picture; and where, in pixels from the first.
    __device__ __forceinline__ bool pixel(const Conv2dSizes& sizes, int i, unsigned& at) const {
        const int row = top[i] + tap_y, column = left[i] + tap_x;
        at = static_cast<unsigned>(image[i] + (row >> sizes.doubled)) * sizes.width + (column >> sizes.doubled);
        return tap_y < sizes.kernel && static_cast<unsigned>(row) < static_cast<unsigned>(sizes.picture_height) &&
               static_cast<unsigned>(column) < static_cast<unsigned>(sizes.picture_width);
    }

    __device__ __forceinline__ void locate(const Conv2dSizes& sizes) {
        seen = 0;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            unsigned at;
            const bool inside = pixel(sizes, i, at);
            place[i] = inside ? at * (sizes.channels / 8) : 0;
            seen |= static_cast<unsigned>(inside) << i;
        }
    }

    // Goes on by so many chunks or words; returns whether to another pixel of the kernel.
    __device__ __forceinline__ bool advance(const Conv2dSizes& sizes, int by) {
        const int channels = WHOLE ? sizes.channels / 8 : sizes.channels;
        channel += by;
        if (channel < channels) return false;
        do {
            channel -= channels;
            if (++tap_x == sizes.kernel) tap_x = 0, ++tap_y;
        } while (channel >= channels);
        return true;
    }

    // Copies this step's words into a stage, and goes on to the next.
    __device__ __forceinline__ void copy(unsigned char* stage, const Conv2dSizes& sizes) {
        unsigned char* to = stage + offset;
        if constexpr (WHOLE) {
#pragma unroll
            for (int i = 0; i < COUNT; i++)
                cp_async_16(to + i * Tile::LEFT_PASS * Tile::LEFT_ROW_BYTES,
                            x + static_cast<size_t>(place[i] + channel) * 8, seen >> i & 1);
            if (advance(sizes, Tile::LEFT_CHUNKS)) locate(sizes);
        } else {
            uint32_t words[COUNT][4] = {};
#pragma unroll
            for (int e = 0; e < 8; e++) {
#pragma unroll
                for (int i = 0; i < COUNT; i++) {
                    unsigned at;
                    if (!pixel(sizes, i, at)) continue;
                    const T* from = x + static_cast<size_t>(at) * sizes.channels + channel;
                    words[i][e / 2] |= static_cast<uint32_t>(*reinterpret_cast<const uint16_t*>(from)) << e % 2 * 16;
                }
                advance(sizes, 1);
            }
            advance(sizes, Tile::DEPTH - 8);
#pragma unroll
            for (int i = 0; i < COUNT; i++)
                *reinterpret_cast<uint4*>(to + i * Tile::LEFT_PASS * Tile::LEFT_ROW_BYTES) =
                    make_uint4(words[i][0], words[i][1], words[i][2], words[i][3]);
        }
    }
};

// Copies of the right matrix: rows of the weight. WHOLE: O is a multiple of 8.
template <class T, class Tile, bool WHOLE> struct RightCopies {
    static constexpr int COUNT = Tile::RIGHT_COPIES;

    const T* from;
    int words;   // of the sum, from the thread's first row of this step to the end
    int columns; // that this thread's chunk has
    int offset;  // of the thread's first chunk in a stage

    __device__ __forceinline__ RightCopies(const T* weight, const Conv2dSizes& sizes, int first_column,
                                           int first_word) {
        const int row = threadIdx.x / Tile::RIGHT_CHUNKS, chunk = threadIdx.x % Tile::RIGHT_CHUNKS;
        const int column = first_column + chunk * 8;
        offset = Tile::right_place(row, chunk);
        columns = sizes.outputs - column;
        words = sizes.inner - first_word - row;
        from = weight + static_cast<size_t>(first_word + row) * sizes.outputs + column;
    }

    // Copies this step's words into a stage, and goes on to the next.
    __device__ __forceinline__ void copy(unsigned char* stage, const Conv2dSizes& sizes) {
        unsigned char* to = stage + offset;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const bool inside = columns > 0 && words > i * Tile::RIGHT_PASS;
            const T* chunk = from + static_cast<size_t>(i * Tile::RIGHT_PASS) * sizes.outputs;
            unsigned char* target = to + i * Tile::RIGHT_PASS * Tile::RIGHT_ROW_BYTES;
            if constexpr (WHOLE) {
                cp_async_16(target, chunk, inside);
            } else {
                uint32_t pairs[4] = {};
#pragma unroll
                for (int e = 0; e < 8; e++)
                    if (inside && e < columns)
                        pairs[e / 2] |= static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(chunk)[e]) << e % 2 * 16;
                *reinterpret_cast<uint4*>(target) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
            }
        }
        words -= Tile::DEPTH;
        from += static_cast<size_t>(Tile::DEPTH) * sizes.outputs;
    }
};

// Adds eight neighbouring elements, from a multiple of 16 bytes.
template <class T> __device__ __forceinline__ void add_8(float (&sums)[8], const T* summands) {
    const uint4 words = *reinterpret_cast<const uint4*>(summands);
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 pair = unpack2<T>(pairs[i]);
        sums[2 * i] += pair.x;
        sums[2 * i + 1] += pair.y;
    }
}

__device__ __forceinline__ void store_8(float* place, const float (&values)[8]) {
    reinterpret_cast<float4*>(place)[0] = make_float4(values[0], values[1], values[2], values[3]);
    reinterpret_cast<float4*>(place)[1] = make_float4(values[4], values[5], values[6], values[7]);
}

// Four lanes hold two neighbouring columns each of four blocks of eight; afterwards each of them holds the eight
// columns of one block: lane t those of block t. Every lane of the warp has to call it.
__device__ __forceinline__ void gather_eight(float (&values)[8]) {
    const int lane = threadIdx.x % 4;
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
        const bool upper = lane & distance;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            // Element 2j and 2j + 1 belong to block j; blocks j and j + distance swap between the two lanes.
            if (i / 2 & distance) continue;
            float& low = values[i];
            float& high = values[i + 2 * distance];
            const float received = __shfl_xor_sync(ALL_LANES, upper ? low : high, distance);
            if (upper) {
                low = received;
            } else {
                high = received;
            }
        }
    }
}

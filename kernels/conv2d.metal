// Convolution of channels-last pictures as a product of matrices that are never laid out (implicit GEMM): rows are
// the pixels of the output, the inner dimension runs over kernel row, kernel column and channel, columns are the
// output's channels. Sums are in f32.
//
// The work is cut by the shape of one sample: a threadgroup computes a tile of one sample's pixels, so a sample's
// bytes are the same in any batch.

struct Conv2dSizes {
    // of a sample of the input
    uint height;
    uint width;
    uint channels;
    // of a sample of the output
    uint out_height;
    uint out_width;
    uint outputs;
    // the kernel's rows, which are its columns too
    uint side;
    uint stride;
    uint padding;
    // the picture that the kernel moves over: the input, or the input doubled
    uint picture_height;
    uint picture_width;
    // 1 where every pixel of the input stands for two by two pixels of the picture
    uint doubled;
    // values from one sample's bias to the next: 0 for a bias of the layer
    uint bias_stride;
    // CONV2D_…
    uint options;
};

constant constexpr uint CONV2D_BIAS = 1;
constant constexpr uint CONV2D_OTHER = 2;
// the input's runs, the weight's, and those of the output with what is added to it
constant constexpr uint CONV2D_ALIGNED_INPUT = 4;
constant constexpr uint CONV2D_ALIGNED_WEIGHT = 8;
constant constexpr uint CONV2D_ALIGNED_OUTPUT = 16;

// Place in the inner dimension: a channel at a tap of the kernel.
struct Tap {
    uint channel;
    uint row;
    uint column;
};

inline void advance(thread Tap& tap, uint by, uint channels, uint side) {
    tap.channel += by;
    while (tap.channel >= channels) {
        tap.channel -= channels;
        tap.column += 1;
        if (tap.column == side) {
            tap.column = 0;
            tap.row += 1;
        }
    }
}

// Corner of the kernel's window at a pixel of the output.
struct Corner {
    int top;
    int left;
};

// The corner at pixel `pixel`; past the last pixel one at which no tap lies on the picture.
inline Corner corner_at(uint pixel, constant Conv2dSizes& sizes) {
    if (pixel >= sizes.out_height * sizes.out_width) return Corner{-(1 << 30), 0};
    const uint row = pixel / sizes.out_width;
    const uint column = pixel - row * sizes.out_width;
    return Corner{int(row * sizes.stride) - int(sizes.padding), int(column * sizes.stride) - int(sizes.padding)};
}

// `true` if the tap lies on the picture there.
inline bool is_seen(Corner corner, Tap tap, constant Conv2dSizes& sizes) {
    const int row = corner.top + int(tap.row);
    const int column = corner.left + int(tap.column);
    return tap.row < sizes.side && row >= 0 && row < int(sizes.picture_height) && column >= 0
        && column < int(sizes.picture_width);
}

// Position in a sample of the input of the value under a tap that is seen.
inline ulong place_of(Corner corner, Tap tap, constant Conv2dSizes& sizes) {
    const uint row = uint(corner.top + int(tap.row)) >> sizes.doubled;
    const uint column = uint(corner.left + int(tap.column)) >> sizes.doubled;
    return (ulong(row) * sizes.width + column) * sizes.channels + tap.channel;
}

// The run of the inner dimension that begins at `tap`, under the kernel at `corner`; zeros where it is not seen. Runs may
// reach from one tap into the next.
template <typename T>
inline vec<T, 4> gathered_run(device const T* sample, Corner corner, Tap tap, constant Conv2dSizes& sizes) {
    vec<T, 4> run = zero_run<T>();
    for (uint i = 0; i < RUN; i++) {
        if (is_seen(corner, tap, sizes)) run[i] = sample[place_of(corner, tap, sizes)];
        advance(tap, 1, sizes.channels, sizes.side);
    }
    return run;
}

// Adds bias and summand to a run of sums of one pixel, and writes it.
template <typename T>
inline void finish_run(float4 sum, device const T* bias, device const T* other, device T* y, uint sample, uint pixel,
                       uint output, constant Conv2dSizes& sizes) {
    const bool aligned = (sizes.options & CONV2D_ALIGNED_OUTPUT) != 0;
    const uint count = run_count(output, sizes.outputs);
    if (sizes.options & CONV2D_BIAS) {
        sum += widen<T>(read_run(bias + ulong(sample) * sizes.bias_stride + output, count, aligned));
    }
    const ulong place = (ulong(sample) * (sizes.out_height * sizes.out_width) + pixel) * sizes.outputs + output;
    if (sizes.options & CONV2D_OTHER) sum += widen<T>(read_run(other + place, count, aligned));
    write_run(y + place, narrow<T>(sum), count, aligned);
}

constant constexpr uint CONV2D_THREADS = 128;
// Inner dimension of a tile.
constant constexpr uint CONV2D_INNER = 32;

// A tile of TILE pixels by TILE channels, by four SIMD groups, two by two.
template <typename T, uint TILE>
[[kernel]] void conv2d(device const T* x [[buffer(0)]], device const T* weight [[buffer(1)]],
                   device const T* bias [[buffer(2)]], device const T* other [[buffer(3)]],
                   device T* y [[buffer(4)]], constant Conv2dSizes& sizes [[buffer(5)]],
                   uint3 group [[threadgroup_position_in_grid]], uint member [[thread_index_in_threadgroup]],
                   uint lane [[thread_index_in_simdgroup]], uint part [[simdgroup_index_in_threadgroup]]) {
    // Matrices of 8 × 8 along a side of what one SIMD group computes.
    constexpr uint BLOCKS = TILE / 16;
    constexpr uint SPAN = 8 * BLOCKS;
    // Rows of tiles have a few values more than they need, so that those below each other lie in other banks.
    constexpr uint PIXEL_ROW = CONV2D_INNER + 8;
    constexpr uint WEIGHT_ROW = TILE + 8;
    constexpr uint SUM_ROW = SPAN + RUN;
    // Runs of either tile that one thread brings.
    constexpr uint RUNS = TILE * CONV2D_INNER / RUN / CONV2D_THREADS;

    // The pixels' tile, and in the end eight rows of sums for each SIMD group.
    threadgroup float4 pixel_memory[TILE * PIXEL_ROW * sizeof(T) / sizeof(float4)];
    threadgroup vec<T, 4> weight_runs[CONV2D_INNER * WEIGHT_ROW / RUN];
    static_assert(4 * 8 * SUM_ROW * sizeof(float) <= sizeof(pixel_memory), "sums fit into the tile");
    threadgroup vec<T, 4>* pixel_runs = (threadgroup vec<T, 4>*)pixel_memory;
    threadgroup T* pixel_tile = (threadgroup T*)pixel_memory;
    threadgroup T* weight_tile = (threadgroup T*)weight_runs;
    threadgroup float4* own_runs = pixel_memory + part * (8 * SUM_ROW / RUN);
    threadgroup float* own_sums = (threadgroup float*)own_runs;

    const uint first_output = group.x * TILE;
    const uint first_pixel = group.y * TILE;
    const uint inner = sizes.side * sizes.side * sizes.channels;
    device const T* sample = x + ulong(group.z) * sizes.height * sizes.width * sizes.channels;

    // The pixels' tile: eight threads bring a row, each the same columns of RUNS rows.
    const uint pixel_row = member / (CONV2D_INNER / RUN);
    const uint pixel_run = member % (CONV2D_INNER / RUN);
    Corner corners[RUNS];
    for (uint i = 0; i < RUNS; i++) {
        corners[i] = corner_at(first_pixel + pixel_row + i * (TILE / RUNS), sizes);
    }
    Tap tap = Tap{0, 0, 0};
    advance(tap, pixel_run * RUN, sizes.channels, sizes.side);
    // Where the channels are whole runs, each run lies at one tap. Then places are known until the tap changes.
    const bool has_places = (sizes.options & CONV2D_ALIGNED_INPUT) != 0;
    ulong places[RUNS];
    for (uint i = 0; i < RUNS; i++) places[i] = 0;
    uint seen = 0;
    bool is_new_tap = true;

    // The weight's tile.
    const uint weight_row = member / (TILE / RUN);
    const uint weight_run = member % (TILE / RUN);
    const uint weight_column = first_output + weight_run * RUN;
    const uint weight_count = run_count(weight_column, sizes.outputs);
    const bool has_weight_runs = (sizes.options & CONV2D_ALIGNED_WEIGHT) != 0;
    ulong weight_place = ulong(weight_row) * sizes.outputs + weight_column;

    const uint own_row = part / 2 * SPAN;
    const uint own_column = part % 2 * SPAN;
    simdgroup_matrix<float, 8, 8> sums[BLOCKS][BLOCKS];
    for (uint i = 0; i < BLOCKS; i++) {
        for (uint j = 0; j < BLOCKS; j++) sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }

    // Each step reads what the next one multiplies, and multiplies what the last one has read. Behind the end are zeros.
    for (uint k = 0; k < inner + CONV2D_INNER; k += CONV2D_INNER) {
        vec<T, 4> pixels[RUNS];
        vec<T, 4> weights[RUNS];
        if (has_places && is_new_tap) {
            seen = 0;
            for (uint i = 0; i < RUNS; i++) {
                places[i] = place_of(corners[i], tap, sizes);
                if (is_seen(corners[i], tap, sizes)) seen |= 1u << i;
            }
        }
        for (uint i = 0; i < RUNS; i++) {
            pixels[i] = zero_run<T>();
            if (!has_places) {
                pixels[i] = gathered_run(sample, corners[i], tap, sizes);
            } else if ((seen >> i & 1) != 0) {
                pixels[i] = *(device const vec<T, 4>*)(sample + places[i]);
            }
            const uint row = i * (CONV2D_INNER / RUNS);
            weights[i] = read_run(weight + weight_place + row * sizes.outputs,
                                  k + weight_row + row < inner ? weight_count : 0u, has_weight_runs);
            places[i] += CONV2D_INNER;
        }
        weight_place += CONV2D_INNER * sizes.outputs;
        is_new_tap = tap.channel + CONV2D_INNER >= sizes.channels;
        advance(tap, CONV2D_INNER, sizes.channels, sizes.side);
        if (k > 0) {
#pragma clang loop unroll(full)
            for (uint step = 0; step < CONV2D_INNER; step += 8) {
                simdgroup_matrix<T, 8, 8> a[BLOCKS];
                simdgroup_matrix<T, 8, 8> b[BLOCKS];
#pragma clang loop unroll(full)
                for (uint i = 0; i < BLOCKS; i++) {
                    simdgroup_load(a[i], pixel_tile + (own_row + 8 * i) * PIXEL_ROW + step, PIXEL_ROW);
                    simdgroup_load(b[i], weight_tile + step * WEIGHT_ROW + own_column + 8 * i, WEIGHT_ROW);
                }
#pragma clang loop unroll(full)
                for (uint i = 0; i < BLOCKS; i++) {
#pragma clang loop unroll(full)
                    for (uint j = 0; j < BLOCKS; j++) {
                        simdgroup_multiply_accumulate(sums[i][j], a[i], b[j], sums[i][j]);
                    }
                }
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint i = 0; i < RUNS; i++) {
            const uint row = pixel_row + i * (TILE / RUNS);
            pixel_runs[row * (PIXEL_ROW / RUN) + pixel_run] = pixels[i];
            const uint inner_row = weight_row + i * (CONV2D_INNER / RUNS);
            weight_runs[inner_row * (WEIGHT_ROW / RUN) + weight_run] = weights[i];
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    // Eight rows at a time go through memory, where a lane finds runs of a row.
#pragma clang loop unroll(full)
    for (uint i = 0; i < BLOCKS; i++) {
#pragma clang loop unroll(full)
        for (uint j = 0; j < BLOCKS; j++) simdgroup_store(sums[i][j], own_sums + 8 * j, SUM_ROW);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint run = lane; run < 8 * SPAN / RUN; run += LANES) {
            const uint row = run / (SPAN / RUN);
            const uint column = run % (SPAN / RUN);
            const uint pixel = first_pixel + own_row + 8 * i + row;
            const uint output = first_output + own_column + column * RUN;
            if (pixel < sizes.out_height * sizes.out_width && output < sizes.outputs) {
                const float4 sum = own_runs[row * (SUM_ROW / RUN) + column];
                finish_run(sum, bias, other, y, group.z, pixel, output, sizes);
            }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
}

template [[host_name("conv2d_64_f16")]] [[kernel]] decltype(conv2d<half, 64>) conv2d<half, 64>;
template [[host_name("conv2d_32_f16")]] [[kernel]] decltype(conv2d<half, 32>) conv2d<half, 32>;
template [[host_name("conv2d_64_f32")]] [[kernel]] decltype(conv2d<float, 64>) conv2d<float, 64>;
template [[host_name("conv2d_32_f32")]] [[kernel]] decltype(conv2d<float, 32>) conv2d<float, 32>;

// The same without matrices of SIMD groups: a run of one pixel's channels per thread.
template <typename T>
[[kernel]] void conv2d_plain(device const T* x [[buffer(0)]], device const T* weight [[buffer(1)]],
                         device const T* bias [[buffer(2)]], device const T* other [[buffer(3)]],
                         device T* y [[buffer(4)]], constant Conv2dSizes& sizes [[buffer(5)]],
                         uint3 at [[thread_position_in_grid]]) {
    const uint output = at.x * RUN;
    if (output >= sizes.outputs) return;
    const bool aligned = (sizes.options & CONV2D_ALIGNED_WEIGHT) != 0;
    const uint count = run_count(output, sizes.outputs);
    device const T* sample = x + ulong(at.z) * sizes.height * sizes.width * sizes.channels;
    device const T* column = weight + output;
    const Corner corner = corner_at(at.y, sizes);
    float4 sum = float4{0.0f, 0.0f, 0.0f, 0.0f};
    for (uint row = 0; row < sizes.side; row++) {
        for (uint tap_column = 0; tap_column < sizes.side; tap_column++) {
            const Tap tap = Tap{0, row, tap_column};
            if (!is_seen(corner, tap, sizes)) continue;
            device const T* values = sample + place_of(corner, tap, sizes);
            const ulong first = ulong(row * sizes.side + tap_column) * sizes.channels;
            for (uint channel = 0; channel < sizes.channels; channel++) {
                const vec<T, 4> factors = read_run(column + (first + channel) * sizes.outputs, count, aligned);
                sum += float(values[channel]) * widen<T>(factors);
            }
        }
    }
    finish_run(sum, bias, other, y, at.z, at.y, output, sizes);
}

template [[host_name("conv2d_plain_f16")]] [[kernel]] decltype(conv2d_plain<half>) conv2d_plain<half>;
template [[host_name("conv2d_plain_f32")]] [[kernel]] decltype(conv2d_plain<float>) conv2d_plain<float>;

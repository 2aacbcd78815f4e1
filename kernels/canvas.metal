// The canvas on the device, f32 and channels-last `[H, W, C]`: regions cut out and fused, and the sampler's step with the
// structure prior. Launches and numbers are those of the kernels for CUDA (canvas.cu), and so is the order of every sum.
// Metal has no doubles, which the field of noise is computed in: noise comes from the host.

// A piece of the canvas: whole rows of it.
struct BandSizes {
    uint height;
    uint width;
    uint channels;
    // row of the canvas that is the piece's first
    uint top;
};

// The host's field of noise; not read here.
struct NoiseField {
    uint seed_low;
    uint seed_high;
    uint draw;
};

struct DiffuseNumbers {
    BandSizes band;
    NoiseField noise;
    float signal;
    float spread;
};

struct GatherSizes {
    // of the canvas
    uint height;
    uint width;
    uint channels;
    uint region_height;
    uint region_width;
    // channels of a pixel of the output, and the first one that is written
    uint pixel;
    uint first;
};

// Predictions of some regions of a grid, one after the other in the grid's order.
struct PredictionSizes {
    uint side;
    uint channels;
    uint count;
    // 1: predictions for the negative prompt, and behind them those for the prompt
    uint guided;
    float guidance;
};

struct FuseSizes {
    PredictionSizes predictions;
    // of the canvas
    uint width;
    // first row of the canvas that the regions reach
    uint top;
    // of the grid
    uint rows;
    uint columns;
    // number of the first region
    uint first;
};

// A factor of z and one of the prediction.
struct Factors {
    float z;
    float prediction;
};

// Limits of the clean latent; 1 is a range.
constant constexpr uint NO_LIMIT = 0;
constant constexpr uint SCALED_RANGE = 2;

struct StepNumbers {
    BandSizes band;
    // The model's output brought to the prediction: `output·from.prediction + z·from.z`, if `converts`.
    uint converts;
    Factors from;
    // The structure prior, on z with the noise, or on the clean latent.
    uint clean;
    float signal;
    float spread;
    float lambda;
    // The sampler's step.
    Factors step;
    // factor of fresh noise, 0 for none
    float noise;
    NoiseField field;
    // 1: `kept` is written, with the factors below
    uint keeps;
    Factors kept;
    // of the clean latent, which is `clean_latent` combined
    uint limit;
    float most;
    Factors clean_latent;
    // factor of the limited clean latent
    float limited;
    uint earlier;
    // factors of what earlier steps kept
    float history_0;
    float history_1;
};

// Threads of a threadgroup that walks a row value by value, and of one that reads predictions.
constant constexpr uint CANVAS_THREADS = 128;
constant constexpr uint PREDICTION_THREADS = 256;

// `i` on an axis that is mirrored at both ends without repeating the end itself.
inline uint reflect_at(uint i, uint length) {
    if (i < length) return i;
    if (length == 1) return 0;
    const uint period = 2 * (length - 1);
    const uint place = i % period;
    return place < length ? place : period - place;
}

// The prediction of a region, the `index`-th of those at hand.
template <typename T>
inline float prediction_of(device const T* predictions, constant PredictionSizes& sizes, uint index, uint place) {
    const ulong size = ulong(sizes.side) * sizes.side * sizes.channels;
    const ulong at = index * size + place;
    const float value = float(predictions[at]);
    if (sizes.guided == 0) return value;
    const float text = float(predictions[at + sizes.count * size]);
    return value + sizes.guidance * (text - value);
}

// z = signal·zL + spread·n, of which `z` holds the noise n at first.
[[kernel]] void diffuse_f32(device const float* zl [[buffer(0)]], device float* z [[buffer(1)]],
                            constant DiffuseNumbers& numbers [[buffer(2)]],
                            uint3 group [[threadgroup_position_in_grid]],
                            uint member [[thread_index_in_threadgroup]]) {
    const uint row_length = numbers.band.width * numbers.band.channels;
    const uint place = group.y * CANVAS_THREADS + member;
    if (place >= row_length) return;
    const ulong at = ulong(group.x) * row_length + place;
    z[at] = numbers.signal * zl[at] + numbers.spread * z[at];
}

// Regions of the canvas, `[regions, region height, region width, pixel]`, from first rows and columns in `places`; what
// lies past the canvas is mirrored.
template <typename T>
[[kernel]] void gather_regions(device const float* canvas [[buffer(0)]], device const uint* places [[buffer(1)]],
                               device T* out [[buffer(2)]], constant GatherSizes& sizes [[buffer(3)]],
                               uint3 group [[threadgroup_position_in_grid]],
                               uint member [[thread_index_in_threadgroup]]) {
    const uint region = group.y;
    const uint i = group.x * PREDICTION_THREADS + member;
    if (i >= sizes.region_height * sizes.region_width * sizes.channels) return;
    const uint pixel = i / sizes.channels;
    const uint channel = i - pixel * sizes.channels;
    const uint row = pixel / sizes.region_width;
    const uint y = reflect_at(places[2 * region] + row, sizes.height);
    const uint x = reflect_at(places[2 * region + 1] + (pixel - row * sizes.region_width), sizes.width);
    const float value = canvas[(ulong(y) * sizes.width + x) * sizes.channels + channel];
    const ulong pixels = ulong(sizes.region_height) * sizes.region_width;
    out[(region * pixels + pixel) * sizes.pixel + sizes.first + channel] = T(value);
}

template [[host_name("gather_regions_f16")]] [[kernel]] decltype(gather_regions<half>) gather_regions<half>;
template [[host_name("gather_regions_f32")]] [[kernel]] decltype(gather_regions<float>) gather_regions<float>;

// sums += w·ε, region by region in the grid's order: a value of the canvas for each thread.
template <typename T>
[[kernel]] void add_regions(device const T* predictions [[buffer(0)]], device const uint* ys [[buffer(1)]],
                            device const uint* xs [[buffer(2)]], device const float* profile [[buffer(3)]],
                            device float* sums [[buffer(4)]], constant FuseSizes& sizes [[buffer(5)]],
                            uint3 group [[threadgroup_position_in_grid]],
                            uint member [[thread_index_in_threadgroup]]) {
    constant PredictionSizes& of = sizes.predictions;
    const uint row_length = sizes.width * of.channels;
    const uint place = group.y * PREDICTION_THREADS + member;
    if (place >= row_length) return;
    const uint y = sizes.top + group.x;
    const uint x = place / of.channels;
    const uint channel = place - x * of.channels;
    float sum = sums[ulong(y) * row_length + place];
    for (uint row = 0; row < sizes.rows; row++) {
        // Places before a region wrap around, and are beyond its side as well.
        const uint down = y - ys[row];
        if (down >= of.side) continue;
        for (uint column = 0; column < sizes.columns; column++) {
            const uint right = x - xs[column];
            const uint index = row * sizes.columns + column - sizes.first;
            if (right >= of.side || index >= of.count) continue;
            const uint within = (down * of.side + right) * of.channels + channel;
            sum += profile[down] * profile[right] * prediction_of(predictions, of, index, within);
        }
    }
    sums[ulong(y) * row_length + place] = sum;
}

template [[host_name("add_regions_f16")]] [[kernel]] decltype(add_regions<half>) add_regions<half>;
template [[host_name("add_regions_f32")]] [[kernel]] decltype(add_regions<float>) add_regions<float>;

// flags[region] = 1 if a value of the region's prediction is not finite. By its bits, because fast mathematics know no
// other numbers.
template <typename T>
[[kernel]] void find_non_finite(device const T* predictions [[buffer(0)]], device uint* flags [[buffer(1)]],
                                constant PredictionSizes& sizes [[buffer(2)]],
                                uint3 group [[threadgroup_position_in_grid]],
                                uint member [[thread_index_in_threadgroup]],
                                uint3 members [[threads_per_threadgroup]]) {
    threadgroup uint found[1024];
    const uint length = sizes.side * sizes.side * sizes.channels;
    uint any = 0;
    for (uint place = member; place < length; place += members.x) {
        const float value = prediction_of(predictions, sizes, group.x, place);
        any |= (as_type<uint>(value) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
    }
    found[member] = any;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (member > 0) return;
    for (uint i = 1; i < members.x; i++) any |= found[i];
    flags[group.x] = any;
}

template [[host_name("find_non_finite_f16")]] [[kernel]] decltype(find_non_finite<half>) find_non_finite<half>;
template [[host_name("find_non_finite_f32")]] [[kernel]] decltype(find_non_finite<float>) find_non_finite<float>;

// Up to 2 × 2 places of one channel: a block of the Haar transform, or what of it lies on the canvas.
struct HaarBlock {
    uint rows;
    uint columns;
};

inline bool is_there(HaarBlock block, uint i) {
    return i / 2 < block.rows && i % 2 < block.columns;
}

// values −= λ·P(values − spread·noise − signal·zl), P the mean over the block.
inline void pull(thread float* values, thread const float* noise, thread const float* zl, HaarBlock block, float spread,
                 float signal, float lambda) {
    if (lambda == 0.0f) return;
    float sum = 0.0f;
    for (uint i = 0; i < 4; i++) {
        if (is_there(block, i)) sum += values[i] - spread * noise[i] - signal * zl[i];
    }
    const float share = lambda / float(block.rows * block.columns);
    for (uint i = 0; i < 4; i++) values[i] -= share * sum;
}

inline float combined(constant Factors& factors, float z, float prediction) {
    return factors.z * z + factors.prediction * prediction;
}

// The clean latent within the limit. What is not a number passes.
inline float within_limit(float x, constant StepNumbers& numbers) {
    if (x < -numbers.most) x = -numbers.most;
    if (x > numbers.most) x = numbers.most;
    return numbers.limit == SCALED_RANGE ? x / numbers.most : x;
}

// Sums of weighted predictions → the prediction → the structure prior → the sampler's step, a Haar block of a channel
// for each thread. `before` and `after` may be the same; `earlier` 0 and 1, `kept` and `fresh`, the noise, are not touched
// where the step has no use for them.
[[kernel]] void canvas_step_f32(device const float* before [[buffer(0)]], device const float* sums [[buffer(1)]],
                                device const float* sum_y [[buffer(2)]], device const float* sum_x [[buffer(3)]],
                                device const float* zl_canvas [[buffer(4)]],
                                device const float* earlier_0 [[buffer(5)]],
                                device const float* earlier_1 [[buffer(6)]], device float* kept [[buffer(7)]],
                                device float* after [[buffer(8)]], constant StepNumbers& numbers [[buffer(9)]],
                                device const float* fresh [[buffer(10)]],
                                uint3 group [[threadgroup_position_in_grid]],
                                uint member [[thread_index_in_threadgroup]]) {
    constant BandSizes& band = numbers.band;
    const uint place = group.y * CANVAS_THREADS + member;
    const uint left = place / band.channels * 2;
    if (left >= band.width) return;
    const uint channel = place % band.channels;
    const uint upper = group.x * 2;
    const HaarBlock block = HaarBlock{min(band.height - upper, 2u), min(band.width - left, 2u)};
    const ulong first = (ulong(upper) * band.width + left) * band.channels + channel;
    ulong at[4];
    float z[4];
    float prediction[4];
    float zl[4];
    for (uint i = 0; i < 4; i++) {
        at[i] = first + (ulong(i / 2) * band.width + i % 2) * band.channels;
        z[i] = 0.0f;
        prediction[i] = 0.0f;
        zl[i] = 0.0f;
        if (!is_there(block, i)) continue;
        z[i] = before[at[i]];
        zl[i] = zl_canvas[at[i]];
        prediction[i] = sums[at[i]] / (sum_y[band.top + upper + i / 2] * sum_x[left + i % 2]);
        if (numbers.converts != 0) prediction[i] = combined(numbers.from, z[i], prediction[i]);
    }
    if (numbers.clean != 0) {
        for (uint i = 0; i < 4; i++) z[i] -= numbers.signal * prediction[i];
        pull(prediction, z, zl, block, 0.0f, 1.0f, numbers.lambda);
        for (uint i = 0; i < 4; i++) z[i] += numbers.signal * prediction[i];
    } else {
        pull(z, prediction, zl, block, numbers.spread, numbers.signal, numbers.lambda);
    }
    for (uint i = 0; i < 4; i++) {
        if (!is_there(block, i)) continue;
        if (numbers.keeps != 0) {
            const float value = combined(numbers.kept, z[i], prediction[i]);
            kept[at[i]] = numbers.limit == NO_LIMIT ? value : within_limit(value, numbers);
        }
        float next = combined(numbers.step, z[i], prediction[i]);
        if (numbers.limit != NO_LIMIT) {
            const float clean = combined(numbers.clean_latent, z[i], prediction[i]);
            next += numbers.limited * within_limit(clean, numbers);
        }
        if (numbers.noise != 0.0f) next += numbers.noise * fresh[at[i]];
        if (numbers.earlier > 0) next += numbers.history_0 * earlier_0[at[i]];
        if (numbers.earlier > 1) next += numbers.history_1 * earlier_1[at[i]];
        after[at[i]] = next;
    }
}

// Normalizations of channels-last values, statistics in f32.
//
// A group norm is three kernels: moments of every channel over a piece of a sample's positions, their merge into
// statistics of the groups, and the normalization. Moments are merged in a fixed order and never as sums of squares,
// and they are those of distances from a base, one value of the group, so values far from zero lose nothing. Pieces
// follow from the shape of one sample.

struct GroupNormSizes {
    // of one sample
    uint positions;
    uint channels;
    uint groups;
    // positions of a piece, and pieces of a sample
    uint piece;
    uint pieces;
    // added to the variance
    float eps;
    // 1 where SiLU follows
    uint silu;
    // rows of statistics from one sample to the next: `groups`, or 0 where all samples share them
    uint statistics_stride;
    // 1 where rows of `x` and `y` are whole runs
    uint aligned;
};

// Threads of a threadgroup: so many runs of channels side by side, by so many positions.
constant constexpr uint NORM_COLUMNS = 32;
constant constexpr uint NORM_LINES = 8;
// Positions that a threadgroup normalizes.
constant constexpr uint APPLY_POSITIONS = 64;
constant constexpr uint MERGE_THREADS = 128;

// Mean, and sum of squared distances from it, over so many values.
struct Moments {
    float count;
    float mean;
    float squares;
};

// The moments of both together, by Chan's formula.
inline Moments merged(Moments a, Moments b) {
    if (b.count == 0.0f) return a;
    if (a.count == 0.0f) return b;
    const float count = a.count + b.count;
    const float distance = b.mean - a.mean;
    const float share = b.count / count;
    return Moments{count, a.mean + distance * share, a.squares + b.squares + distance * distance * (a.count * share)};
}

// The base of a group: its first value.
template <typename T>
inline float base_of(device const T* sample, uint group, constant GroupNormSizes& sizes) {
    return float(sample[group * (sizes.channels / sizes.groups)]);
}

// `[pieces, channels]` of mean and sum of squares of each sample's distances from the base. A threadgroup takes 128
// channels of a piece.
template <typename T>
[[kernel]] void group_norm_moments(device const T* x [[buffer(0)]], device float2* partial [[buffer(1)]],
                                   constant GroupNormSizes& sizes [[buffer(2)]],
                                   uint3 group [[threadgroup_position_in_grid]],
                                   uint member [[thread_index_in_threadgroup]]) {
    threadgroup float4 means[NORM_COLUMNS * NORM_LINES];
    threadgroup float4 squares[NORM_COLUMNS * NORM_LINES];

    const uint line = member / NORM_COLUMNS;
    const uint column = member % NORM_COLUMNS;
    const uint channel = (group.y * NORM_COLUMNS + column) * RUN;
    const uint count = run_count(channel, sizes.channels);
    const uint first = group.x * sizes.piece;
    const uint end = min(first + sizes.piece, sizes.positions);
    device const T* sample = x + ulong(group.z) * sizes.positions * sizes.channels;

    float4 base = float4{0.0f, 0.0f, 0.0f, 0.0f};
    for (uint i = 0; i < count; i++) {
        base[i] = base_of(sample, (channel + i) / (sizes.channels / sizes.groups), sizes);
    }
    // Welford's method: the mean so far, and squared distances from it.
    float4 mean = float4{0.0f, 0.0f, 0.0f, 0.0f};
    float4 square = mean;
    float taken = 0.0f;
    for (uint position = first + line; position < end; position += NORM_LINES) {
        device const T* from = sample + ulong(position) * sizes.channels + channel;
        const float4 v = widen<T>(read_run(from, count, sizes.aligned != 0)) - base;
        taken += 1.0f;
        const float4 distance = v - mean;
        mean += distance * (1.0f / taken);
        square += distance * (v - mean);
    }
    means[member] = mean;
    squares[member] = square;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // Now each thread has a channel, of which it merges the lines.
    const uint own_channel = group.y * (NORM_COLUMNS * RUN) + member;
    if (member >= NORM_COLUMNS * RUN || own_channel >= sizes.channels) return;
    threadgroup const float* own_means = (threadgroup const float*)means + member;
    threadgroup const float* own_squares = (threadgroup const float*)squares + member;
    Moments all = Moments{0.0f, 0.0f, 0.0f};
    for (uint other = 0; other < NORM_LINES; other++) {
        const uint of_line = end > first + other ? (end - first - other + NORM_LINES - 1) / NORM_LINES : 0u;
        const uint place = other * NORM_COLUMNS * RUN;
        all = merged(all, Moments{float(of_line), own_means[place], own_squares[place]});
    }
    partial[(ulong(group.z) * sizes.pieces + group.x) * sizes.channels + own_channel] = float2{all.mean, all.squares};
}

template [[host_name("group_norm_moments_f16")]] [[kernel]] decltype(group_norm_moments<half>) group_norm_moments<half>;
template [[host_name("group_norm_moments_f32")]] [[kernel]] decltype(group_norm_moments<float>) group_norm_moments<float>;

// `[groups]` of base, mean less the base, 1/√(variance + ε) and variance of each sample: a threadgroup for each.
template <typename T>
[[kernel]] void group_norm_merge(device const T* x [[buffer(0)]], device const float2* partial [[buffer(1)]],
                                 device float4* statistics [[buffer(2)]], constant GroupNormSizes& sizes [[buffer(3)]],
                                 uint3 group [[threadgroup_position_in_grid]],
                                 uint member [[thread_index_in_threadgroup]]) {
    threadgroup float counts[MERGE_THREADS];
    threadgroup float means[MERGE_THREADS];
    threadgroup float squares[MERGE_THREADS];

    const uint width = sizes.channels / sizes.groups;
    device const float2* parts = partial + ulong(group.y) * sizes.pieces * sizes.channels + group.x * width;
    Moments own = Moments{0.0f, 0.0f, 0.0f};
    for (uint i = member; i < sizes.pieces * width; i += MERGE_THREADS) {
        const uint piece = i / width;
        const float2 part = parts[ulong(piece) * sizes.channels + (i - piece * width)];
        const uint count = min(sizes.piece, sizes.positions - piece * sizes.piece);
        own = merged(own, Moments{float(count), part.x, part.y});
    }
    for (uint others = MERGE_THREADS / 2; others > 0; others /= 2) {
        // Places are written once, so one barrier is enough for each halving.
        if (member >= others && member < 2 * others) {
            counts[member] = own.count;
            means[member] = own.mean;
            squares[member] = own.squares;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (member < others) {
            const uint other = member + others;
            own = merged(own, Moments{counts[other], means[other], squares[other]});
        }
    }
    if (member == 0) {
        const float base = base_of(x + ulong(group.y) * sizes.positions * sizes.channels, group.x, sizes);
        const float variance = own.squares / own.count;
        statistics[group.y * sizes.groups + group.x] =
            float4{base, own.mean, precise::rsqrt(variance + sizes.eps), variance};
    }
}

template [[host_name("group_norm_merge_f16")]] [[kernel]] decltype(group_norm_merge<half>) group_norm_merge<half>;
template [[host_name("group_norm_merge_f32")]] [[kernel]] decltype(group_norm_merge<float>) group_norm_merge<float>;

// (x − mean)/√(variance + ε)·weight + bias, then SiLU where asked for. `statistics` are those of `group_norm_merge`, or
// others: mean and 1/√(variance + ε), where the mean is the sum of the first two.
template <typename T>
[[kernel]] void group_norm_apply(device const T* x [[buffer(0)]], device const float4* statistics [[buffer(1)]],
                                 device const float* weight [[buffer(2)]], device const float* bias [[buffer(3)]],
                                 device T* y [[buffer(4)]], constant GroupNormSizes& sizes [[buffer(5)]],
                                 uint3 group [[threadgroup_position_in_grid]],
                                 uint member [[thread_index_in_threadgroup]]) {
    const uint channel = (group.x * NORM_COLUMNS + member % NORM_COLUMNS) * RUN;
    const uint count = run_count(channel, sizes.channels);
    const uint width = sizes.channels / sizes.groups;
    device const float4* own_statistics = statistics + group.z * sizes.statistics_stride;
    float4 base = float4{0.0f, 0.0f, 0.0f, 0.0f};
    float4 rest = base;
    float4 scale = base;
    float4 shift = base;
    for (uint i = 0; i < count; i++) {
        const float4 of_group = own_statistics[(channel + i) / width];
        base[i] = of_group.x;
        rest[i] = of_group.y;
        scale[i] = of_group.z * weight[channel + i];
        shift[i] = bias[channel + i];
    }
    const uint first = group.y * APPLY_POSITIONS;
    const uint end = min(first + APPLY_POSITIONS, sizes.positions);
    const ulong sample = ulong(group.z) * sizes.positions * sizes.channels;
    for (uint position = first + member / NORM_COLUMNS; position < end; position += NORM_LINES) {
        const ulong place = sample + ulong(position) * sizes.channels + channel;
        const float4 distance = widen<T>(read_run(x + place, count, sizes.aligned != 0)) - base - rest;
        float4 v = distance * scale + shift;
        if (sizes.silu != 0) v = float4{swish(v.x, 1.0f), swish(v.y, 1.0f), swish(v.z, 1.0f), swish(v.w, 1.0f)};
        write_run(y + place, narrow<T>(v), count, sizes.aligned != 0);
    }
}

template [[host_name("group_norm_apply_f16")]] [[kernel]] decltype(group_norm_apply<half>) group_norm_apply<half>;
template [[host_name("group_norm_apply_f32")]] [[kernel]] decltype(group_norm_apply<float>) group_norm_apply<float>;

// Rows of a threadgroup, a SIMD group for each.
constant constexpr uint ROWS = 4;

struct RowNormSizes {
    uint rows;
    uint width;
    // added to the variance
    float eps;
    // 1 where rows are whole runs
    uint aligned;
};

inline float sum_of(float4 v) {
    return v.x + v.y + v.z + v.w;
}

// A run's distances from the mean; 0 where there is no value.
inline float4 distances(float4 v, float mean, uint count) {
    return float4{count > 0 ? v.x - mean : 0.0f, count > 1 ? v.y - mean : 0.0f, count > 2 ? v.z - mean : 0.0f,
                  count > 3 ? v.w - mean : 0.0f};
}

// (x − mean)/√(variance + ε)·weight + bias over rows: a SIMD group for each.
template <typename T>
[[kernel]] void layer_norm(device const T* x [[buffer(0)]], device const float* weight [[buffer(1)]],
                           device const float* bias [[buffer(2)]], device T* y [[buffer(3)]],
                           constant RowNormSizes& sizes [[buffer(4)]], uint3 group [[threadgroup_position_in_grid]],
                           uint lane [[thread_index_in_simdgroup]], uint part [[simdgroup_index_in_threadgroup]]) {
    const uint row = group.x * ROWS + part;
    if (row >= sizes.rows) return;
    const bool aligned = sizes.aligned != 0;
    const float share = 1.0f / float(sizes.width);
    device const T* from = x + ulong(row) * sizes.width;
    float sum = 0.0f;
    for (uint i = lane * RUN; i < sizes.width; i += LANES * RUN) {
        sum += sum_of(widen<T>(read_run(from + i, run_count(i, sizes.width), aligned)));
    }
    const float mean = lane_sum(sum) * share;
    // The mean is rounded at the scale of the values, which may lie far from zero: `rest` is what it lacks.
    float lacking = 0.0f;
    float squares = 0.0f;
    for (uint i = lane * RUN; i < sizes.width; i += LANES * RUN) {
        const uint count = run_count(i, sizes.width);
        const float4 distance = distances(widen<T>(read_run(from + i, count, aligned)), mean, count);
        lacking += sum_of(distance);
        squares += sum_of(distance * distance);
    }
    const float rest = lane_sum(lacking) * share;
    const float variance = max(lane_sum(squares) * share - rest * rest, 0.0f);
    const float scale = precise::rsqrt(variance + sizes.eps);
    for (uint i = lane * RUN; i < sizes.width; i += LANES * RUN) {
        const uint count = run_count(i, sizes.width);
        float4 distance = distances(widen<T>(read_run(from + i, count, aligned)), mean, count);
        distance = distances(distance, rest, count);
        const float4 v = distance * scale * read_run(weight + i, count, aligned) + read_run(bias + i, count, aligned);
        write_run(y + ulong(row) * sizes.width + i, narrow<T>(v), count, aligned);
    }
}

template [[host_name("layer_norm_f16")]] [[kernel]] decltype(layer_norm<half>) layer_norm<half>;
template [[host_name("layer_norm_f32")]] [[kernel]] decltype(layer_norm<float>) layer_norm<float>;

// x/√(mean(x²) + ε)·weight over rows: a SIMD group for each.
template <typename T>
[[kernel]] void rms_norm(device const T* x [[buffer(0)]], device const T* weight [[buffer(1)]],
                         device T* y [[buffer(2)]], constant RowNormSizes& sizes [[buffer(3)]],
                         uint3 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
                         uint part [[simdgroup_index_in_threadgroup]]) {
    const uint row = group.x * ROWS + part;
    if (row >= sizes.rows) return;
    const bool aligned = sizes.aligned != 0;
    device const T* from = x + ulong(row) * sizes.width;
    float squares = 0.0f;
    for (uint i = lane * RUN; i < sizes.width; i += LANES * RUN) {
        const float4 v = widen<T>(read_run(from + i, run_count(i, sizes.width), aligned));
        squares += sum_of(v * v);
    }
    const float scale = precise::rsqrt(lane_sum(squares) / float(sizes.width) + sizes.eps);
    for (uint i = lane * RUN; i < sizes.width; i += LANES * RUN) {
        const uint count = run_count(i, sizes.width);
        const float4 v = widen<T>(read_run(from + i, count, aligned)) * scale;
        const float4 factor = widen<T>(read_run(weight + i, count, aligned));
        write_run(y + ulong(row) * sizes.width + i, narrow<T>(v * factor), count, aligned);
    }
}

template [[host_name("rms_norm_f16")]] [[kernel]] decltype(rms_norm<half>) rms_norm<half>;
template [[host_name("rms_norm_f32")]] [[kernel]] decltype(rms_norm<float>) rms_norm<float>;

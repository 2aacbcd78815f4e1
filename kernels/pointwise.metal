// Operations on single values, four of them for each thread: non-linearities, sums, and the doubling of pictures.

// x·Φ(x), exactly up to rounding and not by tanh. Φ(−z·√2) is t·P(t)·e^(−z²)/2 with t = 1/(1 + 0.33·z) and P of degree 7,
// the minimax fit of erfc for z up to 10, whose relative error is 1.4e-7. The tail is computed as such, so nothing
// cancels for large negative x.
inline float gelu_of(float x) {
    const float t = 1.0f / (1.0f + 0.23334524f * fabs(x));
    float p = -0.13570055f;
    p = p * t + 0.46166394f;
    p = p * t - 0.35351142f;
    p = p * t + 0.41057376f;
    p = p * t + 0.046184778f;
    p = p * t + 0.20151576f;
    p = p * t + 0.18291342f;
    p = p * t + 0.18636025f;
    const float tail = 0.5f * t * p * precise::exp(-0.5f * x * x);
    return x * (x < 0.0f ? tail : 1.0f - tail);
}

struct Silu {
    static float of(float x) {
        return swish(x, 1.0f);
    }
};

struct Gelu {
    static float of(float x) {
        return gelu_of(x);
    }
};

struct QuickGelu {
    static float of(float x) {
        return swish(x, 1.702f);
    }
};

// silu(a)·b
struct Swiglu {
    static float of(float a, float b) {
        return swish(a, 1.0f) * b;
    }
};

struct Sum {
    static float of(float a, float b) {
        return a + b;
    }
};

struct LengthSizes {
    ulong length;
    // 1 where all buffers begin at whole runs
    ulong aligned;
};

// How many values of the run of a thread are there.
inline uint count_at(ulong start, ulong length) {
    const ulong left = start < length ? length - start : 0;
    return left < RUN ? uint(left) : RUN;
}

template <typename T, typename Function>
[[kernel]] void map(device const T* x [[buffer(0)]], device T* y [[buffer(1)]],
                    constant LengthSizes& sizes [[buffer(2)]], uint3 at [[thread_position_in_grid]]) {
    const ulong start = ulong(at.x) * RUN;
    const uint count = count_at(start, sizes.length);
    const bool aligned = sizes.aligned != 0;
    const float4 v = widen<T>(read_run(x + start, count, aligned));
    const float4 result = float4{Function::of(v.x), Function::of(v.y), Function::of(v.z), Function::of(v.w)};
    write_run(y + start, narrow<T>(result), count, aligned);
}

template [[host_name("silu_f16")]] [[kernel]] decltype(map<half, Silu>) map<half, Silu>;
template [[host_name("silu_f32")]] [[kernel]] decltype(map<float, Silu>) map<float, Silu>;
template [[host_name("gelu_f16")]] [[kernel]] decltype(map<half, Gelu>) map<half, Gelu>;
template [[host_name("gelu_f32")]] [[kernel]] decltype(map<float, Gelu>) map<float, Gelu>;
template [[host_name("quick_gelu_f16")]] [[kernel]] decltype(map<half, QuickGelu>) map<half, QuickGelu>;
template [[host_name("quick_gelu_f32")]] [[kernel]] decltype(map<float, QuickGelu>) map<float, QuickGelu>;

template <typename T, typename Function>
[[kernel]] void combine(device const T* a [[buffer(0)]], device const T* b [[buffer(1)]], device T* y [[buffer(2)]],
                        constant LengthSizes& sizes [[buffer(3)]], uint3 at [[thread_position_in_grid]]) {
    const ulong start = ulong(at.x) * RUN;
    const uint count = count_at(start, sizes.length);
    const bool aligned = sizes.aligned != 0;
    const float4 v = widen<T>(read_run(a + start, count, aligned));
    const float4 w = widen<T>(read_run(b + start, count, aligned));
    const float4 result =
        float4{Function::of(v.x, w.x), Function::of(v.y, w.y), Function::of(v.z, w.z), Function::of(v.w, w.w)};
    write_run(y + start, narrow<T>(result), count, aligned);
}

template [[host_name("swiglu_f16")]] [[kernel]] decltype(combine<half, Swiglu>) combine<half, Swiglu>;
template [[host_name("swiglu_f32")]] [[kernel]] decltype(combine<float, Swiglu>) combine<float, Swiglu>;
template [[host_name("add_f16")]] [[kernel]] decltype(combine<half, Sum>) combine<half, Sum>;
template [[host_name("add_f32")]] [[kernel]] decltype(combine<float, Sum>) combine<float, Sum>;

struct RowSizes {
    // of a row of the output
    uint width;
    // rows that share a row of the bias
    uint bias_rows;
    // 1 where there is a summand
    uint has_other;
    // 1 where rows of all buffers are whole runs
    uint aligned;
};

// Values and gates in halves of a row, `[rows, 2·width]`: values·gelu(gates), `[rows, width]`.
template <typename T>
[[kernel]] void geglu(device const T* x [[buffer(0)]], device T* y [[buffer(1)]],
                      constant RowSizes& sizes [[buffer(2)]], uint3 at [[thread_position_in_grid]]) {
    const uint start = at.x * RUN;
    const uint count = run_count(start, sizes.width);
    const bool aligned = sizes.aligned != 0;
    device const T* row = x + ulong(at.y) * 2 * sizes.width;
    const float4 value = widen<T>(read_run(row + start, count, aligned));
    const float4 gate = widen<T>(read_run(row + sizes.width + start, count, aligned));
    const float4 result = value * float4{gelu_of(gate.x), gelu_of(gate.y), gelu_of(gate.z), gelu_of(gate.w)};
    write_run(y + ulong(at.y) * sizes.width + start, narrow<T>(result), count, aligned);
}

template [[host_name("geglu_f16")]] [[kernel]] decltype(geglu<half>) geglu<half>;
template [[host_name("geglu_f32")]] [[kernel]] decltype(geglu<float>) geglu<float>;

// x + bias + other over rows.
template <typename T>
[[kernel]] void add_bias(device const T* x [[buffer(0)]], device const T* bias [[buffer(1)]],
                         device const T* other [[buffer(2)]], device T* y [[buffer(3)]],
                         constant RowSizes& sizes [[buffer(4)]], uint3 at [[thread_position_in_grid]]) {
    const uint start = at.x * RUN;
    const uint count = run_count(start, sizes.width);
    const bool aligned = sizes.aligned != 0;
    const ulong place = ulong(at.y) * sizes.width + start;
    device const T* own_bias = bias + ulong(at.y / sizes.bias_rows) * sizes.width + start;
    float4 sum = widen<T>(read_run(x + place, count, aligned)) + widen<T>(read_run(own_bias, count, aligned));
    if (sizes.has_other != 0) sum += widen<T>(read_run(other + place, count, aligned));
    write_run(y + place, narrow<T>(sum), count, aligned);
}

template [[host_name("add_bias_f16")]] [[kernel]] decltype(add_bias<half>) add_bias<half>;
template [[host_name("add_bias_f32")]] [[kernel]] decltype(add_bias<float>) add_bias<float>;

struct PictureSizes {
    // of the picture that is not doubled
    uint width;
    uint channels;
    // 1 where pixels are whole runs
    uint aligned;
};

// Every pixel twice in both directions. A thread writes a run of a doubled row: rows of all samples are on the grid's
// second axis.
template <typename T>
[[kernel]] void upsample_nearest_2x(device const T* x [[buffer(0)]], device T* y [[buffer(1)]],
                                    constant PictureSizes& sizes [[buffer(2)]],
                                    uint3 at [[thread_position_in_grid]]) {
    const uint runs = (sizes.channels + RUN - 1) / RUN;
    const uint column = at.x / runs;
    if (column >= 2 * sizes.width) return;
    const uint channel = (at.x - column * runs) * RUN;
    const uint count = run_count(channel, sizes.channels);
    const bool aligned = sizes.aligned != 0;
    const ulong from = (ulong(at.y / 2) * sizes.width + column / 2) * sizes.channels + channel;
    const ulong to = (ulong(at.y) * (2 * sizes.width) + column) * sizes.channels + channel;
    write_run(y + to, read_run(x + from, count, aligned), count, aligned);
}

template [[host_name("upsample_nearest_2x_f16")]] [[kernel]] decltype(upsample_nearest_2x<half>) upsample_nearest_2x<half>;
template [[host_name("upsample_nearest_2x_f32")]] [[kernel]] decltype(upsample_nearest_2x<float>) upsample_nearest_2x<float>;

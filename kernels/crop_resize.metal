// The attention prior of regions, blended into the output of a cross-attention: bilinear samples of the low-resolution
// pass's feature map, where the place of each region lies in it (docs/method.md, 4). The launch and its numbers are
// those of the kernel for CUDA (crop_resize.cu).

struct BlendSizes {
    // of an output
    uint height;
    uint width;
    uint channels;
    uint map_height;
    uint map_width;
    // outputs that share one map; the next map is that of as many more
    uint regions;
    // of the map, 0 to 1
    float weight;
    // 1: maps have the output's size, and every pixel is blended with the one at its place; rows and columns are not read
    uint in_place;
};

// Where an axis of a map is sampled: two neighbouring places, and the distance from the first, 0 to 1.
struct AxisSample {
    uint low;
    uint high;
    float fraction;
};

// Where an axis is sampled for a place of the output.
inline AxisSample sample_of(constant BlendSizes& sizes, device const AxisSample* samples, uint region, uint length, uint place) {
    if (sizes.in_place != 0) return AxisSample{place, place, 0.0f};
    device const AxisSample& found = samples[ulong(region) * length + place];
    return AxisSample{found.low, found.high, found.fraction};
}

// out = (1 − weight)·own + weight·prior: own and out `[samples, height·width, C]`, maps `[samples / regions, map height,
// map width, C]`, rows `[regions, height]` and columns `[regions, width]`.
template <typename T>
[[kernel]] void blend_prior(device const T* own [[buffer(0)]], device const T* maps [[buffer(1)]],
                            device const AxisSample* rows [[buffer(2)]],
                            device const AxisSample* columns [[buffer(3)]], device T* out [[buffer(4)]],
                            constant BlendSizes& sizes [[buffer(5)]], uint3 at [[thread_position_in_grid]],
                            uint3 groups [[threadgroups_per_grid]], uint3 members [[threads_per_threadgroup]]) {
    const uint sample = at.y;
    const uint region = sample % sizes.regions;
    const uint length = sizes.height * sizes.width * sizes.channels;
    const ulong before = ulong(sample) * length;
    device const T* map = maps + ulong(sample / sizes.regions) * sizes.map_height * sizes.map_width * sizes.channels;
    for (uint i = at.x; i < length; i += groups.x * members.x) {
        const uint pixel = i / sizes.channels;
        const uint channel = i - pixel * sizes.channels;
        const uint line = pixel / sizes.width;
        const AxisSample row = sample_of(sizes, rows, region, sizes.height, line);
        const AxisSample column = sample_of(sizes, columns, region, sizes.width, pixel - line * sizes.width);
        device const T* upper = map + ulong(row.low) * sizes.map_width * sizes.channels + channel;
        device const T* lower = map + ulong(row.high) * sizes.map_width * sizes.channels + channel;
        const ulong left = ulong(column.low) * sizes.channels;
        const ulong right = ulong(column.high) * sizes.channels;
        const float x = column.fraction;
        const float y = row.fraction;
        const float above = float(upper[left]) * (1.0f - x) + float(upper[right]) * x;
        const float below = float(lower[left]) * (1.0f - x) + float(lower[right]) * x;
        const float prior = above * (1.0f - y) + below * y;
        out[before + i] = T((1.0f - sizes.weight) * float(own[before + i]) + sizes.weight * prior);
    }
}

template [[host_name("blend_prior_f16")]] [[kernel]] decltype(blend_prior<half>) blend_prior<half>;
template [[host_name("blend_prior_f32")]] [[kernel]] decltype(blend_prior<float>) blend_prior<float>;

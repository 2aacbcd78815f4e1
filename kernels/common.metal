// What the kernels of all files share. There are no includes at run time: the program compiles each file with this
// one in front of it.
//
// Rules of these files, which keep them valid Metal 3.0 and let them be translated to C++ for the checks:
// vectors are made of components in braces and never converted whole; sizes are read where they lie and not copied;
// arrays of a threadgroup are declared in the kernel; matrices are touched by loads, stores and products alone, since
// the place of an element among the lanes is not documented.
#include <metal_stdlib>
#include <metal_simdgroup>
#include <metal_simdgroup_matrix>
using namespace metal;

// Threads of a SIMD group on every GPU that has matrices of SIMD groups.
constant constexpr uint LANES = 32;
// Values of a run: what a thread reads or writes at once.
constant constexpr uint RUN = 4;

template <typename T>
inline float4 widen(vec<T, 4> v) {
    return float4{float(v.x), float(v.y), float(v.z), float(v.w)};
}

template <typename T>
inline vec<T, 4> narrow(float4 v) {
    return vec<T, 4>{T(v.x), T(v.y), T(v.z), T(v.w)};
}

template <typename T>
inline vec<T, 4> zero_run() {
    return vec<T, 4>{T(0.0f), T(0.0f), T(0.0f), T(0.0f)};
}

// The run at `p`, of which `count` values are there, and zeros behind them. Where `aligned`, `p` lies at a whole
// number of runs and the run is read at once if all of it is there.
template <typename T>
inline vec<T, 4> read_run(device const T* p, uint count, bool aligned) {
    if (aligned && count >= RUN) return *(device const vec<T, 4>*)p;
    vec<T, 4> v = zero_run<T>();
    if (count > 0) v.x = p[0];
    if (count > 1) v.y = p[1];
    if (count > 2) v.z = p[2];
    if (count > 3) v.w = p[3];
    return v;
}

// Writes the first `count` values of a run to `p`; `aligned` as for `read_run`.
template <typename T>
inline void write_run(device T* p, vec<T, 4> v, uint count, bool aligned) {
    if (aligned && count >= RUN) {
        *(device vec<T, 4>*)p = v;
        return;
    }
    if (count > 0) p[0] = v.x;
    if (count > 1) p[1] = v.y;
    if (count > 2) p[2] = v.z;
    if (count > 3) p[3] = v.w;
}

// How many values of a run are there that begins at `start` of `length` values.
inline uint run_count(uint start, uint length) {
    return start < length ? min(RUN, length - start) : 0u;
}

// Sum over the lanes of a SIMD group, in an order that the number of a lane alone decides; every lane gets the same
// bits.
inline float lane_sum(float value) {
    for (ushort distance = LANES / 2; distance > 0; distance /= 2) value += simd_shuffle_xor(value, distance);
    return value;
}

// x·σ(slope·x). The exponent is bounded, so that nothing overflows where fast mathematics know no infinity.
inline float swish(float x, float slope) {
    return x / (1.0f + precise::exp(min(-slope * x, 80.0f)));
}

// The noise field of src/canvas/noise.rs, bit for bit: Philox4x32 with ten rounds, whose key is the seed and whose
// counter is a place, and Box–Muller in f64 with the logarithm and the cosine of src/canvas/elementary.rs.
// IEEE 754 defines every operation in it, so a GPU's are the CPU's.
#pragma once

#include "exact.cuh"

// One field: a seed, its low word first, and the number of the draw.
struct NoiseField {
    uint32_t seed[2];
    uint32_t draw;
};

__device__ __forceinline__ uint2 philox_words(uint4 counter, uint32_t key0, uint32_t key1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t first = uint64_t(0xD2511F53u) * counter.x, second = uint64_t(0xCD9E8D57u) * counter.z;
        counter = make_uint4(static_cast<uint32_t>(second >> 32) ^ counter.y ^ key0, static_cast<uint32_t>(second),
                             static_cast<uint32_t>(first >> 32) ^ counter.w ^ key1, static_cast<uint32_t>(first));
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return make_uint2(counter.x, counter.y);
}

// Natural logarithm of a positive normal number.
__device__ __forceinline__ double exact_ln(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = static_cast<int>(bits >> 52 & 0x7ff) - 1023;
    bits = (bits & 0x000fffffffffffffull) | 1023ull << 52;
    double mantissa;
    memcpy(&mantissa, &bits, sizeof mantissa);
    if (mantissa > 1.41421356237309504880) {
        mantissa = times(mantissa, 0.5);
        exponent++;
    }
    const double s = over(minus(mantissa, 1.0), plus(mantissa, 1.0)), square = times(s, s);
    double series = 1.0 / 21.0;
#pragma unroll
    for (int odd = 19; odd > 0; odd -= 2) series = plus(times(series, square), 1.0 / odd);
    const double whole = times(static_cast<double>(exponent), 0.693147180559945309417);
    return plus(whole, times(times(2.0, s), series));
}

// cos(r·π/2) for r in 0…1.
__device__ __forceinline__ double exact_cos_quarter(double r) {
    const double a = times(r, 1.57079632679489661923), square = times(a, a);
    double value = 1.0;
#pragma unroll 1
    for (double k = 22.0; k > 0.0; k -= 2.0)
        value = minus(1.0, over(times(value, square), times(minus(k, 1.0), k)));
    return value;
}

// The standard normal deviate of a place.
__device__ __forceinline__ float noise_at(const NoiseField& field, uint32_t c, uint32_t y, uint32_t x) {
    const uint2 words = philox_words(make_uint4(field.draw, c, y, x), field.seed[0], field.seed[1]);
    const double uniform = over(plus(static_cast<double>(words.x), 0.5), 4294967296.0);
    const double radius = root(times(-2.0, exact_ln(uniform)));
    const double part = over(plus(static_cast<double>(words.y & 0x3fffffffu), 0.5), 1073741824.0);
    // The quadrant is in the top two bits: odd ones run backwards, the middle two are negative.
    const uint32_t quadrant = words.y >> 30;
    const double cosine = exact_cos_quarter(quadrant % 2 == 0 ? part : minus(1.0, part));
    return static_cast<float>(times(radius, quadrant == 1 || quadrant == 2 ? -cosine : cosine));
}

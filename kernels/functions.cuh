// Functions of one value in f32.
#pragma once

#include "device.cuh"

// x·σ(slope·x). The exponential overflows to infinity for large negative values, and the quotient is 0.
__device__ __forceinline__ float swish(float x, float slope) { return __fdividef(x, 1.0f + __expf(-slope * x)); }

// x·σ(x)
__device__ __forceinline__ float silu(float x) { return swish(x, 1.0f); }

// x·Φ(x) with the normal distribution by erf.
__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

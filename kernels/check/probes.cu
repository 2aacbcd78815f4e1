// Kernels that probe the shim: collectives against what the PTX manual says, and mistakes that it has to
// find.
#include "device.cuh"

// Reverses each block's values through shared memory.
extern "C" __global__ void probe_reverse(const float* x, float* y, int skips_barrier) {
    SHARED_ARRAY(float, values, 128);
    values[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    if (!skips_barrier) __syncthreads();
    y[blockIdx.x * blockDim.x + threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

// Sums and maxima of warps.
extern "C" __global__ void probe_warp(const float* x, float* sums, float* maxima) {
    const float value = x[threadIdx.x];
    sums[threadIdx.x] = warp_sum(value);
    maxima[threadIdx.x] = warp_max(value);
}

// d = a · b of one warp: a is 16 × 16, b 16 × 8 row by row in global memory, d 16 × 8.
template <class T> __device__ __forceinline__ void product(const T* a, const T* b, float* d, bool waits) {
    SHARED_MEMORY(memory);
    T* left = reinterpret_cast<T*>(memory);
    T* right = left + 256;
    const int lane = threadIdx.x;
    cp_async_16(left + lane * 8, a + lane * 8, true);
    if (lane < 16) cp_async_16(right + lane * 8, b + lane * 8, true);
    cp_async_commit();
    if (waits) cp_async_wait<0>();
    __syncthreads();
    uint32_t fa[4], fb[2];
    ldmatrix_x4(fa, left + lane % 16 * 16 + lane / 16 * 8);
    ldmatrix_x2_trans(fb, right + lane % 16 * 8);
    float sums[4] = {};
    mma_m16n8k16<T>(sums, fa, fb);
    const int row = lane / 4, column = lane % 4 * 2;
    for (int i = 0; i < 4; i++) d[(row + i / 2 * 8) * 8 + column + i % 2] = sums[i];
}

extern "C" __global__ void probe_product_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, float* d, int waits) {
    product(a, b, d, waits != 0);
}

extern "C" __global__ void probe_product_f16(const __half* a, const __half* b, float* d, int waits) {
    product(a, b, d, waits != 0);
}

// Rounds to the type and back.
extern "C" __global__ void probe_rounding(const float* x, float* as_bf16, float* as_f16) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    as_bf16[i] = to_float(from_float<__nv_bfloat16>(x[i]));
    as_f16[i] = to_float(from_float<__half>(x[i]));
}

// Each of these is wrong in its own way.
extern "C" __global__ void probe_mistake(float* y, int mistake) {
    SHARED_MEMORY(memory);
    if (mistake == 0 && threadIdx.x < 40) __syncthreads();
    if (mistake == 1 && threadIdx.x != 5) __syncwarp();
    if (mistake == 2) {
        if (threadIdx.x % 2 == 0) {
            __syncwarp();
        } else {
            warp_max(1.0f);
        }
    }
    if (mistake == 3) y[gridDim.x * blockDim.x] = 1;
    if (mistake == 4) memory[256] = 1;
    if (mistake == 5) cp_async_16(memory + 8, y, true);
    if (mistake == 6) cp_async_16(memory, y + 64, true);
    if (mistake == 7) __shfl_xor_sync(0xffffu, 1.0f, 1);
}

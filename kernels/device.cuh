// What every CUDA kernel here is written with: element types, and each PTX instruction in a function of
// its own. Compiled by nvcc these are the instructions; compiled by a C++ compiler (kernels/check) they
// are software forms with the same fragment layouts, so that the very same kernels run on a CPU.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Dynamic shared memory, whose size the launch gives: `unsigned char name[]`, aligned to 128 bytes.
#define SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]
// Shared memory of a fixed size: `type name[count]`. (A bare `__shared__` would escape the checks.)
#define SHARED_ARRAY(type, name, count) __shared__ type name[count]
#else
#include "shim/cuda.h"
#endif

constexpr uint32_t ALL_LANES = 0xffffffffu;

// ---------------------------------------------------------------------------------------------------
// Elements

template <class T> __device__ __forceinline__ float to_float(T value);
template <> __device__ __forceinline__ float to_float(float value) { return value; }
template <> __device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
template <> __device__ __forceinline__ float to_float(__half value) { return __half2float(value); }

// Rounds to nearest, ties to even.
template <class T> __device__ __forceinline__ T from_float(float value);
template <> __device__ __forceinline__ float from_float<float>(float value) { return value; }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
    return __float2bfloat16(value);
}
template <> __device__ __forceinline__ __half from_float<__half>(float value) { return __float2half(value); }

// Two 16-bit elements in a register, as they lie in memory: `low` first.
template <class T> __device__ __forceinline__ uint32_t pack2(float low, float high);
template <> __device__ __forceinline__ uint32_t pack2<__nv_bfloat16>(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<uint32_t&>(pair);
}
template <> __device__ __forceinline__ uint32_t pack2<__half>(float low, float high) {
    __half2 pair = __floats2half2_rn(low, high);
    return reinterpret_cast<uint32_t&>(pair);
}

// The reverse of `pack2`: `.x` is the low element.
template <class T> __device__ __forceinline__ float2 unpack2(uint32_t pair);
template <> __device__ __forceinline__ float2 unpack2<__nv_bfloat16>(uint32_t pair) {
    return __bfloat1622float2(reinterpret_cast<__nv_bfloat162&>(pair));
}
template <> __device__ __forceinline__ float2 unpack2<__half>(uint32_t pair) {
    return __half22float2(reinterpret_cast<__half2&>(pair));
}

// ---------------------------------------------------------------------------------------------------
// Sums and maxima over the 32 lanes of a warp, for all lanes. Every lane has to call them.

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}

// ---------------------------------------------------------------------------------------------------
// Matrices of 8 × 8 elements of 16 bits, from shared memory into fragments. Lane `8·i + r` gives the
// address of row `r` of matrix `i`: 16 bytes, aligned to 16. Register `i` of lane `t` receives row `t / 4`,
// elements `2·(t % 4)` and the next one, of matrix `i`; transposed, column `t / 4` instead of the row.
// Every lane has to call them; `x2` ignores the addresses of lanes 16 and above.

#ifdef __CUDACC__
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
#else
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) { shim::load_matrices<4, false>(r, row); }
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    shim::load_matrices<4, true>(r, row);
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row) { shim::load_matrices<2, false>(r, row); }
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
    shim::load_matrices<2, true>(r, row);
}
#endif

// ---------------------------------------------------------------------------------------------------
// d += a · b of a warp: a is 16 × 16 (row by row), b 16 × 8 (column by column), d 16 × 8 in f32.
// With g = lane / 4 and t = lane % 4, a lane holds
//   a[0]: row g,     k 2t and 2t+1       a[2]: row g,     k 2t+8 and 2t+9
//   a[1]: row g + 8, k 2t and 2t+1       a[3]: row g + 8, k 2t+8 and 2t+9
//   b[0]: k 2t and 2t+1, column g        b[1]: k 2t+8 and 2t+9, column g
//   d[0], d[1]: row g, columns 2t and 2t+1      d[2], d[3]: row g + 8
// Every lane has to call it.

template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

#ifdef __CUDACC__
template <>
__device__ __forceinline__ void mma_m16n8k16<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4],
                                                            const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ __forceinline__ void mma_m16n8k16<__half>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
template <>
inline void mma_m16n8k16<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    shim::multiply<__nv_bfloat16>(d, a, b);
}
template <> inline void mma_m16n8k16<__half>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    shim::multiply<__half>(d, a, b);
}
#endif

// ---------------------------------------------------------------------------------------------------
// Copies of 16 bytes from global to shared memory that run beside the computation. Both addresses are
// aligned to 16. Where `valid` is false, zeros are written and `global` is not read. A thread's copies since its last commit are a group; `cp_async_wait<N>`
// waits until at most the N latest groups of this thread are under way. Other threads see them after a
// `__syncthreads` that follows the wait.

#ifdef __CUDACC__
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#else
inline void cp_async_16(void* shared, const void* global, bool valid) { shim::copy_16(shared, global, valid); }
inline void cp_async_commit() { shim::copies_commit(); }
template <int N> inline void cp_async_wait() { shim::copies_wait(N); }
#endif

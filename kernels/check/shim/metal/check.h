// Metal's types and functions as declarations, with address spaces: what does not fit them is an error of the
// compiler, as it is in Metal. For clang, which alone knows the attributes.
#pragma once

#define device __attribute__((address_space(1)))
#define constant const __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#define thread

namespace metal {

template <class T, int N> using vec = T __attribute__((ext_vector_type(N)));
using float2 = vec<float, 2>;
using float4 = vec<float, 4>;
using uint3 = vec<uint, 3>;
using ulong2 = vec<ulong, 2>;

uint min(uint a, uint b);
uint max(uint a, uint b);
int min(int a, int b);
float min(float a, float b);
float max(float a, float b);
float fabs(float x);
float exp2(float x);

namespace precise {
float exp(float x);
float rsqrt(float x);
} // namespace precise

template <class To, class From> To as_type(From value);

enum class mem_flags { mem_none, mem_device, mem_threadgroup };

void threadgroup_barrier(mem_flags flags);
void simdgroup_barrier(mem_flags flags);
float simd_shuffle_xor(float value, ushort mask);
bool simd_any(bool value);

template <class T, int Columns, int Rows> struct simdgroup_matrix;
template <> struct simdgroup_matrix<float, 8, 8> {};
template <> struct simdgroup_matrix<half, 8, 8> {};

template <class T, int Columns, int Rows> simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T value);

template <class T>
void simdgroup_load(simdgroup_matrix<T, 8, 8>& matrix, const threadgroup T* source, ulong row_length = 8,
                    ulong2 origin = 0, bool transposed = false);
template <class T>
void simdgroup_store(simdgroup_matrix<T, 8, 8> matrix, threadgroup T* target, ulong row_length = 8,
                     ulong2 origin = 0, bool transposed = false);
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                                   simdgroup_matrix<B, 8, 8> b, simdgroup_matrix<C, 8, 8> c);
template <class D, class A, class B>
void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a, simdgroup_matrix<B, 8, 8> b);

} // namespace metal

#define METAL_ARRAY(name, count, ...) static threadgroup __VA_ARGS__ name[count]

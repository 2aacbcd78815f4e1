// Kernels for tests of the shim itself: what it computes, and that it finds mistakes.

// y = a·bᵀ of two matrices of 8 × 8, by one SIMD group.
[[kernel]] void probe_product(device const float* a [[buffer(0)]], device const float* b [[buffer(1)]],
                              device float* y [[buffer(2)]], uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float rows[3 * 64];
    for (uint i = lane; i < 64; i += LANES) {
        rows[i] = a[i];
        rows[64 + i] = b[i];
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_matrix<float, 8, 8> left;
    simdgroup_matrix<float, 8, 8> right;
    simdgroup_load(left, rows, 8);
    simdgroup_load(right, rows + 64, 8, ulong2{0, 0}, true);
    simdgroup_multiply(left, left, right);
    simdgroup_store(left, rows + 128, 8);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = lane; i < 64; i += LANES) y[i] = rows[128 + i];
}

// Loads before all lanes have written, if `missing` is 1; overwrites what is being loaded, if it is 2.
[[kernel]] void probe_missing_barrier(device float* y [[buffer(0)]], constant uint& missing [[buffer(1)]],
                                      uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float values[64];
    for (uint i = lane; i < 64; i += LANES) values[i] = float(i);
    if (missing != 1) simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_matrix<float, 8, 8> matrix;
    simdgroup_load(matrix, values, 8);
    if (missing != 2) simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = lane; i < 64; i += LANES) values[i] = -1.0f;
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_store(matrix, values, 8);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = lane; i < 64; i += LANES) y[i] = values[i];
}

// Half of the lanes come to a shuffle.
[[kernel]] void probe_divergence(device float* y [[buffer(0)]], uint lane [[thread_index_in_simdgroup]]) {
    float value = float(lane);
    if (lane < 16) value = simd_shuffle_xor(value, 1);
    y[lane] = value;
}

// More memory than a threadgroup has.
[[kernel]] void probe_memory(device float* y [[buffer(0)]], uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float first[4096];
    threadgroup float second[4097];
    first[lane] = 1.0f;
    second[lane] = 2.0f;
    y[lane] = first[lane] + second[lane];
}

// Writes one place beyond an array, if `length` is 32.
[[kernel]] void probe_overrun(device float* y [[buffer(0)]], constant uint& length [[buffer(1)]],
                              uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float values[32];
    threadgroup float* end = values + length;
    if (lane == 0) *end = 1.0f;
    y[lane] = float(lane);
}

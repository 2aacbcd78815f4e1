// softmax(q·kᵀ/√d)·v per head without a matrix of scores: a threadgroup goes over the keys of one head once, with the
// largest score and the sum of weights of each of its queries so far (online softmax). Sums are in f32. A query without
// any key gives zeros.
//
// The work is cut by the queries of one sample, and keys are taken in blocks that begin at fixed keys, so a sample's
// bytes are the same in any batch.

struct AttentionSizes {
    uint queries;
    uint keys;
    // of queries and output
    uint heads;
    // of keys and values: each serves as many heads of queries in a row
    uint key_heads;
    // of one head
    uint width;
    // 0 where every query sees every key; otherwise query i sees the keys up to `past + i`,
    uint masked;
    uint past;
    // of them at most so many, the nearest
    uint window;
    // log₂e/√width: weights are powers of two
    float scale;
    // 1 where all buffers begin at whole runs
    uint aligned;
};

// Keys `first` to `end`.
struct Keys {
    uint first;
    uint end;
};

inline Keys seen_by(uint query, constant AttentionSizes& sizes) {
    if (sizes.masked == 0) return Keys{0, sizes.keys};
    const uint next = sizes.past + query + 1;
    return Keys{next > sizes.window ? next - sizes.window : 0u, min(next, sizes.keys)};
}

// Stands for −∞, which fast mathematics do not know: below every score, and no score less it is too large.
constant constexpr float LOWEST = -1e30f;

constant constexpr uint ATTENTION_THREADS = 128;
// Rows of a tile: keys or values of a step.
constant constexpr uint STEP = 32;

// Brings `count` rows of a head, `stride` values apart, into a tile of STEP rows, and zeros below them.
template <typename T, uint WIDTH, uint ROW>
inline void bring_rows(threadgroup vec<T, 4>* tile, device const T* rows, uint count, uint stride, uint member,
                       bool aligned) {
    for (uint run = member; run < STEP * WIDTH / RUN; run += ATTENTION_THREADS) {
        const uint row = run / (WIDTH / RUN);
        const uint column = run % (WIDTH / RUN);
        tile[row * (ROW / RUN) + column] =
            read_run(rows + ulong(row) * stride + column * RUN, row < count ? RUN : 0u, aligned);
    }
}

// A threadgroup of four SIMD groups, each with BLOCKS blocks of eight queries.
template <typename T, uint WIDTH, uint BLOCKS>
[[kernel]] void attention(device const T* q [[buffer(0)]], device const T* k [[buffer(1)]],
                          device const T* v [[buffer(2)]], device T* y [[buffer(3)]],
                          constant AttentionSizes& sizes [[buffer(4)]],
                          uint3 group [[threadgroup_position_in_grid]], uint member [[thread_index_in_threadgroup]],
                          uint lane [[thread_index_in_simdgroup]], uint part [[simdgroup_index_in_threadgroup]]) {
    constexpr uint COLUMNS = WIDTH / 8;
    constexpr uint QUERIES = 8 * BLOCKS;
    // Lanes that share a query, and how many of a step's keys each has.
    constexpr uint SHARE = LANES / QUERIES;
    constexpr uint OWN = STEP / SHARE;
    // Rows below each other lie in other banks: half of their length is 4 more than a multiple of 8. Some have a few values
    // more than they need.
    constexpr uint ROW = WIDTH % 16 == 8 ? WIDTH : WIDTH + 8;
    constexpr uint SCORE_ROW = STEP + RUN;
    constexpr uint WEIGHT_ROW = STEP + 8;

    threadgroup vec<T, 4> tile_runs[STEP * ROW / RUN];
    threadgroup float4 score_runs[4 * QUERIES * SCORE_ROW / RUN];
    threadgroup vec<T, 4> weight_runs[4 * QUERIES * WEIGHT_ROW / RUN];
    threadgroup float correction_values[4 * BLOCKS * 64];
    threadgroup T* tile = (threadgroup T*)tile_runs;
    threadgroup float4* own_score_runs = score_runs + part * (QUERIES * SCORE_ROW / RUN);
    threadgroup float* scores = (threadgroup float*)own_score_runs;
    threadgroup T* weights = (threadgroup T*)(weight_runs + part * (QUERIES * WEIGHT_ROW / RUN));
    // A diagonal matrix for each block: the factors of its rows.
    threadgroup float* corrections = correction_values + part * (BLOCKS * 64);

    const bool aligned = sizes.aligned != 0;
    const uint first_query = group.x * (4 * QUERIES);
    const uint query_stride = sizes.heads * WIDTH;
    const uint key_stride = sizes.key_heads * WIDTH;
    const ulong query_place = (ulong(group.z) * sizes.queries * sizes.heads + group.y) * WIDTH;
    const uint key_head = group.y / (sizes.heads / sizes.key_heads);
    const ulong key_place = (ulong(group.z) * sizes.keys * sizes.key_heads + key_head) * WIDTH;

    // The queries stay in registers; they come through the tile, so many at a time.
    simdgroup_matrix<T, 8, 8> queries[BLOCKS][COLUMNS];
    for (uint pass = 0; pass < BLOCKS; pass++) {
        const uint first = first_query + pass * STEP;
        const uint count = first < sizes.queries ? sizes.queries - first : 0u;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        bring_rows<T, WIDTH, ROW>(tile_runs, q + query_place + ulong(first) * query_stride, count, query_stride,
                                  member, aligned);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (part * QUERIES / STEP == pass) {
            threadgroup T* rows = tile + part * QUERIES % STEP * ROW;
#pragma clang loop unroll(full)
            for (uint b = 0; b < BLOCKS; b++) {
#pragma clang loop unroll(full)
                for (uint d = 0; d < COLUMNS; d++) {
                    simdgroup_load(queries[b][d], rows + 8 * b * ROW + 8 * d, ROW);
                }
            }
        }
    }

    simdgroup_matrix<float, 8, 8> sums[BLOCKS][COLUMNS];
#pragma clang loop unroll(full)
    for (uint b = 0; b < BLOCKS; b++) {
#pragma clang loop unroll(full)
        for (uint d = 0; d < COLUMNS; d++) sums[b][d] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
    for (uint i = lane; i < BLOCKS * 64; i += LANES) corrections[i] = 0.0f;

    // The lane's own query, of which it has `OWN` keys of each step.
    const uint own_query = lane / SHARE;
    const uint own_column = lane % SHARE * OWN;
    const uint query = min(first_query + part * QUERIES + own_query, sizes.queries - 1);
    const Keys seen = seen_by(query, sizes);
    float largest = LOWEST;
    float total = 0.0f;

    // The keys that any query of the threadgroup sees.
    const uint last_query = min(first_query + 4 * QUERIES, sizes.queries) - 1;
    const uint first_key = seen_by(first_query, sizes).first / STEP * STEP;
    const uint end_key = seen_by(last_query, sizes).end;
    for (uint start = first_key; start < end_key; start += STEP) {
        // Behind the last key that is seen there may be anything.
        const uint count = end_key - start;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        bring_rows<T, WIDTH, ROW>(tile_runs, k + key_place + ulong(start) * key_stride, count, key_stride, member,
                                  aligned);
        threadgroup_barrier(mem_flags::mem_threadgroup);

#pragma clang loop unroll(full)
        for (uint j = 0; j < STEP / 8; j++) {
            simdgroup_matrix<float, 8, 8> products[BLOCKS];
            for (uint b = 0; b < BLOCKS; b++) products[b] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
#pragma clang loop unroll(full)
            for (uint d = 0; d < COLUMNS; d++) {
                simdgroup_matrix<T, 8, 8> keys;
                simdgroup_load(keys, tile + 8 * j * ROW + 8 * d, ROW, ulong2{0, 0}, true);
#pragma clang loop unroll(full)
                for (uint b = 0; b < BLOCKS; b++) {
                    simdgroup_multiply_accumulate(products[b], queries[b][d], keys, products[b]);
                }
            }
#pragma clang loop unroll(full)
            for (uint b = 0; b < BLOCKS; b++) {
                simdgroup_store(products[b], scores + 8 * b * SCORE_ROW + 8 * j, SCORE_ROW);
            }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);

        float own[OWN];
        float best = largest;
#pragma clang loop unroll(full)
        for (uint i = 0; i < OWN; i++) {
            const uint key = start + own_column + i;
            const bool is_seen = key >= seen.first && key < seen.end;
            own[i] = is_seen ? scores[own_query * SCORE_ROW + own_column + i] * sizes.scale : LOWEST;
            best = max(best, own[i]);
        }
        for (ushort distance = SHARE / 2; distance > 0; distance /= 2) {
            best = max(best, simd_shuffle_xor(best, distance));
        }
        const float correction = exp2(largest - best);
        largest = best;
        float sum = 0.0f;
#pragma clang loop unroll(full)
        for (uint i = 0; i < OWN; i++) {
            const uint key = start + own_column + i;
            const bool is_seen = key >= seen.first && key < seen.end;
            // What is summed is what values are multiplied by.
            const T weight = T(is_seen ? exp2(own[i] - best) : 0.0f);
            weights[own_query * WEIGHT_ROW + own_column + i] = weight;
            sum += float(weight);
        }
        for (ushort distance = SHARE / 2; distance > 0; distance /= 2) sum += simd_shuffle_xor(sum, distance);
        total = total * correction + sum;
        if (lane % SHARE == 0) corrections[own_query / 8 * 64 + own_query % 8 * 9] = correction;

        threadgroup_barrier(mem_flags::mem_threadgroup);
        bring_rows<T, WIDTH, ROW>(tile_runs, v + key_place + ulong(start) * key_stride, count, key_stride, member,
                                  aligned);
        threadgroup_barrier(mem_flags::mem_threadgroup);

        if (simd_any(correction != 1.0f)) {
#pragma clang loop unroll(full)
            for (uint b = 0; b < BLOCKS; b++) {
                simdgroup_matrix<float, 8, 8> diagonal;
                simdgroup_load(diagonal, corrections + b * 64, 8);
#pragma clang loop unroll(full)
                for (uint d = 0; d < COLUMNS; d++) simdgroup_multiply(sums[b][d], diagonal, sums[b][d]);
            }
        }
#pragma clang loop unroll(full)
        for (uint j = 0; j < STEP / 8; j++) {
            simdgroup_matrix<T, 8, 8> factors[BLOCKS];
#pragma clang loop unroll(full)
            for (uint b = 0; b < BLOCKS; b++) {
                simdgroup_load(factors[b], weights + 8 * b * WEIGHT_ROW + 8 * j, WEIGHT_ROW);
            }
#pragma clang loop unroll(full)
            for (uint d = 0; d < COLUMNS; d++) {
                simdgroup_matrix<T, 8, 8> values;
                simdgroup_load(values, tile + 8 * j * ROW + 8 * d, ROW);
#pragma clang loop unroll(full)
                for (uint b = 0; b < BLOCKS; b++) {
                    simdgroup_multiply_accumulate(sums[b][d], factors[b], values, sums[b][d]);
                }
            }
        }
    }

    // The sums go through the memory of the scores, as many columns at a time as it has.
    const bool is_query = first_query + part * QUERIES + own_query < sizes.queries;
    device T* own_y = y + query_place + ulong(query) * query_stride;
    const float factor = total == 0.0f ? 0.0f : 1.0f / total;
#pragma clang loop unroll(full)
    for (uint strip = 0; strip < COLUMNS; strip += STEP / 8) {
#pragma clang loop unroll(full)
        for (uint b = 0; b < BLOCKS; b++) {
#pragma clang loop unroll(full)
            for (uint j = 0; j < STEP / 8; j++) {
                if (strip + j < COLUMNS) {
                    simdgroup_store(sums[b][strip + j], scores + 8 * b * SCORE_ROW + 8 * j, SCORE_ROW);
                }
            }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint i = 0; i < OWN; i += RUN) {
            const uint column = 8 * strip + own_column + i;
            if (is_query && column < WIDTH) {
                const float4 sum = own_score_runs[(own_query * SCORE_ROW + own_column + i) / RUN];
                write_run(own_y + column, narrow<T>(sum * factor), RUN, aligned);
            }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
}

template [[host_name("attention_40_f16")]] [[kernel]] decltype(attention<half, 40, 2>) attention<half, 40, 2>;
template [[host_name("attention_64_f16")]] [[kernel]] decltype(attention<half, 64, 2>) attention<half, 64, 2>;
template [[host_name("attention_72_f16")]] [[kernel]] decltype(attention<half, 72, 1>) attention<half, 72, 1>;
template [[host_name("attention_80_f16")]] [[kernel]] decltype(attention<half, 80, 1>) attention<half, 80, 1>;
template [[host_name("attention_128_f16")]] [[kernel]] decltype(attention<half, 128, 1>) attention<half, 128, 1>;
template [[host_name("attention_160_f16")]] [[kernel]] decltype(attention<half, 160, 1>) attention<half, 160, 1>;
template [[host_name("attention_40_f32")]] [[kernel]] decltype(attention<float, 40, 2>) attention<float, 40, 2>;
template [[host_name("attention_64_f32")]] [[kernel]] decltype(attention<float, 64, 2>) attention<float, 64, 2>;
template [[host_name("attention_72_f32")]] [[kernel]] decltype(attention<float, 72, 1>) attention<float, 72, 1>;
template [[host_name("attention_80_f32")]] [[kernel]] decltype(attention<float, 80, 1>) attention<float, 80, 1>;
template [[host_name("attention_128_f32")]] [[kernel]] decltype(attention<float, 128, 1>) attention<float, 128, 1>;
template [[host_name("attention_160_f32")]] [[kernel]] decltype(attention<float, 160, 1>) attention<float, 160, 1>;

constant constexpr uint PLAIN_THREADS = 64;
// Columns of the output that a thread has; no head is wider than the threads have together.
constant constexpr uint PLAIN_COLUMNS = 8;

// The same for any width up to 512 without SIMD groups: a threadgroup for each query, a key for each thread.
template <typename T>
[[kernel]] void attention_plain(device const T* q [[buffer(0)]], device const T* k [[buffer(1)]],
                                device const T* v [[buffer(2)]], device T* y [[buffer(3)]],
                                constant AttentionSizes& sizes [[buffer(4)]],
                                uint3 group [[threadgroup_position_in_grid]],
                                uint member [[thread_index_in_threadgroup]]) {
    threadgroup float query[PLAIN_THREADS * PLAIN_COLUMNS];
    threadgroup float weights[PLAIN_THREADS];

    const uint width = sizes.width;
    const uint key_stride = sizes.key_heads * width;
    const ulong query_place = ((ulong(group.z) * sizes.queries + group.x) * sizes.heads + group.y) * width;
    const uint key_head = group.y / (sizes.heads / sizes.key_heads);
    const ulong key_place = (ulong(group.z) * sizes.keys * sizes.key_heads + key_head) * width;
    for (uint d = member; d < width; d += PLAIN_THREADS) query[d] = float(q[query_place + d]);

    const Keys seen = seen_by(group.x, sizes);
    float largest = LOWEST;
    float total = 0.0f;
    float sums[PLAIN_COLUMNS];
    for (uint i = 0; i < PLAIN_COLUMNS; i++) sums[i] = 0.0f;
    for (uint start = seen.first; start < seen.end; start += PLAIN_THREADS) {
        const uint count = min(PLAIN_THREADS, seen.end - start);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        float score = LOWEST;
        if (member < count) {
            device const T* key = k + key_place + ulong(start + member) * key_stride;
            float product = 0.0f;
            for (uint d = 0; d < width; d++) product += query[d] * float(key[d]);
            score = product * sizes.scale;
        }
        weights[member] = score;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        float best = largest;
        for (uint i = 0; i < count; i++) best = max(best, weights[i]);
        const float correction = exp2(largest - best);
        largest = best;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        weights[member] = exp2(score - best);
        threadgroup_barrier(mem_flags::mem_threadgroup);

        float sum = 0.0f;
        for (uint i = 0; i < count; i++) sum += weights[i];
        total = total * correction + sum;
        for (uint i = 0; i < PLAIN_COLUMNS; i++) {
            const uint d = member + i * PLAIN_THREADS;
            if (d >= width) break;
            float column = 0.0f;
            for (uint j = 0; j < count; j++) {
                column += weights[j] * float(v[key_place + ulong(start + j) * key_stride + d]);
            }
            sums[i] = sums[i] * correction + column;
        }
    }
    const float factor = total == 0.0f ? 0.0f : 1.0f / total;
    for (uint i = 0; i < PLAIN_COLUMNS; i++) {
        const uint d = member + i * PLAIN_THREADS;
        if (d < width) y[query_place + d] = T(sums[i] * factor);
    }
}

template [[host_name("attention_plain_f16")]] [[kernel]] decltype(attention_plain<half>) attention_plain<half>;
template [[host_name("attention_plain_f32")]] [[kernel]] decltype(attention_plain<float>) attention_plain<float>;

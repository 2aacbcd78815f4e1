// Metal kernels by name, called with buffers and with the places that Metal gives to parameters by attributes.
#pragma once

#include <array>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "shim/grid.h"
#include "shim/metal/vector.h"
#include "shim/register.h"

namespace shim {

// Where a parameter comes from: the buffer of this index, or one of these.
enum MetalSource : int {
    thread_position_in_grid = -1,
    threadgroup_position_in_grid = -2,
    thread_index_in_threadgroup = -3,
    thread_index_in_simdgroup = -4,
    simdgroup_index_in_threadgroup = -5,
    threads_per_threadgroup = -6,
    threadgroups_per_grid = -7,
};

// What every Apple GPU has.
constexpr std::size_t MOST_THREADGROUP_BYTES = 32 * 1024;

// Bytes of the arrays that the running thread has come past; they are declared before its first meeting.
inline thread_local std::size_t threadgroup_bytes = 0;

template <class T, std::size_t count, int line> T (&threadgroup_array())[count] {
    static const char key = 0;
    threadgroup_bytes += (sizeof(T[count]) + 15) / 16 * 16;
    if (threadgroup_bytes > MOST_THREADGROUP_BYTES) fail("%zu bytes of threadgroup memory", threadgroup_bytes);
    return *static_cast<T(*)[count]>(fixed_shared(&key, sizeof(T[count])));
}

template <int source, class P> P metal_argument(void* const* buffers) {
    const Index block = self->block;
    if constexpr (source >= 0 && std::is_reference_v<P>) {
        return *static_cast<std::remove_reference_t<P>*>(buffers[source]);
    } else if constexpr (source >= 0) {
        return *static_cast<P*>(buffers[source]);
    } else if constexpr (source == thread_position_in_grid) {
        return P{block.x * self->block_size.x + self->thread.x, block.y, block.z};
    } else if constexpr (source == threadgroup_position_in_grid) {
        return P{block.x, block.y, block.z};
    } else if constexpr (source == threads_per_threadgroup) {
        return P{self->block_size.x, 1, 1};
    } else if constexpr (source == threadgroups_per_grid) {
        return P{self->grid_size.x, self->grid_size.y, self->grid_size.z};
    } else if constexpr (source == thread_index_in_threadgroup) {
        return self->thread.x;
    } else if constexpr (source == thread_index_in_simdgroup) {
        return self->lane;
    } else {
        static_assert(source == simdgroup_index_in_threadgroup);
        return self->thread.x / LANES;
    }
}

template <auto function, int... sources> struct MetalKernel {
    explicit MetalKernel(const char* name) { with_parameters(name, function); }

    template <class... P> static void with_parameters(const char* name, void (*)(P...)) {
        static_assert(sizeof...(P) == sizeof...(sources), "each parameter has its source");
        constexpr std::size_t count = ((sources >= 0 ? 1 : 0) + ...);
        std::vector<std::size_t> sizes(count, 0);
        ((sources >= 0 ? (void)(sizes.at(sources) = size_of<P>()) : (void)0), ...);
        add({name, sizes, [](void* const* buffers) {
                 threadgroup_bytes = 0;
                 function(metal_argument<sources, P>(buffers)...);
             }});
    }

    // Bytes of what a caller hands over: an address, or what is behind a reference.
    template <class P> static constexpr std::size_t size_of() { return sizeof(std::remove_reference_t<P>); }
};

} // namespace shim

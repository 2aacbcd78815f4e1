// Kernels by name. A file in kernels/check/register includes one kernel file and names its kernels:
//
//     #include "norm.cu"
//     #include "shim/register.h"
//     KERNEL(layer_norm_bf16)
//     KERNEL(layer_norm_f16)
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace shim {

// A kernel that is called with addresses of its arguments' values, as the driver does it.
struct Kernel {
    std::string name;
    std::vector<std::size_t> sizes; // of the parameters
    std::function<void(void* const*)> call;
};

void add(Kernel kernel);

template <class... P, std::size_t... I>
void call(void (*kernel)(P...), void* const* arguments, std::index_sequence<I...>) {
    kernel(*static_cast<const P*>(arguments[I])...);
}

struct Registered {
    template <class... P> Registered(const char* name, void (*kernel)(P...)) {
        add({name, {sizeof(P)...}, [kernel](void* const* arguments) {
                 call(kernel, arguments, std::index_sequence_for<P...>());
             }});
    }
};

} // namespace shim

#define KERNEL(name) static const ::shim::Registered registered_##name(#name, name);

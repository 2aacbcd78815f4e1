// What the Rust side calls: a launch of a kernel by its name.
#include <cstdio>
#include <map>

#include "shim/grid.h"
#include "shim/register.h"

namespace shim {

static std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

void add(Kernel kernel) {
    const std::string name = kernel.name;
    if (!kernels().emplace(name, std::move(kernel)).second) {
        std::fprintf(stderr, "two kernels are called %s\n", name.c_str());
        std::abort();
    }
}

static std::string launch(const char* name, const Geometry& geometry, void* const* arguments, const size_t* sizes,
                          size_t count, Mode mode) {
    const auto found = kernels().find(name);
    if (found == kernels().end()) return "there is no such kernel";
    const Kernel& kernel = found->second;
    if (count != kernel.sizes.size())
        return std::to_string(count) + " arguments for " + std::to_string(kernel.sizes.size()) + " parameters";
    for (size_t i = 0; i < count; i++)
        if (sizes[i] != kernel.sizes[i])
            return "argument " + std::to_string(i) + " has " + std::to_string(sizes[i]) + " bytes, its parameter " +
                   std::to_string(kernel.sizes[i]);
    return run(geometry, mode, [&] { kernel.call(arguments); });
}

} // namespace shim

// Returns whether the launch went well; if not, `message` says why. `order`: 0 forward, 1 reverse, 2 shuffled.
extern "C" bool kernel_check_launch(const char* name, const unsigned (*grid)[3], unsigned block, unsigned shared,
                                    void* const* arguments, const size_t* sizes, size_t count, int order, bool delayed,
                                    char* message, size_t length) {
    const shim::Geometry geometry = {{(*grid)[0], (*grid)[1], (*grid)[2]}, block, shared};
    const shim::Mode mode = {static_cast<shim::Order>(order), delayed};
    const std::string failure = shim::launch(name, geometry, arguments, sizes, count, mode);
    std::snprintf(message, length, "%s", failure.c_str());
    return failure.empty();
}

// Conflicts of banks since the last call in this thread of the system.
extern "C" uint64_t kernel_check_take_conflicts() { return shim::take_conflicts(); }

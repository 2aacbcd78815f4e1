// What the Rust side calls: a launch of a kernel by its name.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>

#include <unistd.h>

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

static __thread const char* running = nullptr;

// Undefined behaviour is compiled to an instruction that ends the process: says in which kernel and thread.
static void report(int signal) {
    if (running && self) {
        char message[256];
        const int length = std::snprintf(message, sizeof message, "%s, block (%u, %u, %u), thread %u: %s\n", running,
                                         self->block.x, self->block.y, self->block.z, self->thread.x,
                                         signal == SIGSEGV ? "an address that is nobody's" : "undefined behaviour");
        if (write(2, message, static_cast<size_t>(length)) < 0) _exit(1);
    }
    // The handler is gone by now: this is the end.
    raise(signal);
}

static void report_faults() {
    struct sigaction action = {};
    action.sa_handler = report;
    action.sa_flags = SA_RESETHAND | SA_NODEFER | SA_ONSTACK;
    for (int signal : {SIGILL, SIGTRAP, SIGSEGV}) sigaction(signal, &action, nullptr);
}

static std::string launch(const char* name, const Geometry& geometry, void* const* arguments,
                          const std::vector<size_t>& sizes, Mode mode) {
    const auto found = kernels().find(name);
    if (found == kernels().end()) return "there is no such kernel";
    const Kernel& kernel = found->second;
    if (sizes.size() != kernel.sizes.size())
        return std::to_string(sizes.size()) + " arguments for " + std::to_string(kernel.sizes.size()) + " parameters";
    for (size_t i = 0; i < sizes.size(); i++)
        if (sizes[i] != kernel.sizes[i])
            return "argument " + std::to_string(i) + " has " + std::to_string(sizes[i]) + " bytes, its parameter " +
                   std::to_string(kernel.sizes[i]);
    static const bool once = (report_faults(), true);
    (void)once;
    running = kernel.name.c_str();
    const std::string failure = run(geometry, mode, [&] { kernel.call(arguments); });
    running = nullptr;
    return failure;
}

} // namespace shim

// Arguments of a launch: where each lies, its bytes, and, if it is a pointer to a buffer, the bytes of that.
struct KernelCheckArgument {
    void* place;
    size_t size;
    size_t buffer;
};

// Returns whether the launch went well; if not, `message` says why. `order`: 0 forward, 1 reverse, 2 shuffled.
extern "C" bool kernel_check_launch(const char* name, const unsigned (*grid)[3], unsigned block, unsigned shared,
                                    const KernelCheckArgument* arguments, size_t count, int order, bool delayed,
                                    char* message, size_t length) {
    shim::Geometry geometry = {{(*grid)[0], (*grid)[1], (*grid)[2]}, block, shared, {}};
    std::vector<void*> places;
    std::vector<size_t> sizes;
    for (size_t i = 0; i < count; i++) {
        places.push_back(arguments[i].place);
        sizes.push_back(arguments[i].size);
        if (arguments[i].buffer > 0)
            geometry.buffers.push_back({*static_cast<unsigned char**>(arguments[i].place), arguments[i].buffer});
    }
    const shim::Mode mode = {static_cast<shim::Order>(order), delayed};
    const std::string failure = shim::launch(name, geometry, places.data(), sizes, mode);
    std::snprintf(message, length, "%s", failure.c_str());
    return failure.empty();
}

// Conflicts of banks since the last call in this thread of the system.
extern "C" uint64_t kernel_check_take_conflicts() { return shim::take_conflicts(); }

#include "fibers.h"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include <sys/mman.h>
#include <unistd.h>

namespace shim {

// Kernels keep a few hundred bytes there; formatting a message takes some kilobytes.
constexpr std::size_t STACK_BYTES = 128 * 1024;

// Saves the registers that a call keeps on this stack, its pointer in `*save`, and goes on where `load` was
// saved.
extern "C" void shim_fiber_switch(void** save, void* load) asm("shim_fiber_switch");
// Where a fiber begins: calls `entry` with `argument`, both from saved registers.
extern "C" void shim_fiber_begin() asm("shim_fiber_begin");

#if defined(__x86_64__)
constexpr int SAVED = 7, ENTRY = 3, ARGUMENT = 2, RETURN = 6;
asm(R"(
.text
.balign 16
.globl shim_fiber_switch
shim_fiber_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.globl shim_fiber_begin
shim_fiber_begin:
    movq %r13, %rdi
    callq *%r12
    ud2
)");
#elif defined(__aarch64__)
constexpr int SAVED = 20, ENTRY = 0, ARGUMENT = 1, RETURN = 11;
asm(R"(
.text
.balign 16
.globl shim_fiber_switch
shim_fiber_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.globl shim_fiber_begin
shim_fiber_begin:
    mov x0, x20
    blr x19
    brk #1
)");
#else
#error "fibers are written for x86-64 and aarch64"
#endif

// A page below each stack that cannot be touched, so that an overflow ends the process.
static std::size_t guard_bytes() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

Fiber::Fiber() {
    void* memory = mmap(nullptr, STACK_BYTES + guard_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, guard_bytes(), PROT_NONE) != 0) {
        std::perror("stack of a fiber");
        std::abort();
    }
    stack = static_cast<char*>(memory);
}

Fiber::~Fiber() { munmap(stack, STACK_BYTES + guard_bytes()); }

void Fiber::start(void (*entry)(void*), void* argument) {
    void** top = reinterpret_cast<void**>(stack + guard_bytes() + STACK_BYTES);
    void** saved = top - SAVED;
    for (int i = 0; i < SAVED; i++) saved[i] = nullptr;
    saved[ENTRY] = reinterpret_cast<void*>(entry);
    saved[ARGUMENT] = argument;
    saved[RETURN] = reinterpret_cast<void*>(&shim_fiber_begin);
    own = saved;
}

void Fiber::resume() { shim_fiber_switch(&caller, own); }

void Fiber::suspend() { shim_fiber_switch(&own, caller); }

} // namespace shim

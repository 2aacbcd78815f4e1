// Threads of execution with stacks of their own, switched by hand: one for each thread of a GPU's block.
#pragma once

namespace shim {

class Fiber {
  public:
    Fiber();
    ~Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    // Makes the next `resume` call `entry(argument)`, which must never return: at its end it suspends for
    // good. What the fiber did before is forgotten.
    void start(void (*entry)(void*), void* argument);

    // Runs the fiber until it suspends. Called from outside, always by the same thread of the system.
    void resume();

    // Goes back to where `resume` was called. Called from within the fiber.
    void suspend();

  private:
    char* stack;
    void* own = nullptr;
    void* caller = nullptr;
};

} // namespace shim

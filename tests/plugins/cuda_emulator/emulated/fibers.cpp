// A fiber gets its stack with makecontext. From then on _setjmp and _longjmp change fibers: unlike swapcontext they
// leave the signal mask alone, hence cost no system call.
#include "fibers.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>

namespace emulated {
namespace {

constexpr size_t STACK_BYTES = 64 * 1024, GUARD_BYTES = 4 * 1024, STRIDE = STACK_BYTES + GUARD_BYTES;

struct Fiber {
    jmp_buf place;
    bool begun = false;
};

Fiber fibers[MAX_FIBERS];
jmp_buf entrance;
unsigned current = NO_FIBER;
void (*current_body)();
char* stacks = nullptr;

// All stacks at once: the system provides memory only where a stack has been used.
void make_stacks() {
    void* memory = mmap(nullptr, MAX_FIBERS * STRIDE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        fputs("CUDA emulator: no memory for stacks\n", stderr);
        abort();
    }
    stacks = static_cast<char*>(memory);
    for (unsigned fiber = 0; fiber < MAX_FIBERS; ++fiber) mprotect(stacks + fiber * STRIDE, GUARD_BYTES, PROT_NONE);
}

void run_fiber() {
    for (;;) current_body();
}

[[noreturn]] void begin(unsigned index) {
    fibers[index].begun = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks + index * STRIDE + GUARD_BYTES;
    // Stacks that began at like addresses would all compete for the same lines of the cache.
    context.uc_stack.ss_size = STACK_BYTES - index % 64 * 64;
    context.uc_link = nullptr;
    makecontext(&context, run_fiber, 0);
    setcontext(&context);
    abort();  // setcontext does not return
}

[[noreturn]] void go(unsigned to) {
    current = to;
    if (fibers[to].begun) _longjmp(fibers[to].place, 1);
    begin(to);
}

}  // namespace

bool enter_fibers(unsigned first, void (*body)()) {
    if (!stacks) make_stacks();
    current_body = body;
    const int left = _setjmp(entrance);
    if (left == 0) go(first);
    current = NO_FIBER;
    return left == 1;
}

void switch_fiber(unsigned to) {
    if (_setjmp(fibers[current].place) == 0) go(to);
}

void leave_fibers() {
    if (_setjmp(fibers[current].place) == 0) _longjmp(entrance, 1);
}

void abandon_fibers() {
    for (Fiber& fiber : fibers) fiber.begun = false;
    _longjmp(entrance, 2);
}

unsigned current_fiber() { return current; }

bool beyond_stack(const void* address) {
    const uintptr_t offset = reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(stacks);
    return offset < MAX_FIBERS * STRIDE && offset % STRIDE < GUARD_BYTES;
}

}  // namespace emulated

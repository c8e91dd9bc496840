#include "faults.h"

#include <cstdint>

#include "block.h"
#include "fibers.h"

namespace emulated {
namespace {

constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
// A stack for the handler, as the fault may be that the fiber's own stack is full.
char handler_stack[64 * 1024];

void handle(int signal, siginfo_t* info, void*) {
    if (current_fiber() == NO_FIBER) {
        // Not a kernel's fault. Without a handler the same instruction faults again, and ends the process.
        ::signal(signal, SIG_DFL);
        return;
    }
    const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
    if (signal == SIGFPE) fail("integer division by zero");
    if (signal == SIGILL) fail("illegal instruction");
    if (beyond_stack(info->si_addr)) fail("its local variables are too large for the stack");
    if (info->si_code == SI_KERNEL) fail("memory access out of bounds, at an address that cannot exist");
    fail("memory access out of bounds, at address 0x%llx", static_cast<unsigned long long>(address));
}

}  // namespace

CatchFaults::CatchFaults() {
    const stack_t stack = {handler_stack, 0, sizeof handler_stack};
    sigaltstack(&stack, &stack_before_);
    struct sigaction action = {};
    action.sa_sigaction = handle;
    // The handler leaves by a jump, after which nobody would take its signal off the mask: it must not get there.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < 4; ++i) sigaction(SIGNALS[i], &action, &before_[i]);
}

CatchFaults::~CatchFaults() {
    for (int i = 0; i < 4; ++i) sigaction(SIGNALS[i], &before_[i], nullptr);
    sigaltstack(&stack_before_, nullptr);
}

}  // namespace emulated

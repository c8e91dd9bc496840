// Stacks of their own for up to 1024 threads of a block, and changes from one to another without a system call.
#pragma once

namespace emulated {

constexpr unsigned MAX_FIBERS = 1024;
constexpr unsigned NO_FIBER = ~0u;

// Runs `body` on fiber `first`, which goes on to others, and returns when one of them calls leave_fibers. A fiber
// begins `body` anew whenever it returned from it. True unless the fibers were left by leave_fibers(false).
bool enter_fibers(unsigned first, void (*body)());

// From the fiber that runs now to another one, until somebody comes back. A fiber that is not inside `body` begins it.
void switch_fiber(unsigned to);

// Back to enter_fibers. If the fibers are done, each of them must be between two calls of `body`, or in the last
// switch or leave of it; if not done, all of them are abandoned where they are.
[[noreturn]] void abandon_fibers();
void leave_fibers();

// The fiber that runs now, or NO_FIBER.
unsigned current_fiber();
// Whether an address is in the inaccessible page that ends a fiber's stack.
bool beyond_stack(const void* address);

}  // namespace emulated

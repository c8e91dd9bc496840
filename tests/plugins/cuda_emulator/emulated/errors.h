// The first error since the last reset, in one line.
#pragma once

namespace emulated {

// Later errors are mostly consequences of the first one: only that is kept.
void note_error(const char* format, ...) __attribute__((format(printf, 1, 2)));
void forget_error();
// What errors begin with: the kernel that runs now, or null when none does.
void name_kernel(const void* kernel);

}  // namespace emulated

#include "errors.h"

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "runtime.h"

namespace emulated {
namespace {

constexpr size_t LENGTH = 2048;
char error[LENGTH];
const void* running_kernel;

// Kernels without a name that the dynamic loader knows (static ones, or in an unnamed namespace) stay "a kernel".
size_t print_kernel(char* text, size_t length) {
    if (!running_kernel) return 0;
    Dl_info found;
    if (!dladdr(running_kernel, &found) || found.dli_saddr != running_kernel)
        return static_cast<size_t>(snprintf(text, length, "a kernel, "));
    char* plain = abi::__cxa_demangle(found.dli_sname, nullptr, nullptr, nullptr);
    const int printed = snprintf(text, length, "%.200s, ", plain ? plain : found.dli_sname);
    free(plain);
    return static_cast<size_t>(printed);
}

}  // namespace

void note_error(const char* format, ...) {
    if (error[0] != '\0') return;
    const size_t begin = print_kernel(error, LENGTH);
    va_list values;
    va_start(values, format);
    vsnprintf(error + begin, LENGTH - begin, format, values);
    va_end(values);
}

void forget_error() { error[0] = '\0'; }

void name_kernel(const void* kernel) { running_kernel = kernel; }

}  // namespace emulated

const char* emulator_error() { return emulated::error; }

// What is undefined in C++ (and wrong on a GPU, or different from the CPU): array indices out of range, in shared
// memory too, misaligned accesses, shifts by too much, overflow of signed integers and in conversions from float.
//
// g++ adds the checks to kernel sources (-fsanitize=..., see the builder) and calls these functions when one fails.
// They stand in for its own library of that purpose, which could not end a launch.
#include <cstdint>

#include "block.h"
#include "errors.h"
#include "fibers.h"

namespace emulated {
namespace {

// What the compiler passes first always begins with the place in the source.
struct Place {
    const char* file;
    uint32_t line, column;
};

void report(const Place* place, const char* what) {
    if (current_fiber() != NO_FIBER) fail("%s (%s:%u)", what, place->file, place->line);
    note_error("on the host: %s (%s:%u)", what, place->file, place->line);
}

}  // namespace
}  // namespace emulated

#define EMULATED_CHECK(name, what, ...) \
    extern "C" void __ubsan_handle_##name(const emulated::Place* place, __VA_ARGS__) { emulated::report(place, what); }

EMULATED_CHECK(out_of_bounds, "array index out of range", uintptr_t)
EMULATED_CHECK(type_mismatch_v1, "misaligned address", uintptr_t)
EMULATED_CHECK(shift_out_of_bounds, "shift by a negative number or by all bits", uintptr_t, uintptr_t)
EMULATED_CHECK(divrem_overflow, "integer division by zero, or its overflow", uintptr_t, uintptr_t)
EMULATED_CHECK(add_overflow, "overflow of a sum of signed integers", uintptr_t, uintptr_t)
EMULATED_CHECK(sub_overflow, "overflow of a difference of signed integers", uintptr_t, uintptr_t)
EMULATED_CHECK(mul_overflow, "overflow of a product of signed integers", uintptr_t, uintptr_t)
EMULATED_CHECK(negate_overflow, "overflow of a negated signed integer", uintptr_t)
EMULATED_CHECK(float_cast_overflow, "conversion of a float to an integer type that cannot hold it", uintptr_t)

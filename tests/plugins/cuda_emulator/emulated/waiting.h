// Who waits where, in words.
#pragma once

#include <cstdint>

#include "collectives.h"

namespace emulated {

// What a thread waits for (if its meeting is not `none`), and what it brings to the others.
struct Waiting {
    Meeting meeting;
    bool exited;
    unsigned mask;
    int from;
    uint64_t value;
    Site site;
};

const char* name(Meeting meeting);
// One line for a block that cannot go on. The answer is valid until the next call.
const char* describe_waiting(const Waiting* threads, unsigned num_threads);

}  // namespace emulated

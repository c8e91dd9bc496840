// What the threads of a block or a warp do together.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace emulated {

enum class Meeting : uint8_t { none, syncthreads, syncwarp, shfl, shfl_up, shfl_down, shfl_xor, ballot, any, all };

// Where in the source a thread waits: said in error messages, and all threads must wait at the same place.
struct Site {
    const char* file;
    int line;
};
#define EMULATED_HERE ::emulated::Site{file, line}
#define EMULATED_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

void meet_block(Site site);
// Waits for the lanes in `mask`, then returns the value that lane `from` brought, or, for from = -1, the set of lanes
// that brought a value other than 0.
uint64_t meet_warp(Meeting meeting, unsigned mask, uint64_t value, int from, Site site);
int lane();
// Lets other threads go first, sometimes.
void may_yield();

template <typename T>
inline T from_lane(Meeting meeting, unsigned mask, T value, int from, Site site) {
    static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, long> ||
                      std::is_same_v<T, unsigned long> || std::is_same_v<T, long long> ||
                      std::is_same_v<T, unsigned long long> || std::is_same_v<T, float> || std::is_same_v<T, double>,
                  "a type that shuffles do not have");
    uint64_t brought = 0;
    std::memcpy(&brought, &value, sizeof value);
    const uint64_t got = meet_warp(meeting, mask, brought, from, site);
    std::memcpy(&value, &got, sizeof value);
    return value;
}

}  // namespace emulated

inline void __syncthreads(EMULATED_SITE) { emulated::meet_block(EMULATED_HERE); }

inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATED_SITE) {
    emulated::meet_warp(emulated::Meeting::syncwarp, mask, 0, -1, EMULATED_HERE);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATED_SITE) {
    return static_cast<unsigned>(
        emulated::meet_warp(emulated::Meeting::ballot, mask, predicate != 0, -1, EMULATED_HERE));
}

inline int __any_sync(unsigned mask, int predicate, EMULATED_SITE) {
    return emulated::meet_warp(emulated::Meeting::any, mask, predicate != 0, -1, EMULATED_HERE) != 0;
}

inline int __all_sync(unsigned mask, int predicate, EMULATED_SITE) {
    return emulated::meet_warp(emulated::Meeting::all, mask, predicate == 0, -1, EMULATED_HERE) == 0;
}

// `width` cuts the warp into segments. A lane whose source is outside of its segment keeps its own value; only
// __shfl_xor_sync may read from the segments before its own.
template <typename T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATED_SITE) {
    const int from = (emulated::lane() & ~(width - 1)) | (source & (width - 1));
    return emulated::from_lane(emulated::Meeting::shfl, mask, value, from, EMULATED_HERE);
}

template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATED_SITE) {
    const int lane = emulated::lane(), first = lane & ~(width - 1), from = lane - static_cast<int>(delta & 31);
    return emulated::from_lane(emulated::Meeting::shfl_up, mask, value, from < first ? lane : from, EMULATED_HERE);
}

template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATED_SITE) {
    const int lane = emulated::lane(), last = lane | (width - 1), from = lane + static_cast<int>(delta & 31);
    return emulated::from_lane(emulated::Meeting::shfl_down, mask, value, from > last ? lane : from, EMULATED_HERE);
}

template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, EMULATED_SITE) {
    const int lane = emulated::lane(), last = lane | (width - 1), from = lane ^ (lane_mask & 31);
    return emulated::from_lane(emulated::Meeting::shfl_xor, mask, value, from > last ? lane : from, EMULATED_HERE);
}

// Fibers run until they wait, so every addition is whole. Between two of them other threads may come in.
#define EMULATED_ATOMIC_ADD(Type)                                       \
    inline Type atomicAdd(Type* place, Type value) {                    \
        using Unsigned = std::make_unsigned_t<Type>;                    \
        emulated::may_yield();                                          \
        const Type before = *place;                                     \
        *place = static_cast<Type>(Unsigned(before) + Unsigned(value)); \
        return before;                                                  \
    }
EMULATED_ATOMIC_ADD(int)
EMULATED_ATOMIC_ADD(unsigned)
EMULATED_ATOMIC_ADD(unsigned long long)
#undef EMULATED_ATOMIC_ADD
#undef EMULATED_SITE
#undef EMULATED_HERE

// Random numbers for the order of threads: fast ones, the same for the same seed.
#pragma once

#include <cstdint>

namespace emulated {

class Random {
  public:
    void seed(uint64_t seed) { state_ = seed; }

    // splitmix64
    uint64_t next() {
        uint64_t bits = state_ += 0x9e3779b97f4a7c15u;
        bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
        bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
        return bits ^ (bits >> 31);
    }

    uint64_t below(uint64_t bound) {
        return static_cast<uint64_t>((static_cast<unsigned __int128>(next()) * bound) >> 64);
    }

    // One of the bits that are set. Any can be the one, though not all are equally likely.
    unsigned bit_of(uint32_t bits) {
        const unsigned turn = static_cast<unsigned>(next() >> 59);
        const uint32_t turned = turn ? bits >> turn | bits << (32 - turn) : bits;
        return (static_cast<unsigned>(__builtin_ctz(turned)) + turn) % 32;
    }

  private:
    uint64_t state_ = 0;
};

}  // namespace emulated

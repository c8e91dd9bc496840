// The num_chosen-th best of many scores, by a radix select: each of four passes counts the scores by 8 more bits, among
// those whose leading bits are the threshold's. One block does it alone, or many blocks share each pass.
#pragma once

#include "device.cuh"

namespace vitcop {

constexpr int SELECT_THREADS = 1024;
constexpr int RADIX_BITS = 8, RADIX_BINS = 1 << RADIX_BITS, RADIX_PASSES = 32 / RADIX_BITS;
constexpr uint32_t TILE_RANKS = 4 * SELECT_THREADS;
constexpr uint32_t WORST_RANK = 0xffffffffu;

// A score as an integer: the lower, the better. A NaN is the worst, -0 equals 0, infinities are in their place. Without
// a branch, so that the loads of several scores overlap.
__device__ __forceinline__ uint32_t score_rank(float score, bool largest) {
    const uint32_t bits = __float_as_uint(score + 0.0f);  // turns -0 into 0
    const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    const uint32_t rank = largest ? ~ascending : ascending;
    return score != score ? WORST_RANK : rank;
}

// The ranks of B rows of `count` scores.
template <typename T>
struct Ranks {
    const T* scores;
    uint32_t count;
    bool largest;

    __device__ __forceinline__ uint32_t at(int64_t row, uint32_t place) const {
        return score_rank(to_float(scores[row * count + place]), largest);
    }
    uint32_t num_tiles() const { return (count + TILE_RANKS - 1) / TILE_RANKS; }
};

// What some passes found: the leading bits of the threshold, and how many of the ranks that share them are chosen.
// After all passes: ranks below `rank` are chosen, and the first `left` of those that equal it.
struct Threshold {
    uint32_t rank;
    uint32_t left;
};

// Adds the ranks at from <= place < upto to `bins` by the 8 bits of this pass. By all threads of the block.
template <typename T>
__device__ void count_ranks(const Ranks<T>& ranks, int64_t row, uint32_t from, uint32_t upto, Threshold found, int pass,
                            unsigned* bins) {
    constexpr int AHEAD = 4;
    const int shift = 32 - RADIX_BITS * (pass + 1);
    const uint32_t fixed = pass == 0 ? 0u : WORST_RANK << (shift + RADIX_BITS);
    for (uint32_t start = from + threadIdx.x; start < upto; start += AHEAD * SELECT_THREADS) {
        uint32_t read[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) read[i] = ranks.at(row, min(start + i * SELECT_THREADS, upto - 1));
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const bool counts = start + i * SELECT_THREADS < upto && (read[i] & fixed) == found.rank;
            if (counts) atomicAdd(&bins[(read[i] >> shift) & (RADIX_BINS - 1)], 1u);
        }
    }
}

// The bin in which the threshold lies, from a pass's counts. By all threads of the block; all get the answer.
__device__ inline Threshold narrow(const unsigned* bins, Threshold found, int pass) {
    constexpr int OF_LANE = RADIX_BINS / WARP;
    __shared__ Threshold narrowed;
    __syncthreads();  // of a call before this one, `narrowed` has been read
    if (threadIdx.x < WARP) {
        const int first = static_cast<int>(threadIdx.x) * OF_LANE;
        uint32_t counts[OF_LANE], of_lane = 0;
        for (int i = 0; i < OF_LANE; ++i) of_lane += counts[i] = bins[first + i];
        uint32_t before = lane_prefix(of_lane) - of_lane;
        for (int i = 0; i < OF_LANE; ++i) {
            if (before < found.left && found.left - before <= counts[i]) {
                const uint32_t digit = static_cast<uint32_t>(first + i) << (32 - RADIX_BITS * (pass + 1));
                narrowed = {found.rank | digit, found.left - before};
            }
            before += counts[i];
        }
    }
    __syncthreads();
    return narrowed;
}

// By one block. 1 <= num_chosen <= count.
template <typename T>
__device__ Threshold find_threshold(const Ranks<T>& ranks, int64_t row, uint32_t num_chosen) {
    __shared__ unsigned bins[RADIX_BINS];
    Threshold found = {0, num_chosen};
    for (int pass = 0; pass < RADIX_PASSES; ++pass) {
        for (int bin = threadIdx.x; bin < RADIX_BINS; bin += SELECT_THREADS) bins[bin] = 0;
        __syncthreads();
        count_ranks(ranks, row, 0, ranks.count, found, pass, bins);
        __syncthreads();
        found = narrow(bins, found, pass);
    }
    return found;
}

// By many blocks: the counts of all passes, `bins` [B, passes, bins], were cleared before the first. What the passes so
// far found is worked out again by every block, which spares a kernel between two passes.
__device__ inline Threshold found_by(const unsigned* bins, int64_t row, uint32_t num_chosen, int num_passes) {
    Threshold found = {0, num_chosen};
    for (int pass = 0; pass < num_passes; ++pass)
        found = narrow(bins + (row * RADIX_PASSES + pass) * RADIX_BINS, found, pass);
    return found;
}

// One pass. Grid: tiles of ranks, rows.
template <typename T>
__global__ void __launch_bounds__(SELECT_THREADS)
    count_pass(Ranks<T> ranks, unsigned* bins, uint32_t num_chosen, int pass) {
    __shared__ unsigned of_tile[RADIX_BINS];
    const int64_t row = blockIdx.y;
    const uint32_t from = blockIdx.x * TILE_RANKS, upto = min(from + TILE_RANKS, ranks.count);
    for (int bin = threadIdx.x; bin < RADIX_BINS; bin += SELECT_THREADS) of_tile[bin] = 0;
    const Threshold found = found_by(bins, row, num_chosen, pass);
    __syncthreads();
    count_ranks(ranks, row, from, upto, found, pass, of_tile);
    __syncthreads();
    for (int bin = threadIdx.x; bin < RADIX_BINS; bin += SELECT_THREADS)
        if (of_tile[bin] != 0) atomicAdd(&bins[(row * RADIX_PASSES + pass) * RADIX_BINS + bin], of_tile[bin]);
}

inline int64_t radix_bins(int64_t batch) { return batch * RADIX_PASSES * RADIX_BINS; }

// Fills `bins` of radix_bins(batch) counts, from which found_by() gives each row's threshold.
template <typename T>
void launch_passes(Launcher& launcher, const Ranks<T>& ranks, int64_t batch, uint32_t num_chosen, unsigned* bins) {
    launcher.clear(bins, radix_bins(batch));
    for (int pass = 0; pass < RADIX_PASSES; ++pass)
        launcher.run(count_pass<T>, ranks.num_tiles(), batch, SELECT_THREADS, ranks, bins, num_chosen, pass);
}

}  // namespace vitcop

// The best of a row's tokens by their scores: by one block for each row, or by many where a row is long.
#pragma once

#include "kept.cuh"

namespace vitcop {

// Up to this many tokens one block is done before many would have met. An estimate: not measured yet.
constexpr int64_t ONE_BLOCK_TOKENS = 8192;

__device__ __forceinline__ int choice_of(uint32_t rank, Threshold threshold) {
    return rank < threshold.rank ? CHOSEN : rank == threshold.rank ? TIED : DROPPED;
}

// Grid: one block for all of a row; rows.
template <typename T>
__global__ void __launch_bounds__(SELECT_THREADS) select_in_one_block(Ranks<T> ranks, Kept out) {
    const int64_t row = blockIdx.y;
    Threshold threshold = {out.num_kept > 0 ? WORST_RANK : 0u, static_cast<uint32_t>(out.num_kept)};  // all or none
    if (out.num_kept > 0 && out.num_kept < out.num_visual)
        threshold = find_threshold(ranks, row, static_cast<uint32_t>(out.num_kept));
    const auto choice_at = [=](int64_t visual) {
        return choice_of(ranks.at(row, static_cast<uint32_t>(visual)), threshold);
    };
    write_stretch(out, {row, 0, out.num_visual, 0, 0}, choice_at, threshold.left);
    write_ends(out, row);
}

// How many tokens of a tile are chosen, and tied (in the upper half). Grid: tiles, rows.
template <typename T>
__global__ void __launch_bounds__(SELECT_THREADS)
    count_choices(Ranks<T> ranks, const unsigned* bins, unsigned* of_tiles, uint32_t num_kept) {
    const int64_t row = blockIdx.y;
    const Threshold threshold = found_by(bins, row, num_kept, RADIX_PASSES);
    const uint32_t from = blockIdx.x * TILE_RANKS, upto = min(from + TILE_RANKS, ranks.count);
    unsigned counts = 0;
    for (uint32_t place = from + threadIdx.x; place < upto; place += SELECT_THREADS) {
        const int choice = choice_of(ranks.at(row, place), threshold);
        counts += static_cast<unsigned>(choice == CHOSEN) | static_cast<unsigned>(choice == TIED) << 16;
    }
    const unsigned total = block_prefix<SELECT_THREADS>(counts).total;
    if (threadIdx.x == 0) of_tiles[row * gridDim.x + blockIdx.x] = total;
}

// Grid: tiles, rows.
template <typename T>
__global__ void __launch_bounds__(SELECT_THREADS)
    write_tiles(Ranks<T> ranks, const unsigned* bins, const unsigned* of_tiles, Kept out) {
    const int64_t row = blockIdx.y;
    const Threshold threshold = found_by(bins, row, static_cast<uint32_t>(out.num_kept), RADIX_PASSES);
    uint64_t before = 0;  // chosen, and in the upper half tied
    for (uint32_t tile = threadIdx.x; tile < blockIdx.x; tile += SELECT_THREADS) {
        const unsigned counts = of_tiles[row * gridDim.x + tile];
        before += static_cast<uint64_t>(counts & 0xffffu) | static_cast<uint64_t>(counts >> 16) << 32;
    }
    before = block_prefix<SELECT_THREADS>(before).total;
    const int64_t from = blockIdx.x * int64_t(TILE_RANKS);
    const Stretch stretch = {row, from, min(from + int64_t(TILE_RANKS), out.num_visual),
                             static_cast<int64_t>(before & 0xffffffffu), static_cast<int64_t>(before >> 32)};
    const auto choice_at = [=](int64_t visual) {
        return choice_of(ranks.at(row, static_cast<uint32_t>(visual)), threshold);
    };
    write_stretch(out, stretch, choice_at, threshold.left);
    write_ends(out, row);
}

// Scratch memory of a selection.
struct SelectScratch {
    unsigned* bins;
    unsigned* of_tiles;

    SelectScratch(Workspace& workspace, int64_t batch, int64_t num_visual) {
        bins = workspace.take<unsigned>(radix_bins(batch));
        of_tiles = workspace.take<unsigned>(batch * div_up(num_visual, TILE_RANKS));
    }
};

// Keeps the out.num_kept best of each row's scores [B,V].
template <typename T>
void launch_select(Launcher& launcher, const T* scores, const Kept& out, int64_t batch, bool largest,
                   const SelectScratch& scratch) {
    const Ranks<T> ranks = {scores, static_cast<uint32_t>(out.num_visual), largest};
    const uint32_t num_kept = static_cast<uint32_t>(out.num_kept);
    if (out.num_visual <= ONE_BLOCK_TOKENS || out.num_kept == 0) {
        launcher.run(select_in_one_block<T>, 1, batch, SELECT_THREADS, ranks, out);
        return;
    }
    launch_passes(launcher, ranks, batch, num_kept, scratch.bins);
    launcher.run(count_choices<T>, ranks.num_tiles(), batch, SELECT_THREADS, ranks, scratch.bins, scratch.of_tiles,
                 num_kept);
    launcher.run(write_tiles<T>, ranks.num_tiles(), batch, SELECT_THREADS, ranks, scratch.bins, scratch.of_tiles, out);
}

}  // namespace vitcop

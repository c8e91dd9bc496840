// What a sequence becomes when some of its visual tokens stay: the three outputs of a drop.
#pragma once

#include "radix.cuh"

namespace vitcop {

enum Choice { DROPPED = 0, CHOSEN = 1, TIED = 2 };

// The outputs of a drop of B rows, and what they follow from.
struct Kept {
    Indices visual_index;
    IndexRoom kept_positions;
    IndexRoom new_visual_index;
    IndexRoom kept_visual;
    int64_t num_positions;
    int64_t num_visual;
    int64_t num_kept;

    Kept(const void* visual_index_, int64_t bits, void* kept_positions_, void* new_visual_index_, void* kept_visual_,
         int64_t positions, int64_t visual, int64_t kept)
        : visual_index{visual_index_, bits == 64},
          kept_positions{kept_positions_, bits == 64},
          new_visual_index{new_visual_index_, bits == 64},
          kept_visual{kept_visual_, bits == 64},
          num_positions(positions),
          num_visual(visual),
          num_kept(kept) {}

    __device__ __forceinline__ int64_t num_left() const { return num_positions - num_visual + num_kept; }
    // From -1 to num_positions, whatever the index says: it must lead neither outside nor on an endless walk.
    __device__ __forceinline__ int64_t position(int64_t row, int64_t visual) const {
        return max(min(visual_index[row * num_visual + visual], num_positions), int64_t(-1));
    }
    __device__ __forceinline__ void keep(int64_t row, int64_t slot, int64_t position) const {
        if (slot >= 0 && slot < num_left()) kept_positions.set(row * num_left() + slot, position);
    }
    __device__ __forceinline__ void keep_token(int64_t row, int64_t visual, int64_t rank, int64_t position) const {
        const int64_t slot = position - (visual - rank);
        kept_visual.set(row * num_kept + rank, visual);
        new_visual_index.set(row * num_kept + rank, slot);
        keep(row, slot, position);
    }
};

// Which of the tokens first..last-1 of a row a block writes, and how many of those before them are chosen and tied.
struct Stretch {
    int64_t row;
    int64_t first;
    int64_t last;
    int64_t chosen_before;
    int64_t tied_before;
};

// Writes what becomes of a stretch of visual tokens and of the text behind each. choice_at(v) says what becomes of
// token v; of the TIED ones the first `ties` stay. One walk over the tokens in their order: the place of a position
// afterwards is its number less the tokens dropped before it, so neither a sort nor a search is needed. All
// SELECT_THREADS threads must call it.
template <typename ChoiceAt>
__device__ void write_stretch(const Kept& out, Stretch stretch, ChoiceAt choice_at, int64_t ties) {
    const int64_t row = stretch.row;
    for (int64_t start = stretch.first; start < stretch.last; start += SELECT_THREADS) {
        const int64_t visual = start + threadIdx.x;
        const bool inside = visual < stretch.last;
        const int choice = inside ? choice_at(visual) : DROPPED;
        const int64_t position = inside ? out.position(row, visual) : 0;
        const int64_t next = inside && visual + 1 < out.num_visual ? out.position(row, visual + 1) : 0;
        // Both counts in one number: neither reaches 65536 within a step.
        const auto step = block_prefix<SELECT_THREADS>(static_cast<unsigned>(choice == CHOSEN) |
                                                       static_cast<unsigned>(choice == TIED) << 16);
        const int64_t tied = stretch.tied_before + (step.before >> 16);
        const int64_t rank = stretch.chosen_before + (step.before & 0xffffu) + min(tied, ties);
        const bool stays = choice == CHOSEN || (choice == TIED && tied < ties);
        if (stays) out.keep_token(row, visual, rank, position);

        // The text between this token and the next one, which the warp copies together.
        const int64_t shift = visual + 1 - (rank + stays);
        for (unsigned gaps = __ballot_sync(ALL_LANES, next > position + 1); gaps != 0; gaps &= gaps - 1) {
            const int lane = __ffs(gaps) - 1;
            const int64_t from = __shfl_sync(ALL_LANES, position, lane) + 1;
            const int64_t upto = __shfl_sync(ALL_LANES, next, lane);
            const int64_t of_gap = __shfl_sync(ALL_LANES, shift, lane);
            for (int64_t text = from + threadIdx.x % WARP; text < upto; text += WARP)
                out.keep(row, text - of_gap, text);
        }
        stretch.chosen_before += step.total & 0xffffu;
        stretch.tied_before += step.total >> 16;
    }
}

// Writes the text before the first visual token and behind the last one; the blocks of a row share it.
__device__ inline void write_ends(const Kept& out, int64_t row) {
    const int64_t thread = blockIdx.x * int64_t(SELECT_THREADS) + threadIdx.x;
    const int64_t num_threads = gridDim.x * int64_t(SELECT_THREADS);
    const int64_t head = out.num_visual > 0 ? out.position(row, 0) : out.num_positions;
    for (int64_t text = thread; text < head; text += num_threads) out.keep(row, text, text);
    if (out.num_visual == 0) return;
    const int64_t behind = out.position(row, out.num_visual - 1) + 1, shift = out.num_visual - out.num_kept;
    for (int64_t text = behind + thread; text < out.num_positions; text += num_threads)
        out.keep(row, text - shift, text);
}

}  // namespace vitcop

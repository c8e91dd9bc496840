// DensityPeakClusters on the GPU: the steps of the reference, each over all pairs of tokens.
#include "radix.cuh"

namespace vitcop {
namespace {

constexpr int THREADS = 256;
constexpr int TOKENS_PER_BLOCK = THREADS / WARP;  // where a warp works for one token
constexpr float LEAST_SQUARED_CUTOFF = 1e-12f;

// What the steps hand to each other, for B rows of K tokens.
struct Clustering {
    float* squared;    // [B,K,K] squared distances
    float* density;    // [B,K]
    float* peak;       // [B,K] density times distance to the nearest denser token; infinite where there is none
    float* cutoff;     // [B] squared cutoff distance
    int* parent;       // [B,K] the token whose label this one takes
    int* next_parent;  // [B,K]
    int* is_center;    // [B,K]
    int* center_label; // [B,K]
    unsigned* bins;    // counts of the squared distances, where the cutoff is a quantile of them
    int64_t num_tokens;

    Clustering(Workspace& workspace, int64_t batch, int64_t count) : num_tokens(count) {
        squared = workspace.take<float>(batch * count * count);
        density = workspace.take<float>(batch * count);
        peak = workspace.take<float>(batch * count);
        cutoff = workspace.take<float>(batch);
        parent = workspace.take<int>(batch * count);
        next_parent = workspace.take<int>(batch * count);
        is_center = workspace.take<int>(batch * count);
        center_label = workspace.take<int>(batch * count);
        bins = workspace.take<unsigned>(radix_bins(batch));
    }
};

// Squared distances by differences, not by a product of matrices: nothing cancels, and equal tokens are at distance 0.
// A block computes TILE x TILE pairs, each thread 2 x 2 of them, from slabs of SLAB features in shared memory. Blocks
// below the diagonal do nothing: theirs are the mirror images. Grid: pairs of tiles, rows of the batch.
constexpr int TILE = 32, SLAB = 32;

template <typename T>
__global__ void __launch_bounds__(THREADS)
    pair_distances(const T* features, Clustering out, int64_t num_features, int64_t num_tiles) {
    const int64_t tile_i = blockIdx.x / num_tiles, tile_j = blockIdx.x % num_tiles, row = blockIdx.y;
    if (tile_j < tile_i) return;
    __shared__ float slab_i[SLAB][TILE + 1], slab_j[SLAB][TILE + 1];  // one column more, against bank conflicts
    const int64_t num_tokens = out.num_tokens;
    const T* tokens = features + row * num_tokens * num_features;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    float sums[2][2] = {};
    for (int64_t start = 0; start < num_features; start += SLAB) {
        for (int place = threadIdx.x; place < TILE * SLAB; place += THREADS) {
            const int token = place / SLAB, feature = place % SLAB;
            const int64_t dim = start + feature;
            const auto read = [&](int64_t i) {
                return i < num_tokens && dim < num_features ? to_float(tokens[i * num_features + dim]) : 0.0f;
            };
            slab_i[feature][token] = read(tile_i * TILE + token);
            slab_j[feature][token] = read(tile_j * TILE + token);
        }
        __syncthreads();
#pragma unroll 8
        for (int feature = 0; feature < SLAB; ++feature) {
#pragma unroll
            for (int a = 0; a < 2; ++a) {
#pragma unroll
                for (int b = 0; b < 2; ++b) {
                    const float step = slab_i[feature][y + 16 * a] - slab_j[feature][x + 16 * b];
                    sums[a][b] += step * step;
                }
            }
        }
        __syncthreads();
    }
    float* squared = out.squared + row * num_tokens * num_tokens;
    for (int a = 0; a < 2; ++a) {
        for (int b = 0; b < 2; ++b) {
            const int64_t i = tile_i * TILE + y + 16 * a, j = tile_j * TILE + x + 16 * b;
            // Above the diagonal only, so that no place is written twice.
            if (i > j || j >= num_tokens) continue;
            const float distance = i == j ? 0.0f : isfinite(sums[a][b]) ? sums[a][b] : INFINITY;
            squared[i * num_tokens + j] = distance;
            squared[j * num_tokens + i] = distance;
        }
    }
}

// The squared cutoff: the same number for all rows, or where quantile_rank is one, that entry (from 0) of a row's
// ascending squared distances. Grid: rows.
__global__ void __launch_bounds__(THREADS)
    find_cutoff(Clustering state, int64_t quantile_rank, float cutoff_distance) {
    const int64_t row = blockIdx.x;
    float cutoff = cutoff_distance * cutoff_distance;
    if (quantile_rank >= 0) {
        const uint32_t rank =
            found_by(state.bins, row, static_cast<uint32_t>(quantile_rank + 1), RADIX_PASSES).rank;
        // score_rank, undone: a squared distance is never negative.
        cutoff = fmaxf(__uint_as_float(rank ^ 0x80000000u), LEAST_SQUARED_CUTOFF);
    }
    if (threadIdx.x == 0) state.cutoff[row] = cutoff;
}

// A warp for each token: how many others are near. Summed in fp64, so that the order of the sum leaves no trace in
// fp32.
__global__ void __launch_bounds__(THREADS) find_density(Clustering state) {
    const int64_t num_tokens = state.num_tokens, row = blockIdx.y, token = warp_item();
    if (token >= num_tokens) return;
    const float* squared = state.squared + (row * num_tokens + token) * num_tokens;
    const float cutoff = state.cutoff[row];
    double sum = 0.0;
    for (int64_t other = threadIdx.x % WARP; other < num_tokens; other += WARP)
        if (!isinf(squared[other])) sum += static_cast<double>(expf(-(squared[other] / cutoff)));
    sum = lane_sum(sum);
    if (threadIdx.x % WARP == 0) state.density[row * num_tokens + token] = static_cast<float>(sum);
}

// A warp for each token: the nearest denser token of its group within reach, and the product that makes centres.
__global__ void __launch_bounds__(THREADS)
    find_parent(Clustering state, const float* positions, Indices group_ids, float squared_radius) {
    const int64_t num_tokens = state.num_tokens, row = blockIdx.y, token = warp_item();
    if (token >= num_tokens) return;
    const float* squared = state.squared + (row * num_tokens + token) * num_tokens;
    const float* density = state.density + row * num_tokens;
    const float* place = positions + 2 * row * num_tokens;
    Nearest nearest = {INFINITY, static_cast<int>(token)};
    for (int64_t other = threadIdx.x % WARP; other < num_tokens; other += WARP) {
        const bool denser = density[other] > density[token] || (density[other] == density[token] && other < token);
        const float step_x = place[2 * token] - place[2 * other], step_y = place[2 * token + 1] - place[2 * other + 1];
        // Rounded after each step, as everywhere else: a fused multiply-add would see other neighbours at the rim.
        const bool near = __fadd_rn(__fmul_rn(step_x, step_x), __fmul_rn(step_y, step_y)) <= squared_radius;
        const bool same_group =
            group_ids.data == nullptr || group_ids[row * num_tokens + other] == group_ids[row * num_tokens + token];
        if (denser && near && same_group && squared[other] < INFINITY)
            nearest.offer(squared[other], static_cast<int>(other));
    }
    nearest.over_lanes();
    if (threadIdx.x % WARP != 0) return;
    state.peak[row * num_tokens + token] = __fmul_rn(density[token], __fsqrt_rn(nearest.value));
    state.parent[row * num_tokens + token] = nearest.index;
}

// A warp for each token: it is a centre if fewer than num_centers tokens come before it in the order of the peaks.
__global__ void __launch_bounds__(THREADS) find_centers(Clustering state, int64_t num_centers) {
    const int64_t num_tokens = state.num_tokens, row = blockIdx.y, token = warp_item();
    if (token >= num_tokens) return;
    const float* peak = state.peak + row * num_tokens;
    const float* density = state.density + row * num_tokens;
    int before = 0;
    for (int64_t other = threadIdx.x % WARP; other < num_tokens; other += WARP) {
        // Infinite peaks are ordered by density; then the lower index.
        const bool both_alone = isinf(peak[token]) && isinf(peak[other]);
        const float mine = both_alone ? density[token] : peak[token];
        const float its = both_alone ? density[other] : peak[other];
        before += its > mine || (its == mine && other < token);
    }
    before = lane_sum(before);
    if (threadIdx.x % WARP == 0) state.is_center[row * num_tokens + token] = before < num_centers;
}

// A warp for each token: a centre is its own parent; a token that has no denser neighbour joins the nearest centre.
__global__ void __launch_bounds__(THREADS) attach_to_centers(Clustering state) {
    const int64_t num_tokens = state.num_tokens, row = blockIdx.y, token = warp_item();
    if (token >= num_tokens) return;
    const int64_t place = row * num_tokens + token;
    if (state.is_center[place]) {
        if (threadIdx.x % WARP == 0) state.parent[place] = static_cast<int>(token);
    } else if (isinf(state.peak[place])) {
        const float* squared = state.squared + place * num_tokens;
        Nearest nearest = {INFINITY, INT32_MAX};
        for (int64_t other = threadIdx.x % WARP; other < num_tokens; other += WARP)
            if (state.is_center[row * num_tokens + other]) nearest.offer(squared[other], static_cast<int>(other));
        nearest.over_lanes();
        if (threadIdx.x % WARP == 0) state.parent[place] = nearest.index;
    }
}

// Numbers the centres in their order, and follows every chain of parents to its centre: each jump doubles the length of
// the chain that is behind a pointer. Grid: rows.
__global__ void __launch_bounds__(SELECT_THREADS) write_labels(Clustering state, IndexRoom labels) {
    const int64_t num_tokens = state.num_tokens, row = blockIdx.x;
    const int* is_center = state.is_center + row * num_tokens;
    int* center_label = state.center_label + row * num_tokens;
    int* parent = state.parent + row * num_tokens;
    int* next_parent = state.next_parent + row * num_tokens;
    int centers_before = 0;
    for (int64_t start = 0; start < num_tokens; start += SELECT_THREADS) {
        const int64_t token = start + threadIdx.x;
        const auto step = block_prefix<SELECT_THREADS>(token < num_tokens ? is_center[token] : 0);
        if (token < num_tokens) center_label[token] = centers_before + step.before;
        centers_before += step.total;
    }
    for (int64_t reach = 1; reach < num_tokens; reach *= 2) {
        for (int64_t token = threadIdx.x; token < num_tokens; token += SELECT_THREADS)
            next_parent[token] = parent[parent[token]];
        __syncthreads();
        int* const done = parent;
        parent = next_parent;
        next_parent = done;
    }
    for (int64_t token = threadIdx.x; token < num_tokens; token += SELECT_THREADS)
        labels.set(row * num_tokens + token, center_label[parent[token]]);
}

}  // namespace
}  // namespace vitcop

using namespace vitcop;

int64_t vitcop_density_peak_clusters_workspace(int64_t batch, int64_t num_tokens) {
    Workspace workspace(nullptr);
    Clustering(workspace, batch, num_tokens);
    return workspace.bytes();
}

int vitcop_density_peak_clusters(const void* features, int64_t dtype, const float* positions, const void* group_ids,
                                 int64_t index_bits, void* labels, int64_t batch, int64_t num_tokens,
                                 int64_t num_features, int64_t num_centers, int64_t quantile_rank,
                                 float cutoff_distance, float spatial_radius, void* workspace, void* stream) {
    Workspace scratch(workspace);
    const Clustering state(scratch, batch, num_tokens);
    const int64_t num_tiles = div_up(num_tokens, TILE), token_blocks = div_up(num_tokens, TOKENS_PER_BLOCK);
    const int64_t rows = num_tokens > 0 ? batch : 0;
    return with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        Launcher launcher(stream);
        launcher.run(pair_distances<T>, num_tiles * num_tiles, batch, THREADS, static_cast<const T*>(features), state,
                     num_features, num_tiles);
        if (quantile_rank >= 0 && num_tokens > 0) {
            const Ranks<float> ranks = {state.squared, static_cast<uint32_t>(num_tokens * num_tokens), false};
            launch_passes(launcher, ranks, batch, static_cast<uint32_t>(quantile_rank + 1), state.bins);
        }
        launcher.run(find_cutoff, rows, 1, THREADS, state, quantile_rank, cutoff_distance);
        launcher.run(find_density, token_blocks, batch, THREADS, state);
        launcher.run(find_parent, token_blocks, batch, THREADS, state, positions, Indices{group_ids, index_bits == 64},
                     spatial_radius * spatial_radius);
        launcher.run(find_centers, token_blocks, batch, THREADS, state, num_centers);
        launcher.run(attach_to_centers, token_blocks, batch, THREADS, state);
        launcher.run(write_labels, rows, 1, SELECT_THREADS, state, IndexRoom{labels, index_bits == 64});
        return launcher.status();
    });
}

// KNormScores and KNormSelect on the GPU: a warp for each visual token reads its keys once; then the selection.
#include "rows.cuh"
#include "select.cuh"

namespace vitcop {
namespace {

constexpr int NORM_THREADS = 128;
constexpr int NORM_BLOCKS = 8;  // of a multiprocessor at least: leaves 64 registers a thread, room for the loads below
constexpr int AHEAD = 8;        // heads whose loads are in flight together

struct Keys {
    const void* data;
    int64_t stride_batch;
    int64_t stride_head;
    int64_t stride_position;
    int64_t num_heads;
    int64_t num_positions;
    int64_t head_dim;
};

// Norm of the mean key over KV heads. GROUP lanes read one head, the others the heads behind it.
template <typename T, int VEC, int GROUP>
__device__ float norm_of_mean(const T* key, int64_t stride_head, int64_t num_heads, int64_t head_dim) {
    const int lane = threadIdx.x % WARP, first_head = lane / GROUP;
    float square = 0.0f;
    for (int64_t start = 0; start < head_dim; start += GROUP * VEC) {
        const int64_t dim = start + (lane % GROUP) * VEC;
        float sums[VEC] = {};
        constexpr int STEP = WARP / GROUP;
        for (int64_t head = first_head; dim < head_dim && head < num_heads; head += AHEAD * STEP) {
            Pack<T, VEC> packs[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; ++i)
                packs[i] = load_pack<VEC>(key + min(head + i * STEP, num_heads - 1) * stride_head + dim);
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                const bool inside = head + i * STEP < num_heads;
#pragma unroll
                for (int j = 0; j < VEC; ++j) sums[j] += inside ? to_float(packs[i].item[j]) : 0.0f;
            }
        }
#pragma unroll
        for (int i = 0; i < VEC; ++i) {
            const float mean = lane_sum<GROUP>(sums[i]) / static_cast<float>(num_heads);
            square += mean * mean;
        }
    }
    return sqrtf(lane_sum<1, GROUP>(square));
}

// Mean over KV heads of the norms.
template <typename T, int VEC, int GROUP>
__device__ float mean_of_norms(const T* key, int64_t stride_head, int64_t num_heads, int64_t head_dim) {
    const int lane = threadIdx.x % WARP;
    float norms = 0.0f;
#pragma unroll 4
    for (int64_t step = 0; step < num_heads; step += WARP / GROUP) {
        const int64_t head = step + lane / GROUP;
        float square = 0.0f;
        for (int64_t dim = (lane % GROUP) * VEC; dim < head_dim && head < num_heads; dim += GROUP * VEC) {
            const auto pack = load_pack<VEC>(key + head * stride_head + dim);
#pragma unroll
            for (int i = 0; i < VEC; ++i) square += to_float(pack.item[i]) * to_float(pack.item[i]);
        }
        norms += sqrtf(lane_sum<1, GROUP>(square));
    }
    return lane_sum<GROUP>(norms) / static_cast<float>(num_heads);
}

// Grid: tokens / warps of a block, rows of the batch.
template <typename T, int VEC, int GROUP>
__global__ void __launch_bounds__(NORM_THREADS, NORM_BLOCKS)
    key_norms(Keys keys, Indices visual_index, float* scores, int64_t num_visual, bool mean_norm) {
    const int64_t visual = warp_item(), row = blockIdx.y;
    if (visual >= num_visual) return;
    const int64_t position = visual_index[row * num_visual + visual];
    float score = NAN;
    if (position >= 0 && position < keys.num_positions) {
        const T* key = static_cast<const T*>(keys.data) + row * keys.stride_batch + position * keys.stride_position;
        score = mean_norm ? mean_of_norms<T, VEC, GROUP>(key, keys.stride_head, keys.num_heads, keys.head_dim)
                          : norm_of_mean<T, VEC, GROUP>(key, keys.stride_head, keys.num_heads, keys.head_dim);
    }
    if (threadIdx.x % WARP == 0) scores[row * num_visual + visual] = score;
}

template <typename T>
void launch_norms(Launcher& launcher, const Keys& keys, Indices visual_index, float* scores, int64_t batch,
                  int64_t num_visual, bool mean_norm) {
    const bool aligned = rows_aligned<T>(keys.data, keys.stride_batch, keys.stride_head, keys.stride_position);
    with_row_layout<T>(aligned, keys.head_dim, [&](auto vec, auto group) {
        launcher.run(key_norms<T, decltype(vec)::value, decltype(group)::value>,
                     div_up(num_visual, NORM_THREADS / WARP), batch, NORM_THREADS, keys, visual_index, scores,
                     num_visual, mean_norm);
    });
}

}  // namespace
}  // namespace vitcop

using namespace vitcop;

int vitcop_knorm_scores(const void* keys, int64_t dtype, int64_t stride_batch, int64_t stride_head,
                        int64_t stride_position, const void* visual_index, int64_t index_bits, float* scores,
                        int64_t batch, int64_t num_kv_heads, int64_t num_positions, int64_t head_dim,
                        int64_t num_visual, int64_t mean_norm, void* stream) {
    const Keys in = {keys,         stride_batch,  stride_head, stride_position,
                     num_kv_heads, num_positions, head_dim};
    return with_dtype(dtype, [&](auto type) {
        Launcher launcher(stream);
        launch_norms<typename decltype(type)::type>(launcher, in, {visual_index, index_bits == 64}, scores, batch,
                                                    num_visual, mean_norm != 0);
        return launcher.status();
    });
}

int64_t vitcop_knorm_select_workspace(int64_t batch, int64_t num_visual) {
    Workspace workspace(nullptr);
    workspace.take<float>(batch * num_visual);
    SelectScratch(workspace, batch, num_visual);
    return workspace.bytes();
}

int vitcop_knorm_select(const void* keys, int64_t dtype, int64_t stride_batch, int64_t stride_head,
                        int64_t stride_position, const void* visual_index, int64_t index_bits, void* kept_positions,
                        void* new_visual_index, void* kept_visual, int64_t batch, int64_t num_kv_heads,
                        int64_t num_positions, int64_t head_dim, int64_t num_visual, int64_t num_kept, int64_t largest,
                        int64_t mean_norm, void* workspace, void* stream) {
    const Keys in = {keys,         stride_batch,  stride_head, stride_position,
                     num_kv_heads, num_positions, head_dim};
    const Kept out(visual_index, index_bits, kept_positions, new_visual_index, kept_visual, num_positions, num_visual,
                   num_kept);
    Workspace memory(workspace);
    float* scores = memory.take<float>(batch * num_visual);
    const SelectScratch scratch(memory, batch, num_visual);
    return with_dtype(dtype, [&](auto type) {
        Launcher launcher(stream);
        launch_norms<typename decltype(type)::type>(launcher, in, out.visual_index, scores, batch, num_visual,
                                                    mean_norm != 0);
        launch_select(launcher, scores, out, batch, largest != 0, scratch);
        return launcher.status();
    });
}

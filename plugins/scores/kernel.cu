// ScoreSelect, the scores that a query row gives (text query, vision saliency), UniformScores and RandomScores.
#include "rows.cuh"
#include "select.cuh"

namespace vitcop {
namespace {

constexpr int THREADS = 256;

// One query for each head against the keys of B sequences. Query head h reads key-value head h / (Nh / Nkv).
struct QueryRow {
    const void* queries;
    const void* keys;
    int64_t stride_batch;
    int64_t stride_head;
    int64_t stride_position;
    Indices attention_mask;
    int64_t num_heads;
    int64_t num_kv_heads;
    int64_t num_positions;
    int64_t head_dim;
    float scale;
};

// logits [B,Nh,S]. GROUP lanes for each position; the query heads that share its key follow one another, so that the
// key comes from the cache but once. Grid: positions, key-value heads of all rows.
template <typename T, int VEC, int GROUP>
__global__ void __launch_bounds__(THREADS) query_logits(QueryRow in, float* logits) {
    const int64_t position = blockIdx.x * int64_t(THREADS / GROUP) + threadIdx.x / GROUP;
    const int64_t row = blockIdx.y / in.num_kv_heads, kv_head = blockIdx.y % in.num_kv_heads;
    const int64_t heads_each = in.num_heads / in.num_kv_heads;
    const bool inside = position < in.num_positions;
    const bool padding = inside && in.attention_mask.data != nullptr &&
                         in.attention_mask[row * in.num_positions + position] == 0;
    const T* key = static_cast<const T*>(in.keys) + row * in.stride_batch + kv_head * in.stride_head +
                   position * in.stride_position;
    for (int64_t head = kv_head * heads_each; head < (kv_head + 1) * heads_each; ++head) {
        const T* query = static_cast<const T*>(in.queries) + (row * in.num_heads + head) * in.head_dim;
        float product = 0.0f;
        for (int64_t dim = (threadIdx.x % GROUP) * VEC; inside && dim < in.head_dim; dim += GROUP * VEC) {
            const auto of_key = load_pack<VEC>(key + dim);
            const auto of_query = load_pack<VEC>(query + dim);
#pragma unroll
            for (int i = 0; i < VEC; ++i) product += to_float(of_key.item[i]) * to_float(of_query.item[i]);
        }
        product = lane_sum<1, GROUP>(product);
        if (inside && threadIdx.x % GROUP == 0)
            logits[(row * in.num_heads + head) * in.num_positions + position] =
                padding ? -FLT_MAX : product * in.scale;
    }
}

// The largest logit of each row of S, and the sum of exp(logit - largest). Grid: rows.
__global__ void __launch_bounds__(THREADS) softmax_sums(const float* logits, float2* sums, int64_t num_positions) {
    __shared__ float of_warps[THREADS / WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const float* row = logits + blockIdx.x * num_positions;
    float largest = -INFINITY;
    for (int64_t position = threadIdx.x; position < num_positions; position += THREADS)
        largest = fmaxf(largest, row[position]);
    for (int offset = 1; offset < WARP; offset *= 2)
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, offset));
    if (lane == 0) of_warps[warp] = largest;
    __syncthreads();
    for (int i = 0; i < THREADS / WARP; ++i) largest = fmaxf(largest, of_warps[i]);
    float sum = 0.0f;
    for (int64_t position = threadIdx.x; position < num_positions; position += THREADS)
        sum += expf(row[position] - largest);
    const float total = block_prefix<THREADS>(sum).total;
    if (threadIdx.x == 0) sums[blockIdx.x] = make_float2(largest, total);
}

// scores [B,V]: the attention of all heads to each visual token. Grid: tokens, rows of the batch.
__global__ void __launch_bounds__(THREADS)
    sum_over_heads(const float* logits, const float2* sums, Indices visual_index, int64_t first_position,
                   float* scores, int64_t num_heads, int64_t num_positions, int64_t num_visual) {
    const int64_t visual = blockIdx.x * int64_t(THREADS) + threadIdx.x, row = blockIdx.y;
    if (visual >= num_visual) return;
    const int64_t position =
        visual_index.data == nullptr ? first_position + visual : visual_index[row * num_visual + visual];
    float score = NAN;
    if (position >= 0 && position < num_positions) {
        score = 0.0f;
        for (int64_t head = row * num_heads; head < (row + 1) * num_heads; ++head)
            score += expf(logits[head * num_positions + position] - sums[head].x) / sums[head].y;
    }
    scores[row * num_visual + visual] = score;
}

__global__ void __launch_bounds__(THREADS) uniform_scores(float* scores, int64_t num_visual, int64_t num_kept) {
    const int64_t visual = blockIdx.x * int64_t(THREADS) + threadIdx.x;
    if (visual >= num_visual) return;
    const int64_t before = (2 * visual * num_kept + num_visual) / (2 * num_visual);
    const int64_t after = (2 * (visual + 1) * num_kept + num_visual) / (2 * num_visual);
    scores[blockIdx.y * num_visual + visual] = after > before ? 1.0f : 0.0f;
}

// The hash of scores/hash.py.
__device__ uint32_t mix(uint32_t word) {
    word = (word ^ (word >> 16)) * 0x21F0AAADu;
    word = (word ^ (word >> 15)) * 0x735A2D97u;
    return word ^ (word >> 15);
}

__global__ void __launch_bounds__(THREADS)
    random_scores(Indices visual_positions, float* scores, int64_t num_visual, uint32_t seed) {
    const int64_t visual = blockIdx.x * int64_t(THREADS) + threadIdx.x;
    if (visual >= num_visual) return;
    const int64_t place = blockIdx.y * num_visual + visual;
    const uint32_t word = mix(mix(static_cast<uint32_t>(visual_positions[place])) + mix(seed + 0x9E3779B9u));
    scores[place] = static_cast<float>(word >> 8) * 0x1p-24f;
}

}  // namespace
}  // namespace vitcop

using namespace vitcop;

int64_t vitcop_score_select_workspace(int64_t batch, int64_t num_visual) {
    Workspace workspace(nullptr);
    SelectScratch(workspace, batch, num_visual);
    return workspace.bytes();
}

int vitcop_score_select(const void* scores, int64_t dtype, const void* visual_index, int64_t index_bits,
                        void* kept_positions, void* new_visual_index, void* kept_visual, int64_t batch,
                        int64_t num_positions, int64_t num_visual, int64_t num_kept, int64_t largest, void* workspace,
                        void* stream) {
    const Kept out(visual_index, index_bits, kept_positions, new_visual_index, kept_visual, num_positions, num_visual,
                   num_kept);
    Workspace memory(workspace);
    const SelectScratch scratch(memory, batch, num_visual);
    return with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        Launcher launcher(stream);
        launch_select(launcher, static_cast<const T*>(scores), out, batch, largest != 0, scratch);
        return launcher.status();
    });
}

int64_t vitcop_query_scores_workspace(int64_t batch, int64_t num_heads, int64_t num_positions) {
    Workspace workspace(nullptr);
    workspace.take<float>(batch * num_heads * num_positions);
    workspace.take<float2>(batch * num_heads);
    return workspace.bytes();
}

int vitcop_query_scores(const void* queries, const void* keys, int64_t dtype, int64_t stride_batch, int64_t stride_head,
                        int64_t stride_position, const void* attention_mask, const void* visual_index,
                        int64_t index_bits, int64_t first_position, float* scores, int64_t batch, int64_t num_heads,
                        int64_t num_kv_heads, int64_t num_positions, int64_t head_dim, int64_t num_visual, float scale,
                        void* workspace, void* stream) {
    Workspace scratch(workspace);
    float* logits = scratch.take<float>(batch * num_heads * num_positions);
    float2* sums = scratch.take<float2>(batch * num_heads);
    const bool wide = index_bits == 64;
    const QueryRow in = {queries,      keys,          stride_batch,           stride_head,
                         stride_position, {attention_mask, wide}, num_heads, num_kv_heads,
                         num_positions, head_dim,     scale};
    return with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool aligned = rows_aligned<T>(keys, stride_batch, stride_head, stride_position) && aligned16(queries);
        Launcher launcher(stream);
        with_row_layout<T>(aligned, head_dim, [&](auto vec, auto group) {
            launcher.run(query_logits<T, decltype(vec)::value, decltype(group)::value>,
                         div_up(num_positions, THREADS / decltype(group)::value), batch * num_kv_heads, THREADS, in,
                         logits);
        });
        launcher.run(softmax_sums, batch * num_heads, 1, THREADS, logits, sums, num_positions);
        launcher.run(sum_over_heads, div_up(num_visual, THREADS), batch, THREADS, logits, sums,
                     Indices{visual_index, wide}, first_position, scores, num_heads, num_positions, num_visual);
        return launcher.status();
    });
}

int vitcop_uniform_scores(float* scores, int64_t batch, int64_t num_visual, int64_t num_kept, void* stream) {
    Launcher launcher(stream);
    launcher.run(uniform_scores, div_up(num_visual, THREADS), batch, THREADS, scores, num_visual, num_kept);
    return launcher.status();
}

int vitcop_random_scores(const void* visual_positions, int64_t index_bits, float* scores, int64_t batch,
                         int64_t num_visual, int64_t seed, void* stream) {
    Launcher launcher(stream);
    const Indices positions = {visual_positions, index_bits == 64};
    launcher.run(random_scores, div_up(num_visual, THREADS), batch, THREADS, positions, scores, num_visual,
                 static_cast<uint32_t>(seed));
    return launcher.status();
}

// ClusterMergePlan on the GPU. Every rank is a count of what comes before (a warp for each cluster, token or group,
// over all of its rivals): no sort. That is V * V comparisons at most, where the assignment matrix has R * V entries
// anyway.
#include "kept.cuh"

namespace vitcop {
namespace {

constexpr int THREADS = 256;
constexpr int WARPS_PER_BLOCK = THREADS / WARP;

// What the steps hand to each other, for B rows of V tokens in C clusters and R groups.
struct Plan {
    double* cluster_sum;   // [B,C] sum of the scores; infinite for an empty cluster
    int* cluster_size;     // [B,C]
    int* rounded_quota;    // [B,C] tokens that stay by themselves, before their number adds up
    int* quota;            // [B,C]
    int* cluster_rank;     // [B,C] place in ascending order of the sums
    int* num_present;      // [B] clusters that have a token
    int* num_missing;      // [B] places still to be given; negative: to be taken back
    int* alone;            // [B,V] 1 for a token that stays by itself
    int* group;            // [B,V]
    int* middle;           // [B,R] the middle member of a group
    int* group_size;       // [B,R]
    int* group_of_output;  // [B,R] groups in the order of their middle members
    Indices labels;
    int64_t num_visual;
    int64_t num_clusters;
    int64_t num_groups;

    Plan(Workspace& workspace, Indices of_labels, int64_t batch, int64_t visual, int64_t clusters, int64_t groups)
        : labels(of_labels), num_visual(visual), num_clusters(clusters), num_groups(groups) {
        cluster_sum = workspace.take<double>(batch * clusters);
        cluster_size = workspace.take<int>(batch * clusters);
        rounded_quota = workspace.take<int>(batch * clusters);
        quota = workspace.take<int>(batch * clusters);
        cluster_rank = workspace.take<int>(batch * clusters);
        num_present = workspace.take<int>(batch);
        num_missing = workspace.take<int>(batch);
        alone = workspace.take<int>(batch * visual);
        group = workspace.take<int>(batch * visual);
        middle = workspace.take<int>(batch * groups);
        group_size = workspace.take<int>(batch * groups);
        group_of_output = workspace.take<int>(batch * groups);
    }

    __device__ __forceinline__ int64_t label(int64_t row, int64_t visual) const {
        return min(max(labels[row * num_visual + visual], int64_t(0)), num_clusters - 1);
    }
};

// A warp for each cluster: its size and the sum of its scores. In fp64, where sums of fp32 norms are exact in practice:
// so they do not depend on the order of addition, and equal sums are equal everywhere.
template <typename T>
__global__ void __launch_bounds__(THREADS) sum_clusters(const T* scores, Plan plan) {
    const int64_t cluster = warp_item(), row = blockIdx.y;
    if (cluster >= plan.num_clusters) return;
    int size = 0;
    double sum = 0.0;
    for (int64_t visual = threadIdx.x % WARP; visual < plan.num_visual; visual += WARP) {
        if (plan.label(row, visual) != cluster) continue;
        size += 1;
        sum += static_cast<double>(to_float(scores[row * plan.num_visual + visual]));
    }
    size = lane_sum(size);
    sum = lane_sum(sum);
    if (threadIdx.x % WARP != 0) return;
    plan.cluster_size[row * plan.num_clusters + cluster] = size;
    plan.cluster_sum[row * plan.num_clusters + cluster] = size == 0 || isnan(sum) ? INFINITY : sum;
}

// The places R - C shared out in proportion to size - 1, rounded half to even. Grid: rows.
__global__ void __launch_bounds__(SELECT_THREADS) share_out(Plan plan) {
    const int64_t row = blockIdx.x;
    const int* size = plan.cluster_size + row * plan.num_clusters;
    int64_t present = 0, total = 0, given = 0;
    for (int64_t cluster = threadIdx.x; cluster < plan.num_clusters; cluster += SELECT_THREADS) {
        present += size[cluster] > 0;
        total += max(size[cluster] - 1, 0);
    }
    present = block_prefix<SELECT_THREADS>(present).total;
    total = max(block_prefix<SELECT_THREADS>(total).total, int64_t(1));
    const int64_t places = max(plan.num_groups - present, int64_t(0));
    for (int64_t cluster = threadIdx.x; cluster < plan.num_clusters; cluster += SELECT_THREADS) {
        const int64_t product = max(size[cluster] - 1, 0) * places;
        int64_t quota = product / total;
        const int64_t twice_rest = 2 * (product % total);
        quota += twice_rest > total || (twice_rest == total && quota % 2 == 1);
        plan.rounded_quota[row * plan.num_clusters + cluster] = static_cast<int>(quota);
        given += quota;
    }
    given = block_prefix<SELECT_THREADS>(given).total;
    if (threadIdx.x != 0) return;
    plan.num_present[row] = static_cast<int>(present);
    plan.num_missing[row] = static_cast<int>(places - given);
}

// A warp for each cluster: its place among the sums, and whether it is one of those that give or take one place, so
// that the quotas add up (one round is always enough: see the reference).
__global__ void __launch_bounds__(THREADS) settle_quotas(Plan plan) {
    const int64_t cluster = warp_item(), row = blockIdx.y;
    if (cluster >= plan.num_clusters) return;
    const double* sum = plan.cluster_sum + row * plan.num_clusters;
    const int* size = plan.cluster_size + row * plan.num_clusters;
    const int* quota = plan.rounded_quota + row * plan.num_clusters;
    int rank = 0, givers_before = 0, takers_before = 0;
    for (int64_t other = threadIdx.x % WARP; other < plan.num_clusters; other += WARP) {
        const bool lower = sum[other] < sum[cluster] || (sum[other] == sum[cluster] && other < cluster);
        const bool higher = sum[other] > sum[cluster] || (sum[other] == sum[cluster] && other < cluster);
        rank += lower && size[other] > 0;  // an empty cluster is as if it were not there
        givers_before += lower && quota[other] < size[other] - 1;
        takers_before += higher && quota[other] > 0;
    }
    rank = lane_sum(rank);
    givers_before = lane_sum(givers_before);
    takers_before = lane_sum(takers_before);
    if (threadIdx.x % WARP != 0) return;
    const int missing = plan.num_missing[row];
    const bool gains = quota[cluster] < size[cluster] - 1 && givers_before < missing;
    const bool loses = quota[cluster] > 0 && takers_before < -missing;
    plan.quota[row * plan.num_clusters + cluster] = quota[cluster] + gains - loses;
    plan.cluster_rank[row * plan.num_clusters + cluster] = rank;
}

// A warp for each token: it stays by itself if it is among the `quota` lowest scores of its cluster.
template <typename T>
__global__ void __launch_bounds__(THREADS) find_alone(const T* scores, Plan plan) {
    const int64_t visual = warp_item(), row = blockIdx.y;
    if (visual >= plan.num_visual) return;
    const T* score = scores + row * plan.num_visual;
    const int64_t cluster = plan.label(row, visual);
    const uint32_t mine = score_rank(to_float(score[visual]), false);
    int before = 0;
    for (int64_t other = threadIdx.x % WARP; other < plan.num_visual; other += WARP) {
        if (plan.label(row, other) != cluster) continue;
        const uint32_t its = score_rank(to_float(score[other]), false);
        before += its < mine || (its == mine && other < visual);
    }
    before = lane_sum(before);
    if (threadIdx.x % WARP == 0)
        plan.alone[row * plan.num_visual + visual] = before < plan.quota[row * plan.num_clusters + cluster];
}

// Numbers the groups: first those of the clusters in ascending order of their sums (with more clusters than groups the
// last group takes all that are left), then the tokens that stay by themselves. Grid: rows.
__global__ void __launch_bounds__(SELECT_THREADS) number_groups(Plan plan) {
    const int64_t row = blockIdx.x;
    const int* alone = plan.alone + row * plan.num_visual;
    int64_t next = plan.num_present[row];
    for (int64_t start = 0; start < plan.num_visual; start += SELECT_THREADS) {
        const int64_t visual = start + threadIdx.x;
        const auto step = block_prefix<SELECT_THREADS>(visual < plan.num_visual ? alone[visual] : 0);
        if (visual < plan.num_visual) {
            const int64_t rank = plan.cluster_rank[row * plan.num_clusters + plan.label(row, visual)];
            const int64_t group = alone[visual] ? next + step.before : min(rank, plan.num_groups - 1);
            plan.group[row * plan.num_visual + visual] = static_cast<int>(group);
        }
        next += step.total;
    }
}

// A warp for each group: its size n, and number n / 2 (from 0) of its ascending members.
__global__ void __launch_bounds__(THREADS) find_middles(Plan plan) {
    const int64_t group = warp_item(), row = blockIdx.y;
    if (group >= plan.num_groups) return;
    const int* group_of = plan.group + row * plan.num_visual;
    const int lane = threadIdx.x % WARP;
    int size = 0;
    for (int64_t visual = lane; visual < plan.num_visual; visual += WARP) size += group_of[visual] == group;
    size = lane_sum(size);
    int before = 0, middle = 0;
    for (int64_t start = 0; start < plan.num_visual; start += WARP) {
        const int64_t visual = start + lane;
        const unsigned members = __ballot_sync(ALL_LANES, visual < plan.num_visual && group_of[visual] == group);
        const int rank = before + __popc(members & ((1u << lane) - 1u));
        if ((members >> lane & 1u) && rank == size / 2) middle = static_cast<int>(visual);
        before += __popc(members);
    }
    middle = lane_sum(middle);  // one lane found it
    if (lane != 0) return;
    plan.middle[row * plan.num_groups + group] = middle;
    plan.group_size[row * plan.num_groups + group] = size;
}

// A warp for each group: its line of the output, in ascending order of the middle members.
__global__ void __launch_bounds__(THREADS) order_groups(Plan plan) {
    const int64_t group = warp_item(), row = blockIdx.y;
    if (group >= plan.num_groups) return;
    const int* middle = plan.middle + row * plan.num_groups;
    int before = 0;
    for (int64_t other = threadIdx.x % WARP; other < plan.num_groups; other += WARP)
        before += middle[other] < middle[group] || (middle[other] == middle[group] && other < group);
    before = lane_sum(before);
    if (threadIdx.x % WARP == 0) plan.group_of_output[row * plan.num_groups + before] = static_cast<int>(group);
}

// assignment [B,R,V]: 1 / size for each member, and 1 more for the middle one of a merged group unless the plain mean is
// wanted. A token that its cluster keeps stays as it is.
// Grid: tokens of all lines, rows.
__global__ void __launch_bounds__(THREADS) write_assignment(Plan plan, float* assignment, bool mean) {
    const int64_t place = blockIdx.x * int64_t(THREADS) + threadIdx.x, row = blockIdx.y;
    if (place >= plan.num_groups * plan.num_visual) return;
    const int64_t line = place / plan.num_visual, visual = place % plan.num_visual;
    const int group = plan.group_of_output[row * plan.num_groups + line];
    const int64_t slot = row * plan.num_groups + group;
    const bool member = plan.group[row * plan.num_visual + visual] == group;
    float weight = member ? 1.0f / static_cast<float>(plan.group_size[slot]) : 0.0f;
    const bool merged = !plan.alone[row * plan.num_visual + visual];
    if (!mean && merged && member && plan.middle[slot] == visual) weight += 1.0f;
    assignment[row * plan.num_groups * plan.num_visual + place] = weight;
}

// The middle members stay, all others go. Grid: one block for all of a row; rows.
__global__ void __launch_bounds__(SELECT_THREADS) write_positions(Plan plan, Kept out) {
    const int64_t row = blockIdx.y;
    const int* group = plan.group + row * plan.num_visual;
    const int* middle = plan.middle + row * plan.num_groups;
    const auto choice_at = [=](int64_t visual) { return middle[group[visual]] == visual ? CHOSEN : DROPPED; };
    write_stretch(out, {row, 0, out.num_visual, 0, 0}, choice_at, 0);
    write_ends(out, row);
}

}  // namespace
}  // namespace vitcop

using namespace vitcop;

int64_t vitcop_cluster_merge_plan_workspace(int64_t batch, int64_t num_visual, int64_t num_clusters,
                                            int64_t num_groups) {
    Workspace workspace(nullptr);
    Plan(workspace, {}, batch, num_visual, num_clusters, num_groups);
    return workspace.bytes();
}

int vitcop_cluster_merge_plan(const void* scores, int64_t dtype, const void* labels, const void* visual_index,
                              int64_t index_bits, void* kept_positions, void* new_visual_index, void* kept_visual,
                              float* assignment, int64_t batch, int64_t num_positions, int64_t num_visual,
                              int64_t num_clusters, int64_t num_groups, int64_t mean, void* workspace, void* stream) {
    Workspace scratch(workspace);
    const Plan plan(scratch, {labels, index_bits == 64}, batch, num_visual, num_clusters, num_groups);
    const Kept out(visual_index, index_bits, kept_positions, new_visual_index, kept_visual, num_positions, num_visual,
                   num_groups);
    const auto blocks = [](int64_t items) { return div_up(items, WARPS_PER_BLOCK); };
    return with_dtype(dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const T* of_type = static_cast<const T*>(scores);
        Launcher launcher(stream);
        launcher.run(sum_clusters<T>, blocks(num_clusters), batch, THREADS, of_type, plan);
        launcher.run(share_out, batch, 1, SELECT_THREADS, plan);
        launcher.run(settle_quotas, blocks(num_clusters), batch, THREADS, plan);
        launcher.run(find_alone<T>, blocks(num_visual), batch, THREADS, of_type, plan);
        launcher.run(number_groups, batch, 1, SELECT_THREADS, plan);
        launcher.run(find_middles, blocks(num_groups), batch, THREADS, plan);
        launcher.run(order_groups, blocks(num_groups), batch, THREADS, plan);
        launcher.run(write_assignment, div_up(num_groups * num_visual, THREADS), batch, THREADS, plan, assignment,
                     mean != 0);
        launcher.run(write_positions, 1, batch, SELECT_THREADS, plan, out);
        return launcher.status();
    });
}

// ClusterMergePlan as a TensorRT plugin.
#include "operation.h"

namespace vitcop::tensorrt {
namespace {

// cluster_bound of definition.py.
int64_t num_clusters(const Call& call) {
    const Fraction clusters = call.attributes.fraction("clusters");
    return std::max(std::min<int64_t>(call[VISUAL], 1), call[VISUAL] * clusters.num / clusters.den);
}

int run(const Call& call) {
    return vitcop_cluster_merge_plan(call.inputs[0], call.dtype, call.inputs[1], call.inputs[2], call.index_bits,
                                     call.outputs[0], call.outputs[1], call.outputs[2], call.scores(3), call[BATCH],
                                     call[POSITIONS], call[VISUAL], num_clusters(call), call[KEPT],
                                     call.attributes.integer("mean"), call.workspace, call.stream);
}

int64_t workspace(const Call& call) {
    return vitcop_cluster_merge_plan_workspace(call[BATCH], call[VISUAL], num_clusters(call), call[KEPT]);
}

}  // namespace

const Operation CLUSTER_MERGE_PLAN = {
    "ClusterMergePlan",
    "2",
    {{"clusters_num", COUNT}, {"clusters_den", DIVISOR}, {"keep_num", COUNT}, {"keep_den", DIVISOR}, {"mean", FLAG}},
    {{"scores", FLOATS, {BATCH, VISUAL}},
     {"labels", INDICES, {BATCH, VISUAL}},
     {"visual_index", INDICES, {BATCH, VISUAL}},
     {"sequence", ANYTHING, {BATCH, POSITIONS, MORE}}},
    {{"kept_positions", INDICES, {BATCH, LEFT}},
     {"new_visual_index", INDICES, {BATCH, KEPT}},
     {"kept_visual", INDICES, {BATCH, KEPT}},
     {"assignment", FLOAT32, {BATCH, KEPT, VISUAL}}},
    run,
    workspace,
};

}  // namespace vitcop::tensorrt

// KNormScores and KNormSelect as TensorRT plugins.
#include "operation.h"

namespace vitcop::tensorrt {
namespace {

int run_scores(const Call& call) {
    return vitcop_knorm_scores(call.inputs[0], call.dtype, call.stride_batch(KV_HEADS), call.stride_head(),
                               call.stride_position(), call.inputs[1], call.index_bits, call.scores(0), call[BATCH],
                               call[KV_HEADS], call[POSITIONS], call[HEAD_DIM], call[VISUAL],
                               call.attributes.integer("mean_norm"), call.stream);
}

int run_select(const Call& call) {
    return vitcop_knorm_select(call.inputs[0], call.dtype, call.stride_batch(KV_HEADS), call.stride_head(),
                               call.stride_position(), call.inputs[1], call.index_bits, call.outputs[0],
                               call.outputs[1], call.outputs[2], call[BATCH], call[KV_HEADS], call[POSITIONS],
                               call[HEAD_DIM], call[VISUAL], call[KEPT], call.attributes.integer("largest"),
                               call.attributes.integer("mean_norm"), call.workspace, call.stream);
}

int64_t select_workspace(const Call& call) { return vitcop_knorm_select_workspace(call[BATCH], call[VISUAL]); }

}  // namespace

const Operation KNORM_SCORES = {
    "KNormScores",
    "1",
    {{"mean_norm", FLAG}},
    {{"keys", FLOATS, {BATCH, KV_HEADS, POSITIONS, HEAD_DIM}}, {"visual_index", INDICES, {BATCH, VISUAL}}},
    {{"scores", FLOAT32, {BATCH, VISUAL}}},
    run_scores,
};

const Operation KNORM_SELECT = {
    "KNormSelect",
    "1",
    {{"keep_num", COUNT}, {"keep_den", DIVISOR}, {"largest", FLAG}, {"mean_norm", FLAG}},
    {{"keys", FLOATS, {BATCH, KV_HEADS, POSITIONS, HEAD_DIM}}, {"visual_index", INDICES, {BATCH, VISUAL}}},
    {{"kept_positions", INDICES, {BATCH, LEFT}},
     {"new_visual_index", INDICES, {BATCH, KEPT}},
     {"kept_visual", INDICES, {BATCH, KEPT}}},
    run_select,
    select_workspace,
};

}  // namespace vitcop::tensorrt

// ScoreSelect, TextQueryScores, UniformScores and RandomScores as TensorRT plugins.
#include "operation.h"

namespace vitcop::tensorrt {
namespace {

int run_select(const Call& call) {
    return vitcop_score_select(call.inputs[0], call.dtype, call.inputs[1], call.index_bits, call.outputs[0],
                               call.outputs[1], call.outputs[2], call[BATCH], call[POSITIONS], call[VISUAL], call[KEPT],
                               call.attributes.integer("largest"), call.workspace, call.stream);
}

int64_t select_workspace(const Call& call) { return vitcop_score_select_workspace(call[BATCH], call[VISUAL]); }

int run_text_query(const Call& call) {
    return vitcop_query_scores(call.inputs[0], call.inputs[1], call.dtype, call.stride_batch(KV_HEADS),
                               call.stride_head(), call.stride_position(), call.inputs[3], call.inputs[2],
                               call.index_bits, 0, call.scores(0), call[BATCH], call[QUERY_HEADS], call[KV_HEADS],
                               call[POSITIONS], call[HEAD_DIM], call[VISUAL], call.attributes.real("scale"),
                               call.workspace, call.stream);
}

int64_t text_query_workspace(const Call& call) {
    return vitcop_query_scores_workspace(call[BATCH], call[QUERY_HEADS], call[POSITIONS]);
}

const char* refuse_heads(const Bound<int64_t>& bound) {
    const int64_t queries = bound.of[QUERY_HEADS], keys = bound.of[KV_HEADS];
    const bool known = queries >= 0 && keys >= 0;
    return known && (keys == 0 || queries % keys != 0)
               ? "the query heads cannot share the key-value heads evenly" : nullptr;
}

int run_uniform(const Call& call) {
    return vitcop_uniform_scores(call.scores(0), call[BATCH], call[VISUAL], call[KEPT], call.stream);
}

int run_random(const Call& call) {
    return vitcop_random_scores(call.inputs[0], call.index_bits, call.scores(0), call[BATCH], call[VISUAL],
                                call.attributes.integer("seed"), call.stream);
}

}  // namespace

const Operation SCORE_SELECT = {
    "ScoreSelect",
    "1",
    {{"keep_num", COUNT}, {"keep_den", DIVISOR}, {"largest", FLAG}},
    {{"scores", FLOATS, {BATCH, VISUAL}},
     {"visual_index", INDICES, {BATCH, VISUAL}},
     {"sequence", ANYTHING, {BATCH, POSITIONS, MORE}}},
    {{"kept_positions", INDICES, {BATCH, LEFT}},
     {"new_visual_index", INDICES, {BATCH, KEPT}},
     {"kept_visual", INDICES, {BATCH, KEPT}}},
    run_select,
    select_workspace,
};

const Operation TEXT_QUERY_SCORES = {
    "TextQueryScores",
    "1",
    {{"scale", REAL}},
    {{"q_last", FLOATS, {BATCH, QUERY_HEADS, HEAD_DIM}},
     {"keys", FLOATS, {BATCH, KV_HEADS, POSITIONS, HEAD_DIM}},
     {"visual_index", INDICES, {BATCH, VISUAL}},
     {"attention_mask", INDICES, {BATCH, POSITIONS}}},
    {{"scores", FLOAT32, {BATCH, VISUAL}}},
    run_text_query,
    text_query_workspace,
    nullptr,
    refuse_heads,
};

const Operation UNIFORM_SCORES = {
    "UniformScores",
    "1",
    {{"keep_num", COUNT}, {"keep_den", DIVISOR}},
    {{"visual_index", INDICES, {BATCH, VISUAL}}},
    {{"scores", FLOAT32, {BATCH, VISUAL}}},
    run_uniform,
};

const Operation RANDOM_SCORES = {
    "RandomScores",
    "1",
    {{"seed", SEED}},
    {{"visual_positions", INDICES, {BATCH, VISUAL}}},
    {{"scores", FLOAT32, {BATCH, VISUAL}}},
    run_random,
};

}  // namespace vitcop::tensorrt

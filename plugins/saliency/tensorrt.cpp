// VisionSaliency as a TensorRT plugin: the scores of a query row, for every position but the class token's.
#include "operation.h"

namespace vitcop::tensorrt {
namespace {

int run(const Call& call) {
    return vitcop_query_scores(call.inputs[0], call.inputs[1], call.dtype, call.stride_batch(QUERY_HEADS),
                               call.stride_head(), call.stride_position(), nullptr, nullptr, call.index_bits, 1,
                               call.scores(0), call[BATCH], call[QUERY_HEADS], call[QUERY_HEADS], call[POSITIONS],
                               call[HEAD_DIM], call[PATCHES], call.attributes.real("scale"), call.workspace,
                               call.stream);
}

int64_t workspace(const Call& call) {
    return vitcop_query_scores_workspace(call[BATCH], call[QUERY_HEADS], call[POSITIONS]);
}

const char* refuse_sizes(const Bound<int64_t>& bound) {
    return bound.of[POSITIONS] == 0 ? "the keys of the class token are missing" : nullptr;
}

}  // namespace

const Operation VISION_SALIENCY = {
    "VisionSaliency",
    "1",
    {{"scale", REAL}},
    {{"q_cls", FLOATS, {BATCH, QUERY_HEADS, HEAD_DIM}},
     {"keys", FLOATS, {BATCH, QUERY_HEADS, POSITIONS, HEAD_DIM}}},
    {{"saliency", FLOAT32, {BATCH, PATCHES}}},
    run,
    workspace,
    nullptr,
    refuse_sizes,
};

}  // namespace vitcop::tensorrt

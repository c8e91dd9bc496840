// DensityPeakClusters as a TensorRT plugin.
#include <cmath>

#include "operation.h"

namespace vitcop::tensorrt {
namespace {

// As in definition.py.
constexpr int64_t QUANTILE_STEPS = 1000000;
constexpr float LEAST_CUTOFF_DISTANCE = 1e-18f;

// Which entry (from 0) of a row's ascending squared distances is the quantile: quantile_rank of definition.py.
int64_t quantile_rank(int64_t num_tokens, float quantile) {
    const int64_t num_pairs = num_tokens * (num_tokens - 1) / 2;
    if (num_pairs == 0) return 0;
    const auto steps = static_cast<int64_t>(std::nearbyint(static_cast<double>(quantile) * QUANTILE_STEPS));
    const int64_t rank = std::max<int64_t>(1, (steps * num_pairs + QUANTILE_STEPS - 1) / QUANTILE_STEPS);
    return std::min(num_tokens + 2 * std::min(rank, num_pairs) - 2, num_tokens * num_tokens - 1);
}

int run(const Call& call) {
    const float quantile = call.attributes.real("cutoff_quantile");
    return vitcop_density_peak_clusters(
        call.inputs[0], call.dtype, static_cast<const float*>(call.inputs[1]), call.inputs[2], call.index_bits,
        call.outputs[0], call[BATCH], call[VISUAL], call[HEAD_DIM],
        keep_count(call[VISUAL], call.attributes.fraction("centers")),
        quantile > 0 ? quantile_rank(call[VISUAL], quantile) : -1, call.attributes.real("cutoff_distance"),
        call.attributes.real("spatial_radius"), call.workspace, call.stream);
}

int64_t workspace(const Call& call) { return vitcop_density_peak_clusters_workspace(call[BATCH], call[VISUAL]); }

const char* refuse_attributes(const Attributes& attributes) {
    if (attributes.real("cutoff_quantile") > 1) return "cutoff_quantile must be at most 1";
    const bool given =
        attributes.real("cutoff_quantile") > 0 || attributes.real("cutoff_distance") >= LEAST_CUTOFF_DISTANCE;
    return given ? nullptr : "cutoff_distance must be positive (at least 1e-18) where no cutoff_quantile is given";
}

}  // namespace

const Operation DENSITY_PEAK_CLUSTERS = {
    "DensityPeakClusters",
    "1",
    {{"centers_num", COUNT},
     {"centers_den", DIVISOR},
     {"cutoff_distance", REAL},
     {"cutoff_quantile", REAL},
     {"spatial_radius", REAL}},
    {{"features", FLOATS, {BATCH, VISUAL, HEAD_DIM}},
     {"positions", FLOAT32, {BATCH, VISUAL, TWO}},
     {"group_ids", INDICES, {BATCH, VISUAL}}},
    {{"labels", INDICES, {BATCH, VISUAL}}},
    run,
    workspace,
    refuse_attributes,
};

}  // namespace vitcop::tensorrt

// The axes of an op's tensors by their names: bound to the inputs, and the outputs' computed from them, once with
// numbers and once with TensorRT's expressions.
#pragma once

#include <NvInferRuntime.h>

#include <algorithm>
#include <cstdint>

namespace vitcop::tensorrt {

enum Axis : int8_t {
    NO_AXIS,
    // Bound to an axis of an input.
    BATCH,
    QUERY_HEADS,
    KV_HEADS,
    POSITIONS,
    HEAD_DIM,
    VISUAL,
    // Computed.
    KEPT,     // K = keep_count(V, keep)
    LEFT,     // S - V + K
    PATCHES,  // S - 1: all positions but the class token's
    TWO,
    // As many further axes as there are; only the last of an input.
    MORE,
};
constexpr int NUM_BOUND = VISUAL + 1;

struct Fraction {
    int64_t num = 1;
    int64_t den = 1;
};

// The arithmetic of sizes that are known.
struct Numbers {
    using Number = int64_t;
    Number constant(int64_t value) const { return value; }
    Number sum(Number a, Number b) const { return a + b; }
    Number difference(Number a, Number b) const { return a - b; }
    Number product(Number a, Number b) const { return a * b; }
    Number quotient(Number a, Number b) const { return a / b; }
    Number larger(Number a, Number b) const { return std::max(a, b); }
    Number smaller(Number a, Number b) const { return std::min(a, b); }
};

// The same while TensorRT plans: a null pointer where the builder refuses.
struct Expressions {
    using Number = const nvinfer1::IDimensionExpr*;
    nvinfer1::IExprBuilder& builder;

    Number constant(int64_t value) const { return builder.constant(value); }
    Number sum(Number a, Number b) const { return combine(nvinfer1::DimensionOperation::kSUM, a, b); }
    Number difference(Number a, Number b) const { return combine(nvinfer1::DimensionOperation::kSUB, a, b); }
    Number product(Number a, Number b) const { return combine(nvinfer1::DimensionOperation::kPROD, a, b); }
    Number quotient(Number a, Number b) const { return combine(nvinfer1::DimensionOperation::kFLOOR_DIV, a, b); }
    Number larger(Number a, Number b) const { return combine(nvinfer1::DimensionOperation::kMAX, a, b); }
    Number smaller(Number a, Number b) const { return combine(nvinfer1::DimensionOperation::kMIN, a, b); }

    Number combine(nvinfer1::DimensionOperation operation, Number a, Number b) const {
        return a == nullptr || b == nullptr ? nullptr : builder.operation(operation, *a, *b);
    }
};

// K = V·num // den, at least 1 where there is a token at all: keep_count of spec.py.
template <typename Arithmetic>
typename Arithmetic::Number keep_count(const Arithmetic& with, typename Arithmetic::Number num_visual, Fraction keep) {
    const auto scaled = with.product(num_visual, with.constant(keep.num));
    const auto share = with.quotient(scaled, with.constant(keep.den));
    return with.smaller(num_visual, with.larger(share, with.constant(1)));
}

inline int64_t keep_count(int64_t num_visual, Fraction keep) { return keep_count(Numbers(), num_visual, keep); }

// What each axis was bound to.
template <typename Number>
struct Bound {
    Number of[NUM_BOUND] = {};
};

template <typename Arithmetic>
typename Arithmetic::Number size_of(Axis axis, const Arithmetic& with, const Bound<typename Arithmetic::Number>& bound,
                                    Fraction keep) {
    switch (axis) {
        case KEPT: return keep_count(with, bound.of[VISUAL], keep);
        case LEFT:
            return with.sum(with.difference(bound.of[POSITIONS], bound.of[VISUAL]),
                            keep_count(with, bound.of[VISUAL], keep));
        case PATCHES: return with.difference(bound.of[POSITIONS], with.constant(1));
        case TWO: return with.constant(2);
        default: return bound.of[axis];
    }
}

}  // namespace vitcop::tensorrt

// What an op says about itself: enough to make a TensorRT plugin of it. plugins/<folder>/tensorrt.cpp has one constant
// for each op; everything that plugins have in common is made from these.
#pragma once

#include <cstdint>

#include "attributes.h"
#include "kernels.h"
#include "sizes.h"

namespace vitcop::tensorrt {

constexpr int MAX_INPUTS = 4;
constexpr int MAX_OUTPUTS = 4;
constexpr int MAX_AXES = 5;

enum Holds : int8_t {
    FLOATS,    // fp32, fp16 or bf16, the same for all such inputs of a node
    FLOAT32,
    INDICES,   // int32 or int64, the same for all such inputs and outputs of a node
    ANYTHING,  // only the shape counts
};

struct Tensor {
    const char* name;
    Holds holds;
    Axis axes[MAX_AXES];
};

// One run of an op: what its kernel is called with.
struct Call {
    explicit Call(const Attributes& of_node) : attributes(of_node), keep(of_node.fraction("keep")) {}

    const Attributes& attributes;
    Fraction keep;
    Bound<int64_t> bound;
    int64_t dtype = VITCOP_FLOAT32;  // of the inputs that hold FLOATS
    int64_t index_bits = 64;
    const void* const* inputs = nullptr;
    void* const* outputs = nullptr;
    void* workspace = nullptr;
    void* stream = nullptr;

    int64_t operator[](Axis axis) const { return size_of(axis, Numbers(), bound, keep); }
    int64_t stride_position() const { return bound.of[HEAD_DIM]; }
    int64_t stride_head() const { return bound.of[POSITIONS] * stride_position(); }
    int64_t stride_batch(Axis heads) const { return bound.of[heads] * stride_head(); }
    float* scores(int output) const { return static_cast<float*>(outputs[output]); }
};

struct Operation {
    const char* name;      // the ONNX op type
    const char* revision;  // plugin_version of spec.py
    Attribute attributes[MAX_ATTRIBUTES];
    Tensor inputs[MAX_INPUTS];
    Tensor outputs[MAX_OUTPUTS];
    // Enqueues the kernel: 0 or a cudaError_t.
    int (*run)(const Call& call);
    // Bytes of scratch memory; null where the kernel takes none.
    int64_t (*workspace)(const Call& call) = nullptr;
    // What is wrong with attributes that are fine one by one, or null.
    const char* (*refuse_attributes)(const Attributes& attributes) = nullptr;
    // What is wrong with sizes that agree with each other, or null. A size of -1 is not known yet.
    const char* (*refuse_sizes)(const Bound<int64_t>& bound) = nullptr;

    int num_inputs() const { return count(inputs, MAX_INPUTS); }
    int num_outputs() const { return count(outputs, MAX_OUTPUTS); }

  private:
    static int count(const Tensor* tensors, int most) {
        int number = 0;
        while (number < most && tensors[number].name != nullptr) ++number;
        return number;
    }
};

extern const Operation VISION_SALIENCY;
extern const Operation DENSITY_PEAK_CLUSTERS;
extern const Operation KNORM_SCORES;
extern const Operation KNORM_SELECT;
extern const Operation SCORE_SELECT;
extern const Operation TEXT_QUERY_SCORES;
extern const Operation UNIFORM_SCORES;
extern const Operation RANDOM_SCORES;
extern const Operation CLUSTER_MERGE_PLAN;

}  // namespace vitcop::tensorrt

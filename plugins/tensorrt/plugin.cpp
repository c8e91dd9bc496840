#include "plugin.h"

#include "log.h"

namespace vitcop::tensorrt {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

namespace {

constexpr int32_t DONE = 0, FAILED = -1;

bool is_float(DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16; }

bool is_index(DataType type) { return type == DataType::kINT32 || type == DataType::kINT64; }

int64_t dtype_code(DataType type) {
    return type == DataType::kHALF ? VITCOP_FLOAT16 : type == DataType::kBF16 ? VITCOP_BFLOAT16 : VITCOP_FLOAT32;
}

// Whether a tensor may have a type, given those of the `num_before` inputs before it.
template <typename TypeOf>
bool allowed(const Operation& operation, const Tensor& tensor, int num_before, DataType type, TypeOf type_of) {
    if (tensor.holds == ANYTHING) return is_float(type) || is_index(type);
    if (tensor.holds == FLOAT32) return type == DataType::kFLOAT;
    for (int i = 0; i < num_before; ++i)
        if (operation.inputs[i].holds == tensor.holds) return type == type_of(i);
    return tensor.holds == FLOATS ? is_float(type) : is_index(type);
}

// Whether a tensor has as many axes as its list, or where that ends with MORE, at least as many as stand before.
bool rank_fits(const Tensor& tensor, int32_t rank) {
    int axes = 0;
    while (axes < MAX_AXES && tensor.axes[axes] != NO_AXIS && tensor.axes[axes] != MORE) ++axes;
    return axes < MAX_AXES && tensor.axes[axes] == MORE ? rank >= axes : rank == axes;
}

// Visits the named axes of a tensor in order, until `visit` says false.
template <typename Visit>
bool for_each_axis(const Tensor& tensor, Visit visit) {
    for (int i = 0; i < MAX_AXES && tensor.axes[i] != NO_AXIS && tensor.axes[i] != MORE; ++i)
        if (!visit(i, tensor.axes[i])) return false;
    return true;
}

}  // namespace

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
    switch (type) {
        case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
    return without_throwing(operation_.name, static_cast<Plugin*>(nullptr),
                            [&] { return new Plugin(operation_, attributes_); });
}

bool Plugin::numbers_fit(int32_t num_inputs, int32_t num_outputs) const noexcept {
    if (num_inputs == operation_.num_inputs() && num_outputs == operation_.num_outputs()) return true;
    report(operation_.name, "has %d inputs and %d outputs, found %d and %d", operation_.num_inputs(),
           operation_.num_outputs(), num_inputs, num_outputs);
    return false;
}

int32_t Plugin::getOutputDataTypes(DataType* outputs, int32_t num_outputs, const DataType* inputs,
                                   int32_t num_inputs) const noexcept {
    if (!numbers_fit(num_inputs, num_outputs)) return FAILED;
    const auto type_of = [&](int i) { return inputs[i]; };
    DataType index_type = DataType::kINT64;
    for (int i = num_inputs - 1; i >= 0; --i) {
        const Tensor& tensor = operation_.inputs[i];
        if (!allowed(operation_, tensor, i, inputs[i], type_of)) {
            report(operation_.name, "input '%s' must hold %s", tensor.name,
                   tensor.holds == INDICES   ? "int32 or int64, as the other integers of the node"
                   : tensor.holds == FLOATS  ? "fp32, fp16 or bf16, as the other floats of the node"
                   : tensor.holds == FLOAT32 ? "fp32"
                                             : "floats or integers");
            return FAILED;
        }
        if (tensor.holds == INDICES) index_type = inputs[i];
    }
    for (int i = 0; i < num_outputs; ++i)
        outputs[i] = operation_.outputs[i].holds == INDICES ? index_type : DataType::kFLOAT;
    return DONE;
}

int32_t Plugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t num_inputs, const nvinfer1::DimsExprs*,
                                int32_t, nvinfer1::DimsExprs* outputs, int32_t num_outputs,
                                nvinfer1::IExprBuilder& builder) noexcept {
    if (!numbers_fit(num_inputs, num_outputs)) return FAILED;
    return without_throwing(operation_.name, FAILED, [&] {
        Bound<const nvinfer1::IDimensionExpr*> bound;
        const Fraction keep = attributes_.fraction("keep");
        for (int i = 0; i < num_inputs; ++i) {
            const Tensor& tensor = operation_.inputs[i];
            if (!rank_fits(tensor, inputs[i].nbDims)) {
                report(operation_.name, "input '%s' cannot have %d axes", tensor.name, inputs[i].nbDims);
                return FAILED;
            }
            for_each_axis(tensor, [&](int place, Axis axis) {
                if (axis < NUM_BOUND && bound.of[axis] == nullptr) bound.of[axis] = inputs[i].d[place];
                return true;
            });
        }
        for (int i = 0; i < num_outputs; ++i) {
            outputs[i].nbDims = 0;
            const bool complete = for_each_axis(operation_.outputs[i], [&](int place, Axis axis) {
                outputs[i].d[place] = size_of(axis, Expressions{builder}, bound, keep);
                ++outputs[i].nbDims;
                return outputs[i].d[place] != nullptr;
            });
            if (!complete) {
                report(operation_.name, "the shape of output '%s' could not be expressed", operation_.outputs[i].name);
                return FAILED;
            }
        }
        return DONE;
    });
}

bool Plugin::supportsFormatCombination(int32_t place, const DynamicPluginTensorDesc* tensors, int32_t num_inputs,
                                       int32_t num_outputs) noexcept {
    if (!numbers_fit(num_inputs, num_outputs) || place < 0 || place >= num_inputs + num_outputs) return false;
    if (tensors[place].desc.format != nvinfer1::TensorFormat::kLINEAR) return false;
    const bool is_input = place < num_inputs;
    const Tensor& tensor = is_input ? operation_.inputs[place] : operation_.outputs[place - num_inputs];
    const auto type_of = [&](int i) { return tensors[i].desc.type; };
    return allowed(operation_, tensor, is_input ? place : num_inputs, tensors[place].desc.type, type_of);
}

// Binds axes to sizes, of which -1 is one that is not known yet. False, and a message, where two sizes differ.
bool Plugin::bind(const Dims* const* dims, Bound<int64_t>& out) const {
    for (int64_t& size : out.of) size = -1;
    for (int i = 0; i < operation_.num_inputs(); ++i) {
        const Tensor& tensor = operation_.inputs[i];
        if (!rank_fits(tensor, dims[i]->nbDims)) {
            report(operation_.name, "input '%s' cannot have %d axes", tensor.name, dims[i]->nbDims);
            return false;
        }
        const bool agrees = for_each_axis(tensor, [&](int place, Axis axis) {
            const int64_t found = dims[i]->d[place], wanted = size_of(axis, Numbers(), out, Fraction());
            if (found < 0 || found == wanted) return true;
            if (wanted < 0) {
                out.of[axis] = found;
                return true;
            }
            report(operation_.name, "axis %d of input '%s' must have size %lld to fit the other inputs, found %lld",
                   place, tensor.name, static_cast<long long>(wanted), static_cast<long long>(found));
            return false;
        });
        if (!agrees) return false;
    }
    return true;
}

bool Plugin::sizes_fit(const Dims* const* dims) const {
    Bound<int64_t> bound;
    if (!bind(dims, bound)) return false;
    const char* wrong = operation_.refuse_sizes == nullptr ? nullptr : operation_.refuse_sizes(bound);
    if (wrong == nullptr && bound.of[POSITIONS] >= 0 && bound.of[VISUAL] > bound.of[POSITIONS])
        wrong = "there are more visual tokens than positions";
    if (wrong != nullptr) report(operation_.name, "%s", wrong);
    return wrong == nullptr;
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                                const DynamicPluginTensorDesc*, int32_t num_outputs) noexcept {
    if (!numbers_fit(num_inputs, num_outputs)) return FAILED;
    return without_throwing(operation_.name, FAILED, [&] {
        const Dims* dims[MAX_INPUTS];
        for (int i = 0; i < num_inputs; ++i) dims[i] = &inputs[i].desc.dims;
        return sizes_fit(dims) ? DONE : FAILED;
    });
}

size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                                const DynamicPluginTensorDesc*, int32_t num_outputs) const noexcept {
    if (operation_.workspace == nullptr || !numbers_fit(num_inputs, num_outputs)) return 0;
    return without_throwing(operation_.name, size_t(0), [&] {
        // The largest sizes, axis by axis: those of two inputs need not agree while TensorRT plans.
        Call call(attributes_);
        for (int i = 0; i < num_inputs; ++i) {
            for_each_axis(operation_.inputs[i], [&](int place, Axis axis) {
                if (axis < NUM_BOUND) call.bound.of[axis] = std::max(call.bound.of[axis], inputs[i].max.d[place]);
                return true;
            });
        }
        return static_cast<size_t>(operation_.workspace(call));
    });
}

int32_t Plugin::onShapeChange(const PluginTensorDesc* inputs, int32_t num_inputs, const PluginTensorDesc*,
                              int32_t num_outputs) noexcept {
    if (!numbers_fit(num_inputs, num_outputs)) return FAILED;
    return without_throwing(operation_.name, FAILED, [&] {
        const Dims* dims[MAX_INPUTS];
        for (int i = 0; i < num_inputs; ++i) dims[i] = &inputs[i].dims;
        return sizes_fit(dims) ? DONE : FAILED;
    });
}

int32_t Plugin::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc*, const void* const* inputs,
                        void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
    return without_throwing(operation_.name, FAILED, [&] {
        Call call(attributes_);
        const Dims* dims[MAX_INPUTS];
        for (int i = operation_.num_inputs() - 1; i >= 0; --i) {
            dims[i] = &input_descs[i].dims;
            if (operation_.inputs[i].holds == FLOATS) call.dtype = dtype_code(input_descs[i].type);
            if (operation_.inputs[i].holds == INDICES)
                call.index_bits = input_descs[i].type == DataType::kINT64 ? 64 : 32;
        }
        if (!bind(dims, call.bound)) return FAILED;
        call.inputs = inputs;
        call.outputs = outputs;
        call.workspace = workspace;
        call.stream = stream;
        const int status = operation_.run(call);
        if (status != 0) report(operation_.name, "%s (CUDA error %d)", vitcop_error_text(status), status);
        return status == 0 ? DONE : FAILED;
    });
}

const nvinfer1::PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
    collection_.nbFields = attributes_.to_fields(fields_);
    collection_.fields = fields_;
    return &collection_;
}

}  // namespace vitcop::tensorrt

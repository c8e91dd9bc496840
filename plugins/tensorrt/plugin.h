// A plugin object of TensorRT for any op: a node of a network, and its run in an engine.
#pragma once

#include <NvInferRuntime.h>

#include <string>

#include "operation.h"

namespace vitcop::tensorrt {

constexpr const char* NAMESPACE = "vitcop";  // DOMAIN of spec.py

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
  public:
    Plugin(const Operation& operation, const Attributes& attributes)
        : operation_(operation), attributes_(attributes), text_(attributes.text()) {}

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    const char* getPluginName() const noexcept override { return operation_.name; }
    const char* getPluginVersion() const noexcept override { return operation_.revision; }
    const char* getPluginNamespace() const noexcept override { return NAMESPACE; }

    int32_t getNbOutputs() const noexcept override { return operation_.num_outputs(); }
    int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t num_outputs, const nvinfer1::DataType* inputs,
                               int32_t num_inputs) const noexcept override;
    int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t num_inputs, const nvinfer1::DimsExprs*, int32_t,
                            nvinfer1::DimsExprs* outputs, int32_t num_outputs,
                            nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(int32_t place, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t num_inputs,
                                   int32_t num_outputs) noexcept override;
    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                            const nvinfer1::DynamicPluginTensorDesc* outputs, int32_t num_outputs) noexcept override;
    size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                            const nvinfer1::DynamicPluginTensorDesc* outputs,
                            int32_t num_outputs) const noexcept override;
    // The attributes are all that a plugin is made of.
    const char* getTimingCacheID() noexcept override { return text_.c_str(); }
    const char* getMetadataString() noexcept override { return text_.c_str(); }

    int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t num_inputs,
                          const nvinfer1::PluginTensorDesc* outputs, int32_t num_outputs) noexcept override;
    int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs, const nvinfer1::PluginTensorDesc* output_descs,
                    const void* const* inputs, void* const* outputs, void* workspace,
                    cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

  private:
    bool numbers_fit(int32_t num_inputs, int32_t num_outputs) const noexcept;
    bool bind(const nvinfer1::Dims* const* dims, Bound<int64_t>& out) const;
    bool sizes_fit(const nvinfer1::Dims* const* dims) const;

    const Operation& operation_;
    Attributes attributes_;
    std::string text_;
    nvinfer1::PluginField fields_[MAX_ATTRIBUTES];
    nvinfer1::PluginFieldCollection collection_;
};

}  // namespace vitcop::tensorrt

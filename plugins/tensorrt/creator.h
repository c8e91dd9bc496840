// Makes the plugin objects of an op from attributes, while a network is parsed and when an engine is loaded.
#pragma once

#include "plugin.h"

namespace vitcop::tensorrt {

class Creator final : public nvinfer1::IPluginCreatorV3One {
  public:
    explicit Creator(const Operation& operation) : operation_(operation) {
        collection_.nbFields = Attributes::describe(operation, fields_);
        collection_.fields = fields_;
    }

    const char* getPluginName() const noexcept override { return operation_.name; }
    const char* getPluginVersion() const noexcept override { return operation_.revision; }
    const char* getPluginNamespace() const noexcept override { return NAMESPACE; }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

    // Null, and a message, where the attributes cannot be used.
    nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                      nvinfer1::TensorRTPhase phase) noexcept override;

  private:
    const Operation& operation_;
    nvinfer1::PluginField fields_[MAX_ATTRIBUTES];
    nvinfer1::PluginFieldCollection collection_;
};

}  // namespace vitcop::tensorrt

#include "creator.h"

#include "log.h"

namespace vitcop::tensorrt {

nvinfer1::IPluginV3* Creator::createPlugin(const char*, const nvinfer1::PluginFieldCollection* fields,
                                           nvinfer1::TensorRTPhase) noexcept {
    return without_throwing(operation_.name, static_cast<Plugin*>(nullptr), [&] {
        Attributes attributes;
        return Attributes::read(operation_, fields, attributes) ? new Plugin(operation_, attributes) : nullptr;
    });
}

}  // namespace vitcop::tensorrt

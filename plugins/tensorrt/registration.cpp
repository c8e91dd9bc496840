// Only in the second library, for loaders that do no more than open a file (`trtexec --staticPlugins`, `polygraphy
// --plugins`): registers every creator as it is opened. That library is linked to libnvinfer of one major version, whose
// registry has another layout than the next one's.
#include "library.h"
#include "plugin.h"

namespace {

const bool registered = [] {
    int32_t number = 0;
    nvinfer1::IPluginCreatorInterface* const* creators = getCreators(number);
    nvinfer1::IPluginRegistry* registry = getPluginRegistry();
    for (int32_t i = 0; registry != nullptr && i < number; ++i)
        registry->registerCreator(*creators[i], vitcop::tensorrt::NAMESPACE);
    return registry != nullptr;
}();

}  // namespace

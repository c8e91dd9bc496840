// The two functions that the plugin library exports: TensorRT looks them up by these names when it loads a library.
#pragma once

#include <NvInferRuntime.h>

#define VITCOP_EXPORTED extern "C" __attribute__((visibility("default")))

VITCOP_EXPORTED void setLoggerFinder(nvinfer1::ILoggerFinder* finder);
VITCOP_EXPORTED nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& number);

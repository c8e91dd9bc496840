#include "library.h"

#include "creator.h"
#include "log.h"

void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { vitcop::tensorrt::set_logger_finder(finder); }

nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& number) {
    using namespace vitcop::tensorrt;
    static Creator creators[] = {
        Creator(VISION_SALIENCY),   Creator(DENSITY_PEAK_CLUSTERS), Creator(KNORM_SCORES),
        Creator(KNORM_SELECT),      Creator(SCORE_SELECT),          Creator(TEXT_QUERY_SCORES),
        Creator(UNIFORM_SCORES),    Creator(RANDOM_SCORES),         Creator(CLUSTER_MERGE_PLAN),
    };
    constexpr int NUM_CREATORS = sizeof creators / sizeof creators[0];
    static nvinfer1::IPluginCreatorInterface* addresses[NUM_CREATORS];
    for (int i = 0; i < NUM_CREATORS; ++i) addresses[i] = &creators[i];
    number = NUM_CREATORS;
    return addresses;
}

// What TensorRT does with a plugin library, in plain C functions for the tests: loads it, lists its creators, makes
// plugin objects of fields, asks them for shapes, types, formats and workspaces, has them written out and made again,
// and runs them. Needs TensorRT's headers and none of its libraries.
//
// Types, formats and phases have the names of this file, not numbers, since TensorRT's numbers are its own. Every
// function that returns text returns it until the next call.
#include <NvInferRuntime.h>
#include <NvInferVersion.h>
#include <dlfcn.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

using namespace nvinfer1;

namespace {

std::string text, messages;

class Logger final : public ILogger {
    void log(Severity severity, const char* message) noexcept override {
        messages += (severity == Severity::kERROR ? "error: " : "other: ") + std::string(message) + "\n";
    }
} logger;

class Finder final : public ILoggerFinder {
    ILogger* findLogger() override { return &logger; }
} finder;

IPluginCreatorInterface* const* creators = nullptr;
int32_t num_creators = 0;

DataType data_type(const std::string& name) {
    if (name == "float32") return DataType::kFLOAT;
    if (name == "float16") return DataType::kHALF;
    if (name == "bfloat16") return DataType::kBF16;
    if (name == "int32") return DataType::kINT32;
    if (name == "int64") return DataType::kINT64;
    if (name == "int8") return DataType::kINT8;
    return DataType::kBOOL;
}

const char* name_of(DataType type) {
    for (const char* name : {"float32", "float16", "bfloat16", "int32", "int64", "int8"})
        if (data_type(name) == type) return name;
    return "other";
}

PluginFieldType field_type(const std::string& name) {
    if (name == "int32") return PluginFieldType::kINT32;
    if (name == "int64") return PluginFieldType::kINT64;
    if (name == "float32") return PluginFieldType::kFLOAT32;
    if (name == "float64") return PluginFieldType::kFLOAT64;
    return PluginFieldType::kCHAR;
}

const char* name_of(PluginFieldType type) {
    return type == PluginFieldType::kINT32 ? "int32" : type == PluginFieldType::kFLOAT32 ? "float32" : "other";
}

// An expression over the sizes of the inputs, which knows what it comes to. Only constants own up to it, so that a
// plugin which looks at a size while TensorRT plans is found out.
struct Value final : apiv::VDimensionExpr {
    Value(int64_t value_, bool constant_) : value(value_), constant(constant_) {}
    bool isConstant() const override { return constant; }
    int64_t getConstantValue() const override { return constant ? value : INT64_MIN; }
    bool isSizeTensor() const override { return false; }
    int64_t value;
    bool constant;
};

struct Expression final : IDimensionExpr {
    Expression(int64_t value, bool constant) : of(value, constant) { mImpl = &of; }
    Value of;
};

struct Arithmetic final : apiv::VExprBuilder {
    const IDimensionExpr* constant(int64_t value) override { return add(value, true); }
    const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& first,
                                    const IDimensionExpr& second) override {
        const Value &a = static_cast<const Expression&>(first).of, &b = static_cast<const Expression&>(second).of;
        return add(combine(op, a.value, b.value), a.constant && b.constant);
    }
    const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
        data_dependent = true;
        return nullptr;
    }
    const IDimensionExpr* add(int64_t value, bool constant) { return &made.emplace_back(value, constant); }
    static int64_t combine(DimensionOperation op, int64_t a, int64_t b) {
        switch (op) {
            case DimensionOperation::kSUM: return a + b;
            case DimensionOperation::kSUB: return a - b;
            case DimensionOperation::kPROD: return a * b;
            case DimensionOperation::kMAX: return a > b ? a : b;
            case DimensionOperation::kMIN: return a < b ? a : b;
            case DimensionOperation::kFLOOR_DIV: return a / b;
            default: return INT64_MIN;
        }
    }
    std::deque<Expression> made;
    bool data_dependent = false;
};

struct Builder final : IExprBuilder {
    Builder() { mImpl = &arithmetic; }
    Arithmetic arithmetic;
};

template <typename Interface>
Interface* capability(IPluginV3* plugin, PluginCapabilityType type) {
    return static_cast<Interface*>(plugin->getCapabilityInterface(type));
}

IPluginV3OneCore* core(IPluginV3* plugin) {
    return capability<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE);
}
IPluginV3OneBuild* build(IPluginV3* plugin) {
    return capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
}
IPluginV3OneRuntime* runtime(IPluginV3* plugin) {
    return capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
}

IPluginCreatorV3One* creator_of(const std::string& name) {
    for (int32_t i = 0; i < num_creators; ++i) {
        auto* creator = static_cast<IPluginCreatorV3One*>(creators[i]);
        if (name == creator->getPluginName()) return creator;
    }
    return nullptr;
}

const char* answer(std::string with) {
    text = std::move(with);
    return text.c_str();
}

std::string info(const IVersionedInterface& of) {
    const InterfaceInfo found = of.getInterfaceInfo();
    return std::string(found.kind) + " " + std::to_string(found.major) + "." + std::to_string(found.minor);
}

}  // namespace

extern "C" {

struct Field {
    const char* name;
    const void* data;
    const char* type;
    int32_t length;
};

struct Tensor {
    const char* type;
    const char* format;  // "linear" or another
    int32_t rank;
    int64_t dims[8];
    int64_t most[8];  // the largest dims that a plan is made for
};

// Of the library that this file was compiled into: what the plugin finds out from a finder that lies in it.
int32_t getInferLibVersion() noexcept { return 10000 * NV_TENSORRT_MAJOR + 100 * NV_TENSORRT_MINOR; }

// 0, or what is wrong.
const char* harness_open(const char* path) {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return answer(dlerror());
    const auto get_creators =
        reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
    const auto set_finder = reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
    if (get_creators == nullptr || set_finder == nullptr) return answer("getCreators or setLoggerFinder is missing");
    set_finder(&finder);
    creators = get_creators(num_creators);
    return nullptr;
}

const char* harness_messages() {
    const char* told = answer(messages);
    messages.clear();
    return told;
}

int32_t harness_num_creators() { return num_creators; }

// "interface|name|version|namespace|attribute:type,..."
const char* harness_creator(int32_t place) {
    auto* creator = static_cast<IPluginCreatorV3One*>(creators[place]);
    std::string told = info(*creator) + "|" + creator->getPluginName() + "|" + creator->getPluginVersion() + "|" +
                       creator->getPluginNamespace() + "|";
    const PluginFieldCollection* fields = creator->getFieldNames();
    for (int32_t i = 0; i < fields->nbFields; ++i)
        told += std::string(i == 0 ? "" : ",") + fields->fields[i].name + ":" + name_of(fields->fields[i].type);
    return answer(told);
}

IPluginV3* harness_create(const char* name, const Field* fields, int32_t number) {
    std::vector<PluginField> list;
    for (int32_t i = 0; i < number; ++i)
        list.emplace_back(fields[i].name, fields[i].data, field_type(fields[i].type), fields[i].length);
    const PluginFieldCollection collection{number, list.data()};
    return creator_of(name)->createPlugin("a layer", &collection, TensorRTPhase::kBUILD);
}

IPluginV3* harness_create_of_nothing(const char* name) {
    return creator_of(name)->createPlugin("a layer", nullptr, TensorRTPhase::kBUILD);
}

// The plugin as an engine file has it: its fields copied byte by byte, then made anew from the copies.
IPluginV3* harness_written_and_read(IPluginV3* plugin) {
    const PluginFieldCollection* fields = runtime(plugin)->getFieldsToSerialize();
    std::deque<std::vector<char>> bytes;
    std::deque<std::string> names;
    std::vector<PluginField> list;
    for (int32_t i = 0; i < fields->nbFields; ++i) {
        const PluginField& field = fields->fields[i];
        const auto* data = static_cast<const char*>(field.data);
        bytes.emplace_back(data, data + 4 * field.length);
        names.emplace_back(field.name);
        list.emplace_back(names.back().c_str(), bytes.back().data(), field.type, field.length);
    }
    const std::string name = core(plugin)->getPluginName();
    const PluginFieldCollection collection{fields->nbFields, list.data()};
    return creator_of(name)->createPlugin("a layer", &collection, TensorRTPhase::kRUNTIME);
}

IPluginV3* harness_clone(IPluginV3* plugin) { return plugin->clone(); }
IPluginV3* harness_attached(IPluginV3* plugin) { return runtime(plugin)->attachToContext(nullptr); }
void harness_destroy(IPluginV3* plugin) { delete plugin; }

// "interfaces|name|version|namespace|outputs|timing cache id|metadata"
const char* harness_identity(IPluginV3* plugin) {
    return answer(info(*plugin) + "," + info(*core(plugin)) + "," + info(*build(plugin)) + "," +
                  info(*runtime(plugin)) + "|" + core(plugin)->getPluginName() + "|" +
                  core(plugin)->getPluginVersion() + "|" + core(plugin)->getPluginNamespace() + "|" +
                  std::to_string(build(plugin)->getNbOutputs()) + "|" + build(plugin)->getTimingCacheID() + "|" +
                  build(plugin)->getMetadataString());
}

// The names of the output types, separated by commas; empty where the plugin refuses.
const char* harness_output_types(IPluginV3* plugin, const Tensor* inputs, int32_t num_inputs, int32_t num_outputs) {
    std::vector<DataType> in, out(num_outputs);
    for (int32_t i = 0; i < num_inputs; ++i) in.push_back(data_type(inputs[i].type));
    if (build(plugin)->getOutputDataTypes(out.data(), num_outputs, in.data(), num_inputs) != 0) return answer("");
    std::string told;
    for (DataType type : out) told += (told.empty() ? "" : ",") + std::string(name_of(type));
    return answer(told);
}

// The output shapes as "2,3;2,1"; empty where the plugin refuses, "data" where it makes a shape of values.
const char* harness_output_shapes(IPluginV3* plugin, const Tensor* inputs, int32_t num_inputs, int32_t num_outputs) {
    Builder builder;
    std::vector<DimsExprs> in(num_inputs), out(num_outputs);
    for (int32_t i = 0; i < num_inputs; ++i) {
        in[i].nbDims = inputs[i].rank;
        for (int32_t j = 0; j < inputs[i].rank; ++j) in[i].d[j] = builder.arithmetic.add(inputs[i].dims[j], false);
    }
    const int32_t status =
        build(plugin)->getOutputShapes(in.data(), num_inputs, nullptr, 0, out.data(), num_outputs, builder);
    if (builder.arithmetic.data_dependent) return answer("data");
    if (status != 0) return answer("");
    std::string told;
    for (int32_t i = 0; i < num_outputs; ++i) {
        told += i == 0 ? "" : ";";
        for (int32_t j = 0; j < out[i].nbDims; ++j)
            told += (j == 0 ? "" : ",") + std::to_string(static_cast<const Expression*>(out[i].d[j])->of.value);
    }
    return answer(told);
}

static PluginTensorDesc described(const Tensor& tensor) {
    PluginTensorDesc desc{};
    desc.dims.nbDims = tensor.rank;
    for (int32_t i = 0; i < tensor.rank; ++i) desc.dims.d[i] = tensor.dims[i];
    desc.type = data_type(tensor.type);
    desc.format = std::string(tensor.format) == "linear" ? TensorFormat::kLINEAR : TensorFormat::kCHW32;
    return desc;
}

static std::vector<DynamicPluginTensorDesc> planned(const Tensor* tensors, int32_t number) {
    std::vector<DynamicPluginTensorDesc> list(number);
    for (int32_t i = 0; i < number; ++i) {
        list[i].desc = described(tensors[i]);
        list[i].min = list[i].opt = list[i].max = list[i].desc.dims;
        for (int32_t j = 0; j < tensors[i].rank; ++j) list[i].max.d[j] = tensors[i].most[j];
    }
    return list;
}

bool harness_supports(IPluginV3* plugin, int32_t place, const Tensor* tensors, int32_t num_inputs,
                      int32_t num_outputs) {
    const auto list = planned(tensors, num_inputs + num_outputs);
    return build(plugin)->supportsFormatCombination(place, list.data(), num_inputs, num_outputs);
}

int32_t harness_configure(IPluginV3* plugin, const Tensor* tensors, int32_t num_inputs, int32_t num_outputs) {
    const auto list = planned(tensors, num_inputs + num_outputs);
    return build(plugin)->configurePlugin(list.data(), num_inputs, list.data() + num_inputs, num_outputs);
}

int64_t harness_workspace(IPluginV3* plugin, const Tensor* tensors, int32_t num_inputs, int32_t num_outputs) {
    const auto list = planned(tensors, num_inputs + num_outputs);
    return static_cast<int64_t>(
        build(plugin)->getWorkspaceSize(list.data(), num_inputs, list.data() + num_inputs, num_outputs));
}

// onShapeChange and enqueue, as an engine calls them: 0, or what the first of them that fails returns.
int32_t harness_enqueue(IPluginV3* plugin, const Tensor* tensors, int32_t num_inputs, int32_t num_outputs,
                        const void* const* inputs, void* const* outputs, void* workspace, void* stream) {
    std::vector<PluginTensorDesc> list;
    for (int32_t i = 0; i < num_inputs + num_outputs; ++i) list.push_back(described(tensors[i]));
    const PluginTensorDesc *in = list.data(), *out = list.data() + num_inputs;
    const int32_t status = runtime(plugin)->onShapeChange(in, num_inputs, out, num_outputs);
    if (status != 0) return status;
    return runtime(plugin)->enqueue(in, out, inputs, outputs, workspace, static_cast<cudaStream_t>(stream));
}

}  // extern "C"

#include "attributes.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "log.h"
#include "operation.h"

namespace vitcop::tensorrt {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

namespace {

bool same(const char* one, const char* other) { return std::strcmp(one, other) == 0; }

// The parser reads these from a node to find the plugin; some callers hand them on.
bool names_the_plugin(const char* field) { return same(field, "plugin_namespace") || same(field, "plugin_version"); }

int find(const Operation& operation, const char* name) {
    for (int i = 0; i < MAX_ATTRIBUTES && operation.attributes[i].name != nullptr; ++i)
        if (same(operation.attributes[i].name, name)) return i;
    return -1;
}

// TensorRT's own fields are of 32 bits; callers from Python often give 64.
bool as_integer(const PluginField& field, int64_t& out) {
    if (field.type == PluginFieldType::kINT32)
        out = *static_cast<const int32_t*>(field.data);
    else if (field.type == PluginFieldType::kINT64)
        out = *static_cast<const int64_t*>(field.data);
    else
        return false;
    return true;
}

bool as_real(const PluginField& field, double& out) {
    if (field.type == PluginFieldType::kFLOAT32)
        out = *static_cast<const float*>(field.data);
    else if (field.type == PluginFieldType::kFLOAT64)
        out = *static_cast<const double*>(field.data);
    else
        return false;
    return true;
}

// What integers a rule allows, as a person reads it; null if `value` is one of them.
const char* refuse(Rule rule, int64_t value) {
    if (rule == FLAG && value != 0 && value != 1) return "must be 0 or 1";
    if (rule == COUNT && (value < 0 || value > INT32_MAX)) return "must be 0 or more, in 32 bits";
    if (rule == DIVISOR && (value < 1 || value > INT32_MAX)) return "must be 1 or more, in 32 bits";
    return nullptr;
}

}  // namespace

// The value of a field under the rule of its attribute. False, and a message, where it is not one.
bool Attributes::read_value(const char* op, const PluginField& field, Rule rule, Value& out) {
    int64_t integer = 0;
    double real = 0.0;
    const bool one = field.data != nullptr && field.length == 1;
    if (!one || !(rule == REAL ? as_real(field, real) : as_integer(field, integer))) {
        report(op, "attribute '%s' must be one %s", field.name, rule == REAL ? "float" : "integer");
        return false;
    }
    if (rule == REAL) {
        out.real = static_cast<float>(real);
        if (std::isfinite(out.real)) return true;
        report(op, "attribute '%s' must be finite in fp32, found %g", field.name, real);
        return false;
    }
    out.integer = static_cast<int32_t>(static_cast<uint32_t>(integer));
    const char* const wrong = refuse(rule, integer);
    if (wrong != nullptr)
        report(op, "attribute '%s' %s, found %lld", field.name, wrong, static_cast<long long>(integer));
    return wrong == nullptr;
}

bool Attributes::read(const Operation& operation, const nvinfer1::PluginFieldCollection* fields, Attributes& out) {
    out.operation_ = &operation;
    bool present[MAX_ATTRIBUTES] = {};
    const int num_fields = fields == nullptr || fields->fields == nullptr ? 0 : fields->nbFields;
    for (int i = 0; i < num_fields; ++i) {
        const PluginField& field = fields->fields[i];
        if (field.name != nullptr && names_the_plugin(field.name)) continue;
        const int found = field.name == nullptr ? -1 : find(operation, field.name);
        if (found < 0 || present[found]) {
            report(operation.name, found < 0 ? "has no attribute '%s'" : "attribute '%s' is given twice",
                   field.name == nullptr ? "" : field.name);
            return false;
        }
        if (!read_value(operation.name, field, operation.attributes[found].rule, out.values_[found])) return false;
        present[found] = true;
    }
    for (int i = 0; i < MAX_ATTRIBUTES && operation.attributes[i].name != nullptr; ++i) {
        if (!present[i]) {
            report(operation.name, "attribute '%s' is missing", operation.attributes[i].name);
            return false;
        }
    }
    const char* const wrong = operation.refuse_attributes == nullptr ? nullptr : operation.refuse_attributes(out);
    if (wrong != nullptr) report(operation.name, "%s", wrong);
    return wrong == nullptr;
}

int Attributes::place(const char* name) const {
    const int found = find(*operation_, name);
    if (found < 0) throw std::logic_error(std::string("no attribute ") + name);
    return found;
}

Fraction Attributes::fraction(const char* name) const {
    char part[32];
    std::snprintf(part, sizeof part, "%s_num", name);
    const int num = find(*operation_, part);
    if (num < 0) return {};
    std::snprintf(part, sizeof part, "%s_den", name);
    return {values_[num].integer, values_[place(part)].integer};
}

std::string Attributes::text() const {
    std::string text;
    for (int i = 0; i < MAX_ATTRIBUTES && operation_->attributes[i].name != nullptr; ++i) {
        const Attribute& attribute = operation_->attributes[i];
        char number[32];
        if (attribute.rule == REAL)
            std::snprintf(number, sizeof number, "%.9g", static_cast<double>(values_[i].real));
        else
            std::snprintf(number, sizeof number, "%d", values_[i].integer);
        text += (i == 0 ? "" : " ") + std::string(attribute.name) + "=" + number;
    }
    return text;
}

int Attributes::describe(const Operation& operation, PluginField* out) {
    int number = 0;
    for (; number < MAX_ATTRIBUTES && operation.attributes[number].name != nullptr; ++number) {
        const Attribute& attribute = operation.attributes[number];
        const auto type = attribute.rule == REAL ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32;
        out[number] = PluginField(attribute.name, nullptr, type, 1);
    }
    return number;
}

int Attributes::to_fields(PluginField* out) const {
    const int number = describe(*operation_, out);
    for (int i = 0; i < number; ++i) out[i].data = &values_[i];
    return number;
}

}  // namespace vitcop::tensorrt

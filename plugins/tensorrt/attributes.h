// The attributes of a node: read from TensorRT's fields with every mistake named, and written back to fields.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>

#include "sizes.h"

namespace vitcop::tensorrt {

constexpr int MAX_ATTRIBUTES = 5;

enum Rule : int8_t {
    COUNT,    // an integer, at least 0
    DIVISOR,  // an integer, at least 1
    FLAG,     // 0 or 1
    SEED,     // an integer, of which the low 32 bits count
    REAL,     // finite
};

struct Attribute {
    const char* name;
    Rule rule;
};

struct Operation;

class Attributes {
  public:
    // Fills `out`. False, and a message, where a field is missing, unknown, of another type or out of range.
    static bool read(const Operation& operation, const nvinfer1::PluginFieldCollection* fields, Attributes& out);

    int64_t integer(const char* name) const { return values_[place(name)].integer; }
    float real(const char* name) const { return values_[place(name)].real; }
    // <name>_num / <name>_den; 1 where the op has no such attributes.
    Fraction fraction(const char* name) const;

    // "keep_num=1 keep_den=3 ...": the same for equal attributes, another one for others.
    std::string text() const;

    // Fields with the values, which stay this object's; `out` has MAX_ATTRIBUTES places. Returns how many there are.
    int to_fields(nvinfer1::PluginField* out) const;

    // Fields with the names and types only, of every attribute of `operation`.
    static int describe(const Operation& operation, nvinfer1::PluginField* out);

  private:
    union Value {
        int32_t integer;
        float real;
    };

    static bool read_value(const char* op, const nvinfer1::PluginField& field, Rule rule, Value& out);
    int place(const char* name) const;

    const Operation* operation_ = nullptr;
    Value values_[MAX_ATTRIBUTES] = {};
};

}  // namespace vitcop::tensorrt

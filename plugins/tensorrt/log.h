// Messages to the people who build and run engines. Nothing that TensorRT calls may throw.
#pragma once

#include <NvInferRuntime.h>

#include <exception>

namespace vitcop::tensorrt {

// Where TensorRT says that its logger is found. Null: messages go to stderr.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// An error of printf's format, behind the name of the op it is about.
void report(const char* op, const char* format, ...) noexcept __attribute__((format(printf, 2, 3)));

// What body returns; `otherwise`, and a message, if it throws.
template <typename Result, typename Body>
Result without_throwing(const char* op, Result otherwise, Body body) noexcept {
    try {
        return body();
    } catch (const std::exception& error) {
        report(op, "%s", error.what());
    } catch (...) {
        report(op, "an exception of no known type");
    }
    return otherwise;
}

}  // namespace vitcop::tensorrt

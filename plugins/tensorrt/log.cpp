#include "log.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>

namespace vitcop::tensorrt {

using Severity = nvinfer1::ILogger::Severity;

// TensorRT 11 gave ILoggerFinder and ILogger a versioned base class, behind whose functions theirs now stand. One
// library serves both majors, whichever headers it was compiled with, so both layouts are written down here. All other
// classes that a plugin meets kept theirs. The classes are not of this file alone: of such the compiler would know that
// nobody derives from them, and that no function of theirs can ever be called.
struct __attribute__((visibility("default"))) Before11 {
    struct Finder {
        virtual void* find_logger() = 0;
    };
    struct Logger {
        virtual void log(Severity severity, const char* text) noexcept = 0;
    };
};

struct __attribute__((visibility("default"))) From11 {
    struct Finder : nvinfer1::IVersionedInterface {
        virtual void* find_logger() = 0;
    };
    struct Logger : nvinfer1::IVersionedInterface {
        virtual void log(Severity severity, const char* text) noexcept = 0;
    };
};

namespace {

// The major version of the library that an object's functions lie in: libnvinfer's, or that of its lean or dispatch
// runtime. Where no library says so, that of the headers.
int major_version(const void* object) noexcept {
    Dl_info where;
    if (dladdr(*static_cast<void* const*>(object), &where) == 0) return NV_TENSORRT_MAJOR;
    void* const library = dlopen(where.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) return NV_TENSORRT_MAJOR;
    void* const version = dlsym(library, "getInferLibVersion");
    const int number = version == nullptr ? 10000 * NV_TENSORRT_MAJOR : reinterpret_cast<int32_t (*)()>(version)();
    dlclose(library);
    return number / 10000;
}

template <typename Layout>
bool log_to(void* finder, const char* text) {
    void* const logger = static_cast<typename Layout::Finder*>(finder)->find_logger();
    if (logger == nullptr) return false;
    static_cast<typename Layout::Logger*>(logger)->log(Severity::kERROR, text);
    return true;
}

std::atomic<void*> logger_finder{nullptr};

bool log(const char* text) noexcept {
    void* const finder = logger_finder.load();
    if (finder == nullptr) return false;
    try {
        return major_version(finder) < 11 ? log_to<Before11>(finder, text) : log_to<From11>(finder, text);
    } catch (...) {
        return false;
    }
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept { logger_finder.store(finder); }

void report(const char* op, const char* format, ...) noexcept {
    char text[512];
    const int used = std::snprintf(text, sizeof text, "vitcop %s: ", op);
    va_list arguments;
    va_start(arguments, format);
    if (used >= 0 && static_cast<size_t>(used) < sizeof text)
        std::vsnprintf(text + used, sizeof text - static_cast<size_t>(used), format, arguments);
    va_end(arguments);
    if (!log(text)) std::fprintf(stderr, "%s\n", text);
}

}  // namespace vitcop::tensorrt

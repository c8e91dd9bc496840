// `__shared__` variables are thread-local ones (see qualifiers.h): the thread-local block of this library is what a
// block of threads shares.
#include "shared_memory.h"

#include <link.h>

#include <cstdint>

namespace emulated {
namespace {

// Makes sure that there is such a block, and, when touched, that the loader has made it for this thread.
thread_local volatile char anchor;

int find(dl_phdr_info* module, size_t, void* result) {
    const ElfW(Phdr)* thread_local_part = nullptr;
    bool own = false;
    const auto here = reinterpret_cast<uintptr_t>(&find) - module->dlpi_addr;
    for (int i = 0; i < module->dlpi_phnum; ++i) {
        const ElfW(Phdr)& part = module->dlpi_phdr[i];
        if (part.p_type == PT_TLS) thread_local_part = &part;
        if (part.p_type == PT_LOAD && here >= part.p_vaddr && here < part.p_vaddr + part.p_memsz) own = true;
    }
    if (!own || !thread_local_part) return 0;
    *static_cast<SharedMemory*>(result) = {module->dlpi_tls_data, thread_local_part->p_memsz};
    return 1;
}

}  // namespace

SharedMemory shared_memory() {
    anchor = 0;
    SharedMemory found = {nullptr, 0};
    dl_iterate_phdr(find, &found);
    return found;
}

}  // namespace emulated

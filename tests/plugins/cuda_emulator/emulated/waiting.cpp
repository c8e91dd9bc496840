#include "waiting.h"

#include <cstdio>
#include <cstring>

namespace emulated {
namespace {

constexpr size_t LENGTH = 900;

bool alike(const Waiting& a, const Waiting& b) {
    if (a.meeting != b.meeting || a.exited != b.exited) return false;
    if (a.meeting == Meeting::none) return true;
    return a.site.line == b.site.line && (a.meeting == Meeting::syncthreads || a.mask == b.mask);
}

class Line {
  public:
    template <typename... Values>
    void add(const char* format, Values... values) {
        if (length_ >= LENGTH) return;
        length_ += static_cast<size_t>(snprintf(text_ + length_, LENGTH - length_, format, values...));
    }
    void clear() { length_ = 0; }
    const char* text() const { return text_; }

  private:
    char text_[LENGTH];
    size_t length_ = 0;
};

// "threads 0-31, 64-95": those like `pattern`, their numbers in the block counted x first.
void add_threads(Line& line, const Waiting* threads, unsigned num_threads, const Waiting& pattern) {
    line.add("%s", "threads ");
    int ranges = 0;
    for (unsigned begin = 0; begin < num_threads; ++begin) {
        if (!alike(threads[begin], pattern)) continue;
        unsigned end = begin;
        while (end + 1 < num_threads && alike(threads[end + 1], pattern)) ++end;
        if (++ranges > 4) return line.add("%s", ", ...");
        line.add(begin == end ? "%s%u" : "%s%u-%u", ranges > 1 ? ", " : "", begin, end);
        begin = end;
    }
}

}  // namespace

const char* name(Meeting meeting) {
    switch (meeting) {
        case Meeting::none: return "nothing";
        case Meeting::syncthreads: return "__syncthreads";
        case Meeting::syncwarp: return "__syncwarp";
        case Meeting::shfl: return "__shfl_sync";
        case Meeting::shfl_up: return "__shfl_up_sync";
        case Meeting::shfl_down: return "__shfl_down_sync";
        case Meeting::shfl_xor: return "__shfl_xor_sync";
        case Meeting::ballot: return "__ballot_sync";
        case Meeting::any: return "__any_sync";
        case Meeting::all: return "__all_sync";
    }
    return "?";
}

const char* describe_waiting(const Waiting* threads, unsigned num_threads) {
    static Line line;
    line.clear();
    for (unsigned thread = 0; thread < num_threads; ++thread) {
        const Waiting& own = threads[thread];
        bool told = false;
        for (unsigned before = 0; before < thread && !told; ++before) told = alike(threads[before], own);
        if (told || (own.meeting == Meeting::none && !own.exited)) continue;
        if (thread > 0) line.add("%s", "; ");
        add_threads(line, threads, num_threads, own);
        if (own.exited)
            line.add("%s", " have exited");
        else if (own.meeting == Meeting::syncthreads)
            line.add(" wait at %s (%s:%d)", name(own.meeting), own.site.file, own.site.line);
        else
            line.add(" wait at %s of lanes 0x%08x (%s:%d)", name(own.meeting), own.mask, own.site.file, own.site.line);
    }
    return line.text();
}

}  // namespace emulated

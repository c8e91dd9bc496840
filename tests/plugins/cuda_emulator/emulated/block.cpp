#include "block.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "collectives.h"
#include "errors.h"
#include "fibers.h"
#include "waiting.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulated {
namespace {

constexpr int LANES = 32;

// A collective that some lanes of a warp have reached.
struct Open {
    Meeting meeting;
    int line;
    unsigned mask;
    unsigned arrived;
};

struct Warp {
    unsigned existing, ready, exited;
    int num_open;
    Open open[LANES];
};

Waiting threads[MAX_FIBERS];
uint3 positions[MAX_FIBERS];
uint64_t results[MAX_FIBERS];
Warp warps[MAX_FIBERS / LANES];
unsigned ready_warps, num_threads, num_waiting, num_exited, current, current_warp;
Site barrier;
bool one_warp_at_a_time;
void (*run_thread)(void*);
void* thread_arguments;
Random* source;
uint64_t num_switches;

void make_ready(unsigned warp, unsigned lanes) {
    warps[warp].ready |= lanes;
    ready_warps |= 1u << warp;
}

// Takes one of the threads that need not wait.
unsigned take_ready() {
    if (ready_warps == 0) {
        if (num_exited == num_threads) return NO_FIBER;
        note_error("%s: no thread can go on: %s", which_block(), describe_waiting(threads, num_threads));
        abandon_fibers();
    }
    if (!one_warp_at_a_time || !(ready_warps >> current_warp & 1u)) current_warp = source->bit_of(ready_warps);
    Warp& warp = warps[current_warp];
    const unsigned lane = source->bit_of(warp.ready);
    warp.ready &= ~(1u << lane);
    if (warp.ready == 0) ready_warps &= ~(1u << current_warp);
    return current_warp * LANES + lane;
}

void go_on() {
    const unsigned next = take_ready();
    if (next == current) return;
    if (next == NO_FIBER) return leave_fibers();
    current = next;
    threadIdx = positions[next];
    ++num_switches;
    switch_fiber(next);
}

void run_and_exit() {
    run_thread(thread_arguments);
    const unsigned bit = 1u << current % LANES;
    Warp& warp = warps[current / LANES];
    warp.exited |= bit;
    ++num_exited;
    threads[current].meeting = Meeting::none;
    threads[current].exited = true;
    for (int i = 0; i < warp.num_open; ++i)
        if (warp.open[i].mask & bit)
            fail("exits, but lanes of its warp wait for it: %s", describe_waiting(threads, num_threads));
    go_on();
}

void lay_out_block() {
    num_threads = blockDim.x * blockDim.y * blockDim.z;
    num_waiting = num_exited = ready_warps = 0;
    for (unsigned thread = 0; thread < num_threads; ++thread) {
        threads[thread] = {};
        positions[thread] = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y};
    }
    for (unsigned warp = 0; warp * LANES < num_threads; ++warp) {
        const unsigned lanes = num_threads - warp * LANES;
        const unsigned existing = lanes >= LANES ? ~0u : (1u << lanes) - 1;
        warps[warp].existing = existing;
        warps[warp].ready = warps[warp].exited = 0;
        warps[warp].num_open = 0;
        make_ready(warp, existing);
    }
}

}  // namespace

bool run_block(void (*run)(void*), void* arguments, Random& random) {
    run_thread = run;
    thread_arguments = arguments;
    source = &random;
    lay_out_block();
    one_warp_at_a_time = random.next() >> 63;
    current_warp = random.bit_of(ready_warps);
    current = take_ready();
    threadIdx = positions[current];
    return enter_fibers(current, run_and_exit);
}

int lane() { return static_cast<int>(current % LANES); }

void meet_block(Site site) {
    Waiting& own = threads[current];
    if (num_waiting > 0 && barrier.line != site.line)
        fail("arrives at __syncthreads in line %d, but others wait at the one in line %d (%s)", site.line,
             barrier.line, site.file);
    barrier = site;
    own.meeting = Meeting::syncthreads;
    own.site = site;
    if (++num_waiting == num_threads) {
        num_waiting = 0;
        for (unsigned thread = 0; thread < num_threads; ++thread) threads[thread].meeting = Meeting::none;
        for (unsigned warp = 0; warp * LANES < num_threads; ++warp) make_ready(warp, warps[warp].existing);
    }
    go_on();
}

uint64_t meet_warp(Meeting meeting, unsigned mask, uint64_t value, int from, Site site) {
    const unsigned first = current - current % LANES, bit = 1u << current % LANES;
    Warp& warp = warps[current / LANES];
    Waiting& own = threads[current];
    own.site = site;
    own.mask = mask;
    own.value = value;
    own.from = from;
    if (!(mask & bit))
        fail("calls %s with mask 0x%08x, which leaves it out (%s:%d)", name(meeting), mask, site.file, site.line);
    if (mask & warp.exited)
        fail("calls %s with mask 0x%08x, but lanes 0x%08x of it have exited (%s:%d)", name(meeting), mask,
             mask & warp.exited, site.file, site.line);
    own.meeting = meeting;

    int place = 0;
    while (place < warp.num_open && !(warp.open[place].meeting == meeting && warp.open[place].line == site.line &&
                                      warp.open[place].mask == mask))
        ++place;
    Open& open = warp.open[place];
    if (place == warp.num_open) {
        open = {meeting, site.line, mask, 0};
        ++warp.num_open;
    }
    open.arrived |= bit;
    if (open.arrived == (mask & warp.existing)) {
        unsigned positive = 0;
        for (unsigned lanes = open.arrived; lanes != 0; lanes &= lanes - 1) {
            const int lane = __builtin_ctz(lanes);
            positive |= static_cast<unsigned>(threads[first + lane].value != 0) << lane;
        }
        for (unsigned lanes = open.arrived; lanes != 0; lanes &= lanes - 1) {
            const unsigned thread = first + __builtin_ctz(lanes);
            const int wanted = threads[thread].from;
            threads[thread].meeting = Meeting::none;
            if (wanted < 0)
                results[thread] = positive;
            else if (open.arrived >> wanted & 1u)
                results[thread] = threads[first + wanted].value;
            else  // undefined in CUDA, so anything but a likely number
                results[thread] = source->next();
        }
        make_ready(current / LANES, open.arrived);
        open = warp.open[--warp.num_open];
    }
    go_on();
    return results[current];
}

void may_yield() {
    if (current_fiber() == NO_FIBER || source->next() >> 62 != 0) return;
    make_ready(current / LANES, 1u << current % LANES);
    go_on();
}

void fail(const char* format, ...) {
    char text[1024];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    note_error("%s, %s: %s", which_block(), which_thread(), text);
    abandon_fibers();
}

const char* which_block() {
    static char text[64];
    snprintf(text, sizeof text, "block (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z);
    return text;
}

const char* which_thread() {
    static char text[64];
    snprintf(text, sizeof text, "thread (%u, %u, %u)", threadIdx.x, threadIdx.y, threadIdx.z);
    return text;
}

uint64_t& switches() { return num_switches; }

}  // namespace emulated

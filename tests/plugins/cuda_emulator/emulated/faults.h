// Memory faults of kernels, turned into errors.
#pragma once

#include <signal.h>

namespace emulated {

// While one of these exists, a fault inside a kernel ends the launch, and is noted, instead of ending the process.
class CatchFaults {
  public:
    CatchFaults();
    ~CatchFaults();

  private:
    struct sigaction before_[4];
    stack_t stack_before_;
};

}  // namespace emulated

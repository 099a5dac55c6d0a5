// SPDX-License-Identifier: Apache-2.0
//
// Delay: makes every request wait before it is done, to see what a slow device does to what is above it.
//
// Family: observer.
// Guarantees: a request waits at least as long as was asked for; the clock is monotonic. Read and View wait for `read`, Write
// for `write`, Flush for `flush`, WriteThrough for `write` and `flush`, Trim and WriteZeroes for `trim`; Extents, Prefetch and
// Resize do not wait.
// Concurrency: that of the device below. Requests wait beside one another, each in the thread that makes it.
// Cost: the wait, and what the system adds to a sleep: about 50 us. None where the delay is 0.
// Failure: that of the device below. Open refuses a delay of more than an hour.
//
//   using Stack = buse::Delay<buse::Memory>;
//   Stack::Config config{.read = 200, .flush = 5000, .below = {.size = 64 << 20}};

#ifndef LAYERS_DELAY_H_
#define LAYERS_DELAY_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "buse/description.h"
#include "buse/device.h"
#include "layers/observer.h"
#include "layers/operation.h"

namespace buse {

struct DelayHook {
  static constexpr bool kWaits = true;

  // In microseconds.
  template <class BelowConfig>
  struct Config {
    uint64_t read = 0;
    uint64_t write = 0;
    uint64_t flush = 0;
    uint64_t trim = 0;
    BelowConfig below;
  };

  struct State {
    uint64_t read = 0;
    uint64_t write = 0;
    uint64_t flush = 0;
    uint64_t trim = 0;
  };

  static constexpr uint64_t kMost = 3600000000;

  template <class Config>
  static constexpr Description<Config, 4> Describe() {
    return {"delay",
            "makes every request wait before it is done",
            Family::kObserver,
            {{Make(&Config::read, "read-delay", "how long a read waits"),
              Make(&Config::write, "write-delay", "how long a write waits"),
              Make(&Config::flush, "flush-delay", "how long a flush waits"),
              Make(&Config::trim, "trim-delay", "how long a trim, or a writing of zeroes, waits")}}};
  }

  template <class Config>
  static absl::Status Open(const Config& config, State& hook) {
    const uint64_t longest = std::max({config.read, config.write, config.flush, config.trim});
    if (longest > kMost) {
      return absl::InvalidArgumentError(
          absl::StrFormat("delay: %d us is too long: the most is an hour, which is %d us", longest, kMost));
    }
    hook = {config.read, config.write, config.flush, config.trim};
    return absl::OkStatus();
  }

  template <class Next>
  static absl::Status Around(State& hook, const Request& request, Next&& next) {
    const uint64_t delay = DelayOf(hook, request.operation);
    if (delay > 0) std::this_thread::sleep_for(std::chrono::microseconds(delay));
    return next();
  }

 private:
  template <class Config>
  static constexpr Option<Config> Make(uint64_t Config::*field, const char* name, const char* help) {
    return {.field = field, .name = name, .help = help, .unit = Unit::kMicroseconds, .max = kMost};
  }

  static uint64_t DelayOf(const State& hook, Operation operation) {
    switch (operation) {
      case Operation::kRead:
      case Operation::kView:
        return hook.read;
      case Operation::kWrite:
        return hook.write;
      case Operation::kFlush:
        return hook.flush;
      case Operation::kWriteThrough:
        return hook.write + hook.flush;
      case Operation::kTrim:
      case Operation::kWriteZeroes:
        return hook.trim;
      case Operation::kExtents:
      case Operation::kPrefetch:
      case Operation::kResize:
      case Operation::kResidency:
        break;
    }
    return 0;
  }
};

template <Device B>
using Delay = Observer<DelayHook, B>;

}  // namespace buse

#endif  // LAYERS_DELAY_H_

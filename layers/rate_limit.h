// SPDX-License-Identifier: Apache-2.0
//
// RateLimit: lets through only so many requests and bytes per second, for reading and for writing.
//
// Family: observer.
// Guarantees: in any time t, a direction's requests begin at most rate * (t + burst) of what is limited, and one request more.
// A request that is larger than the burst passes too, and those behind it wait until it is paid for. Requests of a direction
// go on in the order they came. Read and View read; Write and WriteThrough write, and so do Trim and WriteZeroes, which count
// as requests and not as bytes, since none are sent: they do not wait for bytes either, and may pass writes that do. Flush,
// Extents, Prefetch and Resize pass freely.
// Concurrency: that of the device below. A request waits in the thread that makes it and holds no lock; what is served one at a
// time waits behind it.
// Cost: the wait; else a clock reading and an atomic operation per limit. Nothing where the direction is unlimited.
// Failure: that of the device below; what failed is paid for. Open refuses a burst of more than an hour.
//
//   using Stack = buse::RateLimit<buse::Memory>;
//   Stack::Config config{.read_iops = 500, .write_bandwidth = 10 << 20, .below = {.size = 64 << 20}};

#ifndef LAYERS_RATE_LIMIT_H_
#define LAYERS_RATE_LIMIT_H_

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
#include "layers/token_bucket.h"

namespace buse {

struct RateLimitHook {
  static constexpr bool kWaits = true;

  // 0: unlimited.
  template <class BelowConfig>
  struct Config {
    uint64_t read_iops = 0;
    uint64_t write_iops = 0;
    uint64_t read_bandwidth = 0;  // bytes per second
    uint64_t write_bandwidth = 0;
    uint64_t burst = 100;  // milliseconds
    BelowConfig below;
  };

  struct Direction {
    TokenBucket requests;
    TokenBucket bytes;
  };
  struct State {
    Direction read;
    Direction write;
  };

  static constexpr uint64_t kMostBurst = 3600000;

  template <class Config>
  static constexpr Description<Config, 5> Describe() {
    return {"rate-limit",
            "lets through only so many requests and bytes per second",
            Family::kObserver,
            {{{.field = &Config::read_iops, .name = "read-iops", .help = "reads per second, 0 for any number"},
              {.field = &Config::write_iops, .name = "write-iops", .help = "writes per second, 0 for any number"},
              {.field = &Config::read_bandwidth,
               .name = "read-bandwidth",
               .help = "bytes read per second, 0 for any number",
               .unit = Unit::kBytes},
              {.field = &Config::write_bandwidth,
               .name = "write-bandwidth",
               .help = "bytes written per second, 0 for any number",
               .unit = Unit::kBytes},
              {.field = &Config::burst,
               .name = "burst",
               .help = "what may be used at once after a pause: so much time's worth",
               .unit = Unit::kMilliseconds,
               .max = kMostBurst}}}};
  }

  template <class Config>
  static absl::Status Open(const Config& config, State& hook) {
    if (config.burst > kMostBurst) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "rate-limit: a burst of %d ms is too long: the most is an hour, which is %d ms", config.burst, kMostBurst));
    }
    const std::chrono::milliseconds burst(config.burst);
    hook.read.requests.Start(config.read_iops, burst);
    hook.read.bytes.Start(config.read_bandwidth, burst);
    hook.write.requests.Start(config.write_iops, burst);
    hook.write.bytes.Start(config.write_bandwidth, burst);
    return absl::OkStatus();
  }

  template <class Next>
  static absl::Status Around(State& hook, const Request& request, Next&& next) {
    switch (request.operation) {
      case Operation::kRead:
      case Operation::kView:
        Wait(hook.read, request.range.length);
        break;
      case Operation::kWrite:
      case Operation::kWriteThrough:
        Wait(hook.write, request.range.length);
        break;
      case Operation::kTrim:
      case Operation::kWriteZeroes:
        Wait(hook.write, 0);
        break;
      case Operation::kFlush:
      case Operation::kExtents:
      case Operation::kPrefetch:
      case Operation::kResize:
      case Operation::kResidency:
        break;
    }
    return next();
  }

 private:
  static void Wait(Direction& direction, uint64_t bytes) {
    if (direction.requests.unlimited() && direction.bytes.unlimited()) return;
    const TokenBucket::Time now = std::chrono::steady_clock::now().time_since_epoch();
    TokenBucket::Time start = direction.requests.Take(now, 1);
    if (bytes > 0) start = std::max(start, direction.bytes.Take(now, bytes));
    if (start > now) std::this_thread::sleep_until(std::chrono::steady_clock::time_point(start));
  }
};

template <Device B>
using RateLimit = Observer<RateLimitHook, B>;

}  // namespace buse

#endif  // LAYERS_RATE_LIMIT_H_

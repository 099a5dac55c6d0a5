// SPDX-License-Identifier: Apache-2.0
//
// Log: writes one line to stderr for every request, when it is done.
//
//   read 4096+512 ok 12us
//   write 0+4096 INTERNAL: pwrite disk.img: Input/output error 130us
//   flush ok 3us
//   resize 8192 ok 5us
//
// Family: observer.
// Guarantees: a line is one write(2) of at most 512 bytes, so lines do not mix; a longer error message is cut.
// Concurrency: that of the device below.
// Cost: one write(2) per request, which blocks while its reader does, also for TryRead and TryWrite.
// Failure: that of the device below; a line that cannot be written is dropped.
//
//   using Stack = buse::Log<buse::Memory>;
//   Stack::Config config{.below = {.size = 64 << 20}};

#ifndef LAYERS_LOG_H_
#define LAYERS_LOG_H_

#include <unistd.h>

#include <chrono>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/device.h"
#include "layers/observer.h"

namespace buse {

// Writes the line of one request to `fd`.
void WriteLogLine(int fd, const Request& request, const absl::Status& status, std::chrono::nanoseconds elapsed);

struct LogHook {
  template <class BelowConfig>
  struct Config {
    int fd = STDERR_FILENO;  // borrowed
    BelowConfig below;
  };

  struct State {
    int fd = -1;
  };

  template <class Config>
  static constexpr Description<Config> Describe() {
    return {"log", "writes one line to stderr for every request", Family::kObserver};
  }

  template <class Config>
  static absl::Status Open(const Config& config, State& hook) {
    hook.fd = config.fd;
    return absl::OkStatus();
  }

  static void Done(State& hook, const Request& request, const absl::Status& status, std::chrono::nanoseconds elapsed) {
    WriteLogLine(hook.fd, request, status, elapsed);
  }
};

template <Device B>
using Log = Observer<LogHook, B>;

}  // namespace buse

#endif  // LAYERS_LOG_H_

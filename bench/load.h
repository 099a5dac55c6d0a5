// SPDX-License-Identifier: Apache-2.0
//
// An NBD load generator that keeps a number of requests in flight on each of several connections, and measures. It is made to
// leave the server the bottleneck: answers are taken many at a time, what they free is asked for anew with one send, and
// nobody looks at payloads.

#ifndef BENCH_LOAD_H_
#define BENCH_LOAD_H_

#include <sched.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/histogram.h"
#include "bench/work.h"
#include "buse/io.h"

namespace buse::bench {

// Where a server listens.
struct Endpoint {
  std::string socket;       // path of a Unix socket
  std::string export_name;  // "": the default one
};

struct Load {
  Work work;
  uint64_t size = 0;  // how much of the device to use, from its beginning; 0: all
  std::chrono::nanoseconds warmup = std::chrono::milliseconds(200);
  std::chrono::nanoseconds duration = std::chrono::seconds(1);
  // Spin this long for an answer before sleeping.
  std::chrono::nanoseconds spin{0};
  const cpu_set_t* cpus = nullptr;  // where its threads run; absent: where they like
};

struct LoadResult {
  uint64_t requests = 0;
  double seconds = 0;
  LatencyHistogram latency;
  double client_cpu_seconds = 0;
  // What `server_cpu` told of the time measured.
  double server_cpu_seconds = 0;
};

// Connects, warms up, measures, disconnects. `server_cpu` tells how many seconds of CPU the server has used; it is called twice.
// Errors: kUnavailable where there is no server or it broke the connection, kInternal where it answered a request with an
// error or not by the protocol; kInvalidArgument where the device is too small.
absl::StatusOr<LoadResult> Generate(const Endpoint& endpoint, const Load& load, const std::function<double()>& server_cpu);

// Writes all of the first `size` bytes, and reads some of them back to see that the server keeps what it is given. Errors as
// those of Generate, and kDataLoss.
absl::Status FillAndCheck(const Endpoint& endpoint, uint64_t size);

// Connects and negotiates `count` times; the connections stay open and silent.
absl::StatusOr<std::vector<UniqueFd>> ConnectIdle(const Endpoint& endpoint, int count);

}  // namespace buse::bench

#endif  // BENCH_LOAD_H_

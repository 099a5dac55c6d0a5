// SPDX-License-Identifier: Apache-2.0
//
// A subject that is up and can be measured, again and again.

#ifndef BENCH_CONTESTANT_H_
#define BENCH_CONTESTANT_H_

#include <sched.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "bench/histogram.h"
#include "bench/subjects.h"
#include "bench/work.h"

namespace buse::bench {

// How everything is measured in one run of the benchmark.
struct Settings {
  uint64_t size = 256 << 20;                                    // bytes of each device
  uint64_t footprint_written = uint64_t{1} << 30;               // bytes written to a large disk to see what memory it takes
  std::chrono::nanoseconds duration = std::chrono::seconds(1);  // of one measurement
  std::chrono::nanoseconds warmup = std::chrono::milliseconds(200);
  std::chrono::nanoseconds spin{0};  // that a client waits actively
  cpu_set_t server_cpus;
  cpu_set_t client_cpus;
  std::string programs;      // the folder of the benchmark's own
  std::string folder;        // for sockets and logs; removed in the end
  std::string files_folder;  // the same for files
  std::string tmpfs_folder;  // the same for files in memory; "": there is none
};

// How large a file is made for a device of `size` bytes: with room for what layers keep besides.
constexpr uint64_t RoomFor(uint64_t size) { return size / 8 * 9; }

// What is done in a row: a work, or one of the other things to know of a server.
struct Task {
  enum class Kind {
    kWork,
    kIdle,       // CPU that it uses for silent clients
    kFootprint,  // memory that a disk of 1 TiB takes of which a little is written
  };
  Kind kind = Kind::kWork;
  Work work;
};

// One measurement, by name: requests_per_second, server_cpu_us_per_request, latency_p50_us, ... What does not apply is absent.
using Sample = std::map<std::string, double>;

class Contestant {
 public:
  virtual ~Contestant() = default;
  virtual absl::StatusOr<Sample> Measure(const Task& task) = 0;
};

void AddLatencies(const LatencyHistogram& latency, Sample& sample);

// The command line of a subject for people to read, with {size}, {socket} and the like in place of what is chosen for each start.
std::string CommandLine(const Subject& subject);

// Starts a subject and gives its device known contents. The settings must outlive it.
// Errors: kNotFound where a program is not installed, others where it does not serve.
absl::StatusOr<std::unique_ptr<Contestant>> StartServer(const Subject& subject, const Settings& settings);

// fio without a server: prepares a file, and measures by running fio on that.
absl::StatusOr<std::unique_ptr<Contestant>> PrepareFio(const Settings& settings);

}  // namespace buse::bench

#endif  // BENCH_CONTESTANT_H_

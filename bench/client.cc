// SPDX-License-Identifier: Apache-2.0
//
// The benchmark's client alone, for any NBD server on a Unix socket:
//
//   bazel run -c opt //bench:client -- /tmp/disk.sock 4k-randread-d32

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/load.h"
#include "bench/work.h"
#include "buse/serve.h"

namespace buse::bench {
namespace {

struct Options {
  std::string socket;
  std::vector<std::string> works;
  std::string export_name;
  double seconds = 5;
  double warmup = 0.5;
  double spin_us = 0;
};

std::chrono::nanoseconds Nanoseconds(double seconds) { return std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9)); }

absl::Status Run(const Options& options, const std::string& name) {
  absl::StatusOr<Work> work = Work::Parse(name);
  if (!work.ok()) return work.status();
  const Load load = {.work = *work,
                     .warmup = Nanoseconds(options.warmup),
                     .duration = Nanoseconds(options.seconds),
                     .spin = Nanoseconds(options.spin_us * 1e-6)};
  absl::StatusOr<LoadResult> result = Generate({options.socket, options.export_name}, load, [] { return 0.0; });
  if (!result.ok()) return result.status();
  const double rate = static_cast<double>(result->requests) / result->seconds;
  const auto us = [&](double q) { return static_cast<double>(result->latency.Quantile(q)) * 1e-3; };
  std::printf(
      "%-24s %10.0f requests/s %10.1f MB/s   p50 %.1f us   p99 %.1f us   p99.9 %.1f us   max %.1f us   client's CPUs %.2f\n",
      name.c_str(), rate, rate * work->block * 1e-6, us(0.5), us(0.99), us(0.999),
      static_cast<double>(result->latency.max()) * 1e-3, result->client_cpu_seconds / result->seconds);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app(
      "Loads an NBD server on a Unix socket and tells how fast it answers. Writes overwrite what the device holds.\n"
      "A WORK is BLOCK-PATTERN-dDEPTH[-cCONNECTIONS][-fN]: 4k-randread-d32, 256k-seqwrite-d8-c4, 4k-randrw-d1-f1. Patterns:\n"
      "randread, randwrite, randrw, seqread, seqwrite.");
  app.name("client");
  app.add_option("SOCKET", options.socket, "path of the server's socket")->required();
  app.add_option("WORK", options.works, "what to do, one after another")->required();
  app.add_option("--export", options.export_name, "name of the export; absent: the default one");
  app.add_option("--seconds", options.seconds, "how long")->check(CLI::Range(0.01, 86400.0))->capture_default_str();
  app.add_option("--warmup", options.warmup, "seconds of load before, which do not count")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app.add_option("--spin", options.spin_us, "microseconds to wait actively for an answer before sleeping")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  EnterCallersFolder();
  for (const std::string& work : options.works) {
    if (absl::Status status = Run(options, work); !status.ok()) {
      std::fprintf(stderr, "client: %s\n", std::string(status.message()).c_str());
      return status.code() == absl::StatusCode::kInvalidArgument ? kExitUsage : kExitFailure;
    }
  }
  return kExitOk;
}

}  // namespace
}  // namespace buse::bench

int main(int argc, char** argv) { return buse::bench::Main(argc, argv); }

// SPDX-License-Identifier: Apache-2.0

#include "bench/fio.h"

#include <unistd.h>

#include <chrono>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "bench/child.h"

namespace buse::bench {
namespace {

// Columns of fio's third terse format: the requests per second of reads, and how much later the same is told of writes.
constexpr size_t kRate = 7;
constexpr size_t kWrites = 41;
// Between them, latencies in microseconds, each as "50.000000%=17".
constexpr size_t kLatencies = 17;
constexpr size_t kLatenciesEnd = 37;

}  // namespace

absl::Status CheckFio() { return FindProgram("fio").empty() ? absl::NotFoundError("fio is not installed") : absl::OkStatus(); }

absl::StatusOr<Sample> RunFio(const std::string& path, const Work& work, const Settings& settings) {
  const char* pattern = work.read_percent == 100 ? "read" : work.read_percent == 0 ? "write" : "rw";
  const auto milliseconds = [](std::chrono::nanoseconds time) { return absl::StrCat(time.count() / 1'000'000, "ms"); };
  const std::string log = settings.folder + "/fio.log";
  absl::StatusOr<Child> child = Child::Start(
      {"fio", "--name=work", "--thread", "--filename=" + path, "--ioengine=io_uring", "--direct=1", "--group_reporting",
       absl::StrCat("--size=", settings.size), absl::StrCat("--rw=", work.random ? "rand" : "", pattern),
       absl::StrCat("--bs=", work.block), absl::StrCat("--iodepth=", work.depth), absl::StrCat("--numjobs=", work.connections),
       absl::StrCat("--fdatasync=", work.flush_every), "--time_based", "--runtime=" + milliseconds(settings.duration),
       "--ramp_time=" + milliseconds(settings.warmup), "--output-format=terse", "--terse-version=3"},
      settings.client_cpus, log);
  if (!child.ok()) return child.status();
  const int code = child->Wait();
  const std::string line = child->LastWords();
  unlink(log.c_str());
  if (code != 0) return absl::UnavailableError(absl::StrCat("fio failed: ", line));
  const std::vector<absl::string_view> columns = absl::StrSplit(line, ';');
  double reads = 0;
  double writes = 0;
  if (columns.size() <= kRate + kWrites || !absl::SimpleAtod(columns[kRate], &reads) ||
      !absl::SimpleAtod(columns[kRate + kWrites], &writes)) {
    return absl::InternalError(absl::StrCat("fio told no figures: ", line));
  }
  Sample sample = {{"requests_per_second", reads + writes}, {"bytes_per_second", (reads + writes) * work.block}};
  for (size_t i = kLatencies; i < kLatenciesEnd; ++i) {
    absl::string_view text = columns[i + (reads > 0 ? 0 : kWrites)];
    const bool median = absl::ConsumePrefix(&text, "50.000000%=");
    double microseconds = 0;
    if ((median || absl::ConsumePrefix(&text, "99.000000%=")) && absl::SimpleAtod(text, &microseconds)) {
      sample[median ? "latency_p50_us" : "latency_p99_us"] = microseconds;
    }
  }
  return sample;
}

}  // namespace buse::bench

// SPDX-License-Identifier: Apache-2.0

#include "bench/contestant.h"

#include <unistd.h>

#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "bench/child.h"
#include "bench/fio.h"
#include "bench/load.h"
#include "bench/running.h"
#include "buse/io.h"

namespace buse::bench {
namespace {

using std::chrono::steady_clock;

double Seconds(std::chrono::nanoseconds duration) { return std::chrono::duration<double>(duration).count(); }

class Server : public Contestant {
 public:
  Server(const Subject& subject, const Settings& settings)
      : subject_(subject), settings_(settings), running_(subject, settings) {}

  // Starts it with a device of `size` bytes, and fills the first `filled` of them.
  absl::Status Start(uint64_t size, uint64_t filled) {
    absl::Status status = running_.Start(size);
    if (status.ok()) status = running_.WaitUntil([this] { return ConnectIdle(endpoint(), 1).status(); });
    if (!status.ok() || subject_.medium == Medium::kNone) return status;
    return FillAndCheck(endpoint(), filled);
  }

  absl::StatusOr<Sample> Measure(const Task& task) override {
    if (running_.child().Ended()) return absl::UnavailableError(absl::StrCat("it ended: ", running_.child().LastWords()));
    switch (task.kind) {
      case Task::Kind::kWork:
        return MeasureWork(task.work);
      case Task::Kind::kIdle:
        return MeasureIdle();
      case Task::Kind::kFootprint:
        return MeasureFootprint();
    }
    return absl::InternalError("no such task");
  }

 private:
  Endpoint endpoint() const { return {running_.socket(), subject_.export_name}; }

  absl::StatusOr<Sample> MeasureWork(const Work& work) {
    const Load load = {.work = work,
                       .size = settings_.size,
                       .warmup = settings_.warmup,
                       .duration = settings_.duration,
                       .spin = settings_.spin,
                       .cpus = &settings_.client_cpus};
    absl::StatusOr<LoadResult> result = Generate(endpoint(), load, [this] { return running_.child().CpuSeconds(); });
    if (!result.ok()) return result.status();
    if (result->requests == 0) return absl::UnavailableError("not one request was answered in the time measured");
    const double requests = static_cast<double>(result->requests);
    Sample sample = {{"requests_per_second", requests / result->seconds},
                     {"bytes_per_second", requests * work.block / result->seconds},
                     {"server_cpu_us_per_request", result->server_cpu_seconds / requests * 1e6},
                     {"client_cpu_us_per_request", result->client_cpu_seconds / requests * 1e6},
                     {"server_cpus_busy", result->server_cpu_seconds / result->seconds},
                     {"client_cpus_busy", result->client_cpu_seconds / result->seconds}};
    AddLatencies(result->latency, sample);
    return sample;
  }

  absl::StatusOr<Sample> MeasureIdle() {
    absl::StatusOr<std::vector<UniqueFd>> connections = ConnectIdle(endpoint(), 4);
    if (!connections.ok()) return connections.status();
    std::this_thread::sleep_for(settings_.warmup);
    const double before = running_.child().CpuSeconds();
    std::this_thread::sleep_for(settings_.duration);
    return Sample{{"server_cpu_us_per_second", (running_.child().CpuSeconds() - before) / Seconds(settings_.duration) * 1e6}};
  }

  absl::StatusOr<Sample> MeasureFootprint() {
    if (subject_.medium != Medium::kOwn) return absl::UnimplementedError("its bytes are not in its own memory");
    Server large(subject_, settings_);
    if (absl::Status status = large.Start(uint64_t{1} << 40, settings_.footprint_written); !status.ok()) return status;
    return Sample{{"memory_bytes", static_cast<double>(large.running_.child().Memory())},
                  {"written_bytes", static_cast<double>(settings_.footprint_written)}};
  }

  const Subject& subject_;
  const Settings& settings_;
  Running running_;
};

class Fio : public Contestant {
 public:
  explicit Fio(const Settings& settings) : settings_(settings), file_(settings.files_folder + "/fio") {}
  ~Fio() override { unlink(file_.c_str()); }

  absl::Status Prepare() { return MakeFile(file_, settings_.size, true); }

  absl::StatusOr<Sample> Measure(const Task& task) override {
    if (task.kind != Task::Kind::kWork) return absl::UnimplementedError("it is no server");
    return RunFio(file_, task.work, settings_);
  }

 private:
  const Settings& settings_;
  const std::string file_;
};

}  // namespace

void AddLatencies(const LatencyHistogram& latency, Sample& sample) {
  constexpr std::pair<const char*, double> kQuantiles[] = {
      {"latency_p1_us", 0.01},     {"latency_p10_us", 0.1},      {"latency_p25_us", 0.25}, {"latency_p50_us", 0.5},
      {"latency_p75_us", 0.75},    {"latency_p90_us", 0.9},      {"latency_p95_us", 0.95}, {"latency_p99_us", 0.99},
      {"latency_p99.9_us", 0.999}, {"latency_p99.99_us", 0.9999}};
  for (const auto& [name, quantile] : kQuantiles) sample[name] = static_cast<double>(latency.Quantile(quantile)) * 1e-3;
  sample["latency_max_us"] = static_cast<double>(latency.max()) * 1e-3;
}

absl::StatusOr<std::unique_ptr<Contestant>> StartServer(const Subject& subject, const Settings& settings) {
  auto server = std::make_unique<Server>(subject, settings);
  if (absl::Status status = server->Start(settings.size, settings.size); !status.ok()) return status;
  return server;
}

absl::StatusOr<std::unique_ptr<Contestant>> PrepareFio(const Settings& settings) {
  if (absl::Status status = CheckFio(); !status.ok()) return status;
  auto fio = std::make_unique<Fio>(settings);
  if (absl::Status status = fio->Prepare(); !status.ok()) return status;
  return fio;
}

std::string CommandLine(const Subject& subject) {
  return absl::StrReplaceAll(absl::StrJoin(subject.command, " "), {{"{bench}/", ""}});
}

}  // namespace buse::bench

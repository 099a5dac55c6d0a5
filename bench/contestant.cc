// SPDX-License-Identifier: Apache-2.0

#include "bench/contestant.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "bench/child.h"
#include "bench/load.h"
#include "buse/io.h"

namespace buse::bench {
namespace {

using std::chrono::steady_clock;

double Seconds(std::chrono::nanoseconds duration) { return std::chrono::duration<double>(duration).count(); }

// Makes a file that reads as zeroes, or that is written in full.
absl::Status MakeFile(const std::string& path, uint64_t size, bool written) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid() || ftruncate(fd.get(), size) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot make ", path, " of ", size, " bytes: ", std::strerror(errno)));
  }
  if (!written) return absl::OkStatus();
  const std::vector<std::byte> piece(1 << 20, std::byte{0x5a});
  for (uint64_t offset = 0; offset < size; offset += piece.size()) {
    const ConstBytes part(piece.data(), std::min<uint64_t>(piece.size(), size - offset));
    if (absl::Status status = WriteFully(fd.get(), offset, part, path); !status.ok()) return status;
  }
  return SyncData(fd.get(), path);
}

class Server : public Contestant {
 public:
  Server(const Subject& subject, const Settings& settings) : subject_(subject), settings_(settings) {}

  ~Server() override {
    child_.reset();
    for (const std::string& path : {socket_, file_, folder_ + "/log", folder_ + "/config", folder_ + "/pid"}) {
      if (!path.empty()) unlink(path.c_str());
    }
    rmdir(folder_.c_str());
  }

  // Starts it with a device of `size` bytes, and fills the first `filled` of them.
  absl::Status Start(uint64_t size, uint64_t filled) {
    static int serial = 0;
    folder_ = absl::StrCat(settings_.folder, "/", ++serial);
    if (mkdir(folder_.c_str(), 0700) != 0)
      return absl::UnavailableError(absl::StrCat("mkdir ", folder_, ": ", std::strerror(errno)));
    socket_ = folder_ + "/socket";
    if (subject_.medium == Medium::kTmpfs || subject_.medium == Medium::kFile) {
      const bool in_memory = subject_.medium == Medium::kTmpfs;
      if (in_memory && settings_.tmpfs_folder.empty()) return absl::NotFoundError("there is no /dev/shm for its file");
      file_ = absl::StrCat(in_memory ? settings_.tmpfs_folder : settings_.files_folder, "/", serial);
      if (absl::Status status = MakeFile(file_, RoomFor(size), false); !status.ok()) return status;
    }
    const auto fill_in = [&](const std::string& text) {
      return absl::StrReplaceAll(text, {{"{bench}", settings_.programs},
                                        {"{socket}", socket_},
                                        {"{file}", file_},
                                        {"{folder}", folder_},
                                        {"{size}", absl::StrCat(size >> 10, "K")},
                                        {"{bytes}", absl::StrCat(size)}});
    };
    if (!subject_.config.empty()) std::ofstream(folder_ + "/config") << fill_in(subject_.config);
    const auto start = [&](const std::vector<std::string>& words) {
      std::vector<std::string> command;
      for (const std::string& word : words) command.push_back(fill_in(word));
      return Child::Start(command, settings_.server_cpus, folder_ + "/log");
    };
    if (!subject_.prepare.empty()) {
      absl::StatusOr<Child> preparing = start(subject_.prepare);
      if (!preparing.ok()) return preparing.status();
      if (preparing->Wait() != 0)
        return absl::UnavailableError(absl::StrCat("its file cannot be made: ", preparing->LastWords()));
    }
    absl::StatusOr<Child> child = start(subject_.command);
    if (!child.ok()) return child.status();
    child_ = std::make_unique<Child>(*std::move(child));
    if (absl::Status status = WaitUntilUp(); !status.ok()) return status;
    return subject_.medium == Medium::kNone ? absl::OkStatus() : FillAndCheck(endpoint(), filled);
  }

  absl::StatusOr<Sample> Measure(const Task& task) override {
    if (child_->Ended()) return absl::UnavailableError(absl::StrCat("it ended: ", child_->LastWords()));
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
  Endpoint endpoint() const { return {socket_, subject_.export_name}; }

  absl::Status WaitUntilUp() {
    const auto until = steady_clock::now() + std::chrono::seconds(10);
    bool following = !subject_.daemon;
    absl::Status status;
    do {
      if (!following) following = child_->FollowTo(folder_ + "/pid");
      if (following && child_->Ended()) return absl::UnavailableError(absl::StrCat("it ended at once: ", child_->LastWords()));
      status = ConnectIdle(endpoint(), 1).status();
      if (following && status.ok()) return status;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    } while (steady_clock::now() < until);
    return absl::UnavailableError(absl::StrCat("it does not serve after 10 s: ", status.message()));
  }

  absl::StatusOr<Sample> MeasureWork(const Work& work) {
    const Load load = {.work = work,
                       .size = settings_.size,
                       .warmup = settings_.warmup,
                       .duration = settings_.duration,
                       .spin = settings_.spin,
                       .cpus = &settings_.client_cpus};
    absl::StatusOr<LoadResult> result = Generate(endpoint(), load, [this] { return child_->CpuSeconds(); });
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
    const double before = child_->CpuSeconds();
    std::this_thread::sleep_for(settings_.duration);
    return Sample{{"server_cpu_us_per_second", (child_->CpuSeconds() - before) / Seconds(settings_.duration) * 1e6}};
  }

  absl::StatusOr<Sample> MeasureFootprint() {
    if (subject_.medium != Medium::kOwn) return absl::UnimplementedError("its bytes are not in its own memory");
    Server large(subject_, settings_);
    if (absl::Status status = large.Start(uint64_t{1} << 40, settings_.footprint_written); !status.ok()) return status;
    return Sample{{"memory_bytes", static_cast<double>(large.child_->Memory())},
                  {"written_bytes", static_cast<double>(settings_.footprint_written)}};
  }

  const Subject& subject_;
  const Settings& settings_;
  std::string folder_;
  std::string socket_;
  std::string file_;
  std::unique_ptr<Child> child_;
};

class Fio : public Contestant {
 public:
  explicit Fio(const Settings& settings)
      : settings_(settings), file_(settings.files_folder + "/fio"), log_(settings.folder + "/fio.log") {}

  ~Fio() override {
    unlink(file_.c_str());
    unlink(log_.c_str());
  }

  absl::Status Prepare() { return MakeFile(file_, settings_.size, true); }

  absl::StatusOr<Sample> Measure(const Task& task) override {
    if (task.kind != Task::Kind::kWork) return absl::UnimplementedError("it is no server");
    const Work& work = task.work;
    const char* pattern = work.read_percent == 100 ? "read" : work.read_percent == 0 ? "write" : "rw";
    const auto milliseconds = [](std::chrono::nanoseconds time) { return absl::StrCat(time.count() / 1'000'000, "ms"); };
    absl::StatusOr<Child> child = Child::Start(
        {"fio", "--name=work", "--thread", "--filename=" + file_, "--ioengine=io_uring", "--direct=1", "--group_reporting",
         absl::StrCat("--rw=", work.random ? "rand" : "", pattern), absl::StrCat("--bs=", work.block),
         absl::StrCat("--iodepth=", work.depth), absl::StrCat("--numjobs=", work.connections),
         absl::StrCat("--fdatasync=", work.flush_every), "--time_based", "--runtime=" + milliseconds(settings_.duration),
         "--ramp_time=" + milliseconds(settings_.warmup), "--output-format=terse", "--terse-version=3"},
        settings_.server_cpus, log_);
    if (!child.ok()) return child.status();
    if (child->Wait() != 0) return absl::UnavailableError(absl::StrCat("fio failed: ", child->LastWords()));
    // Columns of fio's third terse format: requests per second of reads and of writes.
    const std::string line = child->LastWords();
    const std::vector<absl::string_view> columns = absl::StrSplit(line, ';');
    double reads = 0;
    double writes = 0;
    if (columns.size() < 49 || !absl::SimpleAtod(columns[7], &reads) || !absl::SimpleAtod(columns[48], &writes)) {
      return absl::InternalError(absl::StrCat("fio told no figures: ", line));
    }
    return Sample{{"requests_per_second", reads + writes}, {"bytes_per_second", (reads + writes) * work.block}};
  }

 private:
  const Settings& settings_;
  const std::string file_;
  const std::string log_;
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
  if (FindProgram("fio").empty()) return absl::NotFoundError("fio is not installed");
  auto fio = std::make_unique<Fio>(settings);
  if (absl::Status status = fio->Prepare(); !status.ok()) return status;
  return fio;
}

std::string CommandLine(const Subject& subject) {
  return absl::StrReplaceAll(absl::StrJoin(subject.command, " "), {{"{bench}/", ""}});
}

}  // namespace buse::bench

// SPDX-License-Identifier: Apache-2.0
//
// What Checksum costs: the same requests to a file and to a file under Checksum, in turns, so that whatever else the machine
// does concerns both; called by this program, and served on a socket. Prints the medians of the rounds, their ratios (1.00: as
// fast as the file), latencies, and what reaches the file.
//
//   bazel run -c opt //bench:checksum_benchmark -- [DIRECTORY [ROUNDS [WORK]]]     WORK: only those with that in their names

#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/contestant.h"
#include "bench/subjects.h"
#include "bench/work.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "layers/checksum.h"
#include "layers/file_backed.h"
#include "layers/mapped_array.h"
#include "layers/operation.h"
#include "layers/splitmix.h"
#include "layers/stats.h"

namespace buse {
namespace {

constexpr uint64_t kDisk = 256 << 20;

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

double Seconds(const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; }

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
}

struct Work {
  const char* name;
  bool write;
  bool random;
  bool flush_each;  // or once at the end, where anything is written
  bool cold;        // nothing is in the page cache
  uint64_t request;
  uint64_t requests;
};

constexpr Work kWorks[] = {
    {"sequential read 256k", false, false, false, false, 256 << 10, 1000},
    {"sequential read 256k, cold", false, false, false, true, 256 << 10, 1000},
    {"sequential write 256k", true, false, false, false, 256 << 10, 1000},
    {"random read 4k", false, true, false, false, 4096, 100000},
    {"random write 4k", true, true, false, false, 4096, 30000},
    {"random write 4k, flush each", true, true, true, false, 4096, 1000},
};

struct Result {
  double wall = 0;
  double cpu = 0;
  double p50 = 0;  // latencies, microseconds
  double p99 = 0;
};

double Median(std::vector<double> values, double quantile = 0.5) {
  const auto at = values.begin() + static_cast<ptrdiff_t>(quantile * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

// Aligned like the buffers of a server; not zeroes, for which Checksum has no sums, and different each time.
class Content {
 public:
  Content(uint64_t length, uint64_t seed) {
    Check(memory_.Open(length));
    SplitMix64 random(seed);
    for (std::byte& b : memory_.span()) b = static_cast<std::byte>(random());
  }
  Bytes bytes() const { return memory_.span(); }

 private:
  MappedArray<std::byte> memory_;
};

template <Device Stack>
Result Measure(typename Stack::State& state, const Work& work, uint64_t seed) {
  const Content content(work.request, seed);
  const Bytes bytes = content.bytes();
  std::vector<double> latencies(work.requests);
  SplitMix64 random(seed);
  const uint64_t places = Stack::Size(state) / work.request;
  const auto begin = std::chrono::steady_clock::now();
  const double cpu = CpuSeconds();
  auto last = begin;
  for (uint64_t i = 0; i < work.requests; ++i) {
    const uint64_t at = (work.random ? random() : i) % places * work.request;
    Check(work.write ? Stack::Write(state, at, bytes) : Stack::Read(state, at, bytes));
    if (work.flush_each) Check(Stack::Flush(state));
    const auto now = std::chrono::steady_clock::now();
    latencies[i] = std::chrono::duration<double, std::micro>(now - last).count();
    last = now;
  }
  if (work.write && !work.flush_each) Check(Stack::Flush(state));
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - begin;
  return {wall.count(), CpuSeconds() - cpu, Median(latencies), Median(latencies, 0.99)};
}

// Another descriptor of a file, to decide what of it the page cache holds, after its name is gone.
class PageCache {
 public:
  explicit PageCache(const std::string& path) : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) { unlink(path.c_str()); }
  PageCache(const PageCache&) = delete;
  PageCache& operator=(const PageCache&) = delete;
  ~PageCache() { close(fd_); }

  void Drop() { posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED); }
  // In large pieces, whatever it was written in.
  void Fill() {
    Drop();
    std::vector<char> piece(1 << 20);
    for (off_t at = 0; pread(fd_, piece.data(), piece.size(), at) > 0;) at += static_cast<off_t>(piece.size());
  }

 private:
  const int fd_;
};

template <Device Stack>
std::unique_ptr<typename Stack::State> Filled(const typename Stack::Config& config) {
  if constexpr (CanFormat<Stack>) Check(FormatStack<Stack>(config, [](uint64_t, uint64_t) {}));
  auto state = std::make_unique<typename Stack::State>();
  Check(Stack::Open(config, *state));
  const Content content(1 << 20, 7);
  const Bytes piece = content.bytes();
  const uint64_t size = Stack::Size(*state);
  for (uint64_t at = 0; at < size; at += piece.size()) {
    Check(Stack::Write(*state, at, piece.first(std::min<uint64_t>(piece.size(), size - at))));
  }
  Check(Stack::Flush(*state));
  return state;
}

void Compare(const std::string& directory, int rounds, const char* only) {
  const std::string plain_path = directory + "/checksum-benchmark-plain-" + std::to_string(getpid());
  const std::string path = directory + "/checksum-benchmark-" + std::to_string(getpid());
  const auto plain = Filled<FileBacked>({.path = plain_path, .create = kDisk});
  const auto summed = Filled<Checksum<FileBacked>>({.below = {.path = path, .create = kDisk}});
  PageCache caches[2] = {PageCache(plain_path), PageCache(path)};
  std::printf("%-29s %10s %10s %6s %6s %21s %21s\n", "", "file", "Checksum", "ratio", "CPU", "file p50/p99",
              "Checksum p50/p99");
  for (const Work& work : kWorks) {
    if (std::strstr(work.name, only) == nullptr) continue;
    for (PageCache& cache : caches) cache.Fill();
    std::vector<Result> results[2];
    for (int round = 0; round < rounds; ++round) {
      // Who is first, in turns.
      for (int i = 0; i < 2; ++i) {
        const bool sums = (round + i) % 2 != 0;
        if (work.cold) caches[sums].Drop();
        results[sums].push_back(sums ? Measure<Checksum<FileBacked>>(*summed, work, round + 1)
                                     : Measure<FileBacked>(*plain, work, round + 1));
      }
    }
    const auto median = [&](int which, double Result::*member) {
      std::vector<double> values;
      for (const Result& result : results[which]) values.push_back(result.*member);
      return Median(values);
    };
    const auto speed = [&](int which) {
      const double scale = work.random ? 1.0 : static_cast<double>(work.request) / 1e6;
      return static_cast<double>(work.requests) * scale / median(which, &Result::wall);
    };
    std::printf("%-29s %10.0f %10.0f %6.2f %6.2f %9.1f/%8.1f us %9.1f/%8.1f us\n", work.name, speed(0), speed(1),
                median(0, &Result::wall) / median(1, &Result::wall), median(0, &Result::cpu) / median(1, &Result::cpu),
                median(0, &Result::p50), median(0, &Result::p99), median(1, &Result::p50), median(1, &Result::p99));
    std::fflush(stdout);
  }
  std::printf("(sequential: MB/s, random: requests/s; a write-back run ends with a flush, which is counted)\n");
}

std::string OwnFolder() {
  char path[4096];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof(path));
  const std::string self(path, std::max<ssize_t>(0, n));
  return self.substr(0, self.rfind('/'));
}

// The same through servers, as a user has it: 256 KiB, eight requests in flight, files in the page cache. Nothing is flushed.
void CompareServed(const std::string& directory, int rounds, const char* only) {
  bench::Settings settings;
  CPU_ZERO(&settings.server_cpus);
  sched_getaffinity(0, sizeof(settings.server_cpus), &settings.server_cpus);
  settings.client_cpus = settings.server_cpus;
  settings.programs = OwnFolder();
  settings.folder = directory + "/checksum-benchmark-served-" + std::to_string(getpid());
  settings.files_folder = settings.folder + "-files";
  for (const std::string& folder : {settings.folder, settings.files_folder}) mkdir(folder.c_str(), 0700);
  std::vector<bench::Subject> subjects;
  for (const bench::Group& group : bench::MakeGroups({})) {
    for (const bench::Subject& subject : group.subjects) {
      const bool wanted = subject.name == "buse" || subject.name == "buse-checksum" || subject.name == "buse-safedisk";
      if (group.name == "file" && wanted) subjects.push_back(subject);
    }
  }
  std::printf("\n%-29s %10s %10s %6s %6s %10s %6s %6s   MB/s on a socket\n", "", "file", "Checksum", "ratio", "CPU", "safedisk",
              "ratio", "CPU");
  for (const char* name : {"256k-seqread-d8", "256k-seqwrite-d8"}) {
    const std::string title = std::string("served ") + name;
    if (std::strstr(title.c_str(), only) == nullptr) continue;
    std::vector<std::unique_ptr<bench::Contestant>> servers;
    for (const bench::Subject& subject : subjects) {
      auto server = bench::StartServer(subject, settings);
      Check(server.status());
      servers.push_back(*std::move(server));
    }
    const absl::StatusOr<bench::Work> work = bench::Work::Parse(name);
    Check(work.status());
    std::vector<std::vector<double>> speed(servers.size()), cpu(servers.size());
    for (int round = 0; round < rounds; ++round) {
      for (size_t i = 0; i < servers.size(); ++i) {
        const size_t which = (i + static_cast<size_t>(round)) % servers.size();
        absl::StatusOr<bench::Sample> sample = servers[which]->Measure({.work = *work});
        Check(sample.status());
        speed[which].push_back((*sample)["bytes_per_second"] / 1e6);
        cpu[which].push_back((*sample)["server_cpu_us_per_request"]);
      }
    }
    std::printf("%-29s %10.0f", title.c_str(), Median(speed[0]));
    for (size_t i = 1; i < servers.size(); ++i) {
      std::printf(" %10.0f %6.2f %6.2f", Median(speed[i]), Median(speed[i]) / Median(speed[0]),
                  Median(cpu[0]) / Median(cpu[i]));
    }
    std::printf("\n");
    std::fflush(stdout);
  }
  for (const std::string& folder : {settings.folder, settings.files_folder}) rmdir(folder.c_str());
}

// What one request leads to below, for each request.
void Count(const std::string& directory) {
  using Stack = Checksum<Stats<FileBacked>>;
  const std::string path = directory + "/checksum-benchmark-" + std::to_string(getpid());
  const auto state = Filled<Stack>({.below = {.below = {.path = path, .create = kDisk}}});
  unlink(path.c_str());
  std::printf("\n%-29s %10s %12s %8s %8s %8s   below, for each request\n", "", "reads", "bytes written", "writes", "FUA",
              "flushes");
  for (const Work& work : kWorks) {
    const StatsSnapshot before = state->below.hook.Snapshot();
    Measure<Stack>(*state, work, 1);
    const StatsSnapshot after = state->below.hook.Snapshot();
    const auto each = [&](Operation operation, uint64_t OperationStats::*member) {
      return static_cast<double>(after[operation].*member - before[operation].*member) / static_cast<double>(work.requests);
    };
    std::printf("%-29s %10.3f %12.0f %8.3f %8.3f %8.3f\n", work.name, each(Operation::kRead, &OperationStats::count),
                each(Operation::kWrite, &OperationStats::bytes) + each(Operation::kWriteThrough, &OperationStats::bytes),
                each(Operation::kWrite, &OperationStats::count), each(Operation::kWriteThrough, &OperationStats::count),
                each(Operation::kFlush, &OperationStats::count));
  }
}

}  // namespace
}  // namespace buse

int main(int argc, char** argv) {
  const std::string directory = argc > 1 ? argv[1] : "/var/tmp";
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 9;
  const char* const only = argc > 3 ? argv[3] : "";
  buse::Compare(directory, rounds, only);
  buse::CompareServed(directory, rounds, only);
  if (*only == '\0') buse::Count(directory);
}

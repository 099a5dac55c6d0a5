// SPDX-License-Identifier: Apache-2.0

#include "bench/in_process.h"

#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bench/histogram.h"
#include "bench/work.h"
#include "buse/device.h"
#include "buse/disk.h"
#include "buse/gate.h"
#include "buse/medium.h"
#include "layers/cache.h"
#include "layers/checksum.h"
#include "layers/file_backed.h"
#include "layers/operation.h"
#include "layers/splitmix.h"
#include "layers/stats.h"

namespace buse::bench {
namespace {

using std::chrono::steady_clock;

using File = Stats<FileBacked>;

double ProcessCpuSeconds() {
  timespec used;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
}

// The counters of the Stats in a stack.
template <class State>
StatsCounters& CountersOf(State& state) {
  if constexpr (requires { state.hook.Snapshot(); }) {
    return state.hook;
  } else {
    return CountersOf(state.below);
  }
}

// What arrived at the file.
struct Below {
  double read_bytes = 0;
  double written_bytes = 0;
  double writes = 0;
  double flushes = 0;

  explicit Below(const StatsSnapshot& stats) {
    const auto& read = stats[Operation::kRead];
    const auto& write = stats[Operation::kWrite];
    const auto& durable = stats[Operation::kWriteThrough];
    read_bytes = static_cast<double>(read.bytes);
    written_bytes = static_cast<double>(write.bytes + durable.bytes);
    writes = static_cast<double>(write.count + durable.count);
    // A durable write makes the medium flush as a Flush does.
    flushes = static_cast<double>(stats[Operation::kFlush].count + durable.count);
  }
};

template <Device Stack>
class OpenedStack : public Contestant {
 public:
  OpenedStack(Disk<Stack> disk, std::string path, const Settings& settings)
      : disk_(std::move(disk)), path_(std::move(path)), settings_(settings) {}

  ~OpenedStack() override { unlink(path_.c_str()); }

  absl::Status Fill() {
    const std::vector<std::byte> piece(1 << 20, std::byte{0x5a});
    for (uint64_t offset = 0; offset < settings_.size; offset += piece.size()) {
      if (absl::Status status = disk_.Write(offset, piece); !status.ok()) return status;
    }
    return disk_.Flush();
  }

  absl::StatusOr<Sample> Measure(const Task& task) override {
    if (task.kind != Task::Kind::kWork) return absl::UnimplementedError("it is no server");
    const Work& work = task.work;
    if (work.depth != 1) {
      return absl::InvalidArgumentError("a stack without a server is called by threads: say d1, and cN for N threads");
    }
    std::vector<Caller> callers;
    for (uint32_t i = 0; i < work.connections; ++i) callers.emplace_back(*this, work, i);
    const Below before(CountersOf(disk_.state()).Snapshot());
    const double cpu_before = ProcessCpuSeconds();
    const auto begin = steady_clock::now();
    std::vector<std::thread> threads;
    for (Caller& caller : callers) threads.emplace_back([&caller, until = begin + settings_.duration] { caller.Run(until); });
    for (std::thread& thread : threads) thread.join();
    if (absl::Status status = work.read_percent < 100 ? disk_.Flush() : absl::OkStatus(); !status.ok()) return status;
    const double seconds = std::chrono::duration<double>(steady_clock::now() - begin).count();
    const double cpu = ProcessCpuSeconds() - cpu_before;
    const Below after(CountersOf(disk_.state()).Snapshot());

    LatencyHistogram latency;
    double writes = 0;
    for (const Caller& caller : callers) {
      if (!caller.status.ok()) return caller.status;
      latency.Merge(caller.latency);
      writes += static_cast<double>(caller.writes);
    }
    if (latency.count() == 0) return absl::UnavailableError("not one request was answered in the time measured");
    const double requests = static_cast<double>(latency.count());
    Sample sample = {{"requests_per_second", requests / seconds},
                     {"bytes_per_second", requests * work.block / seconds},
                     {"server_cpu_us_per_request", cpu / requests * 1e6}};
    AddLatencies(latency, sample);
    if (writes > 0) {
      sample["below_bytes_written_per_write"] = (after.written_bytes - before.written_bytes) / writes;
      sample["below_writes_per_write"] = (after.writes - before.writes) / writes;
      sample["below_flushes_per_write"] = (after.flushes - before.flushes) / writes;
    }
    sample["below_bytes_read_per_request"] = (after.read_bytes - before.read_bytes) / requests;
    return sample;
  }

 private:
  struct Caller {
    Caller(OpenedStack& stack, const Work& work, uint32_t index)
        : stack(stack), work(work), random(index + 1), payload(work.block, std::byte{0x5a}) {
      blocks = stack.settings_.size / work.block;
      first = next = blocks * index / work.connections;
      last = std::max(first + 1, blocks * (index + 1) / work.connections);
    }

    void Run(steady_clock::time_point until) {
      sched_setaffinity(0, sizeof(stack.settings_.client_cpus), &stack.settings_.client_cpus);
      for (auto now = steady_clock::now(); now < until && status.ok();) {
        status = Request();
        const auto done = steady_clock::now();
        latency.Record(std::chrono::nanoseconds(done - now).count());
        now = done;
      }
    }

    absl::Status Request() {
      uint64_t block = 0;
      if (work.random) {
        block = static_cast<uint64_t>((static_cast<unsigned __int128>(random()) * blocks) >> 64);
      } else {
        block = next;
        next = next + 1 == last ? first : next + 1;
      }
      const Range range = {block * work.block, work.block};
      auto& state = stack.disk_.state();
      if (work.read_percent == 100 || (work.read_percent > 0 && random() % 100 < work.read_percent)) {
        return stack.gate_.Pass(range, [&] { return Stack::Read(state, range.offset, payload); });
      }
      absl::Status written = stack.gate_.Pass(range, [&] { return Stack::Write(state, range.offset, payload); });
      ++writes;
      if (!written.ok() || work.flush_every == 0 || writes % work.flush_every != 0) return written;
      return stack.gate_.Pass({}, [&] { return Stack::Flush(state); });
    }

    OpenedStack& stack;
    const Work& work;
    SplitMix64 random;
    std::vector<std::byte> payload;
    uint64_t blocks;
    uint64_t first;
    uint64_t next;
    uint64_t last;
    uint64_t writes = 0;
    absl::Status status;
    LatencyHistogram latency;
  };

  Disk<Stack> disk_;
  Gate<Stack::kConcurrency, Stack::kBlockSize> gate_;
  const std::string path_;
  const Settings& settings_;
};

template <Device Stack>
absl::StatusOr<std::unique_ptr<Contestant>> Open(const typename Stack::Config& config, const std::string& path,
                                                 const Settings& settings) {
  if constexpr (kFormats<Stack>) {
    if (absl::Status status = FormatStack<Stack>(config, [](uint64_t, uint64_t) {}); !status.ok()) return status;
  }
  absl::StatusOr<Disk<Stack>> disk = Disk<Stack>::Open(config);
  if (!disk.ok()) return disk.status();
  auto opened = std::make_unique<OpenedStack<Stack>>(*std::move(disk), path, settings);
  if (absl::Status status = opened->Fill(); !status.ok()) return status;
  return opened;
}

// Room for what a layer keeps besides, the same for all.
template <Device Stack>
typename Stack::Config ConfigOf(const std::string& path, const Settings& settings) {
  if constexpr (std::is_same_v<Stack, FileBacked>) {
    return {.path = path, .create = RoomFor(settings.size)};
  } else {
    return {.below = ConfigOf<typename Stack::Below>(path, settings)};
  }
}

// The cache is of so many quarters of the device.
template <Device Stack, int kQuarters = 0>
absl::StatusOr<std::unique_ptr<Contestant>> OpenOver(const std::string& path, const Settings& settings) {
  typename Stack::Config config = ConfigOf<Stack>(path, settings);
  if constexpr (kQuarters > 0) config.size = settings.size / 4 * kQuarters;
  return Open<Stack>(config, path, settings);
}

struct NamedStack {
  const char* name;
  const char* what;
  absl::StatusOr<std::unique_ptr<Contestant>> (*open)(const std::string& path, const Settings& settings);
};

constexpr std::array<NamedStack, 6> kStacks = {
    {{"file", "FileBacked", OpenOver<File>},
     {"checksum", "Checksum<FileBacked>", OpenOver<Checksum<File>>},
     {"cache-quarter", "Cache<FileBacked>, a cache of a quarter of the device", OpenOver<Cache<File>, 1>},
     {"cache-whole", "Cache<FileBacked>, a cache of twice the device", OpenOver<Cache<File>, 8>},
     {"cache-quarter-checksum", "Cache<Checksum<FileBacked>>, a cache of a quarter of the device",
      OpenOver<Cache<Checksum<File>>, 1>},
     {"cache-whole-checksum", "Cache<Checksum<FileBacked>>, a cache of twice the device", OpenOver<Cache<Checksum<File>>, 8>}}};

}  // namespace

std::vector<Subject> InProcessSubjects() {
  std::vector<Subject> subjects;
  for (const NamedStack& stack : kStacks) {
    subjects.push_back({stack.name, stack.what, Kind::kOurs, Medium::kInProcess, {"in", "process"}, {}});
  }
  return subjects;
}

absl::StatusOr<std::unique_ptr<Contestant>> OpenStack(const Subject& subject, const Settings& settings) {
  for (const NamedStack& stack : kStacks) {
    if (subject.name == stack.name) return stack.open(absl::StrCat(settings.files_folder, "/", subject.name), settings);
  }
  return absl::NotFoundError(absl::StrCat("there is no stack ", subject.name));
}

}  // namespace buse::bench

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
#include <tuple>
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
#include "layers/mirror.h"
#include "layers/operation.h"
#include "layers/parity.h"
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

// Calls `use` with the counters of each Stats in a stack.
template <class State, class Use>
void ForEachFile(State& state, Use use) {
  if constexpr (requires { state.hook.Snapshot(); }) {
    use(state.hook);
  } else if constexpr (requires { std::tuple_size<decltype(state.below)>::value; }) {
    std::apply([&](auto&... leg) { (ForEachFile(leg, use), ...); }, state.below);
  } else {
    ForEachFile(state.below, use);
  }
}

// What arrived at the files.
struct Below {
  double read_bytes = 0;
  double written_bytes = 0;
  double writes = 0;
  double flushes = 0;

  template <class State>
  explicit Below(State& state) {
    ForEachFile(state, [&](StatsCounters& counters) { Add(counters.Snapshot()); });
  }

  void Add(const StatsSnapshot& stats) {
    const auto& read = stats[Operation::kRead];
    const auto& write = stats[Operation::kWrite];
    const auto& durable = stats[Operation::kWriteThrough];
    read_bytes += static_cast<double>(read.bytes);
    written_bytes += static_cast<double>(write.bytes + durable.bytes);
    writes += static_cast<double>(write.count + durable.count);
    // A durable write makes the medium flush as a Flush does.
    flushes += static_cast<double>(stats[Operation::kFlush].count + durable.count);
  }
};

template <Device Stack>
class OpenedStack : public Contestant {
 public:
  // Takes `paths` away at the end.
  OpenedStack(Disk<Stack> disk, std::vector<std::string> paths, const Settings& settings)
      : disk_(std::move(disk)), paths_(std::move(paths)), settings_(settings) {}

  ~OpenedStack() override {
    for (const std::string& path : paths_) unlink(path.c_str());
  }

  // Goes on with what `config` says, over what is there.
  absl::Status Reopen(const typename Stack::Config& config) { return disk_.Reopen(config); }

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
    const Below before(disk_.state());
    const double cpu_before = ProcessCpuSeconds();
    const auto begin = steady_clock::now();
    std::vector<std::thread> threads;
    for (Caller& caller : callers) threads.emplace_back([&caller, until = begin + settings_.duration] { caller.Run(until); });
    for (std::thread& thread : threads) thread.join();
    if (absl::Status status = work.read_percent < 100 ? disk_.Flush() : absl::OkStatus(); !status.ok()) return status;
    const double seconds = std::chrono::duration<double>(steady_clock::now() - begin).count();
    const double cpu = ProcessCpuSeconds() - cpu_before;
    const Below after(disk_.state());

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
  const std::vector<std::string> paths_;
  const Settings& settings_;
};

template <Device Stack>
absl::StatusOr<std::unique_ptr<OpenedStack<Stack>>> Open(const typename Stack::Config& config, std::vector<std::string> paths,
                                                         const Settings& settings) {
  if constexpr (kFormats<Stack>) {
    if (absl::Status status = FormatStack<Stack>(config, [](uint64_t, uint64_t) {}); !status.ok()) return status;
  }
  absl::StatusOr<Disk<Stack>> disk = Disk<Stack>::Open(config);
  if (!disk.ok()) return disk.status();
  auto opened = std::make_unique<OpenedStack<Stack>>(*std::move(disk), std::move(paths), settings);
  if (absl::Status status = opened->Fill(); !status.ok()) return status;
  return opened;
}

// Files of `bytes` each, whose paths are added to `paths`: that of the only one is `path`.
template <Device Stack>
typename Stack::Config ConfigOf(const std::string& path, uint64_t bytes, std::vector<std::string>& paths) {
  if constexpr (std::is_same_v<Stack, FileBacked>) {
    paths.push_back(path);
    return {.path = path, .create = bytes};
  } else if constexpr (requires { std::tuple_size<typename Stack::Below>::value; }) {
    typename Stack::Config config;
    [&]<size_t... kLeg>(std::index_sequence<kLeg...>) {
      ((std::get<kLeg>(config.below) =
            ConfigOf<std::tuple_element_t<kLeg, typename Stack::Below>>(absl::StrCat(path, ".", kLeg), bytes, paths)),
       ...);
    }
    (std::make_index_sequence<std::tuple_size_v<typename Stack::Below>>());
    return config;
  } else {
    return {.below = ConfigOf<typename Stack::Below>(path, bytes, paths)};
  }
}

// The cache is of so many quarters of the device.
template <Device Stack, int kQuarters = 0>
absl::StatusOr<std::unique_ptr<Contestant>> OpenOver(const std::string& path, const Settings& settings) {
  std::vector<std::string> paths;
  // Room for what a layer keeps besides, the same for all.
  typename Stack::Config config = ConfigOf<Stack>(path, RoomFor(settings.size), paths);
  if constexpr (kQuarters > 0) config.size = settings.size / 4 * kQuarters;
  return Open<Stack>(config, std::move(paths), settings);
}

// Over legs that hold a `kData`th each, of which the first `kMissing` vanish once all is written.
template <Device Stack, uint64_t kData, size_t kMissing = 0>
absl::StatusOr<std::unique_ptr<Contestant>> OpenOverLegs(const std::string& path, const Settings& settings) {
  std::vector<std::string> paths;
  typename Stack::Config config = ConfigOf<Stack>(path, RoomFor(settings.size) / kData + (64 << 20), paths);
  absl::StatusOr<std::unique_ptr<OpenedStack<Stack>>> opened = Open<Stack>(config, paths, settings);
  if (!opened.ok() || kMissing == 0) return opened;
  for (size_t leg = 0; leg < kMissing; ++leg) unlink(paths[leg].c_str());
  std::apply([](auto&... leg) { ((leg.below.create = 0), ...); }, config.below);
  config.degraded = true;
  if (absl::Status status = (*opened)->Reopen(config); !status.ok()) return status;
  return opened;
}

struct NamedStack {
  const char* name;
  const char* what;
  absl::StatusOr<std::unique_ptr<Contestant>> (*open)(const std::string& path, const Settings& settings);
};

using TwoFiles = Mirror<File, File>;
using SixFiles = Parity<4, 2, File>;

constexpr std::array<NamedStack, 10> kStacks = {
    {{"file", "FileBacked", OpenOver<File>},
     {"checksum", "Checksum<FileBacked>", OpenOver<Checksum<File>>},
     {"cache-quarter", "Cache<FileBacked>, a cache of a quarter of the device", OpenOver<Cache<File>, 1>},
     {"cache-whole", "Cache<FileBacked>, a cache of twice the device", OpenOver<Cache<File>, 8>},
     {"cache-quarter-checksum", "Cache<Checksum<FileBacked>>, a cache of a quarter of the device",
      OpenOver<Cache<Checksum<File>>, 1>},
     {"cache-whole-checksum", "Cache<Checksum<FileBacked>>, a cache of twice the device", OpenOver<Cache<Checksum<File>>, 8>},
     {"mirror", "Mirror<FileBacked, FileBacked>", OpenOverLegs<TwoFiles, 1>},
     {"mirror-degraded", "the same, of which one file is missing", OpenOverLegs<TwoFiles, 1, 1>},
     {"parity", "Parity<4, 2, FileBacked>", OpenOverLegs<SixFiles, 4>},
     {"parity-degraded", "the same, of which two files are missing", OpenOverLegs<SixFiles, 4, 2>}}};

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

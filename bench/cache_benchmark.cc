// SPDX-License-Identifier: Apache-2.0
//
// What Cache costs: hits by one and by four threads (CPU time for each 4 KiB), and sequential reads and random writes through
// it beside the same without it.
//
//   bazel run -c opt //bench:cache_benchmark

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "layers/cache.h"
#include "layers/file_backed.h"
#include "layers/memory.h"
#include "layers/splitmix.h"

namespace buse {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kDisk = 256 << 20;

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

std::vector<std::byte> Ones(uint64_t length) { return std::vector<std::byte>(length, std::byte{1}); }

// A device shared by the threads of a benchmark, which its first one opens.
template <Device Stack>
std::unique_ptr<typename Stack::State> shared;

template <Device Stack>
void FillAndRead(const typename Stack::Config& config, uint64_t bytes) {
  shared<Stack> = std::make_unique<typename Stack::State>();
  Check(Stack::Open(config, *shared<Stack>));
  std::vector<std::byte> piece = Ones(1 << 20);
  for (uint64_t at = 0; at < bytes; at += piece.size()) Check(Stack::Write(*shared<Stack>, at, piece));
  Check(Stack::Flush(*shared<Stack>));
  for (uint64_t at = 0; at < bytes; at += piece.size()) Check(Stack::Read(*shared<Stack>, at, piece));
}

// Random 4 KiB reads of what is cached: range(0) MiB of it.
void Hit(benchmark::State& state) {
  using Stack = Cache<Memory>;
  const uint64_t bytes = state.range(0) << 20;
  if (state.thread_index() == 0) FillAndRead<Stack>({.size = 2 * bytes, .below = {.size = kDisk}}, bytes);
  SplitMix64 random(state.thread_index());
  std::vector<std::byte> out(kPage);
  for (auto _ : state) {
    Check(Stack::Read(*shared<Stack>, random() % (bytes / kPage) * kPage, out));
    benchmark::DoNotOptimize(out.data());
  }
}
BENCHMARK(Hit)->Arg(1)->Arg(64)->Threads(1)->Threads(4);

// The same, lent.
void HitByView(benchmark::State& state) {
  using Stack = Cache<Memory>;
  const uint64_t bytes = state.range(0) << 20;
  if (state.thread_index() == 0) FillAndRead<Stack>({.size = 2 * bytes, .below = {.size = kDisk}}, bytes);
  SplitMix64 random(state.thread_index());
  auto gather = std::make_unique<Gather>();
  for (auto _ : state) {
    Check(Stack::View(*shared<Stack>, {random() % (bytes / kPage) * kPage, kPage}, *gather));
    gather->Release();
  }
}
BENCHMARK(HitByView)->Arg(64)->Threads(1)->Threads(4);

// Random 4 KiB writes to what is dirty already.
void RewriteDirty(benchmark::State& state) {
  using Stack = Cache<Memory>;
  const uint64_t bytes = 16 << 20;
  if (state.thread_index() == 0) FillAndRead<Stack>({.size = 64 << 20, .below = {.size = kDisk}}, bytes);
  SplitMix64 random(state.thread_index());
  const std::vector<std::byte> in = Ones(kPage);
  for (auto _ : state) Check(Stack::Write(*shared<Stack>, random() % (bytes / kPage) * kPage, in));
}
BENCHMARK(RewriteDirty)->Threads(1)->Threads(4);

std::string Path() { return "/tmp/cache-benchmark-" + std::to_string(getpid()); }

template <Device Stack>
typename Stack::Config OverFile(const FileBacked::Config& file) {
  if constexpr (CanView<Stack>) {
    return {.size = 64 << 20, .below = file};
  } else {
    return file;
  }
}

template <Device Stack>
void OpenFile() {
  const std::string path = Path();
  FillAndRead<Stack>(OverFile<Stack>({.path = path, .create = kDisk}), kDisk);
  unlink(path.c_str());
}

// A file in the page cache, read from its beginning to its end, range(0) KiB with each call.
template <Device Stack>
void SequentialRead(benchmark::State& state) {
  OpenFile<Stack>();
  std::vector<std::byte> out(state.range(0) << 10);
  uint64_t at = 0;
  for (auto _ : state) {
    Check(Stack::Read(*shared<Stack>, at, out));
    at = (at + out.size()) % kDisk;
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * out.size()));
}
BENCHMARK_TEMPLATE(SequentialRead, FileBacked)->Arg(4)->Arg(128)->Arg(1024);
BENCHMARK_TEMPLATE(SequentialRead, Cache<FileBacked>)->Arg(4)->Arg(128)->Arg(1024);

// Random 4 KiB writes all over a file.
template <Device Stack>
void RandomWrite(benchmark::State& state) {
  OpenFile<Stack>();
  SplitMix64 random(1);
  const std::vector<std::byte> in = Ones(kPage);
  for (auto _ : state) Check(Stack::Write(*shared<Stack>, random() % (kDisk / kPage) * kPage, in));
}
BENCHMARK_TEMPLATE(RandomWrite, FileBacked);
BENCHMARK_TEMPLATE(RandomWrite, Cache<FileBacked>);

// Sequential 4 KiB writes, which are written back in large pieces.
template <Device Stack>
void SequentialWrite(benchmark::State& state) {
  OpenFile<Stack>();
  const std::vector<std::byte> in = Ones(kPage);
  uint64_t at = 0;
  for (auto _ : state) {
    Check(Stack::Write(*shared<Stack>, at, in));
    at = (at + kPage) % kDisk;
  }
}
BENCHMARK_TEMPLATE(SequentialWrite, FileBacked);
BENCHMARK_TEMPLATE(SequentialWrite, Cache<FileBacked>);

}  // namespace
}  // namespace buse

BENCHMARK_MAIN();

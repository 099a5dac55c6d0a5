// SPDX-License-Identifier: Apache-2.0
//
// What a request is made of, piece by piece, and a whole batch of them without a socket.
//
//   bazel run -c opt //bench:microbenchmarks -- --benchmark_filter=View

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "benchmark/benchmark.h"
#include "buse/connection.h"
#include "buse/device.h"
#include "buse/gate.h"
#include "buse/gather.h"
#include "buse/nbd.h"
#include "buse/range_mutex.h"
#include "buse/request.h"
#include "isa-l/crc.h"
#include "layers/memory.h"
#include "layers/passthrough.h"
#include "layers/stats.h"
#include "tests/wire.h"

namespace buse {
namespace {

constexpr uint64_t kSize = 64 << 20;
constexpr size_t kBlock = 4096;

void ParseRequest(benchmark::State& state) {
  const std::string wire = testing::Request(0, 0, 7, 8192, kBlock);
  for (auto _ : state) {
    benchmark::DoNotOptimize(wire.data());
    benchmark::DoNotOptimize(nbd::Request::Parse(reinterpret_cast<const std::byte*>(wire.data())));
  }
}
BENCHMARK(ParseRequest);

void CheckRequest(benchmark::State& state) {
  const nbd::Export about = {.size = kSize, .flags = nbd::TransmissionFlags<Memory>()};
  const nbd::Terms terms = {.flags = about.flags};
  nbd::Request request = {.magic = nbd::kRequestMagic, .type = nbd::kCmdRead, .offset = 8192, .length = kBlock};
  for (auto _ : state) {
    benchmark::DoNotOptimize(request);
    benchmark::DoNotOptimize(nbd::CheckRequest<false>(request, about, terms).error);
  }
}
BENCHMARK(CheckRequest);

void BuildReply(benchmark::State& state) {
  std::array<std::byte, nbd::kSimpleReplySize> wire;
  uint64_t cookie = 7;
  for (auto _ : state) {
    benchmark::DoNotOptimize(cookie);
    nbd::Store<uint32_t>(wire.data(), nbd::kSimpleReplyMagic);
    nbd::Store<uint32_t>(wire.data() + 4, 0);
    nbd::Store<uint64_t>(wire.data() + 8, cookie);
    benchmark::DoNotOptimize(wire);
  }
}
BENCHMARK(BuildReply);

// Header and payload of 32 replies, and their end. One iteration is one reply.
void GatherAppendAndRelease(benchmark::State& state) {
  const auto gather = std::make_unique<Gather>();
  const std::array<std::byte, 16> bytes = {};
  while (state.KeepRunningBatch(32)) {
    for (int i = 0; i < 32; ++i) {
      gather->Append(bytes);
      gather->Append(bytes);
    }
    benchmark::DoNotOptimize(gather->pieces());
    gather->Release();
  }
}
BENCHMARK(GatherAppendAndRelease);

// The same where a layer pins what it lends.
void GatherPinAndRelease(benchmark::State& state) {
  const auto gather = std::make_unique<Gather>();
  const std::array<std::byte, 16> bytes = {};
  int released = 0;
  while (state.KeepRunningBatch(32)) {
    for (int i = 0; i < 32; ++i) {
      gather->Append(bytes);
      gather->OnRelease([](void* count) { ++*static_cast<int*>(count); }, &released);
    }
    gather->Release();
  }
  benchmark::DoNotOptimize(released);
}
BENCHMARK(GatherPinAndRelease);

void RangeMutexGuard(benchmark::State& state) {
  RangeMutex mutex;
  for (auto _ : state) {
    RangeMutex::Guard guard(mutex, {8192, kBlock}, RangeMutex::Mode::kExclusive);
    benchmark::DoNotOptimize(&guard);
  }
}
BENCHMARK(RangeMutexGuard);

// A guard while others, which do not conflict, are held: it passes by all of them.
void RangeMutexGuardBesideSixteen(benchmark::State& state) {
  RangeMutex mutex;
  std::vector<std::unique_ptr<RangeMutex::Guard>> held;
  for (uint64_t i = 0; i < 16; ++i) {
    held.push_back(std::make_unique<RangeMutex::Guard>(mutex, Range{i << 20, kBlock}, RangeMutex::Mode::kExclusive));
  }
  for (auto _ : state) {
    RangeMutex::Guard guard(mutex, {8192, kBlock}, RangeMutex::Mode::kExclusive);
    benchmark::DoNotOptimize(&guard);
  }
}
BENCHMARK(RangeMutexGuardBesideSixteen);

template <Concurrency kConcurrency>
void GatePass(benchmark::State& state) {
  Gate<kConcurrency, kBlock> gate;
  uint64_t calls = 0;
  for (auto _ : state) {
    gate.Pass({8192, kBlock}, [&] { benchmark::DoNotOptimize(++calls); });
  }
}
BENCHMARK_TEMPLATE(GatePass, Concurrency::kParallel);
BENCHMARK_TEMPLATE(GatePass, Concurrency::kDisjoint);
BENCHMARK_TEMPLATE(GatePass, Concurrency::kSerial);

template <Device Stack>
typename Stack::Config ConfigOf() {
  if constexpr (std::is_same_v<Stack, Memory>) {
    return {.size = kSize};
  } else {
    return {.below = ConfigOf<typename Stack::Below>()};
  }
}

// A disk of which every page was written.
template <Device Stack>
std::unique_ptr<typename Stack::State> Filled() {
  auto device = std::make_unique<typename Stack::State>();
  const std::vector<std::byte> piece(1 << 20, std::byte{1});
  bool ok = Stack::Open(ConfigOf<Stack>(), *device).ok();
  for (uint64_t at = 0; ok && at < kSize; at += piece.size()) ok = Stack::Write(*device, at, piece).ok();
  return ok ? std::move(device) : nullptr;
}

template <Device Stack>
void View(benchmark::State& state) {
  const auto device = Filled<Stack>();
  const auto gather = std::make_unique<Gather>();
  uint64_t offset = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(Stack::View(*device, {offset, kBlock}, *gather).ok());
    gather->Release();
    offset = (offset + 37 * kBlock) % kSize;
  }
}
BENCHMARK_TEMPLATE(View, Memory);
BENCHMARK_TEMPLATE(View, Passthrough<Memory>);
BENCHMARK_TEMPLATE(View, Stats<Memory>);

template <bool kWrite>
void MemoryCopy(benchmark::State& state) {
  const auto device = Filled<Memory>();
  std::vector<std::byte> payload(state.range(0));
  uint64_t offset = 0;
  for (auto _ : state) {
    if constexpr (kWrite) {
      benchmark::DoNotOptimize(Memory::Write(*device, offset, payload).ok());
    } else {
      benchmark::DoNotOptimize(Memory::Read(*device, offset, payload).ok());
    }
    offset = (offset + 37 * payload.size()) % kSize;
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK_TEMPLATE(MemoryCopy, false)->Arg(4096)->Arg(256 << 10);
BENCHMARK_TEMPLATE(MemoryCopy, true)->Arg(4096)->Arg(256 << 10);

void Crc32c(benchmark::State& state) {
  std::vector<unsigned char> bytes(state.range(0), 0x5a);
  for (auto _ : state) {
    benchmark::DoNotOptimize(bytes.data());
    benchmark::DoNotOptimize(crc32_iscsi(bytes.data(), static_cast<int>(bytes.size()), 0));
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(Crc32c)->Arg(512)->Arg(4096)->Arg(256 << 10);

// A client that has a batch ready as often as it is asked, until its number is over.
class Batches {
 public:
  Batches(const std::string* batch, uint64_t count) : batch_(batch), left_(count) {}
  absl::StatusOr<size_t> Receive(std::span<iovec> pieces) {
    if (left_ == 0) return size_t{0};
    --left_;
    const size_t n = std::min(pieces[0].iov_len, batch_->size());
    std::memcpy(pieces[0].iov_base, batch_->data(), n);
    return n;
  }
  absl::Status Send(std::span<iovec> pieces) {
    benchmark::DoNotOptimize(pieces.data());
    return absl::OkStatus();
  }

 private:
  const std::string* batch_;
  uint64_t left_;
};

// The request loop with all but the system calls: 32 reads of 4 KiB from one receive. One iteration is one request.
template <Device Stack>
void Transmit(benchmark::State& state) {
  const auto device = Filled<Stack>();
  std::string batch;
  for (uint64_t i = 0; i < 32; ++i) batch += testing::Request(0, 0, i, i * 37 * kBlock, kBlock);
  Exported<Stack> exported = {.device = *device, .about = {.size = kSize, .flags = nbd::TransmissionFlags<Stack>()}};
  constexpr uint64_t kBatches = 100000;
  while (state.KeepRunningBatch(32 * kBatches)) {
    auto connection = std::make_unique<Connection<Stack, Batches>>(exported, Batches(&batch, kBatches), *Buffers::Create());
    if (!connection->Transmit().ok()) state.SkipWithError("the connection broke");
  }
}
BENCHMARK_TEMPLATE(Transmit, Memory);
BENCHMARK_TEMPLATE(Transmit, Stats<Memory>);

}  // namespace
}  // namespace buse

// SPDX-License-Identifier: Apache-2.0

#include "layers/cache.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "buse/operations.h"
#include "gtest/gtest.h"
#include "layers/contract.h"
#include "layers/file_backed.h"
#include "layers/null.h"
#include "layers/observer.h"
#include "layers/operation.h"
#include "layers/splitmix.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"
#include "tests/steer.h"

// Every member is compiled, called or not.
template struct buse::Cache<buse::testing::Full>;

namespace buse::testing {
namespace {

constexpr Capabilities kOverFull = {.write = true,
                                    .write_through = true,
                                    .trim = true,
                                    .write_zeroes = true,
                                    .extents = true,
                                    .prefetch = true,
                                    .view = true,
                                    .try_read = true,
                                    .try_write = true,
                                     .residency = true};
static_assert(kCapabilities<Cache<Full>> == kOverFull);
static_assert(kCapabilities<Cache<Writer>> ==
              Capabilities{
                  .write = true, .write_through = true, .prefetch = true, .view = true, .try_read = true, .try_write = true,
                                     .residency = true});
static_assert(kCapabilities<Cache<Bare>> == Capabilities{.prefetch = true, .view = true, .try_read = true, .residency = true});
static_assert(Cache<Full512>::kBlockSize == 512);
static_assert(Cache<BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);
static_assert(Cache<BasicBare<1, Concurrency::kDisjoint>>::kConcurrency == Concurrency::kDisjoint);

constexpr uint64_t kPage = 4096;

// Bytes that tell where they belong.
std::vector<std::byte> Pattern(uint64_t offset, uint64_t length, uint64_t version = 0) {
  std::vector<std::byte> bytes(length);
  for (uint64_t i = 0; i < length; ++i)
    bytes[i] = static_cast<std::byte>(Mix64((offset + i) / 8 + version * 7919) >> (offset + i) % 8 * 8);
  return bytes;
}

// A cache over a leaf of which the test sees every call.
template <class Leaf>
class CacheOver {
 public:
  using Stack = Cache<Contract<Steer<Contract<Leaf>>>>;

  explicit CacheOver(uint64_t size, uint64_t cached = 16 * kPage, uint64_t dirty = 0, bool write_through = false,
                     uint64_t read_ahead = 0) {
    script.medium = Pattern(0, size);
    absl::Status status =
        Stack::Open({.size = cached,
                     .write_through = write_through,
                     .dirty = dirty,
                     .read_ahead = read_ahead,
                     .below = {.below = {.steering = &steering, .below = {.below = {.size = size, .script = &script}}}}},
                    state);
    EXPECT_TRUE(status.ok()) << status;
  }

  absl::Status Write(uint64_t offset, ConstBytes in) { return Stack::Write(state, offset, in); }
  absl::Status Write(uint64_t offset, uint64_t length, uint64_t version) {
    return Write(offset, Pattern(offset, length, version));
  }
  void ExpectRead(uint64_t offset, ConstBytes expected) {
    std::vector<std::byte> out(expected.size());
    const absl::Status status = Stack::Read(state, offset, out);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(std::equal(out.begin(), out.end(), expected.begin())) << "at " << offset;
  }
  void ExpectRead(uint64_t offset, uint64_t length, uint64_t version) { ExpectRead(offset, Pattern(offset, length, version)); }
  bool MediumHas(uint64_t offset, uint64_t length, uint64_t version) {
    const std::vector<std::byte> bytes = Pattern(offset, length, version);
    return std::equal(bytes.begin(), bytes.end(), script.medium.begin() + offset);
  }
  std::vector<Call> TakeCalls() { return std::exchange(script.calls, {}); }

  Script script;
  Steering steering;
  typename Stack::State state;
};

using Calls = std::vector<Call>;

// ---- Reads.

TEST(CacheTest, WhatIsReadAgainIsNotReadBelow) {
  CacheOver<Full> cache(1 << 20);
  cache.ExpectRead(0, 8192, 0);
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Read", {0, 8192}}}));
  cache.ExpectRead(0, 8192, 0);
  cache.ExpectRead(5000, 100, 0);
  EXPECT_EQ(cache.TakeCalls(), Calls());
}

TEST(CacheTest, OnlyMissingPagesAreReadAndAdjacentOnesTogether) {
  CacheOver<Full> cache(1 << 20);
  cache.ExpectRead(2 * kPage, kPage, 0);
  cache.TakeCalls();
  cache.ExpectRead(0, 6 * kPage, 0);
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Read", {0, 2 * kPage}}, {"Read", {3 * kPage, 3 * kPage}}}));
}

TEST(CacheTest, WhatIsCachedNeedsNoWaitingNorDoesAWriteThatFindsRoom) {
  using Stack = CacheOver<Full>::Stack;
  CacheOver<Full> cache(1 << 20, 16 * kPage, 2 * kPage);
  std::vector<std::byte> out(2 * kPage);
  EXPECT_FALSE(Stack::TryRead(cache.state, 0, out));
  EXPECT_EQ(cache.TakeCalls(), Calls()) << "nothing is asked below";
  cache.ExpectRead(0, kPage, 0);
  EXPECT_FALSE(Stack::TryRead(cache.state, 0, out)) << "half of it is there";
  EXPECT_TRUE(Stack::TryRead(cache.state, 100, Bytes(out).first(3000)));
  EXPECT_TRUE(std::equal(out.begin(), out.begin() + 3000, Pattern(100, 3000).begin()));
  cache.TakeCalls();
  EXPECT_TRUE(Stack::TryWrite(cache.state, 0, Pattern(0, 2 * kPage, 1)));
  cache.ExpectRead(0, 2 * kPage, 1);
  EXPECT_FALSE(Stack::TryWrite(cache.state, 2 * kPage, Pattern(2 * kPage, kPage, 1))) << "too much is dirty";
  EXPECT_EQ(cache.TakeCalls(), Calls());
  CacheOver<Full> through(1 << 20, 16 * kPage, 0, true);
  EXPECT_FALSE(Stack::TryWrite(through.state, 0, Pattern(0, kPage, 1)));
}

TEST(CacheTest, PartsOfPagesReadWholePages) {
  CacheOver<Full> cache(10000);
  cache.ExpectRead(4000, 200, 0);
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Read", {0, 8192}}}));
  cache.ExpectRead(9999, 1, 0);
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Read", {8192, 1808}}}));
}

TEST(CacheTest, KeepsNoMoreThanItsSize) {
  CacheOver<Full> cache(1 << 20, 16 * kPage);
  for (uint64_t page = 0; page < 256; ++page) cache.ExpectRead(page * kPage, kPage, 0);
  cache.TakeCalls();
  for (uint64_t page = 0; page < 256; ++page) cache.ExpectRead(page * kPage, kPage, 0);
  EXPECT_GE(cache.TakeCalls().size(), 256u - 16);
}

TEST(CacheTest, AnErrorIsPassedOnAndNotCached) {
  CacheOver<Full> cache(1 << 20);
  cache.steering = [](const Request&, auto) { return absl::DataLossError("bad"); };
  std::array<std::byte, 4096> out;
  EXPECT_EQ(decltype(cache)::Stack::Read(cache.state, 0, out).code(), absl::StatusCode::kDataLoss);
  cache.steering = nullptr;
  cache.ExpectRead(0, kPage, 0);
}

// Fails what touches bytes 3000 to 3099 of the device.
Steering BadAt3000(Operation operation) {
  return [=](const Request& request, absl::FunctionRef<absl::Status()> next) {
    const bool touches = request.range.offset < 3100 && request.range.end() > 3000;
    return request.operation == operation && touches ? absl::DataLossError("bad") : next();
  };
}

TEST(CacheTest, AnErrorOfBytesNobodyAskedForIsNobodys) {
  CacheOver<Full> cache(1 << 20);
  ASSERT_TRUE(cache.Write(512, 512, 7).ok());
  cache.steering = BadAt3000(Operation::kRead);
  std::vector<std::byte> expected = Pattern(100, 2800);
  const std::vector<std::byte> newer = Pattern(512, 512, 7);
  std::copy(newer.begin(), newer.end(), expected.begin() + 412);
  cache.ExpectRead(100, expected);
  std::array<std::byte, 100> out;
  EXPECT_EQ(decltype(cache)::Stack::Read(cache.state, 3050, out).code(), absl::StatusCode::kDataLoss);
  // A part of a sector is written below where its page cannot be read.
  ASSERT_TRUE(cache.Write(200, 100, 8).ok());
  EXPECT_TRUE(cache.MediumHas(200, 100, 8));
  cache.ExpectRead(200, 100, 8);
}

TEST(CacheTest, SequentialRequestsReadAhead) {
  CacheOver<Full> cache(1 << 20, 1 << 20, 0, false, 65536);
  for (uint64_t page = 0; page < 256; ++page) cache.ExpectRead(page * kPage, kPage, 0);
  uint64_t reads = 0;
  uint64_t bytes = 0;
  uint64_t prefetches = 0;
  for (const Call& call : cache.TakeCalls()) {
    reads += call.operation == "Read";
    prefetches += call.operation == "Prefetch";
    if (call.operation == "Read") bytes += call.range.length;
  }
  EXPECT_EQ(bytes, 1u << 20);
  EXPECT_LE(reads, 20u);
  EXPECT_GE(prefetches, 15u);
}

TEST(CacheTest, ReadAheadTakesNoMoreThanOneCallWritesAndPrefetchesAsMuchAgain) {
  CacheOver<Full> cache(1 << 20, 1 << 20, 0, false, 1 << 20);
  for (uint64_t page = 0; page < 256; ++page) cache.ExpectRead(page * kPage, kPage, 0);
  uint64_t longest = 0;
  Range before;
  for (const Call& call : cache.TakeCalls()) {
    if (call.operation == "Prefetch") {
      EXPECT_EQ(call.range.offset, before.end());
      EXPECT_LE(call.range.length, before.length);
      if (call.range.end() < 1 << 20) {
        EXPECT_GE(call.range.length + kPage, before.length) << "what was read but for the page that was asked for";
      }
    }
    if (call.operation == "Read") before = call.range;
    longest = std::max(longest, call.range.length);
  }
  EXPECT_EQ(longest, 64u << 10);
}

TEST(CacheTest, WithoutReadAheadEveryMissIsOneCall) {
  CacheOver<Full> cache(1 << 20, 1 << 20);
  for (uint64_t page = 0; page < 256; ++page) cache.ExpectRead(page * kPage, kPage, 0);
  EXPECT_EQ(cache.TakeCalls().size(), 256u);
}

TEST(CacheTest, AnErrorOfWhatIsReadAheadIsNobodys) {
  CacheOver<Full> cache(1 << 20, 1 << 20, 0, false, 65536);
  cache.steering = [](const Request& request, absl::FunctionRef<absl::Status()> next) {
    if (request.operation == Operation::kPrefetch) return absl::InternalError("bad");
    return request.range.end() > 128 * kPage ? absl::DataLossError("bad") : next();
  };
  for (uint64_t page = 0; page < 128; ++page) cache.ExpectRead(page * kPage, kPage, 0);
  std::array<std::byte, 4096> out;
  EXPECT_EQ(decltype(cache)::Stack::Read(cache.state, 128 * kPage, out).code(), absl::StatusCode::kDataLoss);
}

TEST(CacheTest, PrefetchReadsWhatIsMissingOfHalfOfTheCache) {
  CacheOver<Full> cache(1 << 20);
  cache.ExpectRead(kPage, kPage, 0);
  cache.TakeCalls();
  ASSERT_TRUE(decltype(cache)::Stack::Prefetch(cache.state, {0, 1 << 20}).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Read", {0, kPage}}, {"Read", {2 * kPage, 6 * kPage}}}));
  cache.ExpectRead(0, 8 * kPage, 0);
  EXPECT_EQ(cache.TakeCalls(), Calls());
}

// ---- Writes.

TEST(CacheTest, WritesReachBelowWithFlushInOrderAndInLargePieces) {
  CacheOver<Full512> cache(1 << 20, 64 * kPage);
  for (const uint64_t page : {5, 2, 9, 3, 1, 4}) ASSERT_TRUE(cache.Write(page * kPage, kPage, 1).ok());
  ASSERT_TRUE(cache.Write(7 * kPage + 512, 1024, 1).ok());
  ASSERT_TRUE(cache.Write(7 * kPage + 2048, 512, 1).ok());
  EXPECT_EQ(cache.TakeCalls(), Calls());
  cache.ExpectRead(kPage, 5 * kPage, 1);
  EXPECT_EQ(cache.TakeCalls(), Calls());
  ASSERT_TRUE(decltype(cache)::Stack::Flush(cache.state).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Write", {kPage, 5 * kPage}},
                                      {"Write", {7 * kPage + 512, 1024}},
                                      {"Write", {7 * kPage + 2048, 512}},
                                      {"Write", {9 * kPage, kPage}},
                                      {"Flush", {}}}));
  EXPECT_TRUE(cache.MediumHas(kPage, 5 * kPage, 1));
  ASSERT_TRUE(decltype(cache)::Stack::Flush(cache.state).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Flush", {}}}));
}

TEST(CacheTest, WriteBackTakesAMebibyteAtATime) {
  CacheOver<Full> cache(4 << 20, 64 << 20);
  ASSERT_TRUE(cache.Write(kPage, (4 << 20) - kPage, 1).ok());
  ASSERT_TRUE(decltype(cache)::Stack::Flush(cache.state).ok());
  EXPECT_EQ(cache.TakeCalls().size(), 5u);
  EXPECT_TRUE(cache.MediumHas(kPage, (4 << 20) - kPage, 1));
}

TEST(CacheTest, ACallOfWriteBackIsA64thOfTheSizeWithinItsBounds) {
  const std::pair<uint64_t, uint64_t> kCases[] = {{uint64_t{1} << 20, 64 << 10},
                                                  {uint64_t{8} << 20, 128 << 10},
                                                  {uint64_t{64} << 20, 1 << 20},
                                                  {uint64_t{256} << 20, 1 << 20}};
  for (const auto& [size, most] : kCases) {
    SCOPED_TRACE(size);
    CacheOver<Full> cache(4 << 20, size, size);
    ASSERT_TRUE(cache.Write(0, std::min<uint64_t>(size / 2, 4 << 20), 1).ok());
    cache.TakeCalls();
    ASSERT_TRUE(decltype(cache)::Stack::Flush(cache.state).ok());
    uint64_t longest = 0;
    for (const Call& call : cache.TakeCalls()) longest = std::max(longest, call.range.length);
    EXPECT_EQ(longest, most);
  }
}

TEST(CacheTest, WhatIsDirtyWhenItIsDestroyedIsLost) {
  Script script;
  {
    auto state = std::make_unique<Cache<Full>::State>();
    ASSERT_TRUE(Cache<Full>::Open({.size = 16 * kPage, .below = {.size = 1 << 20, .script = &script}}, *state).ok());
    ASSERT_TRUE(Cache<Full>::Write(*state, 0, Pattern(0, kPage, 1)).ok());
    EXPECT_TRUE(script.calls.empty());
  }
  EXPECT_TRUE(script.calls.empty()) << "a destructor does no I/O";
}

TEST(CacheTest, OnlyPartsOfSectorsAreReadFirst) {
  CacheOver<Full> cache(10000);
  ASSERT_TRUE(cache.Write(512, 1024, 1).ok());
  ASSERT_TRUE(cache.Write(9728, 272, 1).ok());  // the last, short one
  EXPECT_EQ(cache.TakeCalls(), Calls());
  ASSERT_TRUE(cache.Write(600, 10, 2).ok());
  EXPECT_EQ(cache.TakeCalls(), Calls());
  ASSERT_TRUE(cache.Write(2000, 10, 2).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Read", {0, kPage}}}));
  ASSERT_TRUE(decltype(cache)::Stack::Flush(cache.state).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Write", {512, 1536}}, {"Write", {9728, 272}}, {"Flush", {}}}));
  EXPECT_TRUE(cache.MediumHas(0, 512, 0));
  EXPECT_TRUE(cache.MediumHas(512, 88, 1));
  EXPECT_TRUE(cache.MediumHas(600, 10, 2));
  EXPECT_TRUE(cache.MediumHas(610, 926, 1));
  EXPECT_TRUE(cache.MediumHas(1536, 464, 0));
  EXPECT_TRUE(cache.MediumHas(2000, 10, 2));
  EXPECT_TRUE(cache.MediumHas(9728, 272, 1));
}

TEST(CacheTest, AWriteThatFindsTooMuchDirtyWritesSomeBackInOrder) {
  CacheOver<Full> cache(1 << 20, 16 * kPage, 4 * kPage);
  for (const uint64_t page : {40, 10, 30, 20}) ASSERT_TRUE(cache.Write(page * kPage, kPage, 1).ok());
  EXPECT_EQ(cache.TakeCalls(), Calls());
  for (const uint64_t page : {15, 25, 5, 50}) ASSERT_TRUE(cache.Write(page * kPage, kPage, 1).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Write", {10 * kPage, kPage}},
                                      {"Write", {15 * kPage, kPage}},
                                      {"Write", {20 * kPage, kPage}},
                                      {"Write", {25 * kPage, kPage}}}));
  ASSERT_TRUE(cache.Write(41 * kPage, kPage, 1).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Write", {30 * kPage, kPage}}}));
  ASSERT_TRUE(cache.Write(60 * kPage, kPage, 1).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Write", {40 * kPage, 2 * kPage}}}));
}

TEST(CacheTest, NoMoreThanTheLimitIsEverDirty) {
  static constexpr uint64_t kLimit = 32 * kPage;
  CacheOver<Full512> cache(1 << 20, 64 * kPage, kLimit);
  std::atomic<bool> done = false;
  std::atomic<uint64_t> most = 0;
  std::thread watcher([&] {
    while (!done) {
      most = std::max<uint64_t>(most, cache.state.pager.dirty_bytes());
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> writers;
  for (uint64_t t = 0; t < 4; ++t) {
    writers.emplace_back([&, t] {
      SplitMix64 random(t);
      for (int i = 0; i < 2000; ++i) {
        ASSERT_TRUE(cache.Write((random() % 64 * 4 + t) * kPage + random() % 8 * 512, 512, 1).ok());
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  done = true;
  watcher.join();
  EXPECT_GT(cache.state.pager.dirty_bytes(), kLimit / 2);
  EXPECT_LE(most, kLimit);
  // And what is not below yet is no more than that.
  std::vector<std::byte> now(1 << 20);
  ASSERT_TRUE(decltype(cache)::Stack::Read(cache.state, 0, now).ok());
  uint64_t differing = 0;
  for (uint64_t at = 0; at < now.size(); at += kPage) {
    differing += std::memcmp(now.data() + at, cache.script.medium.data() + at, kPage) != 0;
  }
  EXPECT_LE(differing, kLimit / kPage);
}

TEST(CacheTest, WhatCannotBeWrittenBackStaysDirtyAndTheRestIsWritten) {
  CacheOver<Full> cache(1 << 20);
  for (const uint64_t page : {0, 2, 4}) ASSERT_TRUE(cache.Write(page * kPage, kPage, 1).ok());
  cache.steering = [](const Request& request, absl::FunctionRef<absl::Status()> next) {
    return request.operation == Operation::kWrite && request.range.offset == 2 * kPage ? absl::DataLossError("bad") : next();
  };
  EXPECT_EQ(decltype(cache)::Stack::Flush(cache.state).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(cache.MediumHas(0, kPage, 1));
  EXPECT_TRUE(cache.MediumHas(2 * kPage, kPage, 0));
  EXPECT_TRUE(cache.MediumHas(4 * kPage, kPage, 1));
  EXPECT_EQ(cache.state.pager.dirty_bytes(), kPage);
  cache.ExpectRead(2 * kPage, kPage, 1);
  EXPECT_EQ(decltype(cache)::Stack::Flush(cache.state).code(), absl::StatusCode::kDataLoss);
  cache.steering = nullptr;
  cache.TakeCalls();
  EXPECT_TRUE(decltype(cache)::Stack::Flush(cache.state).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Write", {2 * kPage, kPage}}, {"Flush", {}}}));
  EXPECT_TRUE(cache.MediumHas(2 * kPage, kPage, 1));
}

TEST(CacheTest, AWriteThatCannotMakeRoomSaysWhy) {
  CacheOver<Full> cache(1 << 20, 16 * kPage, kPage);
  ASSERT_TRUE(cache.Write(0, kPage, 1).ok());
  cache.steering = [](const Request&, auto) { return absl::ResourceExhaustedError("full"); };
  EXPECT_EQ(cache.Write(kPage, kPage, 1).code(), absl::StatusCode::kResourceExhausted);
  cache.steering = nullptr;
  EXPECT_TRUE(cache.Write(kPage, kPage, 1).ok());
  cache.ExpectRead(0, 2 * kPage, 1);
}

TEST(CacheTest, AWriteDoesNotWaitForTheWriteBackOfItsPageAndStaysDirty) {
  CacheOver<Full> cache(1 << 20);
  Barrier barrier;
  cache.steering = [&](const Request& request, absl::FunctionRef<absl::Status()> next) {
    if (request.operation == Operation::kWrite) barrier.Wait();
    return next();
  };
  ASSERT_TRUE(cache.Write(0, kPage, 1).ok());
  std::thread flusher([&] { EXPECT_TRUE(decltype(cache)::Stack::Flush(cache.state).ok()); });
  barrier.AwaitArrival();
  ASSERT_TRUE(cache.Write(512, 512, 2).ok());
  cache.ExpectRead(512, 512, 2);
  barrier.Open();
  flusher.join();
  EXPECT_TRUE(cache.MediumHas(0, kPage, 1));
  cache.TakeCalls();
  ASSERT_TRUE(decltype(cache)::Stack::Flush(cache.state).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Write", {512, 512}}, {"Flush", {}}}));
  EXPECT_TRUE(cache.MediumHas(512, 512, 2));
}

TEST(CacheTest, FlushWaitsForWhatAnotherThreadIsWritingBack) {
  CacheOver<Full> cache(1 << 20, 16 * kPage, kPage);
  Barrier barrier;
  std::atomic<bool> written = false;
  cache.steering = [&](const Request& request, absl::FunctionRef<absl::Status()> next) {
    if (request.operation == Operation::kWrite && request.range.offset == 0) {
      barrier.Wait();
      written = true;
    }
    EXPECT_TRUE(written || request.operation != Operation::kFlush);
    return next();
  };
  ASSERT_TRUE(cache.Write(0, kPage, 1).ok());
  std::thread writer([&] { EXPECT_TRUE(cache.Write(kPage, kPage, 1).ok()); });
  barrier.AwaitArrival();
  std::thread flusher([&] { EXPECT_TRUE(decltype(cache)::Stack::Flush(cache.state).ok()); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  barrier.Open();
  writer.join();
  flusher.join();
}

TEST(CacheTest, HitsDoNotWaitForMisses) {
  CacheOver<Full> cache(1 << 20);
  cache.ExpectRead(0, kPage, 0);
  Barrier barrier;
  cache.steering = [&](const Request&, absl::FunctionRef<absl::Status()> next) {
    barrier.Wait();
    return next();
  };
  std::thread miss([&] { cache.ExpectRead(kPage, kPage, 0); });
  barrier.AwaitArrival();
  cache.ExpectRead(0, kPage, 0);
  ASSERT_TRUE(cache.Write(0, kPage, 1).ok());
  ASSERT_TRUE(cache.Write(2 * kPage, kPage, 1).ok());
  barrier.Open();
  miss.join();
}

// ---- WriteThrough, and write-through.

TEST(CacheTest, WriteThroughGoesBelowAtOnceAndAlone) {
  CacheOver<Full> cache(1 << 20);
  ASSERT_TRUE(cache.Write(0, 3 * kPage, 1).ok());
  ASSERT_TRUE(decltype(cache)::Stack::WriteThrough(cache.state, kPage, Pattern(kPage, kPage, 2)).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"WriteThrough", {kPage, kPage}}}));
  cache.ExpectRead(kPage, kPage, 2);
  // What was dirty there is settled by it.
  ASSERT_TRUE(decltype(cache)::Stack::Flush(cache.state).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Write", {0, kPage}}, {"Write", {2 * kPage, kPage}}, {"Flush", {}}}));
  EXPECT_TRUE(cache.MediumHas(kPage, kPage, 2));
}

TEST(CacheTest, WriteThroughOfAPartOfADirtySectorWritesTheSectorFirst) {
  CacheOver<Full> cache(1 << 20);
  ASSERT_TRUE(cache.Write(0, 2048, 1).ok());
  ASSERT_TRUE(decltype(cache)::Stack::WriteThrough(cache.state, 600, Pattern(600, 1000, 2)).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Write", {512, 512}}, {"Write", {1536, 512}}, {"WriteThrough", {600, 1000}}}));
  cache.ExpectRead(512, 88, 1);
  cache.ExpectRead(600, 1000, 2);
  cache.ExpectRead(1600, 448, 1);
  ASSERT_TRUE(decltype(cache)::Stack::Flush(cache.state).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Write", {0, 512}}, {"Flush", {}}}));
}

TEST(CacheTest, WriteThroughIsWriteAndFlushWhereThereIsNoneBelow) {
  CacheOver<Writer> cache(1 << 20);
  ASSERT_TRUE(cache.Write(0, kPage, 1).ok());
  ASSERT_TRUE(decltype(cache)::Stack::WriteThrough(cache.state, kPage, Pattern(kPage, kPage, 2)).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Write", {kPage, kPage}}, {"Flush", {}}}));
  EXPECT_EQ(cache.state.pager.dirty_bytes(), kPage);
}

TEST(CacheTest, InWriteThroughModeNothingIsDirty) {
  CacheOver<Full> cache(1 << 20, 16 * kPage, 0, /*write_through=*/true);
  ASSERT_TRUE(cache.Write(100, 2 * kPage, 1).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Write", {100, 2 * kPage}}}));
  cache.ExpectRead(512, 2 * kPage - 512, 1);
  EXPECT_EQ(cache.TakeCalls(), Calls());
  ASSERT_TRUE(decltype(cache)::Stack::Flush(cache.state).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Flush", {}}}));
}

TEST(CacheTest, WhatFailedToBeWrittenBelowIsForgotten) {
  CacheOver<Full> cache(1 << 20, 16 * kPage, 0, /*write_through=*/true);
  cache.ExpectRead(0, kPage, 0);
  cache.steering = [](const Request&, auto) { return absl::InternalError("bad"); };
  EXPECT_FALSE(cache.Write(0, 512, 1).ok());
  cache.steering = nullptr;
  cache.TakeCalls();
  cache.ExpectRead(512, kPage - 512, 0);
  EXPECT_EQ(cache.TakeCalls(), Calls());
  cache.ExpectRead(0, 512, 0);
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Read", {0, kPage}}}));
}

// ---- Trim and WriteZeroes.

TEST(CacheTest, TrimAndWriteZeroesForgetWhatIsDirty) {
  CacheOver<Full> cache(1 << 20);
  ASSERT_TRUE(cache.Write(0, 4 * kPage, 1).ok());
  ASSERT_TRUE(decltype(cache)::Stack::Trim(cache.state, {kPage, kPage}).ok());
  ASSERT_TRUE(decltype(cache)::Stack::WriteZeroes(cache.state, {2 * kPage, 512}).ok());
  Calls calls = cache.TakeCalls();
  std::erase_if(calls, [](const Call& call) { return call.operation == "Read"; });  // by Contract, to see zeroes
  EXPECT_EQ(calls, (Calls{{"Trim", {kPage, kPage}}, {"WriteZeroes", {2 * kPage, 512}}}));
  cache.ExpectRead(kPage, std::vector<std::byte>(kPage + 512));
  ASSERT_TRUE(decltype(cache)::Stack::Flush(cache.state).ok());
  EXPECT_TRUE(cache.MediumHas(0, kPage, 1));
  EXPECT_EQ(std::count(cache.script.medium.begin() + kPage, cache.script.medium.begin() + 2 * kPage + 512, std::byte{0}),
            static_cast<ptrdiff_t>(kPage + 512));
  EXPECT_TRUE(cache.MediumHas(2 * kPage + 512, 2 * kPage - 512, 1));
}

TEST(CacheTest, TrimOfPartsOfSectorsSparesTheRest) {
  CacheOver<Full> cache(1 << 20);
  cache.ExpectRead(0, kPage, 0);
  ASSERT_TRUE(cache.Write(kPage, kPage, 1).ok());
  ASSERT_TRUE(decltype(cache)::Stack::Trim(cache.state, {100, 8000}).ok());
  for (int i = 0; i < 2; ++i) {
    cache.ExpectRead(0, 100, 0);
    cache.ExpectRead(100, std::vector<std::byte>(8000));
    cache.ExpectRead(8100, 92, 1);
    cache.ExpectRead(8192, 1000, 0);
    ASSERT_TRUE(decltype(cache)::Stack::Flush(cache.state).ok());
  }
  EXPECT_TRUE(cache.MediumHas(8100, 92, 1));
}

// Reading it again would store over what may be lent.
TEST(CacheTest, ASectorTrimmedInPartStaysCached) {
  CacheOver<Full> cache(1 << 20);
  cache.ExpectRead(0, kPage, 0);
  ASSERT_TRUE(decltype(cache)::Stack::Trim(cache.state, {100, 300}).ok());
  cache.TakeCalls();
  cache.ExpectRead(0, 100, 0);
  cache.ExpectRead(100, std::vector<std::byte>(300));
  cache.ExpectRead(400, kPage - 400, 0);
  EXPECT_EQ(cache.TakeCalls(), Calls{});
}

TEST(CacheTest, HugeTrimsAreFast) {
  using Stack = Cache<Null>;
  auto state = std::make_unique<Stack::State>();
  ASSERT_TRUE(Stack::Open({.size = 16 << 20, .below = {.size = uint64_t{1} << 50}}, *state).ok());
  const std::vector<std::byte> bytes(512 * kPage, std::byte{1});
  ASSERT_TRUE(Stack::Write(*state, 3 * kPage + 512, bytes).ok());
  ASSERT_TRUE(Stack::Write(*state, uint64_t{1} << 49, bytes).ok());
  EXPECT_GT(state->pager.dirty_bytes(), 0u);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(Stack::Trim(*state, {4 * kPage, (uint64_t{1} << 50) - 4 * kPage}).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  EXPECT_EQ(state->pager.dirty_bytes(), kPage);
  std::vector<std::byte> out(2 * kPage);
  ASSERT_TRUE(Stack::Read(*state, 3 * kPage, out).ok());
  EXPECT_EQ(std::count(out.begin() + 512, out.begin() + kPage, std::byte{1}), static_cast<ptrdiff_t>(kPage - 512));
  EXPECT_EQ(std::count(out.begin() + kPage, out.end(), std::byte{0}), static_cast<ptrdiff_t>(kPage));
}

// What a read has from below before the trim is not in the cache after it.
TEST(CacheTest, AReadBesideATrimDoesNotBringBackWhatWasThere) {
  CacheOver<Full> cache(1 << 20);
  Barrier barrier;
  std::atomic<bool> trimmed = false;
  cache.steering = [&](const Request& request, absl::FunctionRef<absl::Status()> next) {
    const absl::Status status = next();
    if (request.operation == Operation::kRead && !trimmed) barrier.Wait();
    if (request.operation == Operation::kTrim) trimmed = true;
    return status;
  };
  std::thread reader([&] {
    std::vector<std::byte> out(kPage);
    EXPECT_TRUE(decltype(cache)::Stack::Read(cache.state, 0, out).ok());
  });
  barrier.AwaitArrival();
  std::thread trimmer([&] { EXPECT_TRUE(decltype(cache)::Stack::Trim(cache.state, {0, kPage}).ok()); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(trimmed);
  barrier.Open();
  reader.join();
  trimmer.join();
  cache.ExpectRead(0, std::vector<std::byte>(kPage));
}

// ---- Extents.

TEST(CacheTest, DirtyPagesAreDataInExtents) {
  CacheOver<Full512> cache(64 * kPage);
  std::fill(cache.script.medium.begin(), cache.script.medium.end(), std::byte{0});
  cache.script.medium[63 * kPage] = std::byte{1};
  ASSERT_TRUE(cache.Write(2 * kPage + 512, 512, 1).ok());
  ASSERT_TRUE(cache.Write(3 * kPage, kPage, 1).ok());
  const auto extents = [&](Range range, size_t most) {
    std::vector<Extent> all;
    EXPECT_TRUE(decltype(cache)::Stack::Extents(cache.state, range, [&](const Extent& extent) {
                  all.push_back(extent);
                  return all.size() < most;
                }).ok());
    return all;
  };
  using Kind = Extent::Kind;
  const std::vector<Extent> expected = {{{0, 2 * kPage}, Kind::kHole},
                                        {{2 * kPage, 2 * kPage}, Kind::kData},
                                        {{4 * kPage, 59 * kPage}, Kind::kHole},
                                        {{63 * kPage, 512}, Kind::kData},
                                        {{63 * kPage + 512, 3584}, Kind::kHole}};
  EXPECT_EQ(extents({0, 64 * kPage}, 100), expected);
  EXPECT_EQ(extents({0, 64 * kPage}, 2).size(), 2u);
  EXPECT_EQ(extents({3 * kPage + 512, kPage}, 100),
            (std::vector<Extent>{{{3 * kPage + 512, 3584}, Kind::kData}, {{4 * kPage, 512}, Kind::kHole}}));
}

// ---- View.

std::vector<std::byte> Gathered(Gather& gather) {
  std::vector<std::byte> bytes;
  for (const iovec& piece : gather.pieces()) {
    const auto* data = static_cast<const std::byte*>(piece.iov_base);
    bytes.insert(bytes.end(), data, data + piece.iov_len);
  }
  return bytes;
}

TEST(CacheTest, ViewLendsWhatIsCachedAndReadsWhatIsMissing) {
  CacheOver<Full> cache(1 << 20);
  ASSERT_TRUE(cache.Write(kPage, kPage, 1).ok());
  auto gather = std::make_unique<Gather>();
  ASSERT_TRUE(decltype(cache)::Stack::View(cache.state, {kPage, kPage}, *gather).ok());
  EXPECT_EQ(cache.TakeCalls(), Calls());
  ASSERT_TRUE(decltype(cache)::Stack::View(cache.state, {100, 10000}, *gather).ok());
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Read", {0, kPage}}, {"Read", {2 * kPage, kPage}}}));
  EXPECT_EQ(gather->pieces().size(), 4u);
  std::vector<std::byte> expected = Pattern(kPage, kPage, 1);
  const auto append = [&](uint64_t offset, uint64_t length, uint64_t version) {
    const std::vector<std::byte> part = Pattern(offset, length, version);
    expected.insert(expected.end(), part.begin(), part.end());
  };
  append(100, 3996, 0);
  append(kPage, kPage, 1);
  append(2 * kPage, 1908, 0);
  EXPECT_EQ(Gathered(*gather), expected);
}

TEST(CacheTest, WhatIsLentStaysUntilItIsReleasedByAnyThread) {
  CacheOver<Full> cache(1 << 20, 8 * kPage);
  auto gather = std::make_unique<Gather>();
  ASSERT_TRUE(decltype(cache)::Stack::View(cache.state, {0, 4 * kPage}, *gather).ok());
  for (uint64_t page = 4; page < 256; ++page) cache.ExpectRead(page * kPage, kPage, 0);
  for (uint64_t page = 4; page < 256; ++page) ASSERT_TRUE(cache.Write(page * kPage, kPage, 1).ok());
  EXPECT_EQ(Gathered(*gather), Pattern(0, 4 * kPage));
  std::thread([&] { gather->Release(); }).join();
  for (uint64_t page = 4; page < 256; ++page) cache.ExpectRead(page * kPage, kPage, 1);
  cache.TakeCalls();
  cache.ExpectRead(0, 4 * kPage, 0);
  EXPECT_GT(cache.TakeCalls().size(), 0u);
}

TEST(CacheTest, WhereAllPagesAreLentRequestsPassByTheCache) {
  CacheOver<Full> cache(1 << 20, 4 * kPage);
  auto gather = std::make_unique<Gather>();
  ASSERT_TRUE(decltype(cache)::Stack::View(cache.state, {0, 4 * kPage}, *gather).ok());
  ASSERT_FALSE(gather->overflowed());
  const Gather::Mark mark = gather->mark();
  for (int i = 0; i < 2; ++i) {
    cache.ExpectRead(8 * kPage, 100, i);
    cache.ExpectRead(8 * kPage + 100, kPage, 0);
    // Another view overflows.
    ASSERT_TRUE(decltype(cache)::Stack::View(cache.state, {9 * kPage, kPage}, *gather).ok());
    EXPECT_TRUE(gather->overflowed());
    gather->Rewind(mark);
    ASSERT_TRUE(cache.Write(8 * kPage, 100, 1).ok());
    EXPECT_TRUE(cache.MediumHas(8 * kPage, 100, 1));
  }
  EXPECT_EQ(Gathered(*gather), Pattern(0, 4 * kPage));
  // What is lent can be written, and trimmed.
  ASSERT_TRUE(cache.Write(0, kPage, 2).ok());
  cache.ExpectRead(0, kPage, 2);
  ASSERT_TRUE(decltype(cache)::Stack::Trim(cache.state, {kPage, kPage}).ok());
  cache.ExpectRead(kPage, std::vector<std::byte>(kPage));
  gather->Release();
  cache.ExpectRead(10 * kPage, kPage, 0);
  cache.TakeCalls();
  cache.ExpectRead(10 * kPage, kPage, 0);
  EXPECT_EQ(cache.TakeCalls(), Calls());
}

TEST(CacheTest, WhereAllPagesAreDirtyRequestsPassByTheCache) {
  CacheOver<Full> cache(1 << 20, 4 * kPage, 4 * kPage);
  ASSERT_TRUE(cache.Write(0, 4 * kPage, 1).ok());
  cache.ExpectRead(4 * kPage, kPage, 0);
  cache.ExpectRead(4 * kPage, kPage, 0);
  EXPECT_EQ(cache.TakeCalls(), (Calls{{"Read", {4 * kPage, kPage}}, {"Read", {4 * kPage, kPage}}}));
  cache.ExpectRead(0, 4 * kPage, 1);
}

TEST(CacheTest, AViewOfMoreThanTheGatherHoldsOverflows) {
  CacheOver<Full> cache(8 << 20, 16 << 20);
  auto gather = std::make_unique<Gather>();
  ASSERT_TRUE(decltype(cache)::Stack::View(cache.state, {0, 8 << 20}, *gather).ok());
  EXPECT_TRUE(gather->overflowed());
}

TEST(CacheTest, AViewOfWhatCannotBeReadOverflows) {
  CacheOver<Full> cache(1 << 20);
  cache.steering = BadAt3000(Operation::kRead);
  auto gather = std::make_unique<Gather>();
  ASSERT_TRUE(decltype(cache)::Stack::View(cache.state, {0, kPage}, *gather).ok());
  EXPECT_TRUE(gather->overflowed());
}

// ---- What fails.

template <class Stack>
typename Stack::Config FailingConfig(Script& script, bool write_through) {
  return {.size = 8 * kPage,
          .write_through = write_through,
          .dirty = 2 * kPage,
          .read_ahead = 0,
          .below = {.size = 16 * kPage, .script = &script}};
}

template <class Stack>
void ExpectEveryFailureSurfaces(bool write_through) {
  const auto configure = [&](Script& script) { return FailingConfig<Stack>(script, write_through); };
  // In whole sectors: where a page cannot be read for a part of one, the write finds another way.
  static constexpr Range kRange = {kPage + (Stack::kBlockSize <= 512 ? 512 : 0), 5 * kPage};
  const std::vector<std::byte> bytes = Pattern(kRange.offset, kRange.length, 1);
  using State = typename Stack::State;
  const int writes = FailNth<Stack>(configure, kRange, [&](State& state) { return Stack::Write(state, kRange.offset, bytes); });
  EXPECT_GT(writes, 0);
  FailNth<Stack>(configure, kRange, [&](State& state) {
    absl::Status status = Stack::Write(state, kRange.offset, bytes);
    status.Update(Stack::Flush(state));
    return status;
  });
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](State& state) { return Stack::Flush(state); }), write_through ? 1 : 2);
  FailNth<Stack>(configure, kRange, [&](State& state) { return Stack::WriteThrough(state, kRange.offset, bytes); });
  FailNth<Stack>(configure, kRange, [&](State& state) { return Stack::Trim(state, kRange); });
  FailNth<Stack>(configure, kRange, [&](State& state) { return Stack::WriteZeroes(state, kRange); });
  FailNth<Stack>(configure, {},
                 [&](State& state) { return Stack::Extents(state, kRange, [](const Extent&) { return true; }); });
  std::vector<std::byte> out(8 * kPage);
  EXPECT_GT(FailNth<Stack>(configure, {}, [&](State& state) { return Stack::Read(state, 0, out); }), 0);
}

TEST(CacheTest, EveryFailureSurfaces) {
  for (const bool write_through : {false, true}) {
    ExpectEveryFailureSurfaces<Cache<Full>>(write_through);
    ExpectEveryFailureSurfaces<Cache<Full512>>(write_through);
    ExpectEveryFailureSurfaces<Cache<BasicFull<4096, Concurrency::kParallel>>>(write_through);
  }
}

TEST(CacheTest, OpenRefusesSizesThatAreNotPossible) {
  using Stack = Cache<Null>;
  const auto open = [](uint64_t size, uint64_t dirty) {
    auto state = std::make_unique<Stack::State>();
    return std::string(Stack::Open({.size = size, .dirty = dirty, .below = {.size = 1 << 20}}, *state).message());
  };
  EXPECT_EQ(open(16383, 0), "cache: a size of 16383 bytes is not possible: take 16384 to 8796093022208");
  EXPECT_EQ(open(65536, 65537),
            "cache: 65537 dirty bytes are not possible in a cache of 65536: take 4096 to 65536, or 0 for half of it");
  EXPECT_NE(open(65536, 4095), "");
  EXPECT_EQ(open(16384, 4096), "");
}

TEST(CacheTest, AReadOnlyDeviceBelowStaysReadOnly) {
  const std::string path = std::string(::testing::TempDir()) + "/cache-read-only-" + std::to_string(getpid());
  using Stack = Cache<FileBacked>;
  for (const bool read_only : {false, true}) {
    auto state = std::make_unique<Stack::State>();
    ASSERT_TRUE(Stack::Open({.below = {.path = path, .create = read_only ? 0u : 65536u, .read_only = read_only}}, *state).ok());
    EXPECT_EQ(buse::Writable<Stack>(*state), !read_only);
    std::vector<std::byte> out(65536, std::byte{1});
    ASSERT_TRUE(Stack::Read(*state, 0, out).ok());
    EXPECT_EQ(out, std::vector<std::byte>(65536));
  }
  unlink(path.c_str());
}

// ---- Many threads.

// Each thread has every fourth sector, so that they meet in every page, and small caches are always short of pages. Contract
// sees to it that no two calls that overlap meet below.
template <class Leaf>
void ExpectThreadsSeeTheirOwn(bool write_through) {
  static constexpr uint64_t kThreads = 4;
  static constexpr uint64_t kSectors = 1024;
  CacheOver<Leaf> cache(kSectors * 512, 24 * kPage, 8 * kPage, write_through, 32768);
  using Stack = typename CacheOver<Leaf>::Stack;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      SplitMix64 random(t);
      std::vector<uint64_t> versions(kSectors);
      std::vector<bool> zero(kSectors);
      auto gather = std::make_unique<Gather>();
      for (uint64_t i = 1; i <= 1500; ++i) {
        const uint64_t sector = random() % (kSectors / kThreads) * kThreads + t;
        const uint64_t at = sector * 512;
        const Range range = {at, 512};
        const std::vector<std::byte> expected = zero[sector] ? std::vector<std::byte>(512) : Pattern(at, 512, versions[sector]);
        std::vector<std::byte> out(512);
        switch (random() % 16) {
          case 0:
            ASSERT_TRUE(Stack::Flush(cache.state).ok());
            break;
          case 1:
            ASSERT_TRUE(Stack::Trim(cache.state, range).ok());
            zero[sector] = true;
            break;
          case 2:
            ASSERT_TRUE(Stack::WriteThrough(cache.state, at, Pattern(at, 512, i)).ok());
            versions[sector] = i;
            zero[sector] = false;
            break;
          case 3:
          case 4:
            ASSERT_TRUE(Stack::View(cache.state, range, *gather).ok());
            if (!gather->overflowed()) {
              ASSERT_EQ(Gathered(*gather), expected) << "view of " << sector;
            }
            gather->Release();
            break;
          case 5:
          case 6:
          case 7:
          case 8:
          case 9:
            ASSERT_TRUE(Stack::Read(cache.state, at, out).ok());
            ASSERT_EQ(out, expected) << "read of " << sector;
            break;
          default:
            ASSERT_TRUE(Stack::Write(cache.state, at, Pattern(at, 512, i)).ok());
            versions[sector] = i;
            zero[sector] = false;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(cache.state.pager.dirty_bytes(), 8 * kPage);
}

TEST(CacheTest, ThreadsThatMeetInEveryPageSeeTheirOwn) {
  for (const bool write_through : {false, true}) {
    ExpectThreadsSeeTheirOwn<Full512>(write_through);
    ExpectThreadsSeeTheirOwn<BasicFull<1, Concurrency::kDisjoint>>(write_through);
  }
}

}  // namespace
}  // namespace buse::testing

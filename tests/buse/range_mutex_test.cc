// SPDX-License-Identifier: Apache-2.0
//
// RangeMutex: who waits for whom, and that guards exclude what they say.

#include "buse/range_mutex.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace buse {
namespace {

using Guard = RangeMutex::Guard;
using Mode = RangeMutex::Mode;

// A thread that takes a guard and holds it until told to go.
class Holder {
 public:
  Holder(RangeMutex& mutex, Range range, Mode mode)
      : thread_([this, &mutex, range, mode] {
          Guard guard(mutex, range, mode);
          holds_ = true;
          holds_.notify_all();
          go_.wait(false);
        }) {}
  ~Holder() { Go(); }

  bool HoldsSoon() {
    holds_.wait(false);
    return holds_;
  }
  bool HoldsAfterAWhile() {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return holds_;
  }
  void Go() {
    go_ = true;
    go_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::atomic<bool> holds_{false};
  std::atomic<bool> go_{false};
  std::thread thread_;
};

TEST(RangeMutexTest, DisjointRangesDoNotWait) {
  RangeMutex mutex;
  Guard guard(mutex, {0, 512}, Mode::kExclusive);
  Holder neighbour(mutex, {512, 512}, Mode::kExclusive);
  EXPECT_TRUE(neighbour.HoldsSoon());
}

TEST(RangeMutexTest, SharedGuardsDoNotWaitForEachOther) {
  RangeMutex mutex;
  Guard guard(mutex, {0, 1024}, Mode::kShared);
  Holder other(mutex, {512, 1024}, Mode::kShared);
  EXPECT_TRUE(other.HoldsSoon());
}

TEST(RangeMutexTest, AnExclusiveGuardExcludesWhatOverlaps) {
  for (const auto& [first, second] : std::vector<std::pair<Mode, Mode>>{
           {Mode::kExclusive, Mode::kExclusive}, {Mode::kExclusive, Mode::kShared}, {Mode::kShared, Mode::kExclusive}}) {
    RangeMutex mutex;
    std::optional<Guard> guard(std::in_place, mutex, Range{0, 1024}, first);
    Holder other(mutex, {1023, 1}, second);
    EXPECT_FALSE(other.HoldsAfterAWhile());
    guard.reset();
    EXPECT_TRUE(other.HoldsSoon());
  }
}

TEST(RangeMutexTest, WhoCameFirstIsServedFirst) {
  RangeMutex mutex;
  std::optional<Guard> guard(std::in_place, mutex, Range{0, 512}, Mode::kShared);
  Holder exclusive(mutex, {0, 512}, Mode::kExclusive);
  EXPECT_FALSE(exclusive.HoldsAfterAWhile());
  // It would suit the first guard, but the exclusive one came before.
  Holder late(mutex, {0, 512}, Mode::kShared);
  EXPECT_FALSE(late.HoldsAfterAWhile());
  guard.reset();
  EXPECT_TRUE(exclusive.HoldsSoon());
  EXPECT_FALSE(late.HoldsAfterAWhile());
  exclusive.Go();
  EXPECT_TRUE(late.HoldsSoon());
}

TEST(RangeMutexTest, OneMayWaitForMany) {
  RangeMutex mutex;
  std::optional<Guard> a(std::in_place, mutex, Range{0, 512}, Mode::kShared);
  Holder b(mutex, {0, 512}, Mode::kShared);
  ASSERT_TRUE(b.HoldsSoon());
  Holder all(mutex, {0, UINT64_MAX}, Mode::kExclusive);
  EXPECT_FALSE(all.HoldsAfterAWhile());
  a.reset();
  EXPECT_FALSE(all.HoldsAfterAWhile());
  b.Go();
  EXPECT_TRUE(all.HoldsSoon());
}

TEST(RangeMutexTest, CountersUnderExclusiveGuardsAreExact) {
  constexpr uint64_t kCells = 8;
  constexpr int kRounds = 2000;
  RangeMutex mutex;
  std::array<uint64_t, kCells> cells{};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) {
        const uint64_t first = (i * 7 + t) % (kCells - 1);
        if (i % 4 == 0) {
          Guard guard(mutex, {first, 2}, Mode::kShared);
          EXPECT_LE(cells[first] + cells[first + 1], 4u * kRounds * 2);
        } else {
          Guard guard(mutex, {first, 2}, Mode::kExclusive);
          ++cells[first];
          ++cells[first + 1];
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  uint64_t sum = 0;
  for (uint64_t cell : cells) sum += cell;
  EXPECT_EQ(sum, 4u * 2 * (kRounds - kRounds / 4));
}

}  // namespace
}  // namespace buse

// SPDX-License-Identifier: Apache-2.0
//
// Gate: which calls run together, and that what must not does not.

#include "buse/gate.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/meeting.h"

namespace buse::testing {
namespace {

using SerialGate = Gate<Concurrency::kSerial, 1>;
using DisjointGate = Gate<Concurrency::kDisjoint, 512>;
using ParallelGate = Gate<Concurrency::kParallel, 1>;

constexpr Range kWholeDevice = {};

// Whether a call on each of two ranges passes a gate while the other runs.
template <class G>
bool Together(Range first, Range second, std::chrono::milliseconds patience) {
  Meeting meeting(patience);
  G gate;
  const auto pass = [&](Range range) {
    gate.Pass(range, [&] {
      meeting.Attend();
      return 0;
    });
  };
  return meeting.Between([&] { pass(first); }, [&] { pass(second); });
}

TEST(GateTest, TheResultOfTheCallComesBack) {
  EXPECT_EQ(SerialGate().Pass({0, 1}, [] { return 7; }), 7);
  EXPECT_EQ(DisjointGate().Pass({0, 1}, [] { return 7; }), 7);
  EXPECT_EQ(DisjointGate().Pass(kWholeDevice, [] { return 7; }), 7);
  EXPECT_EQ(ParallelGate().Pass({0, 1}, [] { return 7; }), 7);
}

TEST(GateTest, ASerialDeviceGetsOneCallAtATime) {
  EXPECT_FALSE(Together<SerialGate>({0, 512}, {4096, 512}, kAWhile));
  EXPECT_FALSE(Together<SerialGate>({0, 512}, kWholeDevice, kAWhile));
  EXPECT_FALSE(Together<SerialGate>(kWholeDevice, kWholeDevice, kAWhile));
}

TEST(GateTest, AParallelDeviceGetsAll) {
  EXPECT_TRUE(Together<ParallelGate>({0, 512}, {0, 512}, kUntilItComes));
  EXPECT_TRUE(Together<ParallelGate>({0, 512}, kWholeDevice, kUntilItComes));
}

TEST(GateTest, ADisjointDeviceGetsTogetherWhatHasNoBlockInCommon) {
  EXPECT_TRUE(Together<DisjointGate>({0, 512}, {512, 512}, kUntilItComes));
  EXPECT_FALSE(Together<DisjointGate>({0, 512}, {0, 512}, kAWhile));
  EXPECT_FALSE(Together<DisjointGate>({0, 4096}, {2048, 512}, kAWhile));
  EXPECT_FALSE(Together<DisjointGate>({0, 100}, {400, 112}, kAWhile)) << "one block, though no byte in common";
  EXPECT_TRUE(Together<DisjointGate>({0, 512}, kWholeDevice, kUntilItComes)) << "a flush runs beside anything";
}

TEST(GateTest, ADisjointDeviceMayEndAtTheLastAddress) {
  EXPECT_FALSE(Together<DisjointGate>({0, UINT64_MAX - 511}, {UINT64_MAX - 1023, 512}, kAWhile));
}

TEST(GateTest, CountersBehindASerialGateAreExact) {
  SerialGate gate;
  uint64_t counter = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) gate.Pass({0, 1}, [&] { return ++counter; });
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counter, 8000u);
}

TEST(GateTest, CountersOfBlocksBehindADisjointGateAreExact) {
  constexpr uint64_t kBlocks = 8;
  DisjointGate gate;
  std::array<uint64_t, kBlocks> counters = {};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 2000; ++i) {
        const uint64_t block = (i * 5 + t) % (kBlocks - 1);
        gate.Pass({block * 512 + 100, 512}, [&] { return ++counters[block] + ++counters[block + 1]; });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  uint64_t sum = 0;
  for (uint64_t counter : counters) sum += counter;
  EXPECT_EQ(sum, 2u * 8000);
}

}  // namespace
}  // namespace buse::testing

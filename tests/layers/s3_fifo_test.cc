// SPDX-License-Identifier: Apache-2.0
//
// S3Fifo: what its header says, and its hit rates on traces beside those of LRU, ARC and the optimum (Belady's).

#include "layers/s3_fifo.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <list>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "layers/splitmix.h"

namespace buse::testing {
namespace {

// ---- The policies. Each says whether an access hits.

class S3FifoSimulation {
 public:
  explicit S3FifoSimulation(uint32_t slots) { EXPECT_TRUE(fifo_.Open(slots).ok()); }

  bool Access(uint64_t key) {
    if (const auto found = slots_.find(key); found != slots_.end()) {
      fifo_.Touch(found->second);
      return true;
    }
    uint32_t slot = fifo_.Unused();
    if (slot == S3Fifo::kNone) {
      slot = fifo_.Evict([](uint32_t) { return true; });
      slots_.erase(fifo_.key(slot));
    }
    fifo_.Add(slot, key, Mix64(key + 1), S3Fifo::Reason::kUse);
    slots_[key] = slot;
    return false;
  }

 private:
  S3Fifo fifo_;
  std::unordered_map<uint64_t, uint32_t> slots_;
};

// Keys from the one used last to the one used longest ago.
class LruList {
 public:
  size_t size() const { return keys_.size(); }
  bool Remove(uint64_t key) {
    const auto found = places_.find(key);
    if (found == places_.end()) return false;
    keys_.erase(found->second);
    places_.erase(found);
    return true;
  }
  void Push(uint64_t key) { places_[key] = keys_.insert(keys_.begin(), key); }
  uint64_t Pop() {
    const uint64_t key = keys_.back();
    Remove(key);
    return key;
  }

 private:
  std::list<uint64_t> keys_;
  std::unordered_map<uint64_t, std::list<uint64_t>::iterator> places_;
};

class LruSimulation {
 public:
  explicit LruSimulation(uint32_t slots) : slots_(slots) {}

  bool Access(uint64_t key) {
    const bool hit = keys_.Remove(key);
    keys_.Push(key);
    if (keys_.size() > slots_) keys_.Pop();
    return hit;
  }

 private:
  const size_t slots_;
  LruList keys_;
};

// Megiddo and Modha, FAST 2003: keys used once and more than once, with ghosts of both, and a moving border.
class ArcSimulation {
 public:
  explicit ArcSimulation(uint32_t slots) : slots_(slots) {}

  bool Access(uint64_t key) {
    if (once_.Remove(key) || often_.Remove(key)) {
      often_.Push(key);
      return true;
    }
    if (once_ghosts_.size() > 0 || often_ghosts_.size() > 0) {
      const size_t once = std::max<size_t>(1, once_ghosts_.size());
      const size_t often = std::max<size_t>(1, often_ghosts_.size());
      if (once_ghosts_.Remove(key)) {
        border_ = std::min(slots_, border_ + std::max<size_t>(1, often / once));
        Replace(false);
        often_.Push(key);
        return false;
      }
      if (often_ghosts_.Remove(key)) {
        border_ -= std::min(border_, std::max<size_t>(1, once / often));
        Replace(true);
        often_.Push(key);
        return false;
      }
    }
    const size_t all = once_.size() + once_ghosts_.size() + often_.size() + often_ghosts_.size();
    if (once_.size() + once_ghosts_.size() == slots_) {
      if (once_.size() < slots_) {
        once_ghosts_.Pop();
        Replace(false);
      } else {
        once_.Pop();
      }
    } else if (all >= slots_) {
      if (all == 2 * slots_) often_ghosts_.Pop();
      Replace(false);
    }
    once_.Push(key);
    return false;
  }

 private:
  void Replace(bool from_often_ghosts) {
    if (once_.size() + often_.size() < slots_) return;
    if (once_.size() > 0 && (once_.size() > border_ || (from_often_ghosts && once_.size() == border_) || often_.size() == 0)) {
      once_ghosts_.Push(once_.Pop());
    } else {
      often_ghosts_.Push(often_.Pop());
    }
  }

  const size_t slots_;
  size_t border_ = 0;
  LruList once_;
  LruList often_;
  LruList once_ghosts_;
  LruList often_ghosts_;
};

using Trace = std::vector<uint64_t>;

template <class Simulation>
double HitRate(const Trace& trace, uint32_t slots) {
  Simulation simulation(slots);
  const auto hits = std::count_if(trace.begin(), trace.end(), [&](uint64_t key) { return simulation.Access(key); });
  return static_cast<double>(hits) / static_cast<double>(trace.size());
}

// Evicts what is used again latest, or not at all.
double OptimalHitRate(const Trace& trace, uint32_t slots) {
  std::vector<size_t> next(trace.size());
  std::unordered_map<uint64_t, size_t> seen;
  for (size_t i = trace.size(); i-- > 0;) {
    const auto found = seen.find(trace[i]);
    next[i] = found != seen.end() ? found->second : trace.size() + i;
    seen[trace[i]] = i;
  }
  std::set<std::pair<size_t, uint64_t>> by_next_use;
  std::unordered_map<uint64_t, size_t> cached;
  size_t hits = 0;
  for (size_t i = 0; i < trace.size(); ++i) {
    if (const auto found = cached.find(trace[i]); found != cached.end()) {
      ++hits;
      by_next_use.erase({found->second, trace[i]});
    } else if (cached.size() == slots) {
      cached.erase(by_next_use.rbegin()->second);
      by_next_use.erase(std::prev(by_next_use.end()));
    }
    by_next_use.insert({next[i], trace[i]});
    cached[trace[i]] = next[i];
  }
  return static_cast<double>(hits) / static_cast<double>(trace.size());
}

// ---- The traces.

constexpr uint32_t kSlots = 2048;
constexpr size_t kAccesses = 100000;

// Draws key number n with a probability that falls as n to the power of `skew`.
class Zipf {
 public:
  Zipf(size_t keys, double skew) : random_(1) {
    double sum = 0;
    for (size_t i = 0; i < keys; ++i) cumulative_.push_back(sum += 1 / std::pow(static_cast<double>(i + 1), skew));
  }
  uint64_t operator()() {
    const double at = static_cast<double>(random_() >> 11) / static_cast<double>(uint64_t{1} << 53) * cumulative_.back();
    return std::upper_bound(cumulative_.begin(), cumulative_.end(), at) - cumulative_.begin();
  }

 private:
  SplitMix64 random_;
  std::vector<double> cumulative_;
};

Trace ZipfTrace(double skew) {
  Zipf zipf(10 * kSlots, skew);
  Trace trace(kAccesses);
  std::generate(trace.begin(), trace.end(), [&] { return zipf(); });
  return trace;
}

// Now and then twice as many pages as there are slots are read once, as by a backup: half of all accesses.
Trace ZipfWithScansTrace() {
  Zipf zipf(10 * kSlots, 1.0);
  Trace trace;
  uint64_t scanned = 10 * kSlots;
  while (trace.size() < kAccesses) {
    for (uint32_t i = 0; i < 2 * kSlots; ++i) trace.push_back(zipf());
    for (uint32_t i = 0; i < 2 * kSlots; ++i) trace.push_back(scanned++);
  }
  return trace;
}

// Half as many pages again as there are slots, over and over, with a scan of half as many others after each round.
Trace LoopWithScansTrace() {
  Trace trace;
  uint64_t scanned = 10 * kSlots;
  while (trace.size() < kAccesses) {
    for (uint64_t key = 0; key < kSlots * 3 / 2; ++key) trace.push_back(key);
    for (uint32_t i = 0; i < kSlots / 2; ++i) trace.push_back(scanned++);
  }
  return trace;
}

struct Rates {
  double s3_fifo;
  double lru;
  double arc;
  double optimum;
};

Rates Compare(const char* name, const Trace& trace) {
  const Rates rates = {HitRate<S3FifoSimulation>(trace, kSlots), HitRate<LruSimulation>(trace, kSlots),
                       HitRate<ArcSimulation>(trace, kSlots), OptimalHitRate(trace, kSlots)};
  std::printf("%-24s S3-FIFO %.3f  LRU %.3f  ARC %.3f  optimum %.3f\n", name, rates.s3_fifo, rates.lru, rates.arc,
              rates.optimum);
  return rates;
}

void ExpectRates(const Rates& rates, const Rates& expected) {
  EXPECT_NEAR(rates.s3_fifo, expected.s3_fifo, 0.0055);
  EXPECT_NEAR(rates.lru, expected.lru, 0.0055);
  EXPECT_NEAR(rates.arc, expected.arc, 0.0055);
  EXPECT_NEAR(rates.optimum, expected.optimum, 0.0055);
}

// The table of the header.
TEST(S3FifoTest, HitRatesOnZipf) {
  ExpectRates(Compare("zipf 0.9", ZipfTrace(0.9)), {0.63, 0.57, 0.63, 0.74});
  ExpectRates(Compare("zipf 1.0", ZipfTrace(1.0)), {0.73, 0.69, 0.73, 0.81});
}

TEST(S3FifoTest, HitRatesWithScans) {
  ExpectRates(Compare("zipf 1.0 with scans", ZipfWithScansTrace()), {0.35, 0.29, 0.35, 0.40});
  ExpectRates(Compare("loop with scans", LoopWithScansTrace()), {0.26, 0, 0, 0.48});
}

// ---- The rules.

// Keys are slots' numbers plus 100.
class S3FifoRulesTest : public ::testing::Test {
 protected:
  void Fill(uint32_t slots) {
    ASSERT_TRUE(fifo_.Open(slots).ok());
    for (uint32_t i = 0; i < slots; ++i) {
      ASSERT_EQ(fifo_.Unused(), i);
      Add(i, 100 + i);
    }
    ASSERT_EQ(fifo_.Unused(), S3Fifo::kNone);
  }
  void Add(uint32_t slot, uint64_t key, S3Fifo::Reason reason = S3Fifo::Reason::kUse) {
    fifo_.Add(slot, key, Mix64(key), reason);
  }
  uint32_t Evict() {
    return fifo_.Evict([](uint32_t) { return true; });
  }

  S3Fifo fifo_;
};

TEST_F(S3FifoRulesTest, WhatWasNotUsedAgainLeavesInTheOrderInWhichItCame) {
  Fill(4);
  for (uint32_t i = 0; i < 4; ++i) EXPECT_EQ(Evict(), i);
  EXPECT_EQ(Evict(), S3Fifo::kNone);
}

TEST_F(S3FifoRulesTest, WhatWasUsedAgainStays) {
  Fill(20);
  fifo_.Touch(0);
  for (uint32_t i = 1; i < 20; ++i) EXPECT_EQ(Evict(), i);
  EXPECT_EQ(Evict(), 0u);
}

TEST_F(S3FifoRulesTest, TheFirstUseOfAGuessIsNoSecondUse) {
  ASSERT_TRUE(fifo_.Open(20).ok());
  for (uint32_t i = 0; i < 20; ++i) Add(fifo_.Unused(), 100 + i, S3Fifo::Reason::kGuess);
  fifo_.Touch(0);
  fifo_.Touch(1);
  fifo_.Touch(1);
  EXPECT_EQ(Evict(), 0u);
  EXPECT_EQ(Evict(), 2u);
}

// A scan of a hundred keys does not touch what came back once.
TEST_F(S3FifoRulesTest, WhatComesBackSurvivesAScan) {
  Fill(20);
  ASSERT_EQ(Evict(), 0u);
  Add(0, 100);  // the same key again
  for (uint64_t key = 1000; key < 1100; ++key) {
    const uint32_t slot = Evict();
    ASSERT_NE(slot, 0u);
    Add(slot, key);
  }
  EXPECT_EQ(fifo_.key(0), 100u);
}

TEST_F(S3FifoRulesTest, WhatIsHeldOrMayNotGoStays) {
  Fill(4);
  fifo_.Hold(0);
  EXPECT_EQ(fifo_.Evict([](uint32_t slot) { return slot != 1; }), 2u);
  EXPECT_EQ(fifo_.Evict([](uint32_t slot) { return slot != 1; }), 3u);
  EXPECT_EQ(fifo_.Evict([](uint32_t slot) { return slot != 1; }), S3Fifo::kNone);
  fifo_.PutBack(0);
  EXPECT_EQ(fifo_.Evict([](uint32_t slot) { return slot != 1; }), 0u);
  EXPECT_EQ(Evict(), 1u);
}

TEST_F(S3FifoRulesTest, DiscardedSlotsAreUnused) {
  Fill(4);
  fifo_.Discard(2);
  EXPECT_EQ(fifo_.Unused(), 2u);
  EXPECT_EQ(fifo_.Unused(), S3Fifo::kNone);
}

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// Contract: good calls pass, and for each clause a call or a device that breaks it dies with a message that names the clause.

#include "layers/contract.h"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "buse/device.h"
#include "buse/gather.h"
#include "gtest/gtest.h"
#include "layers/passthrough.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"

template struct buse::Contract<buse::testing::Full>;

namespace buse::testing {
namespace {

static_assert(kCapabilities<Contract<Full>> == kEverythingButBacking);
static_assert(kCapabilities<Contract<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Contract<Bare>> == kNothing);
static_assert(Contract<Full512>::kBlockSize == 512);
static_assert(Contract<BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);

using Bytes512 = std::array<std::byte, 512>;
constexpr auto kGoOn = [](const Extent&) { return true; };

TEST(ContractTest, EveryOperationArrivesBelowUnchanged) {
  using Stack = Contract<Full512>;
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 8192, .script = &script}}, state).ok());
  Bytes512 bytes{};
  Gather gather;
  EXPECT_EQ(Stack::Size(state), 8192u);
  EXPECT_TRUE(Stack::Read(state, 0, bytes).ok());
  EXPECT_TRUE(Stack::Write(state, 512, bytes).ok());
  EXPECT_TRUE(Stack::WriteThrough(state, 1024, bytes).ok());
  EXPECT_TRUE(Stack::Flush(state).ok());
  EXPECT_TRUE(Stack::Extents(state, {0, 8192}, kGoOn).ok());
  EXPECT_TRUE(Stack::Prefetch(state, {1536, 512}).ok());
  EXPECT_TRUE(Stack::View(state, {2048, 512}, gather).ok());
  EXPECT_TRUE(Stack::Resize(state, 4096).ok());
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Read", {0, 512}},
                                             {"Write", {512, 512}},
                                             {"WriteThrough", {1024, 512}},
                                             {"Flush", {}},
                                             {"Extents", {0, 8192}},
                                             {"Prefetch", {1536, 512}},
                                             {"View", {2048, 512}},
                                             {"Resize", {0, 4096}}}));
  script.calls.clear();
  EXPECT_TRUE(Stack::TryRead(state, 0, bytes));
  EXPECT_TRUE(Stack::TryWrite(state, 512, bytes));
  EXPECT_EQ(script.calls, (std::vector<Call>{{"TryRead", {0, 512}}, {"TryWrite", {512, 512}}}));
  script.calls.clear();
  Scatter scatter;
  EXPECT_TRUE(Stack::Place(state, {2560, 512}, scatter).ok());
  EXPECT_TRUE(Stack::Placed(state, {2560, 512}).ok());
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Place", {2560, 512}}, {"Placed", {2560, 512}}}));
}

TEST(ContractTest, WhatWasZeroedIsReadAtBothEnds) {
  using Stack = Contract<Full512>;
  constexpr uint64_t kSize = 5 << 20;
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = kSize, .script = &script}}, state).ok());
  EXPECT_TRUE(Stack::Trim(state, {512, 1024}).ok());
  EXPECT_TRUE(Stack::WriteZeroes(state, {4096, 8192}).ok());
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Trim", {512, 1024}},
                                             {"Read", {512, 1024}},
                                             {"WriteZeroes", {4096, 8192}},
                                             {"Read", {4096, 4096}},
                                             {"Read", {8192, 4096}}}));
  script.calls.clear();
  EXPECT_TRUE(Stack::Trim(state, {0, kSize}).ok());
  EXPECT_EQ(script.calls.size(), 1 + 2 * (1 << 20) / 4096u);
  EXPECT_EQ(script.calls.back(), (Call{"Read", {kSize - 4096, 4096}}));
}

TEST(ContractTest, ErrorsPass) {
  using Stack = Contract<Passthrough<Contract<Full512>>>;
  const auto configure = [](Script& script) {
    return Stack::Config{.below = {.below = {.below = {.size = 8192, .script = &script}}}};
  };
  Bytes512 bytes{};
  EXPECT_EQ(FailNth<Stack>(configure, {512, 512}, [&](auto& state) { return Stack::Write(state, 512, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Extents(state, {0, 8192}, kGoOn); }), 1);
}

// ---- Clauses that the caller breaks.

class ContractAboveDeathTest : public ::testing::Test {
 protected:
  using Stack = Contract<Full512>;

  ContractAboveDeathTest() { EXPECT_TRUE(Stack::Open({.below = {.size = 8192}}, state_).ok()); }

  Stack::State state_;
  Bytes512 bytes_{};
  Gather gather_;
};

TEST_F(ContractAboveDeathTest, CallsBeforeOpen) {
  Stack::State fresh;
  EXPECT_DEATH((void)Stack::Read(fresh, 0, bytes_), "Contract over leaf: read 0\\+512.*not open.*caller");
  EXPECT_DEATH((void)Stack::Flush(fresh), "flush.*not open");
  EXPECT_DEATH((void)Stack::Size(fresh), "size.*not open");
  EXPECT_DEATH((void)Stack::Resize(fresh, 512), "not open");
}

TEST_F(ContractAboveDeathTest, OpenTwice) {
  EXPECT_DEATH((void)Stack::Open({.below = {.size = 8192}}, state_), "open.*fresh State.*caller");
}

TEST_F(ContractAboveDeathTest, EmptyRange) {
  EXPECT_DEATH((void)Stack::Read(state_, 0, {}), "read 0\\+0, size 8192: the range must not be empty.*caller");
  EXPECT_DEATH((void)Stack::Trim(state_, {512, 0}), "trim 512\\+0.*empty");
}

TEST_F(ContractAboveDeathTest, RangePastTheEnd) {
  EXPECT_DEATH((void)Stack::Write(state_, 8192, bytes_), "write 8192\\+512, size 8192: the range must end within Size.*caller");
  EXPECT_DEATH((void)Stack::WriteThrough(state_, 8192, bytes_), "write-through 8192\\+512.*within Size");
  EXPECT_DEATH((void)Stack::View(state_, {0, 8704}, gather_), "view 0\\+8704.*within Size");
}

TEST_F(ContractAboveDeathTest, RangeThatWraps) {
  EXPECT_DEATH((void)Stack::Trim(state_, {512, UINT64_MAX - 511}), "trim 512\\+.*must not wrap.*caller");
  EXPECT_DEATH((void)Stack::Prefetch(state_, {UINT64_MAX - 511, 1024}), "prefetch .*must not wrap");
}

TEST_F(ContractAboveDeathTest, UnalignedRange) {
  EXPECT_DEATH((void)Stack::Read(state_, 1, bytes_), "read 1\\+512.*multiples of kBlockSize, which is 512.*caller");
  EXPECT_DEATH((void)Stack::WriteZeroes(state_, {0, 100}), "write-zeroes 0\\+100.*multiples of kBlockSize");
  EXPECT_DEATH((void)Stack::Extents(state_, {100, 412}, kGoOn), "extents 100\\+412.*multiples of kBlockSize");
  EXPECT_DEATH((void)Stack::Resize(state_, 100), "resize 100.*multiples of kBlockSize");
}

// The emit callback is a second call while the first one runs.
template <class Stack, class Inner>
void DuringExtents(typename Stack::State& state, Range range, Inner inner) {
  (void)Stack::Extents(state, range, [&](const Extent&) {
    inner();
    return false;
  });
}

TEST(ContractConcurrencyDeathTest, SerialMeansOneCallAtATime) {
  using Stack = Contract<BasicFull<512, Concurrency::kSerial>>;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 8192}}, state).ok());
  Bytes512 bytes{};
  EXPECT_DEATH((DuringExtents<Stack>(state, {0, 512}, [&] { (void)Stack::Read(state, 4096, bytes); })),
               "read 4096\\+512.*must not run beside extents 0\\+512, since kConcurrency is kSerial.*caller");
  EXPECT_DEATH((DuringExtents<Stack>(state, {0, 512}, [&] { (void)Stack::Flush(state); })), "flush.*must not run beside");
  // One after the other is fine.
  EXPECT_TRUE(Stack::Read(state, 0, bytes).ok());
  EXPECT_TRUE(Stack::Read(state, 0, bytes).ok());
}

TEST(ContractConcurrencyDeathTest, DisjointMeansNoCommonBlock) {
  using Stack = Contract<BasicFull<512, Concurrency::kDisjoint>>;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 8192}}, state).ok());
  Bytes512 bytes{};
  EXPECT_DEATH((DuringExtents<Stack>(state, {0, 1024}, [&] { (void)Stack::Read(state, 512, bytes); })),
               "read 512\\+512.*must not run beside extents 0\\+1024, since kConcurrency is kDisjoint");
  EXPECT_DEATH((DuringExtents<Stack>(state, {0, 1024}, [&] { (void)Stack::Resize(state, 4096); })),
               "resize 4096.*not run beside");
  DuringExtents<Stack>(state, {0, 1024}, [&] {
    EXPECT_TRUE(Stack::Read(state, 1024, bytes).ok());
    EXPECT_TRUE(Stack::Flush(state).ok());
  });
}

TEST(ContractConcurrencyTest, ParallelMeansAnything) {
  using Stack = Contract<Full512>;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 8192}}, state).ok());
  Bytes512 bytes{};
  DuringExtents<Stack>(state, {0, 1024}, [&] { EXPECT_TRUE(Stack::Write(state, 0, bytes).ok()); });
}

TEST(ContractConcurrencyTest, ThreadsOnDisjointRangesPass) {
  using Stack = Contract<BasicFull<512, Concurrency::kDisjoint>>;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 8192}}, state).ok());
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&state, t] {
      Bytes512 bytes{};
      for (int i = 0; i < 200; ++i) {
        EXPECT_TRUE(Stack::Write(state, t * 512, bytes).ok());
        EXPECT_TRUE(Stack::Trim(state, {t * 512, 512}).ok());
        EXPECT_TRUE(Stack::Flush(state).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// ---- Clauses that the device breaks.

enum class Lie {
  kNone,
  kOddSize,
  kNoExtent,
  kEmptyExtent,
  kGap,
  kNotInOrder,
  kPastTheRange,
  kUnalignedExtent,
  kGoesOn,
  kDirtyNotCached,
  kShortView,
  kLongView,
  kShortPlace,
  kOverflow,
  kTrimKeeps,
  kTrimKeepsLastByte,
  kWriteZeroesKeeps,
  kResizeIgnored,
  kResizeGarbage,
};

struct Liar {
  using Base = Full512;
  struct Config {
    Lie lie = Lie::kNone;
    Script* script = nullptr;
    std::function<void()> during_trim = [] {};
  };
  struct State {
    Base::State base;
    Lie lie = Lie::kNone;
    std::function<void()> during_trim;
  };
  static constexpr uint64_t kBlockSize = 512;
  static constexpr Concurrency kConcurrency = Concurrency::kParallel;

  static absl::Status Open(const Config& config, State& self) {
    self.lie = config.lie;
    self.during_trim = config.during_trim;
    return Base::Open({.size = 8192, .script = config.script}, self.base);
  }
  static uint64_t Size(const State& self) { return Base::Size(self.base) + (self.lie == Lie::kOddSize ? 1 : 0); }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) { return Base::Read(self.base, offset, out); }
  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) { return Base::Write(self.base, offset, in); }
  static absl::Status Flush(State& self) { return Base::Flush(self.base); }
  static absl::Status Trim(State& self, Range range) {
    if (self.lie == Lie::kTrimKeeps) return absl::OkStatus();
    absl::Status status = Base::Trim(self.base, range);
    if (self.lie == Lie::kTrimKeepsLastByte) self.base.script->medium[range.end() - 1] = std::byte{1};
    self.during_trim();
    return status;
  }
  static absl::Status WriteZeroes(State& self, Range range) {
    return self.lie == Lie::kWriteZeroesKeeps ? absl::OkStatus() : Base::WriteZeroes(self.base, range);
  }
  static absl::Status Extents(State& self, Range range, EmitExtent emit) {
    const uint64_t at = range.offset;
    switch (self.lie) {
      case Lie::kNoExtent:
        break;
      case Lie::kEmptyExtent:
        emit({{at, 0}});
        break;
      case Lie::kGap:
        if (emit({{at, 512}})) emit({{at + 1024, 512}});
        break;
      case Lie::kNotInOrder:
        emit({{at + 512, 512}});
        break;
      case Lie::kPastTheRange:
        emit({{at, range.length + 512}});
        break;
      case Lie::kUnalignedExtent:
        emit({{at, 100}});
        break;
      case Lie::kGoesOn:
        emit({{at, 512}});
        emit({{at + 512, 512}});
        break;
      default:
        emit({range});
    }
    return absl::OkStatus();
  }
  // The same lies.
  static absl::Status Residency(State& self, Range range, EmitResident emit) {
    const bool dirty = self.lie == Lie::kDirtyNotCached;
    return Extents(self, range, [&](const Extent& extent) { return emit({extent.range, false, dirty}); });
  }
  static absl::Status View(State& self, Range range, Gather& gather) {
    if (self.lie == Lie::kShortView) range.length -= 1;
    if (self.lie == Lie::kLongView) range.length += 1;
    if (self.lie == Lie::kOverflow) {
      for (size_t i = 0; i < Gather::kMaxPieces; ++i) gather.AppendZeroes(1);
    }
    return Base::View(self.base, range, gather);
  }
  static absl::Status Place(State& self, Range range, Scatter& scatter) {
    if (self.lie == Lie::kShortPlace) range.length -= 1;
    if (self.lie == Lie::kOverflow) scatter.Overflow();
    return Base::Place(self.base, range, scatter);
  }
  static absl::Status Placed(State& self, Range range) { return Base::Placed(self.base, range); }
  static absl::Status Resize(State& self, uint64_t size) {
    if (self.lie == Lie::kResizeIgnored) return absl::OkStatus();
    const uint64_t before = Size(self);
    absl::Status status = Base::Resize(self.base, size);
    if (self.lie == Lie::kResizeGarbage && size > before) self.base.script->medium[before] = std::byte{1};
    return status;
  }
};

using OverLiar = Contract<Liar>;

// A device full of ones that tells `lie`.
class ContractBelowDeathTest : public ::testing::Test {
 protected:
  OverLiar::State& Tell(
      Lie lie, std::function<void()> during_trim = [] {}) {
    script_.medium.assign(8192, std::byte{1});
    state_ = std::make_unique<OverLiar::State>();
    EXPECT_TRUE(
        OverLiar::Open({.below = {.lie = lie, .script = &script_, .during_trim = std::move(during_trim)}}, *state_).ok());
    return *state_;
  }

  Script script_;
  std::unique_ptr<OverLiar::State> state_;
  Gather gather_;
};

TEST_F(ContractBelowDeathTest, NothingDiesWithoutALie) {
  OverLiar::State& state = Tell(Lie::kNone);
  EXPECT_TRUE(OverLiar::Trim(state, {0, 1024}).ok());
  EXPECT_TRUE(OverLiar::WriteZeroes(state, {4096, 1024}).ok());
  EXPECT_TRUE(OverLiar::Extents(state, {0, 8192}, kGoOn).ok());
  EXPECT_TRUE(OverLiar::View(state, {0, 8192}, gather_).ok());
  EXPECT_TRUE(OverLiar::Resize(state, 16384).ok());
  EXPECT_TRUE(OverLiar::Resize(state, 512).ok());
}

TEST_F(ContractBelowDeathTest, SizeIsNoMultipleOfTheBlockSize) {
  OverLiar::State fresh;
  EXPECT_DEATH((void)OverLiar::Open({.below = {.lie = Lie::kOddSize}}, fresh),
               "Contract over a device: size, size 8193: Size must be a multiple of kBlockSize, which is 512.*device");
}

TEST_F(ContractBelowDeathTest, Extents) {
  const auto extents = [&](Lie lie) { (void)OverLiar::Extents(Tell(lie), {0, 4096}, kGoOn); };
  EXPECT_DEATH(extents(Lie::kNoExtent), "extents 0\\+4096, size 8192: Extents must emit at least one extent.*device");
  EXPECT_DEATH(extents(Lie::kEmptyExtent), "an extent must not be empty.*device");
  EXPECT_DEATH(extents(Lie::kGap), "in order and without gaps.*device");
  EXPECT_DEATH(extents(Lie::kNotInOrder), "in order and without gaps.*device");
  EXPECT_DEATH(extents(Lie::kPastTheRange), "must not reach past the range.*device");
  EXPECT_DEATH(extents(Lie::kUnalignedExtent), "aligned to kBlockSize, which is 512.*device");
  EXPECT_DEATH((void)OverLiar::Extents(Tell(Lie::kGoesOn), {0, 4096}, [](const Extent&) { return false; }),
               "nothing after it was told to stop.*device");
}

TEST_F(ContractBelowDeathTest, Residency) {
  const auto residency = [&](Lie lie, bool more = true) {
    (void)OverLiar::Residency(Tell(lie), {0, 4096}, [&](const Resident&) { return more; });
  };
  EXPECT_DEATH(residency(Lie::kNoExtent), "residency 0\\+4096, size 8192: Residency must emit something.*device");
  for (Lie lie : {Lie::kEmptyExtent, Lie::kGap, Lie::kNotInOrder, Lie::kPastTheRange}) {
    EXPECT_DEATH(residency(lie), "in order, without gaps, not be empty and lie within the range.*device");
  }
  EXPECT_DEATH(residency(Lie::kUnalignedExtent), "aligned to kBlockSize, which is 512.*device");
  EXPECT_DEATH(residency(Lie::kGoesOn, false), "nothing after it was told to stop.*device");
  EXPECT_DEATH(residency(Lie::kDirtyNotCached), "what Residency calls dirty must be cached.*device");
  residency(Lie::kNone);
}

TEST_F(ContractBelowDeathTest, View) {
  EXPECT_DEATH((void)OverLiar::View(Tell(Lie::kShortView), {0, 512}, gather_),
               "view 0\\+512.*exactly the bytes asked for.*device");
  EXPECT_DEATH((void)OverLiar::View(Tell(Lie::kLongView), {0, 512}, gather_), "exactly the bytes asked for");
  EXPECT_TRUE(OverLiar::View(Tell(Lie::kOverflow), {0, 512}, gather_).ok());
}

TEST_F(ContractBelowDeathTest, Place) {
  Scatter scatter;
  EXPECT_DEATH((void)OverLiar::Place(Tell(Lie::kShortPlace), {0, 512}, scatter),
               "write 0\\+512.*exactly the bytes asked for.*device");
  EXPECT_DEATH((void)OverLiar::Place(Tell(Lie::kNone), {0, 8704}, scatter), "within Size");
  EXPECT_DEATH((void)OverLiar::Placed(Tell(Lie::kNone), {0, 100}), "multiples of kBlockSize");
  EXPECT_TRUE(OverLiar::Place(Tell(Lie::kOverflow), {0, 512}, scatter).ok());
}

TEST_F(ContractBelowDeathTest, Zeroes) {
  EXPECT_DEATH((void)OverLiar::Trim(Tell(Lie::kTrimKeeps), {0, 512}), "trim 0\\+512.*read as zeroes.*device");
  EXPECT_DEATH((void)OverLiar::Trim(Tell(Lie::kTrimKeepsLastByte), {0, 8192}), "trim 0\\+8192.*read as zeroes");
  EXPECT_DEATH((void)OverLiar::WriteZeroes(Tell(Lie::kWriteZeroesKeeps), {0, 512}), "write-zeroes 0\\+512.*read as zeroes");
}

TEST_F(ContractBelowDeathTest, Resize) {
  EXPECT_DEATH((void)OverLiar::Resize(Tell(Lie::kResizeIgnored), 4096),
               "resize 4096, size 8192: Resize must leave the size.*device");
  EXPECT_DEATH((void)OverLiar::Resize(Tell(Lie::kResizeGarbage), 16384), "resize 16384.*read as zeroes.*device");
}

TEST_F(ContractBelowDeathTest, ZeroesThatAnotherCallOverwritesAreNoLie) {
  OverLiar::State* state = nullptr;
  Bytes512 ones;
  ones.fill(std::byte{1});
  state = &Tell(Lie::kNone, [&] { EXPECT_TRUE(OverLiar::Write(*state, 0, ones).ok()); });
  EXPECT_TRUE(OverLiar::Trim(*state, {0, 512}).ok());
  EXPECT_EQ(script_.medium[0], std::byte{1});
}

TEST_F(ContractBelowDeathTest, ZeroesThatCannotBeReadAreNoLie) {
  OverLiar::State& state = Tell(Lie::kNone);
  script_.fail_at = static_cast<int64_t>(script_.calls.size()) + 1;
  EXPECT_TRUE(OverLiar::Trim(state, {0, 512}).ok());
  EXPECT_EQ(script_.calls.back().operation, "Read");
}

}  // namespace
}  // namespace buse::testing

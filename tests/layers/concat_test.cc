// SPDX-License-Identifier: Apache-2.0
//
// Concat: operations are split at borders and arrive translated, in order; sizes round down; every branch is flushed.

#include "layers/concat.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/gather.h"
#include "buse/operations.h"
#include "buse/options.h"
#include "gtest/gtest.h"
#include "layers/faulty.h"
#include "layers/null.h"
#include "layers/passthrough.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"

template struct buse::Concat<buse::testing::Full, buse::testing::Full512, buse::testing::Full>;

namespace buse::testing {
namespace {

constexpr Capabilities kEverythingButResize = {true, true, true, true, true, true, true, true, false, true, true, true};
static_assert(kCapabilities<Concat<Full, Full>> == kEverythingButResize);
static_assert(kCapabilities<Concat<Writer, Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Concat<Bare, Bare>> == kNothing);
// Permissions are those of all branches, shortcuts and hints those of any.
static_assert(kCapabilities<Concat<Full, Writer>> ==
              Capabilities{.write = true, .write_through = true, .write_zeroes = true, .prefetch = true});
static_assert(kCapabilities<Concat<Bare, Full>> == Capabilities{.prefetch = true});

template <uint64_t kBlock>
using Blocks = BasicFull<kBlock, Concurrency::kParallel>;
static_assert(Concat<Full, Full512>::kBlockSize == 512);
static_assert(Concat<Blocks<512>, Blocks<768>>::kBlockSize == 1536, "the least common multiple");
static_assert(Concat<Full, BasicBare<1, Concurrency::kDisjoint>>::kConcurrency == Concurrency::kDisjoint);
static_assert(Concat<BasicBare<1, Concurrency::kSerial>, Full>::kConcurrency == Concurrency::kSerial);

static_assert(sizeof(Concat<Full, Full>::State) == 2 * (sizeof(Full::State) + 8), "8 bytes per branch");

using Stack = Concat<Full, Full, Full>;

// Branches of 100, 50 and 200 bytes, which share a script but not their bytes.
struct Three {
  std::array<Script, 3> scripts;
  Stack::State state;

  Three() {
    EXPECT_TRUE(Stack::Open({.below = {{.size = 100, .script = &scripts[0]},
                                       {.size = 50, .script = &scripts[1]},
                                       {.size = 200, .script = &scripts[2]}}},
                            state)
                    .ok());
  }

  // The calls of all branches, and forgets them.
  std::vector<std::vector<Call>> Calls() {
    std::vector<std::vector<Call>> calls;
    for (Script& script : scripts) {
      calls.push_back(script.calls);
      script.calls.clear();
    }
    return calls;
  }
};

using Calls = std::vector<std::vector<Call>>;

std::vector<std::byte> Pattern(size_t length) {
  std::vector<std::byte> bytes(length);
  for (size_t i = 0; i < length; ++i) bytes[i] = static_cast<std::byte>(i % 251 + 1);
  return bytes;
}

TEST(ConcatTest, EveryOperationIsSplitAtTheBorders) {
  Three three;
  Stack::State& state = three.state;
  EXPECT_EQ(Stack::Size(state), 350u);
  const auto each = [](const char* operation) {
    return Calls{{{operation, {90, 10}}}, {{operation, {0, 50}}}, {{operation, {0, 7}}}};
  };
  const std::vector<std::byte> bytes = Pattern(67);
  std::vector<std::byte> out(67);

  EXPECT_TRUE(Stack::Write(state, 90, bytes).ok());
  EXPECT_EQ(three.Calls(), each("Write"));
  EXPECT_TRUE(Stack::Read(state, 90, out).ok());
  EXPECT_EQ(three.Calls(), each("Read"));
  EXPECT_EQ(out, bytes);
  EXPECT_EQ(std::vector(three.scripts[1].medium.begin(), three.scripts[1].medium.end()),
            std::vector(bytes.begin() + 10, bytes.begin() + 60));
  EXPECT_TRUE(Stack::WriteThrough(state, 90, bytes).ok());
  EXPECT_EQ(three.Calls(), each("WriteThrough"));
  EXPECT_TRUE(Stack::Prefetch(state, {90, 67}).ok());
  EXPECT_EQ(three.Calls(), each("Prefetch"));
  EXPECT_TRUE(Stack::TryWrite(state, 90, bytes));
  EXPECT_EQ(three.Calls(), each("TryWrite"));
  EXPECT_TRUE(Stack::TryRead(state, 90, out));
  EXPECT_EQ(three.Calls(), each("TryRead"));
  three.scripts[1].fail_at = 0;
  EXPECT_FALSE(Stack::TryRead(state, 90, out)) << "one that cannot is enough";
  three.scripts[1].fail_at = -1;
  three.Calls();
  EXPECT_TRUE(Stack::Trim(state, {90, 67}).ok());
  EXPECT_EQ(three.Calls(), each("Trim"));
  EXPECT_TRUE(Stack::WriteZeroes(state, {90, 67}).ok());
  EXPECT_EQ(three.Calls(), each("WriteZeroes"));
  EXPECT_TRUE(Stack::Flush(state).ok());
  EXPECT_EQ(three.Calls(), (Calls{{{"Flush", {}}}, {{"Flush", {}}}, {{"Flush", {}}}}));
}

TEST(ConcatTest, ARequestInOneBranchReachesOnlyThat) {
  Three three;
  std::array<std::byte, 50> bytes{};
  EXPECT_TRUE(Stack::Read(three.state, 100, bytes).ok());
  EXPECT_EQ(three.Calls(), (Calls{{}, {{"Read", {0, 50}}}, {}}));
  EXPECT_TRUE(Stack::Trim(three.state, {99, 1}).ok());
  EXPECT_EQ(three.Calls(), (Calls{{{"Trim", {99, 1}}}, {}, {}}));
  EXPECT_TRUE(Stack::Trim(three.state, {150, 200}).ok());
  EXPECT_EQ(three.Calls(), (Calls{{}, {}, {{"Trim", {0, 200}}}}));
}

TEST(ConcatTest, AWriteInPlaceIsSplitAtTheBordersAndCompletedInAllBranches) {
  Three three;
  const std::vector<std::byte> bytes = Pattern(67);
  Scatter scatter;
  ASSERT_TRUE(Stack::Place(three.state, {90, 67}, scatter).ok());
  EXPECT_EQ(three.Calls(), (Calls{{{"Place", {90, 10}}}, {{"Place", {0, 50}}}, {{"Place", {0, 7}}}}));
  ASSERT_EQ(scatter.pieces().size(), 3u);
  scatter.Fill(bytes);
  EXPECT_TRUE(Stack::Placed(three.state, {90, 67}).ok());
  EXPECT_EQ(three.Calls(), (Calls{{{"Placed", {90, 10}}}, {{"Placed", {0, 50}}}, {{"Placed", {0, 7}}}}));
  std::vector<std::byte> out(67);
  ASSERT_TRUE(Stack::Read(three.state, 90, out).ok());
  EXPECT_EQ(out, bytes);
  three.Calls();
  three.scripts[0].fail_at = 0;
  EXPECT_FALSE(Stack::Placed(three.state, {90, 67}).ok());
  EXPECT_EQ(three.Calls(), (Calls{{{"Placed", {90, 10}}}, {{"Placed", {0, 50}}}, {{"Placed", {0, 7}}}}));
}

TEST(ConcatTest, ViewsAreAppendedInOrder) {
  Three three;
  const std::vector<std::byte> bytes = Pattern(350);
  ASSERT_TRUE(Stack::Write(three.state, 0, bytes).ok());
  Gather gather;
  ASSERT_TRUE(Stack::View(three.state, {90, 67}, gather).ok());
  ASSERT_EQ(gather.pieces().size(), 3u);
  std::vector<std::byte> seen;
  for (const iovec& piece : gather.pieces()) {
    const auto* begin = static_cast<const std::byte*>(piece.iov_base);
    seen.insert(seen.end(), begin, begin + piece.iov_len);
  }
  EXPECT_EQ(seen, std::vector(bytes.begin() + 90, bytes.begin() + 157));
}

TEST(ConcatTest, BackingIsThereWhereTheRangeLiesInOneBranch) {
  Three three;
  const std::optional<FileRange> backing = Stack::Backing(three.state, {103, 20});
  ASSERT_TRUE(backing.has_value());
  EXPECT_EQ(backing->fd, Full::kBackingFd);
  EXPECT_EQ(backing->offset, 3u);
  EXPECT_FALSE(Stack::Backing(three.state, {99, 2}).has_value());
  EXPECT_FALSE(Stack::Backing(three.state, {0, 350}).has_value());
}

std::vector<Extent> Collect(Stack::State& state, Range range, size_t most = SIZE_MAX) {
  std::vector<Extent> extents;
  EXPECT_TRUE(Stack::Extents(state, range, [&](const Extent& extent) {
                extents.push_back(extent);
                return extents.size() < most;
              }).ok());
  return extents;
}

TEST(ConcatTest, ExtentsContinueOverTheBorders) {
  Three three;
  using Kind = Extent::Kind;
  std::fill_n(three.scripts[0].medium.begin() + 95, 5, std::byte{1});
  std::fill_n(three.scripts[1].medium.begin(), 30, std::byte{1});
  const std::vector<Extent> all = {{{90, 5}, Kind::kHole},
                                   {{95, 5}, Kind::kData},
                                   {{100, 30}, Kind::kData},
                                   {{130, 20}, Kind::kHole},
                                   {{150, 9}, Kind::kHole}};
  EXPECT_EQ(Collect(three.state, {90, 69}), all);
  for (size_t most = 1; most < all.size(); ++most) {
    EXPECT_EQ(Collect(three.state, {90, 69}, most), std::vector(all.begin(), all.begin() + most));
  }
}

// Emits only the first extent, as the contract permits.
template <Device B>
struct Reticent : Passthrough<B> {
  static absl::Status Extents(typename Passthrough<B>::State& self, Range range, EmitExtent emit) {
    return B::Extents(self.below, range, [&](const Extent& extent) {
      emit(extent);
      return false;
    });
  }
};

TEST(ConcatTest, ExtentsThatABranchCutShortEndThere) {
  using Short = Concat<Reticent<Full>, Full>;
  Script script;
  Short::State state;
  ASSERT_TRUE(Short::Open({.below = {{.below = {.size = 100, .script = &script}}, {.size = 100}}}, state).ok());
  script.medium[10] = std::byte{1};
  std::vector<Extent> extents;
  ASSERT_TRUE(Short::Extents(state, {0, 200}, [&](const Extent& extent) {
                extents.push_back(extent);
                return true;
              }).ok());
  EXPECT_EQ(extents, (std::vector<Extent>{{{0, 10}, Extent::Kind::kHole}}));
}

TEST(ConcatTest, ABlockThatABranchHasInPartsCountsAsData) {
  using Mixed = Concat<Full512, Full>;
  using Kind = Extent::Kind;
  Script script;
  Mixed::State state;
  ASSERT_TRUE(Mixed::Open({.below = {{.size = 512}, {.size = 5000, .script = &script}}}, state).ok());
  const auto extents = [&](Range range) {
    std::vector<Extent> extents;
    EXPECT_TRUE(Mixed::Extents(state, range, [&](const Extent& extent) {
                  extents.push_back(extent);
                  return true;
                }).ok());
    return extents;
  };
  const Extent first = {{0, 512}, Kind::kHole};
  EXPECT_EQ(extents({0, 5120}), (std::vector<Extent>{first, {{512, 4608}, Kind::kHole}}));
  // Several parts in one block.
  for (const uint64_t at : {1024, 1026, 1030}) script.medium[at] = std::byte{1};
  EXPECT_EQ(extents({0, 5120}),
            (std::vector<Extent>{first, {{512, 1024}, Kind::kHole}, {{1536, 512}, Kind::kData}, {{2048, 3072}, Kind::kHole}}));
  // From within one block to within another.
  std::fill_n(script.medium.begin() + 1000, 1000, std::byte{1});
  EXPECT_EQ(extents({0, 5120}), (std::vector<Extent>{first,
                                                     {{512, 512}, Kind::kHole},
                                                     {{1024, 512}, Kind::kData},
                                                     {{1536, 512}, Kind::kData},
                                                     {{2048, 512}, Kind::kData},
                                                     {{2560, 2560}, Kind::kHole}}));
  EXPECT_EQ(extents({2048, 512}), (std::vector<Extent>{{{2048, 512}, Kind::kData}}));
}

TEST(ConcatTest, WhatABranchLacksIsDoneAsItsAbsenceMeans) {
  using Mixed = Concat<Full, Writer>;
  std::array<Script, 2> scripts;
  Mixed::State state;
  ASSERT_TRUE(Mixed::Open({.below = {{.size = 100, .script = &scripts[0]}, {.size = 100, .script = &scripts[1]}}}, state).ok());
  std::array<std::byte, 20> bytes{};
  ASSERT_TRUE(Mixed::WriteThrough(state, 90, bytes).ok());
  ASSERT_TRUE(Mixed::WriteZeroes(state, {90, 20}).ok());
  ASSERT_TRUE(Mixed::Prefetch(state, {90, 20}).ok());
  EXPECT_EQ(scripts[0].calls,
            (std::vector<Call>{{"WriteThrough", {90, 10}}, {"WriteZeroes", {90, 10}}, {"Prefetch", {90, 10}}}));
  EXPECT_EQ(scripts[1].calls, (std::vector<Call>{{"Write", {0, 10}}, {"Flush", {}}, {"Write", {0, 10}}}));
}

TEST(ConcatTest, ABranchCountsWithItsWholeBlocks) {
  using Mixed = Concat<Blocks<512>, Blocks<768>, Full>;
  std::array<Script, 3> scripts;
  Mixed::State state;
  ASSERT_TRUE(Mixed::Open({.below = {{.size = 2048, .script = &scripts[0]},
                                     {.size = 768, .script = &scripts[1]},
                                     {.size = 4000, .script = &scripts[2]}}},
                          state)
                  .ok());
  // 1536, nothing, and 3072.
  EXPECT_EQ(Mixed::Size(state), 4608u);
  EXPECT_TRUE(Mixed::Trim(state, {0, 4608}).ok());
  EXPECT_EQ(scripts[0].calls, (std::vector<Call>{{"Trim", {0, 1536}}}));
  EXPECT_EQ(scripts[1].calls, std::vector<Call>());
  EXPECT_EQ(scripts[2].calls, (std::vector<Call>{{"Trim", {0, 3072}}}));
}

TEST(ConcatTest, MoreThan64BitsIsRefusedWithItsNumbers) {
  using Large = Concat<Null, Null, Null, Null>;
  constexpr uint64_t kQuarter = uint64_t{1} << 62;
  Large::State fits;
  EXPECT_TRUE(
      Large::Open({.below = {{.size = kQuarter}, {.size = kQuarter}, {.size = kQuarter}, {.size = kQuarter - 1}}}, fits).ok());
  EXPECT_EQ(Large::Size(fits), UINT64_MAX);
  Large::State too_large;
  const absl::Status status =
      Large::Open({.below = {{.size = kQuarter}, {.size = kQuarter}, {.size = kQuarter}, {.size = kQuarter}}}, too_large);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const std::string message(status.message());
  EXPECT_NE(message.find("device 4"), std::string::npos) << message;
  EXPECT_NE(message.find(std::to_string(kQuarter)), std::string::npos) << message;
  EXPECT_NE(message.find(std::to_string(kQuarter - 1)), std::string::npos) << message;
}

TEST(ConcatTest, BeyondTwoTebibytesNothingWraps) {
  using Large = Concat<Null, Passthrough<Full>>;
  constexpr uint64_t kStart = (uint64_t{1} << 42) + 4096;
  Script script;
  Large::State state;
  ASSERT_TRUE(Large::Open({.below = {{.size = kStart}, {.below = {.size = 4096, .script = &script}}}}, state).ok());
  std::array<std::byte, 16> bytes{};
  ASSERT_TRUE(Large::Read(state, kStart + 8, bytes).ok());
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Read", {8, 16}}}));
}

TEST(ConcatTest, AnErrorOfOpenBelowIsPassedOnAndEndsOpening) {
  using Nested = Concat<Full, Null, Full>;
  std::array<Script, 2> scripts;
  Nested::State state;
  EXPECT_FALSE(
      Nested::Open({.below = {{.size = 100, .script = &scripts[0]}, {.size = 0}, {.size = 100, .script = &scripts[1]}}}, state)
          .ok());
  EXPECT_EQ(scripts[0].medium.size(), 100u);
  EXPECT_EQ(scripts[1].medium.size(), 0u) << "opened after the error";
}

TEST(ConcatTest, FlushReachesAllBranchesAndReturnsTheFirstError) {
  Three three;
  three.scripts[0].fail_at = 0;
  three.scripts[0].error = absl::DataLossError("first");
  three.scripts[2].fail_at = 0;
  three.scripts[2].error = absl::InternalError("third");
  EXPECT_EQ(Stack::Flush(three.state), absl::DataLossError("first"));
  EXPECT_EQ(three.Calls(), (Calls{{{"Flush", {}}}, {{"Flush", {}}}, {{"Flush", {}}}}));
}

TEST(ConcatTest, ARequestEndsWithTheFirstError) {
  Three three;
  three.scripts[1].fail_at = 0;
  std::array<std::byte, 67> bytes{};
  EXPECT_EQ(Stack::Write(three.state, 90, bytes), three.scripts[1].error);
  EXPECT_EQ(three.Calls(), (Calls{{{"Write", {90, 10}}}, {{"Write", {0, 50}}}, {}}));
}

// Branches of one script each count their own calls: the one that fails is chosen by where the script goes.
template <size_t kBranch>
auto Configure() {
  return [](Script& script) {
    Stack::Config config{.below = {{.size = 100}, {.size = 50}, {.size = 200}}};
    std::get<kBranch>(config.below).script = &script;
    return config;
  };
}

template <size_t kBranch>
void FailEachCall() {
  const auto configure = Configure<kBranch>();
  constexpr Range kRange = {90, 67};
  std::array<std::byte, 67> bytes{};
  EXPECT_EQ(FailNth<Stack>(configure, kRange, [&](auto& state) { return Stack::Write(state, 90, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, kRange, [&](auto& state) { return Stack::WriteThrough(state, 90, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, kRange, [&](auto& state) { return Stack::Trim(state, kRange); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, kRange, [&](auto& state) { return Stack::WriteZeroes(state, kRange); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Flush(state); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Read(state, 90, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Prefetch(state, kRange); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {},
                           [&](auto& state) {
                             Gather gather;
                             return Stack::View(state, kRange, gather);
                           }),
            1);
  EXPECT_EQ(FailNth<Stack>(configure, {},
                           [&](auto& state) { return Stack::Extents(state, kRange, [](const Extent&) { return true; }); }),
            1);
}

TEST(ConcatTest, EveryErrorBelowSurfacesAndSparesTheRest) {
  FailEachCall<0>();
  FailEachCall<1>();
  FailEachCall<2>();
}

TEST(ConcatTest, ABranchThatIsLostTakesItsPartWithIt) {
  using Stack = Concat<Full, Faulty<Full>, Full>;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {{.size = 100}, {.faults = "error", .below = {.size = 50}}, {.size = 200}}}, state).ok());
  for (uint64_t at = 0; at < 350; ++at) {
    std::array<std::byte, 1> byte{};
    const bool lost = at >= 100 && at < 150;
    EXPECT_EQ(Stack::Write(state, at, byte).ok(), !lost) << at;
    EXPECT_EQ(Stack::Read(state, at, byte).ok(), !lost) << at;
  }
}

TEST(ConcatTest, NothingOnTheMediaSaysTheirOrder) {
  using Pair = Concat<Full, Full>;
  std::array<Script, 2> scripts;
  const auto open = [&](Script& first, Script& second) {
    auto state = std::make_unique<Pair::State>();
    EXPECT_TRUE(Pair::Open({.below = {{.size = 10, .script = &first}, {.size = 10, .script = &second}}}, *state).ok());
    return state;
  };
  const std::vector<std::byte> bytes = Pattern(20);
  ASSERT_TRUE(Pair::Write(*open(scripts[0], scripts[1]), 0, bytes).ok());
  std::vector<std::byte> out(20);
  ASSERT_TRUE(Pair::Read(*open(scripts[1], scripts[0]), 0, out).ok());
  std::rotate(out.begin(), out.begin() + 10, out.end());
  EXPECT_EQ(out, bytes);
}

struct Locked : Passthrough<Full> {
  static bool Writable(const State&) { return false; }
};

TEST(ConcatTest, OneBranchThatIsReadOnlyMakesAllOfItReadOnly) {
  using Mixed = Concat<Full, Locked>;
  Mixed::State mixed;
  ASSERT_TRUE(Mixed::Open({.below = {{.size = 100}, {.below = {.size = 100}}}}, mixed).ok());
  EXPECT_FALSE(buse::Writable<Mixed>(mixed));
  Three three;
  EXPECT_TRUE(buse::Writable<Stack>(three.state));
}

TEST(ConcatTest, ItIsDescribedWithAllItsBranches) {
  Stack::Config config;
  const std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
  ASSERT_EQ(layers.size(), 4u);
  EXPECT_EQ(layers[0].name, "concat");
  EXPECT_EQ(layers[3].depth, 1);
}

}  // namespace
}  // namespace buse::testing

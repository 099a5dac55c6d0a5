// SPDX-License-Identifier: Apache-2.0
//
// Offset: every operation arrives translated, what lies outside the part is never touched, bad parts are refused.

#include "layers/offset.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "buse/gather.h"
#include "buse/operations.h"
#include "gtest/gtest.h"
#include "tests/every_operation.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"

template struct buse::Offset<buse::testing::Full>;

namespace buse::testing {
namespace {

constexpr Capabilities kEverythingButResize = {true, true, true, true, true, true, true, true, false, true, true, true};
static_assert(kCapabilities<Offset<Full>> == kEverythingButResize);
static_assert(kCapabilities<Offset<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Offset<Bare>> == kNothing);
static_assert(Offset<Full512>::kBlockSize == 512);
static_assert(Offset<BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);

using Stack = Offset<Full>;

TEST(OffsetTest, EveryOperationArrivesTranslated) {
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.start = 1000, .length = 500, .below = {.size = 4096, .script = &script}}, state).ok());
  std::array<std::byte, 16> bytes{};
  Gather gather;
  EXPECT_EQ(Stack::Size(state), 500u);
  EXPECT_TRUE(Stack::Read(state, 1, bytes).ok());
  EXPECT_TRUE(Stack::Write(state, 2, bytes).ok());
  EXPECT_TRUE(Stack::WriteThrough(state, 3, bytes).ok());
  EXPECT_TRUE(Stack::Flush(state).ok());
  EXPECT_TRUE(Stack::Trim(state, {4, 5}).ok());
  EXPECT_TRUE(Stack::WriteZeroes(state, {6, 7}).ok());
  EXPECT_TRUE(Stack::Extents(state, {8, 9}, [](const Extent&) { return true; }).ok());
  EXPECT_TRUE(Stack::Prefetch(state, {10, 11}).ok());
  EXPECT_TRUE(Stack::View(state, {12, 13}, gather).ok());
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Read", {1001, 16}},
                                             {"Write", {1002, 16}},
                                             {"WriteThrough", {1003, 16}},
                                             {"Flush", {}},
                                             {"Trim", {1004, 5}},
                                             {"WriteZeroes", {1006, 7}},
                                             {"Extents", {1008, 9}},
                                             {"Prefetch", {1010, 11}},
                                             {"View", {1012, 13}}}));
  script.calls.clear();
  CallServerOperations<Stack>(state);
  EXPECT_EQ(
      script.calls,
      (std::vector<Call>{{"TryRead", {1016, 16}}, {"TryWrite", {1017, 16}}, {"Place", {1014, 15}}, {"Placed", {1014, 15}}}));
  const std::optional<FileRange> backing = Stack::Backing(state, {14, 15});
  ASSERT_TRUE(backing.has_value());
  EXPECT_EQ(backing->fd, Full::kBackingFd);
  EXPECT_EQ(backing->offset, 1014u);
}

TEST(OffsetTest, ExtentsComeBackInAddressesOfThePart) {
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.start = 1000, .length = 500, .below = {.size = 4096, .script = &script}}, state).ok());
  std::fill_n(script.medium.begin() + 1100, 50, std::byte{1});
  std::vector<Extent> extents;
  ASSERT_TRUE(Stack::Extents(state, {0, 500}, [&](const Extent& extent) {
                extents.push_back(extent);
                return extents.size() < 2;
              }).ok());
  // The third is not asked for.
  EXPECT_EQ(extents, (std::vector<Extent>{{{0, 100}, Extent::Kind::kHole}, {{100, 50}, Extent::Kind::kData}}));
}

TEST(OffsetTest, LengthZeroReachesToTheEnd) {
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.start = 1000, .below = {.size = 4096}}, state).ok());
  EXPECT_EQ(Stack::Size(state), 3096u);
}

TEST(OffsetTest, TheWholeDeviceAndItsEmptyEndAreParts) {
  Stack::State whole;
  EXPECT_TRUE(Stack::Open({.start = 0, .length = 4096, .below = {.size = 4096}}, whole).ok());
  EXPECT_EQ(Stack::Size(whole), 4096u);
  Stack::State end;
  EXPECT_TRUE(Stack::Open({.start = 4096, .below = {.size = 4096}}, end).ok());
  EXPECT_EQ(Stack::Size(end), 0u);
}

TEST(OffsetTest, APartThatDoesNotLieInsideIsRefusedWithItsNumbers) {
  const std::vector<std::pair<uint64_t, uint64_t>> bad = {{4097, 0},       {4096, 1},       {0, 4097},      {1, 4096},
                                                          {1, UINT64_MAX}, {UINT64_MAX, 1}, {UINT64_MAX, 0}};
  for (const auto& [start, length] : bad) {
    Stack::State state;
    const absl::Status status = Stack::Open({.start = start, .length = length, .below = {.size = 4096}}, state);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << start << " " << length;
    const std::string message(status.message());
    EXPECT_NE(message.find(std::to_string(start)), std::string::npos) << message;
    EXPECT_NE(message.find(std::to_string(length)), std::string::npos) << message;
    EXPECT_NE(message.find("4096"), std::string::npos) << message;
  }
}

TEST(OffsetTest, AnUnalignedPartIsRefused) {
  using Blocks = Offset<Full512>;
  for (const auto& [start, length] : std::vector<std::pair<uint64_t, uint64_t>>{{100, 512}, {512, 100}, {513, 0}}) {
    Blocks::State state;
    const absl::Status status = Blocks::Open({.start = start, .length = length, .below = {.size = 4096}}, state);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << start << " " << length;
    EXPECT_NE(std::string(status.message()).find("512"), std::string::npos) << status.message();
  }
  Blocks::State state;
  EXPECT_TRUE(Blocks::Open({.start = 512, .length = 1024, .below = {.size = 4096}}, state).ok());
}

TEST(OffsetTest, AnErrorOfOpenBelowIsPassedOn) {
  using Nested = Offset<Offset<Full>>;
  Nested::State state;
  EXPECT_FALSE(Nested::Open({.below = {.start = 5000, .below = {.size = 4096}}}, state).ok());
}

TEST(OffsetTest, PartsOfPartsAddUp) {
  using Nested = Offset<Offset<Full>>;
  Script script;
  Nested::State state;
  ASSERT_TRUE(Nested::Open({.start = 10, .below = {.start = 100, .below = {.size = 4096, .script = &script}}}, state).ok());
  std::array<std::byte, 3> bytes{};
  ASSERT_TRUE(Nested::Read(state, 1, bytes).ok());
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Read", {111, 3}}}));
}

TEST(OffsetTest, EveryErrorBelowSurfacesAndSparesTheRest) {
  const auto configure = [](Script& script) {
    return Stack::Config{.start = 1000, .length = 500, .below = {.size = 4096, .script = &script}};
  };
  std::array<std::byte, 16> bytes{};
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::Write(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::WriteThrough(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::Trim(state, {7, 16}); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {7, 16}, [&](auto& state) { return Stack::WriteZeroes(state, {7, 16}); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Flush(state); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Read(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Prefetch(state, {7, 16}); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {},
                           [&](auto& state) {
                             return Stack::Extents(state, {7, 16}, [](const Extent&) { return true; });
                           }),
            1);
}

TEST(OffsetTest, NothingOutsideThePartIsTouched) {
  Script script;
  script.medium.assign(4096, std::byte{0xaa});
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.start = 1000, .length = 500, .below = {.size = 4096, .script = &script}}, state).ok());
  ASSERT_TRUE(buse::WriteZeroes<Stack>(state, {0, 500}).ok());
  const auto begin = script.medium.begin();
  const auto is = [](std::byte want) { return [want](std::byte b) { return b == want; }; };
  EXPECT_TRUE(std::all_of(begin, begin + 1000, is(std::byte{0xaa})));
  EXPECT_TRUE(std::all_of(begin + 1000, begin + 1500, is(std::byte{0})));
  EXPECT_TRUE(std::all_of(begin + 1500, script.medium.end(), is(std::byte{0xaa})));
}

}  // namespace
}  // namespace buse::testing

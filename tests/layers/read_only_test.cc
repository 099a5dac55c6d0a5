// SPDX-License-Identifier: Apache-2.0
//
// ReadOnly: what changes the device is gone from the type, what reads it arrives unchanged.

#include "layers/read_only.h"

#include <array>
#include <vector>

#include "buse/gather.h"
#include "buse/operations.h"
#include "gtest/gtest.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"

template struct buse::ReadOnly<buse::testing::Full>;

namespace buse::testing {
namespace {

static_assert(kCapabilities<ReadOnly<Full>> ==
              Capabilities{.extents = true, .prefetch = true, .view = true, .backing = true, .try_read = true});
static_assert(kCapabilities<ReadOnly<Writer>> == kNothing);
static_assert(kCapabilities<ReadOnly<Bare>> == kNothing);
static_assert(!CanFlush<ReadOnly<Full>>);
static_assert(sizeof(ReadOnly<Full>::State) == sizeof(Full::State), "a layer without state adds none");
static_assert(ReadOnly<Full512>::kBlockSize == 512);
static_assert(ReadOnly<BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);

using Stack = ReadOnly<Full>;

TEST(ReadOnlyTest, WhatReadsArrivesBelowUnchanged) {
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 4096, .script = &script}}, state).ok());
  std::array<std::byte, 16> bytes{};
  Gather gather;
  EXPECT_EQ(Stack::Size(state), 4096u);
  EXPECT_TRUE(Stack::Read(state, 1, bytes).ok());
  EXPECT_TRUE(Stack::Extents(state, {8, 9}, [](const Extent&) { return true; }).ok());
  EXPECT_TRUE(Stack::Prefetch(state, {10, 11}).ok());
  EXPECT_TRUE(Stack::View(state, {12, 13}, gather).ok());
  EXPECT_EQ(gather.bytes(), 13u);
  EXPECT_EQ(script.calls,
            (std::vector<Call>{{"Read", {1, 16}}, {"Extents", {8, 9}}, {"Prefetch", {10, 11}}, {"View", {12, 13}}}));
  const std::optional<FileRange> backing = Stack::Backing(state, {14, 15});
  ASSERT_TRUE(backing.has_value());
  EXPECT_EQ(backing->offset, 14u);
}

TEST(ReadOnlyTest, IsNotWritableWhateverTheDeviceBelowSays) {
  Stack::State state;
  ASSERT_TRUE(Stack::Open({}, state).ok());
  EXPECT_TRUE(buse::Writable<Full>(state.below));
  EXPECT_FALSE(buse::Writable<Stack>(state));
}

TEST(ReadOnlyTest, EveryErrorBelowSurfaces) {
  const auto configure = [](Script& script) { return Stack::Config{.below = {.size = 4096, .script = &script}}; };
  std::array<std::byte, 16> bytes{};
  Gather gather;
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Read(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::View(state, {7, 16}, gather); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Prefetch(state, {7, 16}); }), 1);
}

}  // namespace
}  // namespace buse::testing

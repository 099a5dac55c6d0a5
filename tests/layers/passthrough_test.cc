// SPDX-License-Identifier: Apache-2.0

#include "layers/passthrough.h"

#include <array>
#include <vector>

#include "gtest/gtest.h"
#include "tests/leaves.h"

// Every member is compiled, called or not.
template struct buse::Passthrough<buse::testing::Full>;

namespace buse::testing {
namespace {

static_assert(kCapabilities<Passthrough<Full>> == kEverythingButBacking);
static_assert(kCapabilities<Passthrough<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Passthrough<Bare>> == kNothing);
static_assert(sizeof(Passthrough<Full>::State) == sizeof(Full::State), "a layer without state adds none");
static_assert(Passthrough<Full512>::kBlockSize == 512);
static_assert(Passthrough<BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);

TEST(PassthroughTest, EveryOperationArrivesBelowUnchanged) {
  using Stack = Passthrough<Full>;
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 4096, .script = &script}}, state).ok());
  std::array<std::byte, 16> bytes{};
  Gather gather;
  EXPECT_EQ(Stack::Size(state), 4096u);
  EXPECT_TRUE(Stack::Read(state, 1, bytes).ok());
  EXPECT_TRUE(Stack::Write(state, 2, bytes).ok());
  EXPECT_TRUE(Stack::WriteThrough(state, 3, bytes).ok());
  EXPECT_TRUE(Stack::Flush(state).ok());
  EXPECT_TRUE(Stack::Trim(state, {4, 5}).ok());
  EXPECT_TRUE(Stack::WriteZeroes(state, {6, 7}).ok());
  EXPECT_TRUE(Stack::Extents(state, {8, 9}, [](const Extent&) { return true; }).ok());
  EXPECT_TRUE(Stack::Prefetch(state, {10, 11}).ok());
  EXPECT_TRUE(Stack::View(state, {12, 13}, gather).ok());
  EXPECT_TRUE(Stack::Resize(state, 8192).ok());
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Read", {1, 16}},
                                             {"Write", {2, 16}},
                                             {"WriteThrough", {3, 16}},
                                             {"Flush", {}},
                                             {"Trim", {4, 5}},
                                             {"WriteZeroes", {6, 7}},
                                             {"Extents", {8, 9}},
                                             {"Prefetch", {10, 11}},
                                             {"View", {12, 13}},
                                             {"Resize", {0, 8192}}}));
}

}  // namespace
}  // namespace buse::testing

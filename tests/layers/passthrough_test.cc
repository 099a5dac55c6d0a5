// SPDX-License-Identifier: Apache-2.0

#include "layers/passthrough.h"

#include <array>
#include <vector>

#include "gtest/gtest.h"
#include "tests/every_operation.h"
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
  CallEveryOperation<Stack>(state);
  EXPECT_EQ(script.calls, kEveryCall);
  script.calls.clear();
  CallServerOperations<Stack>(state);
  EXPECT_EQ(script.calls, kServerCalls);
}

}  // namespace
}  // namespace buse::testing

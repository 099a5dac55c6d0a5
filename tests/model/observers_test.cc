// SPDX-License-Identifier: Apache-2.0
//
// The layers that watch, slow down or repeat, which must change nothing.

#include "gtest/gtest.h"
#include "layers/contract.h"
#include "layers/delay.h"
#include "layers/file_backed.h"
#include "layers/memory.h"
#include "layers/rate_limit.h"
#include "layers/retry.h"
#include "layers/stats.h"
#include "tests/leaves.h"
#include "tests/model/suite.h"

namespace buse::testing {
namespace {

template <Device Leaf>
using Watched = Contract<Stats<Delay<RateLimit<Retry<Contract<Leaf>>>>>>;

using Observers = ::testing::Types<Watched<Memory>, Watched<FileBacked>, Watched<Full512>, Stats<Memory>, Delay<Memory>,
                                   RateLimit<Memory>, Retry<Memory>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Observers, ModelTest, Observers, StackNames);

}  // namespace
}  // namespace buse::testing

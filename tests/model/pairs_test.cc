// SPDX-License-Identifier: Apache-2.0
//
// The layer OUTER over every layer, over memory. Compiled once for each OUTER.

#include "gtest/gtest.h"
#include "layers/align.h"
#include "layers/contract.h"
#include "layers/log.h"
#include "layers/memory.h"
#include "layers/offset.h"
#include "layers/passthrough.h"
#include "tests/model/suite.h"

namespace buse::testing {
namespace {

using Pairs = ::testing::Types<OUTER<Passthrough<Memory>>, OUTER<Log<Memory>>, OUTER<Offset<Memory>>, OUTER<Align<Memory>>,
                               OUTER<Contract<Memory>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(OverMemory, ModelTest, Pairs, StackNames);

}  // namespace
}  // namespace buse::testing

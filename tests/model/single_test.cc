// SPDX-License-Identifier: Apache-2.0
//
// Every layer alone over LEAF, watched by Contract from both sides. Compiled once for each LEAF.

#include "gtest/gtest.h"
#include "layers/align.h"
#include "layers/contract.h"
#include "layers/file_backed.h"
#include "layers/log.h"
#include "layers/memory.h"
#include "layers/offset.h"
#include "layers/passthrough.h"
#include "tests/leaves.h"
#include "tests/model/suite.h"

namespace buse::testing {
namespace {

using Below = Contract<LEAF>;
using Singles =
    ::testing::Types<Contract<Passthrough<Below>>, Contract<Log<Below>>, Contract<Offset<Below>>, Contract<Align<Below>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Singles, ModelTest, Singles, StackNames);

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// Every layer over every layer, with Contract in between, over blocks of 512 bytes that are there when the stack is opened again.
// Compiled in PARTS, of which this is PART.

#include "gtest/gtest.h"
#include "tests/leaves.h"
#include "tests/model/layers.h"
#include "tests/model/suite.h"

namespace buse::testing {
namespace {

using Pairs = PairsOf<EveryLayer, Full512, PART, PARTS>::Type;
INSTANTIATE_TYPED_TEST_SUITE_P(Pairs, ModelTest, Pairs, StackNames);

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// Every layer alone over LEAF, watched by Contract from both sides. Compiled once for each LEAF.

#include "gtest/gtest.h"
#include "layers/file_backed.h"
#include "layers/memory.h"
#include "tests/leaves.h"
#include "tests/model/layers.h"
#include "tests/model/suite.h"

namespace buse::testing {
namespace {

using Singles = EveryLayerOver<EveryLayer, LEAF>::Type;
INSTANTIATE_TYPED_TEST_SUITE_P(Singles, ModelTest, Singles, StackNames);

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// Leaves alone, and every layer alone over memory, over a file and over blocks. Contract watches each from both sides.

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

using Full4096 = BasicFull<4096, Concurrency::kParallel>;
using Disjoint512 = BasicFull<512, Concurrency::kDisjoint>;
using Serial512 = BasicFull<512, Concurrency::kSerial>;

using Leaves = ::testing::Types<Contract<Memory>, Contract<FileBacked>, Contract<DirectFileBacked>, Contract<Full>,
                                Contract<Full512>, Memory, FileBacked, Full>;
INSTANTIATE_TYPED_TEST_SUITE_P(Leaves, ModelTest, Leaves, StackNames);

template <Device Leaf>
using Sandwiches = ::testing::Types<Contract<Passthrough<Contract<Leaf>>>, Contract<Log<Contract<Leaf>>>,
                                    Contract<Offset<Contract<Leaf>>>, Contract<Align<Contract<Leaf>>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(OverMemory, ModelTest, Sandwiches<Memory>, StackNames);
INSTANTIATE_TYPED_TEST_SUITE_P(OverFile, ModelTest, Sandwiches<FileBacked>, StackNames);
INSTANTIATE_TYPED_TEST_SUITE_P(OverBlocks, ModelTest, Sandwiches<Full512>, StackNames);

template <Device... Leaf>
using AlignOver = ::testing::Types<Contract<Align<Contract<Leaf>>>...>;
using AlignOverBlocks = AlignOver<DirectFileBacked, Full4096, Disjoint512, Serial512>;
INSTANTIATE_TYPED_TEST_SUITE_P(AlignOverBlocks, ModelTest, AlignOverBlocks, StackNames);

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// Leaves alone, and Align over those with blocks.

#include "tests/leaves.h"
#include "gtest/gtest.h"
#include "layers/align.h"
#include "layers/contract.h"
#include "layers/file_backed.h"
#include "layers/memory.h"
#include "tests/model/suite.h"

namespace buse::testing {
namespace {

using Leaves = ::testing::Types<Memory, FileBacked, DirectFileBacked, Full, Full512, Contract<Memory>, Contract<FileBacked>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Leaves, ModelTest, Leaves, StackNames);

template <Device... Leaf>
using AlignOver = ::testing::Types<Contract<Align<Contract<Leaf>>>...>;
using Aligned = AlignOver<DirectFileBacked, BasicFull<4096, Concurrency::kParallel>, BasicFull<512, Concurrency::kDisjoint>,
                          BasicFull<512, Concurrency::kSerial>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Aligned, ModelTest, Aligned, StackNames);

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// The layers that put bytes elsewhere, over memory, files and blocks, and over each other. Their borders lie so that requests
// cross them all the time.

#include <cstdint>

#include "buse/device.h"
#include "gtest/gtest.h"
#include "layers/concat.h"
#include "layers/contract.h"
#include "layers/file_backed.h"
#include "layers/memory.h"
#include "layers/offset.h"
#include "layers/partition.h"
#include "layers/stripe.h"
#include "tests/leaves.h"
#include "tests/model/layers.h"
#include "tests/model/suite.h"

namespace buse::testing {

namespace {

template <Device... B>
using WatchedConcat = Contract<Concat<Contract<B>...>>;
template <Device B, uint64_t kChunk = 4096>
using WatchedStripe = Contract<Stripe<3, Contract<B>, kChunk>>;
template <Device B>
using WatchedPartition = Contract<Partition<Formatted<Contract<B>>>>;

using Concats = ::testing::Types<WatchedConcat<Memory>, WatchedConcat<Memory, Memory>,
                                 WatchedConcat<FileBacked, Memory, FileBacked>, WatchedConcat<Full512, Memory, Full>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Concats, ModelTest, Concats, StackNames);

using Stripes = ::testing::Types<WatchedStripe<Memory>, WatchedStripe<FileBacked>, WatchedStripe<Full, 64>,
                                 WatchedStripe<Full512, 512>, WatchedStripe<BasicFull<512, Concurrency::kDisjoint>, 1024>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Stripes, ModelTest, Stripes, StackNames);

using Partitions = ::testing::Types<WatchedPartition<Memory>, WatchedPartition<FileBacked>, WatchedPartition<Full512>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Partitions, ModelTest, Partitions, StackNames);

using OverEachOther =
    ::testing::Types<WatchedConcat<Stripe<3, Memory, 4096>, Offset<Full512>>, WatchedStripe<Concat<Memory, Full512>, 512>,
                     Contract<Offset<Concat<Memory, Memory>>>, WatchedPartition<Concat<Memory, FileBacked>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(OverEachOther, ModelTest, OverEachOther, StackNames);

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// The layers that lock, over devices that need it, and Verify, which makes a device that needs it. Contract aborts where they
// let too much through.

#include "buse/device.h"
#include "gtest/gtest.h"
#include "layers/contract.h"
#include "layers/file_backed.h"
#include "layers/memory.h"
#include "layers/range_lock.h"
#include "layers/serialize.h"
#include "layers/verify.h"
#include "tests/leaves.h"
#include "tests/model/suite.h"

namespace buse::testing {
namespace {

using Serial = Contract<BasicFull<1, Concurrency::kSerial>>;
using Disjoint512 = Contract<BasicFull<512, Concurrency::kDisjoint>>;
using Twins = Contract<Verify<Contract<Memory>, Contract<FileBacked>>>;
using Blocks = Contract<Verify<Contract<Full512>, Contract<Full512>>>;

using Locks = ::testing::Types<Contract<Serialize<Serial>>, Contract<Serialize<Disjoint512>>, Contract<Serialize<Twins>>,
                               Contract<RangeLock<Disjoint512>>, Contract<RangeLock<Twins>>,
                               Contract<RangeLock<Contract<Memory>>>, Twins, Blocks>;
INSTANTIATE_TYPED_TEST_SUITE_P(Locks, ModelTest, Locks, StackNames);

}  // namespace
}  // namespace buse::testing

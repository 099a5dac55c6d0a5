// SPDX-License-Identifier: Apache-2.0
//
// Illegal: a RangeLock over a device that takes one call at a time.

#include "layers/range_lock.h"
#include "tests/leaves.h"

#ifdef ILLEGAL
using Leaf = buse::testing::BasicBare<1, buse::Concurrency::kSerial>;
#else
using Leaf = buse::testing::BasicBare<1, buse::Concurrency::kDisjoint>;
#endif

[[maybe_unused]] buse::RangeLock<Leaf>::State state;

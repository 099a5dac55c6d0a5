// SPDX-License-Identifier: Apache-2.0
//
// A Concat has at least one branch.

#include "layers/concat.h"
#include "tests/leaves.h"

#ifdef ILLEGAL
template struct buse::Concat<>;
#else
template struct buse::Concat<buse::testing::Full>;
#endif

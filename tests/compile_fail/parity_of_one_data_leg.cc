// SPDX-License-Identifier: Apache-2.0
//
// A Parity has two legs of data or more.

#include "layers/parity.h"
#include "tests/leaves.h"

#ifdef ILLEGAL
constexpr size_t kData = 1;
#else
constexpr size_t kData = 2;
#endif
template struct buse::Parity<kData, 1, buse::testing::Full>;

// SPDX-License-Identifier: Apache-2.0
//
// A Parity has a leg of parity or more.

#include "layers/parity.h"
#include "tests/leaves.h"

#ifdef ILLEGAL
constexpr size_t kParity = 0;
#else
constexpr size_t kParity = 1;
#endif
template struct buse::Parity<2, kParity, buse::testing::Full>;

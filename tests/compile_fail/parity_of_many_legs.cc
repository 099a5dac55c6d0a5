// SPDX-License-Identifier: Apache-2.0
//
// A Parity has at most 16 legs.

#include "layers/parity.h"
#include "tests/leaves.h"

#ifdef ILLEGAL
constexpr size_t kParity = 3;
#else
constexpr size_t kParity = 2;
#endif
template struct buse::Parity<14, kParity, buse::testing::Full>;

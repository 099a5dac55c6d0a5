// SPDX-License-Identifier: Apache-2.0
//
// The legs of a Parity can be written.

#include "layers/parity.h"
#include "tests/leaves.h"

#ifdef ILLEGAL
using Leg = buse::testing::Bare;
#else
using Leg = buse::testing::Full;
#endif
template struct buse::Parity<2, 1, Leg>;

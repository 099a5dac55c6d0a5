// SPDX-License-Identifier: Apache-2.0
//
// Illegal: an integer as the device below a layer.

#include "layers/passthrough.h"
#include "tests/leaves.h"

#ifdef ILLEGAL
using Leaf = int;
#else
using Leaf = buse::testing::Bare;
#endif

[[maybe_unused]] buse::Passthrough<Leaf>::State state;

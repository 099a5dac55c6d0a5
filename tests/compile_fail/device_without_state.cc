// SPDX-License-Identifier: Apache-2.0
//
// Illegal: a device without the type State.

#include "layers/passthrough.h"
#include "tests/leaves.h"

struct Stateless {
  struct Config {};
};

#ifdef ILLEGAL
using Leaf = Stateless;
#else
using Leaf = buse::testing::Bare;
#endif

[[maybe_unused]] buse::Passthrough<Leaf>::State state;

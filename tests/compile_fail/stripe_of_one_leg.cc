// SPDX-License-Identifier: Apache-2.0
//
// A Stripe has two legs or more.

#include "layers/stripe.h"
#include "tests/leaves.h"

#ifdef ILLEGAL
constexpr size_t kLegs = 1;
#else
constexpr size_t kLegs = 2;
#endif
template struct buse::Stripe<kLegs, buse::testing::Full>;

// SPDX-License-Identifier: Apache-2.0
//
// A Stripe's chunk is a multiple of the blocks of its legs.

#include "layers/stripe.h"
#include "tests/leaves.h"

#ifdef ILLEGAL
constexpr uint64_t kChunk = 256;
#else
constexpr uint64_t kChunk = 512;
#endif
template struct buse::Stripe<2, buse::testing::Full512, kChunk>;

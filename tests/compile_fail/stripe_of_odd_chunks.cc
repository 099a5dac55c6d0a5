// SPDX-License-Identifier: Apache-2.0
//
// A Stripe's chunk is a power of two.

#include "layers/stripe.h"
#include "tests/leaves.h"

#ifdef ILLEGAL
constexpr uint64_t kChunk = 3 * 4096;
#else
constexpr uint64_t kChunk = 4 * 4096;
#endif
template struct buse::Stripe<2, buse::testing::Full512, kChunk>;

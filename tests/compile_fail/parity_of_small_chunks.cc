// SPDX-License-Identifier: Apache-2.0
//
// The chunk of a Parity is a page or more.

#include "layers/parity.h"
#include "tests/leaves.h"

#ifdef ILLEGAL
constexpr uint64_t kChunk = 512;
#else
constexpr uint64_t kChunk = 4096;
#endif
template struct buse::Parity<2, 1, buse::testing::Full, kChunk>;

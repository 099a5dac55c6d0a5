// SPDX-License-Identifier: Apache-2.0
//
// Illegal: a server over a device whose blocks NBD has no way to offer.

#include "buse/server.h"
#include "tests/leaves.h"

#ifdef ILLEGAL
constexpr uint64_t kBlock = 520;
#else
constexpr uint64_t kBlock = 512;
#endif

using Stack = buse::testing::BasicFull<kBlock, buse::Concurrency::kParallel>;

int main(int argc, char** argv) { return buse::Server<Stack>::Main(argc, argv); }

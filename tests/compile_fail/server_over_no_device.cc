// SPDX-License-Identifier: Apache-2.0
//
// Illegal: a server over a type that is no device.

#include "buse/server.h"
#include "layers/memory.h"

#ifdef ILLEGAL
struct Stack {};
#else
using Stack = buse::Memory;
#endif

int main(int argc, char** argv) { return buse::Server<Stack>::Main(argc, argv); }

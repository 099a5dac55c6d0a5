// SPDX-License-Identifier: Apache-2.0
//
// A disk in memory.

#include "buse/server.h"
#include "layers/memory.h"

int main(int argc, char** argv) { return buse::Server<buse::Memory>::Main(argc, argv); }

// SPDX-License-Identifier: Apache-2.0
//
// Illegal: a name that could not begin an option.

#include "buse/exports.h"
#include "layers/memory.h"

#ifdef ILLEGAL
using Disk = buse::Named<"My Disk", buse::Memory>;
#else
using Disk = buse::Named<"my-disk", buse::Memory>;
#endif

int Serve(int argc, char** argv) { return buse::Server<buse::Exports<Disk>>::Main(argc, argv); }

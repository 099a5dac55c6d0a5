// SPDX-License-Identifier: Apache-2.0
//
// Illegal: two exports that a client could not tell apart.

#include "buse/exports.h"
#include "layers/memory.h"

#ifdef ILLEGAL
using Second = buse::Named<"disk", buse::Memory>;
#else
using Second = buse::Named<"other", buse::Memory>;
#endif

int Serve(int argc, char** argv) {
  return buse::Server<buse::Exports<buse::Named<"disk", buse::Memory>, Second>>::Main(argc, argv);
}

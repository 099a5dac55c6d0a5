// SPDX-License-Identifier: Apache-2.0
//
// Says what lies on a medium, whichever layers it was made for.

#include "buse/serve.h"
#include "buse/verbs.h"

int main(int argc, char** argv) {
  buse::EnterCallersFolder();
  return buse::RunDescribe(buse::ProgramOf(argv[0], {}).name, argc, argv);
}

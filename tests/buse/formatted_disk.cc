// SPDX-License-Identifier: Apache-2.0
//
// A program whose stack has a medium, for verbs_test; --read-delay makes its checks take their time.

#include "buse/server.h"
#include "layers/delay.h"
#include "layers/file_backed.h"
#include "tests/formatted.h"

int main(int argc, char** argv) {
  return buse::Server<buse::testing::Formatted<buse::Delay<buse::FileBacked>>>::Main(argc, argv);
}

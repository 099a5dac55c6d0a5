// SPDX-License-Identifier: Apache-2.0
//
// A file, or another block device, as a disk.

#include "buse/server.h"
#include "layers/file_backed.h"

int main(int argc, char** argv) { return buse::Server<buse::FileBacked>::Main(argc, argv); }

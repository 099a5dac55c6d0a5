// SPDX-License-Identifier: Apache-2.0

#include "buse/server.h"
#include "layers/cache.h"
#include "layers/checksum.h"
#include "layers/file_backed.h"

int main(int argc, char** argv) { return buse::Server<buse::Cache<buse::Checksum<buse::FileBacked>>>::Main(argc, argv); }

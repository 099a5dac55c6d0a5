// SPDX-License-Identifier: Apache-2.0
//
// Two disks of one server, each its own stack: a read-only image, and a file behind a cache.

#include "buse/exports.h"
#include "layers/cache.h"
#include "layers/file_backed.h"
#include "layers/read_only.h"

using Boot = buse::Named<"boot", buse::ReadOnly<buse::FileBacked>>;
using Data = buse::Named<"data", buse::Cache<buse::FileBacked>>;

int main(int argc, char** argv) { return buse::Server<buse::Exports<Boot, Data>>::Main(argc, argv); }

// SPDX-License-Identifier: Apache-2.0
//
// A program of three exports for exports_test: a disk in memory, one in blocks of 512 bytes that has a medium, and a read-only
// file.

#include "buse/exports.h"
#include "layers/file_backed.h"
#include "layers/memory.h"
#include "layers/read_only.h"
#include "tests/formatted.h"

using Scratch = buse::Named<"scratch", buse::Memory>;
using Vault = buse::Named<"vault", buse::testing::Formatted<buse::FileBacked>>;
using Image = buse::Named<"image-2", buse::ReadOnly<buse::FileBacked>>;

int main(int argc, char** argv) { return buse::Server<buse::Exports<Scratch, Vault, Image>>::Main(argc, argv); }

// SPDX-License-Identifier: Apache-2.0
//
// Two files as one disk, of which any one may be lost: as examples/raid.cc, with a Mirror.

#include "buse/server.h"
#include "layers/checksum.h"
#include "layers/file_backed.h"
#include "layers/maintain.h"
#include "layers/mirror.h"

using MirrorDisk = buse::Maintain<buse::Mirror<buse::Checksum<buse::FileBacked>, buse::Checksum<buse::FileBacked>>>;

int main(int argc, char** argv) { return buse::Server<MirrorDisk>::Main(argc, argv); }

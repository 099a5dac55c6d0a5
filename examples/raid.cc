// SPDX-License-Identifier: Apache-2.0

#include "buse/server.h"
#include "layers/checksum.h"
#include "layers/file_backed.h"
#include "layers/maintain.h"
#include "layers/parity.h"

// Four files of data and two of parity: any two may be lost.
using Raid = buse::Maintain<buse::Parity<4, 2, buse::Checksum<buse::FileBacked>>>;

int main(int argc, char** argv) { return buse::Server<Raid>::Main(argc, argv); }

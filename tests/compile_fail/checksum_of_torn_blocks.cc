// SPDX-License-Identifier: Apache-2.0
//
// A block of several sectors may be torn, and then looks damaged.

#include "layers/checksum.h"
#include "layers/file_backed.h"
#include "layers/journal.h"

#ifdef ILLEGAL
using Disk = buse::FileBacked;
#else
using Disk = buse::Journal<buse::FileBacked>;
#endif
template struct buse::Checksum<Disk, buse::Crc32c, 4096>;

// SPDX-License-Identifier: Apache-2.0
//
// Sector 0 decides which kind of table is read.

#include "layers/partition.h"

#include <algorithm>

#include "layers/partition_gpt.h"
#include "layers/partition_mbr.h"

namespace buse::partition_internal {

absl::StatusOr<Range> Find(const Medium& medium, const Wanted& wanted) {
  if (wanted.number == 0) return Refused("there is no partition 0: they count from 1");
  if (wanted.sector_size != 0 && wanted.sector_size != 512 && wanted.sector_size != 4096) {
    return Refused("sectors of ", wanted.sector_size, " bytes are not known: give 512 or 4096, or 0 to find out");
  }
  const uint64_t sector_size = wanted.sector_size != 0 ? wanted.sector_size : 512;
  if (medium.size < sector_size) {
    return Refused("a device of ", medium.size, " bytes has no sector of ", sector_size, " for a partition table");
  }
  Disk disk(medium, sector_size);
  const absl::StatusOr<Mbr> mbr = ReadMbr(disk, 0);
  if (!mbr.ok()) return mbr.status();
  const auto protects_gpt = [](const MbrEntry& entry) { return entry.protects_gpt(); };
  if (std::any_of(mbr->entries.begin(), mbr->entries.end(), protects_gpt)) return FindInGpt(medium, wanted);
  return FindInMbr(disk, *mbr, wanted.number);
}

}  // namespace buse::partition_internal

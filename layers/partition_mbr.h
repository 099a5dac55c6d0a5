// SPDX-License-Identifier: Apache-2.0
//
// The partition table in sector 0, with four entries, and the chain of tables through an extended partition, whose partitions
// count from 5.

#ifndef LAYERS_PARTITION_MBR_H_
#define LAYERS_PARTITION_MBR_H_

#include <array>
#include <cstdint>

#include "absl/status/statusor.h"
#include "buse/device.h"
#include "layers/partition_table.h"

namespace buse::partition_internal {

struct MbrEntry {
  uint8_t type;
  uint64_t start;
  uint64_t length;

  bool empty() const { return type == 0 || length == 0; }
  bool extended() const { return !empty() && (type == 0x05 || type == 0x0f || type == 0x85); }
  bool protects_gpt() const { return type == 0xee; }
  // Of a partition that counts its start from `base`.
  Span span(uint64_t base) const { return {base + start, base + start + length - 1}; }
};

struct Mbr {
  std::array<MbrEntry, 4> entries;
};

// kDataLoss: the sector has no signature.
absl::StatusOr<Mbr> ReadMbr(Disk& disk, uint64_t sector);

// Where partition `number` lies that `mbr`, of sector 0, or a chain from there names.
absl::StatusOr<Range> FindInMbr(Disk& disk, const Mbr& mbr, uint64_t number);

}  // namespace buse::partition_internal

#endif  // LAYERS_PARTITION_MBR_H_

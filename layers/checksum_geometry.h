// SPDX-License-Identifier: Apache-2.0
//
// ChecksumGeometry: where Checksum keeps what on its medium.

#ifndef LAYERS_CHECKSUM_GEOMETRY_H_
#define LAYERS_CHECKSUM_GEOMETRY_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "layers/superblock.h"

namespace buse {

struct ChecksumGeometry {
  static constexpr uint64_t kPage = 4096;
  static constexpr uint64_t kMinSlots = 4;

  // Offsets are multiples of kPage, except for that of the end.
  std::array<uint64_t, 2> heads = {};
  uint64_t log = 0;
  uint64_t slots = 0;  // of kPage, in the log
  uint64_t table = 0;
  uint64_t data = 0;
  uint64_t blocks = 0;
  uint64_t block_size = 0;
  uint64_t sum_bytes = 0;
  uint64_t salt = 0;  // of the medium

  uint64_t sums_per_page() const { return kPage / sum_bytes; }
  uint64_t table_pages() const { return (data - table) / kPage; }
  uint64_t OffsetOf(uint64_t block) const { return data + block * block_size; }

  // A 16th of the medium, but no less than 1 MiB and no more than 16 MiB.
  static uint64_t DefaultLog(uint64_t medium_size);

  // For a device below of `medium_size` bytes. kInvalidArgument where there is no room, or the log cannot have that size.
  static absl::StatusOr<ChecksumGeometry> Plan(uint64_t medium_size, uint64_t log_bytes, uint64_t block_size,
                                               uint64_t sum_bytes, const Uuid& uuid);

  // What the superblock says of it; and back. kDataLoss where that cannot be.
  std::vector<std::pair<std::string, uint64_t>> Fields() const;
  static absl::StatusOr<ChecksumGeometry> From(const Superblock& superblock, uint64_t sum_bytes);
};

}  // namespace buse

#endif  // LAYERS_CHECKSUM_GEOMETRY_H_

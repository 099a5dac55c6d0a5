// SPDX-License-Identifier: Apache-2.0

#include "layers/checksum_geometry.h"

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "layers/splitmix.h"

namespace buse {
namespace {

uint64_t PagesFor(uint64_t bytes) { return (bytes + ChecksumGeometry::kPage - 1) / ChecksumGeometry::kPage; }

uint64_t SaltOf(const Uuid& uuid) {
  uint64_t halves[2];
  std::memcpy(halves, uuid.data(), sizeof(halves));
  return Mix64(halves[0] ^ Mix64(halves[1]));
}

}  // namespace

uint64_t ChecksumGeometry::DefaultLog(uint64_t medium_size) {
  return std::clamp<uint64_t>(medium_size / 16 / kPage * kPage, 1 << 20, 16 << 20);
}

absl::StatusOr<ChecksumGeometry> ChecksumGeometry::Plan(uint64_t medium_size, uint64_t log_bytes, uint64_t block_size,
                                                        uint64_t sum_bytes, const Uuid& uuid) {
  if (log_bytes % kPage != 0 || log_bytes / kPage < kMinSlots) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "checksum: a log of %d bytes: it must be a multiple of %d and at least %d", log_bytes, kPage, kMinSlots * kPage));
  }
  ChecksumGeometry g;
  g.log = 2 * kPage;
  g.slots = log_bytes / kPage;
  g.table = g.log + log_bytes;
  g.block_size = block_size;
  g.sum_bytes = sum_bytes;
  g.salt = SaltOf(uuid);
  // Besides the superblock, the first head and the log: a page of sums, one of data, the second head and the other superblock.
  if (medium_size < log_bytes || medium_size - log_bytes < 6 * kPage) {
    return absl::InvalidArgumentError(
        absl::StrFormat("checksum: the device below has %d bytes, too few for a log of %d: it needs %d, or a smaller --log",
                        medium_size, log_bytes, log_bytes + 6 * kPage));
  }
  g.heads = {kPage, SuperblockCopyAt(medium_size) - kPage};
  const uint64_t room = g.heads[1] - g.table;
  // Sums for as many blocks as there would be if nothing were rounded.
  const uint64_t pages = PagesFor(room / (block_size + sum_bytes) * sum_bytes);
  g.data = g.table + pages * kPage;
  g.blocks = std::min((g.heads[1] - g.data) / block_size, pages * g.sums_per_page());
  return g;
}

std::vector<std::pair<std::string, uint64_t>> ChecksumGeometry::Fields() const {
  return {{"head", heads[0]}, {"head-copy", heads[1]}, {"log", log}, {"log-slots", slots}, {"table", table}, {"data", data}};
}

absl::StatusOr<ChecksumGeometry> ChecksumGeometry::From(const Superblock& superblock, uint64_t sum_bytes) {
  ChecksumGeometry g;
  for (const auto& [name, value] : std::vector<std::pair<const char*, uint64_t*>>{{"head", &g.heads[0]},
                                                                                  {"head-copy", &g.heads[1]},
                                                                                  {"log", &g.log},
                                                                                  {"log-slots", &g.slots},
                                                                                  {"table", &g.table},
                                                                                  {"data", &g.data}}) {
    const absl::StatusOr<uint64_t> field = superblock.Field(name);
    if (!field.ok()) return field.status();
    *value = *field;
  }
  const absl::StatusOr<ChecksumGeometry> planned =
      Plan(superblock.medium_size, g.slots * kPage, superblock.block_size, sum_bytes, superblock.uuid);
  if (!planned.ok() || planned->Fields() != g.Fields() || planned->blocks * superblock.block_size != superblock.size) {
    return absl::DataLossError(
        "checksum: the geometry in the superblock does not fit its medium: it was written by a program "
        "that computes it differently, or is damaged");
  }
  return *planned;
}

}  // namespace buse

// SPDX-License-Identifier: Apache-2.0
//
// A disk in sectors, read through a buffer, and where the partition lies that a table has named.

#include "layers/partition_table.h"

#include <algorithm>

namespace buse::partition_internal {
namespace {

constexpr uint64_t kPiece = 4096;

}  // namespace

uint64_t Load(const std::byte* bytes, int width) {
  uint64_t number = 0;
  for (int i = width; i-- > 0;) number = number << 8 | std::to_integer<uint64_t>(bytes[i]);
  return number;
}

std::string ToString(const Span& span) { return absl::StrCat("sectors ", span.first, " to ", span.last); }

Disk::Disk(const Medium& medium, uint64_t sector_size)
    : medium_(medium),
      sector_size_(sector_size),
      buffer_(std::max<uint64_t>(1, kPiece / medium.block_size) * medium.block_size) {}

absl::Status Disk::Read(uint64_t sector, uint64_t skip, Bytes out) {
  uint64_t offset = sector * sector_size_ + skip;
  while (!out.empty()) {
    if (absl::Status status = Buffer(offset); !status.ok()) return status;
    const ConstBytes have = buffered_.subspan(offset - begin_, std::min(out.size(), begin_ + buffered_.size() - offset));
    std::copy(have.begin(), have.end(), out.begin());
    out = out.subspan(have.size());
    offset += have.size();
  }
  return absl::OkStatus();
}

absl::Status Disk::Buffer(uint64_t offset) {
  if (offset >= begin_ && offset - begin_ < buffered_.size()) return absl::OkStatus();
  begin_ = offset / buffer_.size() * buffer_.size();
  buffered_ = {};
  const Bytes want(buffer_.data(), std::min<uint64_t>(buffer_.size(), medium_.size - begin_));
  absl::Status status = medium_.read(begin_, want);
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat("partition: reading the table, at byte ", begin_, ": ", status.message()));
  }
  buffered_ = want;
  return status;
}

absl::StatusOr<Range> Resolve(const Found& found, const Disk& disk, uint64_t number) {
  if (!found.span.has_value()) {
    return Refused("there is no partition ", number, "; the last number is ", found.last);
  }
  const Span& span = *found.span;
  if (span.first > span.last || !found.allowed.Contains(span.first) || !found.allowed.Contains(span.last)) {
    return Damaged("partition ", number, " is ", ToString(span), ", which does not lie within ", ToString(found.allowed),
                   ": repair the table with a partitioning tool");
  }
  for (const Span& other : found.others) {
    if (!span.Overlaps(other)) continue;
    return Damaged("partition ", number, " is ", ToString(span), ", which overlaps ", ToString(other),
                   " of another or of the table: repair the table with a partitioning tool");
  }
  return Range{span.first * disk.sector_size(), (span.last - span.first + 1) * disk.sector_size()};
}

}  // namespace buse::partition_internal

// SPDX-License-Identifier: Apache-2.0
//
// Reads an MBR and follows the chain of logical partitions, none of whose bytes can be trusted.

#include "layers/partition_mbr.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <vector>

#include "absl/status/status.h"

namespace buse::partition_internal {
namespace {

constexpr uint64_t kMbrSize = 512;

absl::StatusOr<Found> FindPrimary(const Disk& disk, const Mbr& mbr, uint64_t number) {
  const MbrEntry& wanted = mbr.entries[number - 1];
  if (wanted.extended()) {
    return Refused("partition ", number,
                   " is the extended one, which holds others: give the number of a logical one, from 5 on");
  }
  Found found = {{}, {1, disk.sectors() - 1}, {}, 4};
  if (!wanted.empty()) found.span = wanted.span(0);
  for (const MbrEntry& entry : mbr.entries) {
    if (&entry != &wanted && !entry.empty()) found.others.push_back(entry.span(0));
  }
  return found;
}

// Follows the chain through the extended partition.
absl::Status WalkChain(Disk& disk, const Span& extended, uint64_t number, Found& found) {
  std::vector<uint64_t> chain;
  for (std::optional<uint64_t> next = extended.first; next.has_value();) {
    const uint64_t sector = *next;
    if (!extended.Contains(sector) || sector >= disk.sectors()) {
      return Damaged("the chain of logical partitions leads to sector ", sector, ", which is not in ", ToString(extended),
                     " of the extended partition, or not on the disk of ", disk.sectors());
    }
    if (std::find(chain.begin(), chain.end(), sector) != chain.end()) {
      return Damaged("the chain of logical partitions comes back to sector ", sector);
    }
    if (chain.size() == kMaxEntries) return Damaged("the chain of logical partitions has more than ", kMaxEntries, " sectors");
    chain.push_back(sector);
    found.others.push_back({sector, sector});
    const absl::StatusOr<Mbr> table = ReadMbr(disk, sector);
    if (!table.ok()) return table.status();
    next.reset();
    for (const MbrEntry& entry : {table->entries[0], table->entries[1]}) {
      if (entry.extended()) {
        next = extended.first + entry.start;
      } else if (!entry.empty() && ++found.last == number) {
        found.span = entry.span(sector);
      } else if (!entry.empty()) {
        found.others.push_back(entry.span(sector));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Found> FindLogical(Disk& disk, const Mbr& mbr, uint64_t number) {
  Found found = {{}, {}, {}, 4};
  std::optional<Span> extended;
  for (const MbrEntry& entry : mbr.entries) {
    if (!entry.extended()) {
      if (!entry.empty()) found.others.push_back(entry.span(0));
      continue;
    }
    if (extended.has_value()) return Damaged("there are two extended partitions, where only one is allowed");
    extended = entry.span(0);
  }
  if (!extended.has_value()) return found;
  found.allowed = {extended->first, std::min(extended->last, disk.sectors() - 1)};
  if (absl::Status status = WalkChain(disk, *extended, number, found); !status.ok()) return status;
  return found;
}

}  // namespace

absl::StatusOr<Mbr> ReadMbr(Disk& disk, uint64_t sector) {
  std::array<std::byte, kMbrSize> bytes;
  if (absl::Status status = disk.Read(sector, 0, bytes); !status.ok()) return status;
  if (Load(&bytes[510], 2) != 0xaa55) {
    return Damaged("sector ", sector, " does not end with the signature 55 AA of a partition table",
                   sector == 0 ? ": the device has none, or it lies elsewhere" : ", which a logical partition needs");
  }
  Mbr mbr;
  for (size_t i = 0; i < mbr.entries.size(); ++i) {
    const std::byte* entry = &bytes[446 + 16 * i];
    mbr.entries[i] = {std::to_integer<uint8_t>(entry[4]), Load(entry + 8, 4), Load(entry + 12, 4)};
  }
  return mbr;
}

absl::StatusOr<Range> FindInMbr(Disk& disk, const Mbr& mbr, uint64_t number) {
  const absl::StatusOr<Found> found = number <= 4 ? FindPrimary(disk, mbr, number) : FindLogical(disk, mbr, number);
  return found.ok() ? Resolve(*found, disk, number) : found.status();
}

}  // namespace buse::partition_internal

// SPDX-License-Identifier: Apache-2.0
//
// Reads GPTs, none of whose bytes can be trusted until their sums are right, and few even then.

#include "layers/partition_gpt.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace buse::partition_internal {
namespace {

constexpr uint64_t kRevision = 0x00010000;
constexpr uint64_t kMinHeaderSize = 92;
constexpr uint64_t kMinEntrySize = 128;
constexpr uint64_t kMaxEntrySize = 4096;

uint32_t Crc(uint32_t crc, ConstBytes bytes) {
  return crc32(crc, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size()));
}

struct Header {
  Span usable;
  uint64_t alternate;  // where the other header is
  uint64_t start;      // of the entries
  uint64_t entries;
  uint64_t entry_size;
  uint32_t entries_crc;
};

absl::StatusOr<Header> ReadHeader(Disk& disk, uint64_t sector) {
  const std::string where = absl::StrCat("the GPT header in sector ", sector, " of ", disk.sector_size(), " bytes");
  std::vector<std::byte> bytes(disk.sector_size());
  if (absl::Status status = disk.Read(sector, 0, bytes); !status.ok()) return status;
  if (std::memcmp(bytes.data(), "EFI PART", 8) != 0)
    return absl::NotFoundError(absl::StrCat("partition: ", where, " lacks its signature"));
  const uint64_t revision = Load(&bytes[8], 4);
  if (revision != kRevision) {
    return Damaged(where, " has revision ", absl::Hex(revision), ", and known is ", absl::Hex(kRevision));
  }
  const uint64_t header_size = Load(&bytes[12], 4);
  if (header_size < kMinHeaderSize || header_size > disk.sector_size()) {
    return Damaged(where, " claims ", header_size, " bytes, and not ", kMinHeaderSize, " to ", disk.sector_size());
  }
  const uint64_t crc = Load(&bytes[16], 4);
  std::fill_n(&bytes[16], 4, std::byte{0});
  const uint32_t actual = Crc(0, ConstBytes(bytes).first(header_size));
  if (crc != actual) return Damaged(where, " has the CRC-32 ", absl::Hex(actual), ", and says ", absl::Hex(crc));
  const uint64_t here = Load(&bytes[24], 8);
  if (here != sector) return Damaged(where, " says that it lies in sector ", here);
  return Header{.usable = {Load(&bytes[40], 8), Load(&bytes[48], 8)},
                .alternate = Load(&bytes[32], 8),
                .start = Load(&bytes[72], 8),
                .entries = Load(&bytes[80], 4),
                .entry_size = Load(&bytes[84], 4),
                .entries_crc = static_cast<uint32_t>(Load(&bytes[88], 4))};
}

// Whether what the header at `sector` says can be.
absl::Status CheckHeader(const Header& header, const Disk& disk, uint64_t sector) {
  const std::string where = absl::StrCat("the GPT header in sector ", sector, " of ", disk.sector_size(), " bytes");
  const auto taken = [&](const Span& span) { return span.Contains(sector) || span.Contains(header.alternate); };
  const Span& usable = header.usable;
  if (usable.first < 2 || usable.first > usable.last || usable.last >= disk.sectors() || taken(usable)) {
    return Damaged(where, " says that ", ToString(usable), " are for partitions, on a disk of ", disk.sectors(),
                   " sectors with the other GPT header in sector ", header.alternate);
  }
  if (header.entries == 0 || header.entries > kMaxEntries) {
    return Damaged(where, " has ", header.entries, " entries, and not 1 to ", kMaxEntries);
  }
  const bool power_of_two = (header.entry_size & (header.entry_size - 1)) == 0;
  if (header.entry_size < kMinEntrySize || header.entry_size > kMaxEntrySize || !power_of_two) {
    return Damaged(where, " has entries of ", header.entry_size, " bytes, and not a power of two from ", kMinEntrySize, " to ",
                   kMaxEntrySize);
  }
  const uint64_t length = (header.entries * header.entry_size + disk.sector_size() - 1) / disk.sector_size();
  const bool inside = header.start >= 2 && header.start < disk.sectors() && length <= disk.sectors() - header.start;
  if (!inside || taken({header.start, header.start + length - 1}) ||
      usable.Overlaps({header.start, header.start + length - 1})) {
    return Damaged(where, " says that its entries are the ", length, " sectors from ", header.start,
                   " on, which are not on the disk or not theirs");
  }
  return absl::OkStatus();
}

// Reads and checks all of the GPT whose header is in `sector`. kNotFound: there is none.
absl::StatusOr<Found> ReadGpt(Disk& disk, uint64_t sector, uint64_t number) {
  const absl::StatusOr<Header> header = ReadHeader(disk, sector);
  if (!header.ok()) return header.status();
  if (absl::Status status = CheckHeader(*header, disk, sector); !status.ok()) return status;
  Found found = {{}, header->usable, {}, header->entries};
  uint32_t crc = 0;
  std::array<std::byte, kMaxEntrySize> buffer;
  const Bytes entry(buffer.data(), header->entry_size);
  for (uint64_t i = 0; i < header->entries; ++i) {
    if (absl::Status status = disk.Read(header->start, i * header->entry_size, entry); !status.ok()) return status;
    crc = Crc(crc, entry);
    const bool used = std::any_of(entry.begin(), entry.begin() + 16, [](std::byte b) { return b != std::byte{0}; });
    if (!used) continue;
    const Span span = {Load(&entry[32], 8), Load(&entry[40], 8)};
    if (i + 1 == number) {
      found.span = span;
    } else {
      found.others.push_back(span);
    }
  }
  if (crc != header->entries_crc) {
    return Damaged("the entries of the GPT from sector ", header->start, " of ", disk.sector_size(),
                   " bytes on have the CRC-32 ", absl::Hex(crc), ", and the header says ", absl::Hex(header->entries_crc));
  }
  return found;
}

// What the GPTs at one end of the disk say. There is one place for each sector size.
struct Verdict {
  std::optional<absl::StatusOr<Range>> answer;  // of the sound one
  absl::Status damage;                          // why there is no answer
};

Verdict Judge(const Medium& medium, const Wanted& wanted, bool backup) {
  Verdict verdict = {{}, absl::NotFoundError("partition: the device is too small for a GPT")};
  bool looked = false;
  for (const uint64_t sector_size : {512, 4096}) {
    if (wanted.sector_size != 0 && wanted.sector_size != sector_size) continue;
    Disk disk(medium, sector_size);
    if (disk.sectors() < 3) continue;
    const absl::StatusOr<Found> found = ReadGpt(disk, backup ? disk.sectors() - 1 : 1, wanted.number);
    if (found.ok() && verdict.answer.has_value()) {
      verdict.answer = Refused("there are two GPTs, of sectors of 512 and of 4096 bytes: choose with the option sector-size");
    } else if (found.ok()) {
      verdict.answer = Resolve(*found, disk, wanted.number);
    } else if (!looked || (absl::IsNotFound(verdict.damage) && !absl::IsNotFound(found.status()))) {
      verdict.damage = found.status();  // what is wrong with a header says more than that there is none
    }
    looked = true;
  }
  return verdict;
}

}  // namespace

absl::StatusOr<Range> FindInGpt(const Medium& medium, const Wanted& wanted) {
  const Verdict primary = Judge(medium, wanted, false);
  if (primary.answer.has_value()) return *primary.answer;
  const Verdict backup = Judge(medium, wanted, true);
  if (backup.answer.has_value() && wanted.use_backup) return *backup.answer;
  const absl::StatusCode code = primary.damage.code();
  return absl::Status(code == absl::StatusCode::kNotFound ? absl::StatusCode::kDataLoss : code,
                      backup.answer.has_value()
                          ? absl::StrCat(primary.damage.message(),
                                         "; the backup at the end of the disk is sound: repair the disk with a "
                                         "partitioning tool, or use the backup with the option use-backup")
                          : absl::StrCat(primary.damage.message(), "; the backup cannot be used either: ",
                                         absl::StripPrefix(backup.damage.message(), "partition: ")));
}

}  // namespace buse::partition_internal

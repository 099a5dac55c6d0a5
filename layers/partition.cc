// SPDX-License-Identifier: Apache-2.0
//
// Reads MBR and GPT partition tables, none of whose bytes can be trusted: every number is checked before it is used, sectors
// are compared and never added up, and what is read is bounded.

#include "layers/partition.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace buse::partition_internal {
namespace {

constexpr uint64_t kMaxEntries = 1024;  // of a GPT, or sectors of a chain
constexpr uint64_t kPiece = 4096;

template <class... Text>
absl::Status Damaged(const Text&... text) {
  return absl::DataLossError(absl::StrCat("partition: ", text...));
}
template <class... Text>
absl::Status Refused(const Text&... text) {
  return absl::InvalidArgumentError(absl::StrCat("partition: ", text...));
}

// Little endian.
uint64_t Load(const std::byte* bytes, int width) {
  uint64_t number = 0;
  for (int i = width; i-- > 0;) number = number << 8 | std::to_integer<uint64_t>(bytes[i]);
  return number;
}

uint32_t Crc(uint32_t crc, ConstBytes bytes) {
  return crc32(crc, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size()));
}

// Sectors, the last included. A hostile one may end before it begins: then it has none.
struct Span {
  uint64_t first;
  uint64_t last;

  bool Contains(uint64_t sector) const { return first <= sector && sector <= last; }
  bool Overlaps(const Span& other) const {
    return first <= last && other.first <= other.last && first <= other.last && other.first <= last;
  }
};

std::string ToString(const Span& span) { return absl::StrCat("sectors ", span.first, " to ", span.last); }

// The medium in sectors, for a reader that takes any offset.
class Disk {
 public:
  Disk(const Medium& medium, uint64_t sector_size)
      : medium_(medium),
        sector_size_(sector_size),
        buffer_(std::max<uint64_t>(1, kPiece / medium.block_size) * medium.block_size) {}

  uint64_t sector_size() const { return sector_size_; }
  uint64_t sectors() const { return medium_.size / sector_size_; }

  // Reads from byte `skip` of `sector` on; all of it must exist.
  absl::Status Read(uint64_t sector, uint64_t skip, Bytes out) {
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

 private:
  absl::Status Buffer(uint64_t offset) {
    if (offset >= begin_ && offset - begin_ < buffered_.size()) return absl::OkStatus();
    begin_ = offset / buffer_.size() * buffer_.size();
    buffered_ = {};
    const Bytes want(buffer_.data(), std::min<uint64_t>(buffer_.size(), medium_.size - begin_));
    absl::Status status = medium_.read(begin_, want);
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat("partition: reading the table, at byte ", begin_, ": ", status.message()));
    }
    buffered_ = want;
    return status;
  }

  const Medium& medium_;
  const uint64_t sector_size_;
  std::vector<std::byte> buffer_;
  uint64_t begin_ = 0;   // where on the medium
  ConstBytes buffered_;  // what was read: a prefix of the buffer
};

// What a table says of the partition that was asked for, and of whatever it must not overlap.
struct Found {
  std::optional<Span> span;
  Span allowed;
  std::vector<Span> others;
  uint64_t last = 0;  // the number of the last partition, or of the last entry
};

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

// ---- MBR.

constexpr uint64_t kMbrSize = 512;

struct MbrEntry {
  uint8_t type;
  uint64_t start;
  uint64_t length;

  bool empty() const { return type == 0 || length == 0; }
  bool extended() const { return !empty() && (type == 0x05 || type == 0x0f || type == 0x85); }
  // Of a partition that counts its start from `base`.
  Span span(uint64_t base) const { return {base + start, base + start + length - 1}; }
};

struct Mbr {
  std::array<MbrEntry, 4> entries;
};

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

absl::StatusOr<Range> FindInMbr(Disk& disk, const Mbr& mbr, uint64_t number) {
  const absl::StatusOr<Found> found = number <= 4 ? FindPrimary(disk, mbr, number) : FindLogical(disk, mbr, number);
  return found.ok() ? Resolve(*found, disk, number) : found.status();
}

// ---- GPT.

constexpr uint64_t kRevision = 0x00010000;
constexpr uint64_t kMinHeaderSize = 92;
constexpr uint64_t kMinEntrySize = 128;
constexpr uint64_t kMaxEntrySize = 4096;

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

}  // namespace

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
  const auto protects_gpt = [](const MbrEntry& entry) { return entry.type == 0xee; };
  if (std::any_of(mbr->entries.begin(), mbr->entries.end(), protects_gpt)) return FindInGpt(medium, wanted);
  return FindInMbr(disk, *mbr, wanted.number);
}

}  // namespace buse::partition_internal

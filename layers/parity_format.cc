// SPDX-License-Identifier: Apache-2.0
//
// A parity's heads and records as bytes, which head to believe, and what goes where.

#include "layers/parity_format.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "layers/crc32c.h"
#include "layers/leg_heads.h"
#include "layers/little_endian.h"

namespace buse {
namespace {

constexpr size_t kSector = 512;
constexpr size_t kHeadSumAt = kSector - 4;
constexpr size_t kEventAt = 8;
constexpr size_t kSessionAt = 16;
constexpr size_t kLegsAt = 24;
constexpr size_t kLegAt = 32;
constexpr size_t kLegBytes = 24;
static_assert(kLegAt + kLegBytes * ParityHead::kMostLegs <= kHeadSumAt);

constexpr size_t kIdAt = 8;
constexpr size_t kRecordSessionAt = 16;
constexpr size_t kRecordSumAt = 28;

uint32_t SumOfUuid(const Uuid& uuid) { return ExtendCrc32c(0, std::as_bytes(std::span(uuid))); }

uint32_t RecordSum(const Uuid& uuid, ConstBytes header_and_entries) {
  uint32_t sum = ExtendCrc32c(SumOfUuid(uuid), header_and_entries.first(kRecordSumAt));
  return ExtendCrc32c(sum, header_and_entries.subspan(ParityRecord::kHeaderBytes));
}

}  // namespace

// ---- Heads.

void EncodeParityHead(const ParityHead& head, const Uuid& uuid, ParityPage& page) {
  page = {};
  std::memcpy(page.data(), ParityHead::kMagic.data(), ParityHead::kMagic.size());
  PutLittleEndian(page.data() + kEventAt, head.event);
  PutLittleEndian(page.data() + kSessionAt, head.session);
  PutLittleEndian(page.data() + kLegsAt, head.legs);
  for (size_t i = 0; i < head.legs; ++i) {
    std::byte* const at = page.data() + kLegAt + kLegBytes * i;
    PutLittleEndian(at, head.leg[i].since * 2 + head.leg[i].failed);
    std::memcpy(at + 8, head.leg[i].uuid.data(), head.leg[i].uuid.size());
  }
  PutLittleEndian(page.data() + kHeadSumAt, ExtendCrc32c(SumOfUuid(uuid), ConstBytes(page).first(kHeadSumAt)));
}

absl::optional<ParityHead> DecodeParityHead(const ParityPage& page, const Uuid& uuid) {
  if (std::memcmp(page.data(), ParityHead::kMagic.data(), ParityHead::kMagic.size()) != 0) return absl::nullopt;
  const uint32_t sum = ExtendCrc32c(SumOfUuid(uuid), ConstBytes(page).first(kHeadSumAt));
  if (GetLittleEndian<uint32_t>(page.data() + kHeadSumAt) != sum) return absl::nullopt;
  ParityHead head = {.event = GetLittleEndian<uint64_t>(page.data() + kEventAt),
                     .session = GetLittleEndian<uint64_t>(page.data() + kSessionAt),
                     .legs = GetLittleEndian<uint64_t>(page.data() + kLegsAt)};
  if (head.legs > ParityHead::kMostLegs) return absl::nullopt;
  for (size_t i = 0; i < head.legs; ++i) {
    const std::byte* const at = page.data() + kLegAt + kLegBytes * i;
    const uint64_t word = GetLittleEndian<uint64_t>(at);
    head.leg[i] = {.since = word / 2, .failed = word % 2 != 0};
    std::memcpy(head.leg[i].uuid.data(), at + 8, head.leg[i].uuid.size());
  }
  return head;
}

absl::StatusOr<ParityHead> NewestParityHead(std::span<absl::optional<ParityHead>> heads, bool majority) {
  const LegHeads<ParityHead> all(heads);
  if (!all.found()) {
    return absl::DataLossError(
        "parity: no leg has a head that can be read, so that nothing says which of them are in sync: restore one from a "
        "backup");
  }
  for (size_t i = 0; i < heads.size(); ++i) {
    if (!all.Contradicts(i)) continue;
    if (majority && all.newest().leg[i].failed) {
      heads[i].reset();
      continue;
    }
    return absl::FailedPreconditionError(absl::StrCat(
        "parity: the legs were changed apart from each other, so that no side has all that was written: ", all.Dispute(i),
        ". Take away the legs of one side, and use --degraded"));
  }
  return all.newest();
}

// ---- Layout.

LegMask ParityLayout::LegsOf(LegMask elements, uint64_t there) const {
  LegMask result = 0;
  ForEachLeg(elements, [&](size_t element) { result |= Leg(LegOf(element, there)); });
  return result;
}

LegMask ParityLayout::ElementsOf(LegMask legs, uint64_t there) const {
  LegMask result = 0;
  ForEachLeg(legs, [&](size_t leg) { result |= Leg(ElementOf(leg, there)); });
  return result;
}

absl::StatusOr<ParityLayout> LayOutParity(ParityLayout wanted, uint64_t smallest_leg, uint64_t log) {
  wanted.log_slot = log / ParityLayout::kSlots / ParityLayout::kPage * ParityLayout::kPage;
  if (wanted.log_slot < ParityLayout::kLeastSlot || wanted.log_slot > ParityLayout::kMostSlot) {
    return absl::InvalidArgumentError(absl::StrCat("parity: a log of ", log, " bytes on each leg is not between ",
                                                   ParityLayout::kSlots * ParityLayout::kLeastSlot, " and ",
                                                   ParityLayout::kSlots * ParityLayout::kMostSlot, " bytes: give another"));
  }
  const uint64_t least = wanted.data() + wanted.chunk + 2 * Superblock::kBytes;  // the copy lies at a multiple
  if (smallest_leg < least) {
    return absl::InvalidArgumentError(absl::StrCat("parity: the smallest leg has ", smallest_leg, " bytes, but a log of ", log,
                                                   " bytes, other metadata and one chunk need ", least,
                                                   ": make it larger, or the log smaller"));
  }
  wanted.leg_data = (SuperblockCopyAt(smallest_leg) - wanted.data()) / wanted.chunk * wanted.chunk;
  if (wanted.leg_data > (UINT64_MAX >> 1) / wanted.data_legs) {
    return absl::InvalidArgumentError(absl::StrCat("parity: ", wanted.data_legs, " legs of ", wanted.leg_data,
                                                   " bytes are more than 63 bits can count: make them smaller"));
  }
  return wanted;
}

Superblock MakeParitySuperblock(const ParityLayout& layout, const Uuid& set, size_t leg) {
  return {.kind = "parity",
          .version = 1,
          .uuid = NewUuid(),
          .set_uuid = set,
          .leg = static_cast<uint32_t>(leg),
          .legs = static_cast<uint32_t>(layout.legs()),
          .size = layout.size(),
          .fields = {{"data", layout.data()},
                     {"data-legs", layout.data_legs},
                     {"chunk", layout.chunk},
                     {"log-slot", layout.log_slot},
                     {"leg-data", layout.leg_data}}};
}

absl::StatusOr<ParityLayout> ReadParityLayout(const Superblock& superblock, const ParityLayout& wanted) {
  ParityLayout layout = wanted;
  for (const auto& [name, field] : {std::pair("data-legs", &layout.data_legs), std::pair("chunk", &layout.chunk),
                                    std::pair("log-slot", &layout.log_slot), std::pair("leg-data", &layout.leg_data)}) {
    absl::StatusOr<uint64_t> value = superblock.Field(name);
    if (!value.ok()) return value.status();
    *field = *value;
  }
  if (layout.data_legs != wanted.data_legs || layout.chunk != wanted.chunk) {
    return absl::FailedPreconditionError(absl::StrCat(
        "parity: the legs were formatted with ", layout.data_legs, " legs of data and chunks of ", layout.chunk,
        " bytes, and this program has ", wanted.data_legs, " and ", wanted.chunk, ": use the program that formatted them"));
  }
  if (layout.log_slot >= ParityLayout::kLeastSlot && layout.log_slot <= ParityLayout::kMostSlot &&
      layout.log_slot % ParityLayout::kPage == 0 && layout.leg_data > 0 && layout.leg_data % layout.chunk == 0 &&
      layout.leg_data < superblock.medium_size && layout.data() <= superblock.medium_size - layout.leg_data &&
      layout.size() == superblock.size) {
    return layout;
  }
  return absl::FailedPreconditionError(absl::StrCat("parity: the superblock has a log of ", layout.log_slot, " bytes and ",
                                                    layout.leg_data, " bytes of data on each leg, which makes no sense for ",
                                                    superblock.medium_size, " bytes: use the program that formatted it"));
}

// ---- Records.

void EncodeParityRecord(uint64_t session, uint64_t id, std::span<const ParityEntry> entries, const Uuid& uuid, Bytes bytes) {
  std::memset(bytes.data(), 0, bytes.size());
  std::memcpy(bytes.data(), ParityRecord::kMagic.data(), ParityRecord::kMagic.size());
  PutLittleEndian(bytes.data() + kIdAt, id);
  PutLittleEndian(bytes.data() + kRecordSessionAt, session);
  PutLittleEndian(bytes.data() + ParityRecord::kCountAt, static_cast<uint32_t>(entries.size()));
  std::byte* at = bytes.data() + ParityRecord::kHeaderBytes;
  for (const ParityEntry& entry : entries) {
    PutLittleEndian(at, entry.page);
    PutLittleEndian(at + 8, entry.legs);
    PutLittleEndian(at + 12, entry.sum);
    PutLittleEndian(at + 16, entry.first);
    PutLittleEndian(at + 17, entry.end);
    at += ParityEntry::kBytes;
  }
  const size_t length = ParityRecord::kHeaderBytes + entries.size() * ParityEntry::kBytes;
  PutLittleEndian(bytes.data() + kRecordSumAt, RecordSum(uuid, bytes.first(length)));
}

absl::optional<DecodedParityRecord> DecodeParityRecord(ConstBytes bytes, const Uuid& uuid) {
  if (std::memcmp(bytes.data(), ParityRecord::kMagic.data(), ParityRecord::kMagic.size()) != 0) return absl::nullopt;
  const DecodedParityRecord record = {.session = GetLittleEndian<uint64_t>(bytes.data() + kRecordSessionAt),
                                      .id = GetLittleEndian<uint64_t>(bytes.data() + kIdAt),
                                      .entries = GetLittleEndian<uint32_t>(bytes.data() + ParityRecord::kCountAt)};
  const uint64_t length = ParityRecord::kHeaderBytes + record.entries * ParityEntry::kBytes;
  if (length > bytes.size()) return absl::nullopt;
  if (GetLittleEndian<uint32_t>(bytes.data() + kRecordSumAt) != RecordSum(uuid, bytes.first(length))) return absl::nullopt;
  return record;
}

ParityEntry DecodeParityEntry(ConstBytes bytes, uint64_t number) {
  const std::byte* const at = bytes.data() + ParityRecord::kHeaderBytes + number * ParityEntry::kBytes;
  return {.page = GetLittleEndian<uint64_t>(at),
          .legs = GetLittleEndian<uint32_t>(at + 8),
          .sum = GetLittleEndian<uint32_t>(at + 12),
          .first = GetLittleEndian<uint8_t>(at + 16),
          .end = GetLittleEndian<uint8_t>(at + 17)};
}

}  // namespace buse

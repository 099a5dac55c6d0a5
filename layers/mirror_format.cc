// SPDX-License-Identifier: Apache-2.0
//
// A mirror's heads and bitmap as bytes, and which head to believe.

#include "layers/mirror_format.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "isa-l/crc.h"
#include "layers/leg_heads.h"
#include "layers/little_endian.h"

namespace buse {
namespace {

constexpr size_t kSector = 512;
constexpr size_t kSumAt = kSector - 4;
constexpr size_t kSectorBytes = kSumAt;  // of bits
constexpr size_t kEventAt = 8;
constexpr size_t kLegsAt = 16;
constexpr size_t kLegAt = 24;
constexpr size_t kLegBytes = 24;
constexpr size_t kSectors = sizeof(MirrorPage) / kSector;

static_assert(kLegAt + kLegBytes * MirrorHead::kMostLegs <= kSumAt);
static_assert(MirrorLayout::kPageWords * 8 == kSectors * kSectorBytes);

// CRC-32C of the UUID, the number and the sector but for its last four bytes.
uint32_t Sum(const Uuid& uuid, uint64_t number, const std::byte* sector) {
  std::array<unsigned char, kSector + 20> bytes;
  std::memcpy(bytes.data(), uuid.data(), 16);
  for (size_t i = 0; i < 8; ++i) bytes[16 + i] = static_cast<unsigned char>(number >> (8 * i));
  std::memcpy(bytes.data() + 24, sector, kSumAt);
  return ~crc32_iscsi(bytes.data(), static_cast<int>(24 + kSumAt), ~0u);
}

constexpr uint64_t kHeadNumber = UINT64_MAX;  // no sector of a bitmap has it

}  // namespace

void EncodeMirrorHead(const MirrorHead& head, const Uuid& uuid, MirrorPage& page) {
  page = {};
  std::memcpy(page.data(), MirrorHead::kMagic.data(), MirrorHead::kMagic.size());
  PutLittleEndian(page.data() + kEventAt, head.event);
  PutLittleEndian(page.data() + kLegsAt, head.legs);
  for (size_t i = 0; i < head.legs; ++i) {
    std::byte* const at = page.data() + kLegAt + kLegBytes * i;
    PutLittleEndian(at, head.leg[i].since * 2 + head.leg[i].failed);
    std::memcpy(at + 8, head.leg[i].uuid.data(), head.leg[i].uuid.size());
  }
  PutLittleEndian(page.data() + kSumAt, Sum(uuid, kHeadNumber, page.data()));
}

absl::optional<MirrorHead> DecodeMirrorHead(const MirrorPage& page, const Uuid& uuid) {
  if (std::memcmp(page.data(), MirrorHead::kMagic.data(), MirrorHead::kMagic.size()) != 0) return absl::nullopt;
  if (GetLittleEndian<uint32_t>(page.data() + kSumAt) != Sum(uuid, kHeadNumber, page.data())) return absl::nullopt;
  MirrorHead head = {.event = GetLittleEndian<uint64_t>(page.data() + kEventAt),
                     .legs = GetLittleEndian<uint64_t>(page.data() + kLegsAt)};
  if (head.legs > MirrorHead::kMostLegs) return absl::nullopt;
  for (size_t i = 0; i < head.legs; ++i) {
    const std::byte* const at = page.data() + kLegAt + kLegBytes * i;
    const uint64_t word = GetLittleEndian<uint64_t>(at);
    head.leg[i] = {.since = word / 2, .failed = word % 2 != 0};
    std::memcpy(head.leg[i].uuid.data(), at + 8, head.leg[i].uuid.size());
  }
  return head;
}

absl::StatusOr<MirrorHead> NewestMirrorHead(std::span<const absl::optional<MirrorHead>> heads) {
  const LegHeads<MirrorHead> all(heads);
  if (!all.found()) {
    return absl::DataLossError(
        "mirror: no leg has a head that can be read, so that nothing says which of them are in sync: restore one from a "
        "backup");
  }
  for (size_t i = 0; i < heads.size(); ++i) {
    if (!all.Contradicts(i)) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "mirror: the legs were changed apart from each other, so that none has all that was written: ", all.Dispute(i),
        ". Give all but one side as missing, with --degraded, and copy what the other has"));
  }
  return all.newest();
}

absl::StatusOr<MirrorLayout> LayOutMirror(uint64_t smallest_leg, uint64_t region, uint64_t block_size) {
  if (region != 0 && ((region & (region - 1)) != 0 || region < std::max<uint64_t>(kSector, block_size))) {
    return absl::InvalidArgumentError(absl::StrCat("mirror: a region of ", region, " bytes is no power of two of at least ",
                                                   std::max<uint64_t>(kSector, block_size), ": give one, or none"));
  }
  const uint64_t least = MirrorLayout::kBitmapAt + sizeof(MirrorPage) + 2 * Superblock::kBytes;  // the copy lies at a multiple
  if (smallest_leg < least) {
    return absl::InvalidArgumentError(absl::StrCat("mirror: the smallest leg has ", smallest_leg,
                                                   " bytes, but its metadata and some data need ", least, ": make it larger"));
  }
  MirrorLayout layout = {.region = region};
  const uint64_t most = SuperblockCopyAt(smallest_leg) - MirrorLayout::kBitmapAt;  // for bitmap and data
  if (region == 0) {
    layout.region = std::max(MirrorLayout::kDefaultRegion, block_size);
    while ((most - 1) / layout.region >= MirrorLayout::kPageRegions) layout.region *= 2;
  }
  const uint64_t regions = (most - 1) / layout.region + 1;
  if (regions > MirrorLayout::kMostRegions) {
    return absl::InvalidArgumentError(absl::StrCat("mirror: regions of ", layout.region, " bytes are ", regions,
                                                   " regions, and ", MirrorLayout::kMostRegions,
                                                   " is the limit: give larger ones, or none"));
  }
  layout.pages = (regions + MirrorLayout::kPageRegions - 1) / MirrorLayout::kPageRegions;
  layout.data = MirrorLayout::kBitmapAt + layout.pages * sizeof(MirrorPage);
  if (SuperblockCopyAt(smallest_leg) < layout.data + block_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("mirror: the bitmap of ", regions, " regions leaves no room for data: give larger regions, or none"));
  }
  layout.size = (SuperblockCopyAt(smallest_leg) - layout.data) / block_size * block_size;
  return layout;
}

void EncodeMirrorBits(std::span<const uint64_t> words, const Uuid& uuid, uint64_t number, MirrorPage& page) {
  for (size_t i = 0; i < kSectors * kSectorBytes; ++i) {
    page[i / kSectorBytes * kSector + i % kSectorBytes] = static_cast<std::byte>(words[i / 8] >> (8 * (i % 8)));
  }
  for (size_t i = 0; i < kSectors; ++i) {
    std::byte* const sector = page.data() + i * kSector;
    PutLittleEndian(sector + kSumAt, Sum(uuid, number * kSectors + i, sector));
  }
}

uint8_t DecodeMirrorBits(const MirrorPage& page, const Uuid& uuid, uint64_t number, std::span<uint64_t> words) {
  uint8_t sound = 0;
  for (size_t i = 0; i < kSectors; ++i) {
    const std::byte* const sector = page.data() + i * kSector;
    if (GetLittleEndian<uint32_t>(sector + kSumAt) != Sum(uuid, number * kSectors + i, sector)) continue;
    sound |= static_cast<uint8_t>(1 << i);
    for (size_t at = 0; at < kSectorBytes; ++at) {
      const size_t byte = i * kSectorBytes + at;
      words[byte / 8] |= std::to_integer<uint64_t>(sector[at]) << (8 * (byte % 8));
    }
  }
  return sound;
}

void SetUnsoundMirrorBits(uint8_t sound, std::span<uint64_t> words) {
  for (size_t byte = 0; byte < kSectors * kSectorBytes; ++byte) {
    if ((sound >> (byte / kSectorBytes) & 1) == 0) words[byte / 8] |= uint64_t{0xff} << (8 * (byte % 8));
  }
}

}  // namespace buse

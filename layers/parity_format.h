// SPDX-License-Identifier: Apache-2.0
//
// What a Parity keeps on each of its legs besides its share of the data: where things lie, the head that says which legs are good,
// and the records of the log.
//
// A leg, little-endian:
//
//   offset            bytes
//        0             4096  superblock of kind "parity"; set, leg and legs say what belongs together
//     4096             4096  head, copy 0: 512 bytes, then zeroes
//     8192             4096  head, copy 1
//    12288    3 * log_slot   log: slots 0, 1 and 2; transaction `id` is recorded in slot id % 3
//     data        leg_data   elements of stripes: one chunk of each stripe, in order
//        .            4096   the superblock's copy, at the end of the leg
//
// A stripe is K chunks of data and M of parity, its elements: one on each leg. Element e of stripe s lies on leg (e + s) % (K + M).
// The device's bytes are the elements 0 to K-1 of stripe 0, those of stripe 1, and so on. In one stripe the bytes at the same
// place of all elements belong together (parity_code.h).
//
// A head:
//
//        0  8  kMagic
//        8  8  event: grows by one with each head that is written. The copy with the higher one counts. A head is written to
//              one copy, made durable, and then to the other: there is always one that is whole, and one may be damaged later
//       16  8  session: the event with which the parity was opened last. Records of any other session are void
//       24  8  number of legs
//       32  .  for each leg 24 bytes: 8 since which event it is what it is, times 2, plus 1 if it failed; 16 UUID of the medium
//              that is, or was last, in sync: another one in its place has nothing of worth
//      508  4  CRC-32C of the leg's UUID and the 508 bytes
//
// A record of the log, in the slot of its transaction:
//
//        0  8  kMagic
//        8  8  id: from 1 on, in each session
//       16  8  session, as in the head
//       24  4  number of entries
//       28  4  CRC-32C of the leg's UUID, and of header and entries without these four
//       32  .  entries of 24 bytes, of ascending pages:
//                   0  8  page: 4096 bytes of the legs' data, in each leg the same
//                   8  4  legs that have a piece of it here, a bit for each
//                  12  4  CRC-32C of this leg's piece
//                  16  2  the first block of the page that changes, and the one behind the last
//                  18  6  zeroes
//        .  .  from the next multiple of the block size on: this leg's pieces, in the order of the entries
//
// The records of one transaction on different legs differ in CRCs and pieces only. All are bound to their leg's UUID, so that none
// is taken for that of another medium.

#ifndef LAYERS_PARITY_FORMAT_H_
#define LAYERS_PARITY_FORMAT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "buse/device.h"
#include "layers/leg_mask.h"
#include "layers/parity_code.h"
#include "layers/superblock.h"

namespace buse {

struct ParityHead {
  static constexpr std::array<char, 8> kMagic = {'p', 'a', 'r', 'i', 't', 'y', '\x1a', '\n'};
  static constexpr size_t kMostLegs = ParityCode::kMostElements;
  static constexpr uint64_t kBytes = 4096;  // of which a sector counts

  struct Leg {
    uint64_t since = 0;
    bool failed = false;
    Uuid uuid = {};
    friend bool operator==(const Leg&, const Leg&) = default;
  };

  uint64_t event = 0;
  uint64_t session = 0;
  uint64_t legs = 0;
  std::array<Leg, kMostLegs> leg = {};

  friend bool operator==(const ParityHead&, const ParityHead&) = default;
};

using ParityPage = std::array<std::byte, 4096>;

void EncodeParityHead(const ParityHead& head, const Uuid& uuid, ParityPage& page);
// Absent: damaged, or that of another medium.
absl::optional<ParityHead> DecodeParityHead(const ParityPage& page, const Uuid& uuid);

// Of the legs' heads, the one that knows most; absent heads are of legs that are missing. Every other must be one of its
// ancestors: kFailedPrecondition where legs were changed apart from each other, so that no set of them has all that was written.
// `majority`: no two sets of legs that could be used apart are without a common one. Then a leg that contradicts the newest head,
// and failed according to it, has nothing of worth: it was alone with a head that others never got to see, and is made absent.
absl::StatusOr<ParityHead> NewestParityHead(std::span<absl::optional<ParityHead>> heads, bool majority);

struct ParityLayout {
  static constexpr uint64_t kPage = 4096;
  static constexpr std::array<uint64_t, 2> kHeadAt = {Superblock::kBytes, Superblock::kBytes + ParityHead::kBytes};
  static constexpr uint64_t kLogAt = kHeadAt[1] + ParityHead::kBytes;
  static constexpr uint64_t kSlots = 3;
  static constexpr uint64_t kLeastSlot = 2 * kPage;
  static constexpr uint64_t kMostSlot = 64 << 20;

  uint64_t data_legs = 0;
  uint64_t parity_legs = 0;
  uint64_t block = 0;     // bytes, a power of two from 512 to kPage
  uint64_t chunk = 0;     // bytes, a multiple of kPage
  uint64_t log_slot = 0;  // bytes, a multiple of kPage
  uint64_t leg_data = 0;  // bytes, a multiple of chunk

  uint64_t legs() const { return data_legs + parity_legs; }
  uint64_t size() const { return leg_data * data_legs; }
  uint64_t data() const { return kLogAt + kSlots * log_slot; }
  uint64_t slot_at(uint64_t id) const { return kLogAt + id % kSlots * log_slot; }
  uint64_t blocks_per_page() const { return kPage / block; }

  // Of an element of the stripe that has byte `there` of the legs' data.
  size_t LegOf(size_t element, uint64_t there) const { return (element + there / chunk) % legs(); }
  size_t ElementOf(size_t leg, uint64_t there) const { return (leg + legs() - there / chunk % legs()) % legs(); }
  LegMask LegsOf(LegMask elements, uint64_t there) const;
  LegMask ElementsOf(LegMask legs, uint64_t there) const;

  // Of a byte of the device: the element, and where on the leg's data.
  size_t ElementAt(uint64_t offset) const { return offset / chunk % data_legs; }
  uint64_t ThereAt(uint64_t offset) const { return offset / (chunk * data_legs) * chunk + offset % chunk; }

  friend bool operator==(const ParityLayout&, const ParityLayout&) = default;
};

// Completes `wanted`, in which `leg_data` is open, for legs of which the smallest has so many bytes. kInvalidArgument: it is too
// small, or `log` makes no sense.
absl::StatusOr<ParityLayout> LayOutParity(ParityLayout wanted, uint64_t smallest_leg, uint64_t log);

Superblock MakeParitySuperblock(const ParityLayout& layout, const Uuid& set, size_t leg);
// kFailedPrecondition: it was formatted otherwise than `wanted`, or its numbers make no sense.
absl::StatusOr<ParityLayout> ReadParityLayout(const Superblock& superblock, const ParityLayout& wanted);

struct ParityEntry {
  static constexpr uint64_t kBytes = 24;

  uint64_t page = 0;
  LegMask legs = 0;
  uint32_t sum = 0;
  uint8_t first = 0;  // blocks
  uint8_t end = 0;

  // Of the same transaction.
  bool Matches(const ParityEntry& other) const {
    return page == other.page && legs == other.legs && first == other.first && end == other.end;
  }
};

struct ParityRecord {
  static constexpr std::array<char, 8> kMagic = {'P', 'a', 'r', 'L', 'o', 'g', '\x1a', '\n'};
  static constexpr uint64_t kHeaderBytes = 32;
  static constexpr uint64_t kCountAt = 24;

  // Of header and entries, up to where the pieces begin.
  static uint64_t BytesOf(uint64_t entries, uint64_t block) {
    return (kHeaderBytes + entries * ParityEntry::kBytes + block - 1) / block * block;
  }
};

// To the beginning of `bytes`, of which the rest is zeroed.
void EncodeParityRecord(uint64_t session, uint64_t id, std::span<const ParityEntry> entries, const Uuid& uuid, Bytes bytes);
// What a slot begins with. `bytes` may reach behind the entries. Absent: it is no record of this leg, or damaged.
struct DecodedParityRecord {
  uint64_t session = 0;
  uint64_t id = 0;
  uint64_t entries = 0;
};
absl::optional<DecodedParityRecord> DecodeParityRecord(ConstBytes bytes, const Uuid& uuid);
ParityEntry DecodeParityEntry(ConstBytes bytes, uint64_t number);

}  // namespace buse

#endif  // LAYERS_PARITY_FORMAT_H_

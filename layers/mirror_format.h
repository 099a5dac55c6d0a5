// SPDX-License-Identifier: Apache-2.0
//
// What a Mirror keeps on each of its legs besides the data: where things lie, the head that says which legs are good, and the
// bitmap of the regions in which the legs may differ.
//
// A leg, little-endian, in version 2:
//
//   offset         bytes
//        0          4096  superblock of kind "mirror"; set, leg and legs say what belongs together
//     4096          4096  head, copy 0: 512 bytes, then zeroes
//     8192          4096  head, copy 1
//    12288  4096 * pages  bitmap: a bit for each region, in pages of 8 sectors of 512 bytes: 508 bytes of bits (bit 0 of byte 0
//                         is the first region), then CRC-32C of the leg's UUID, the number of the sector and the bits
//     data          size  the bytes of the device, in place
//        .          4096  the superblock's copy, at the end of the leg
//
// A head:
//
//        0  8  kMagic
//        8  8  event: grows by one with each head that is written. The copy with the higher one counts. A head is written to
//              one copy, made durable, and then to the other: there is always one that is whole, and one may be damaged later
//       16  8  number of legs
//       24  .  for each leg 24 bytes: 8 since which event it is what it is, times 2, plus 1 if it failed; 16 UUID of the medium
//              that is, or was last, in sync: another one in its place has nothing of worth
//      508  4  CRC-32C of the leg's UUID and the 508 bytes
//
// A head fits a sector, which disks write whole, and is bound to its leg, so that none is taken for that of another medium.

#ifndef LAYERS_MIRROR_FORMAT_H_
#define LAYERS_MIRROR_FORMAT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "buse/device.h"
#include "layers/superblock.h"

namespace buse {

struct MirrorHead {
  static constexpr std::array<char, 8> kMagic = {'m', 'i', 'r', 'r', 'o', 'r', '\x1a', '\n'};
  static constexpr size_t kMostLegs = 16;
  static constexpr uint64_t kBytes = 4096;  // of which a sector counts

  struct Leg {
    uint64_t since = 0;
    bool failed = false;
    Uuid uuid = {};
    friend bool operator==(const Leg&, const Leg&) = default;
  };

  uint64_t event = 0;
  uint64_t legs = 0;
  std::array<Leg, kMostLegs> leg = {};

  friend bool operator==(const MirrorHead&, const MirrorHead&) = default;
};

using MirrorPage = std::array<std::byte, 4096>;

void EncodeMirrorHead(const MirrorHead& head, const Uuid& uuid, MirrorPage& page);
// Absent: damaged, or that of another medium.
absl::optional<MirrorHead> DecodeMirrorHead(const MirrorPage& page, const Uuid& uuid);

// Of the legs' heads, the one that knows most; absent heads are of legs that are missing. Every other must be one of its
// ancestors: kFailedPrecondition where legs were changed apart from each other, so that none of them has all that was written.
absl::StatusOr<MirrorHead> NewestMirrorHead(std::span<const absl::optional<MirrorHead>> heads);

struct MirrorLayout {
  static constexpr uint32_t kVersion = 2;  // of the format; 1 had heads without UUIDs
  static constexpr std::array<uint64_t, 2> kHeadAt = {Superblock::kBytes, Superblock::kBytes + MirrorHead::kBytes};
  static constexpr uint64_t kBitmapAt = kHeadAt[1] + MirrorHead::kBytes;
  static constexpr uint64_t kPageWords = 508;  // 64 regions each
  static constexpr uint64_t kPageRegions = kPageWords * 64;
  static constexpr uint64_t kMostRegions = 32 * kPageRegions;
  static constexpr uint64_t kDefaultRegion = 1 << 20;

  uint64_t size = 0;
  uint64_t region = 0;  // bytes, a power of two
  uint64_t pages = 0;   // of the bitmap
  uint64_t data = 0;

  uint64_t regions() const { return (size + region - 1) / region; }
  friend bool operator==(const MirrorLayout&, const MirrorLayout&) = default;
};

// For legs of which the smallest has so many bytes. A `region` of 0 becomes the default: 1 MiB, or more where the bitmap would
// need more than a page. kInvalidArgument: the leg is too small, or the region makes no sense.
absl::StatusOr<MirrorLayout> LayOutMirror(uint64_t smallest_leg, uint64_t region, uint64_t block_size);

// A page of the bitmap from and to kPageWords words of bits. Decoding adds the bits of sound sectors to `words` and returns
// which were sound, a bit for each of the 8.
void EncodeMirrorBits(std::span<const uint64_t> words, const Uuid& uuid, uint64_t number, MirrorPage& page);
uint8_t DecodeMirrorBits(const MirrorPage& page, const Uuid& uuid, uint64_t number, std::span<uint64_t> words);
// Sets all bits of the sectors of a page that are not in `sound`.
void SetUnsoundMirrorBits(uint8_t sound, std::span<uint64_t> words);

}  // namespace buse

#endif  // LAYERS_MIRROR_FORMAT_H_

// SPDX-License-Identifier: Apache-2.0
//
// Superblock: the first 4096 bytes of every medium that a layer of ours has formatted, and once more the last 4096. It says what
// the medium is, so that nothing else is ever taken for it, and is not changed after the format.
//
// On the medium, little-endian:
//
//   offset  bytes
//        0      8  kMagic. The bytes 0d 0a 1a 0a show a transfer that took the medium for text
//        8      4  version of the superblock, 1
//       12      4  length of the text
//       16      4  CRC-32C of all 4096 bytes, these four being zero. It stays here in every version
//       20      .  text: lines of a name, a space and a value, as `strings` shows them
//        .      .  kMagic over and over, each at a multiple of 8, so that seven spoilt sectors of eight still tell what this was
//
//   kind checksum             the layer
//   version 1                 of the layer's format
//   uuid 8-4-4-4-12 digits    this medium
//   set 8-4-4-4-12 digits     what this medium is a part of
//   leg 0                     its place there,
//   legs 1                    of so many
//   medium-size 1073741824    bytes of the device below
//   size 1065353216           bytes of the layer's device
//   block-size 512
//   fingerprint TEXT          what lies on the media of the stack, from this layer downwards (buse::Fingerprint)
//   field.NAME NUMBER         geometry, whatever the layer needs
//
// Lines of other names are passed over. The copy begins kBytes before the end of the device below, whose size is rounded down to
// a multiple of kBytes for it: SuperblockCopyAt.
//
// Damage: where the first superblock is damaged, or cannot be read, the copy is used. Where something else lies in its place the
// copy is *not* used, since somebody may have put that there on purpose.

#ifndef LAYERS_SUPERBLOCK_H_
#define LAYERS_SUPERBLOCK_H_

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "buse/device.h"
#include "buse/operations.h"
#include "layers/signatures.h"

namespace buse {

using Uuid = std::array<uint8_t, 16>;

Uuid NewUuid();                                          // random
std::string FormatUuid(const Uuid& uuid);                // 8-4-4-4-12 lower-case digits
absl::StatusOr<Uuid> ParseUuid(absl::string_view text);  // that form only

struct Superblock {
  static constexpr uint64_t kBytes = 4096;
  static constexpr std::array<char, 8> kMagic = {'B', 'U', 'S', 'E', '\r', '\n', '\x1a', '\n'};
  static constexpr uint32_t kSuperblockVersion = 1;

  std::string kind;      // the layer's name; no spaces
  uint32_t version = 0;  // of the layer's format
  Uuid uuid = {};        // of this medium, drawn by NewUuid
  Uuid set_uuid = {};    // of what it is a part of; equal to uuid where there is one leg
  uint32_t leg = 0;
  uint32_t legs = 1;
  uint64_t medium_size = 0;  // bytes of the device below
  uint64_t size = 0;         // bytes that the layer shows
  uint64_t block_size = 0;
  std::string fingerprint;
  std::vector<std::pair<std::string, uint64_t>> fields;  // names without spaces

  // kFailedPrecondition where there is none of that name.
  absl::StatusOr<uint64_t> Field(absl::string_view name) const;

  friend bool operator==(const Superblock&, const Superblock&) = default;
};

// Asserts that the text has room, about 4000 bytes.
std::array<std::byte, Superblock::kBytes> Encode(const Superblock& superblock);

// Errors: kNotFound without the magic, kDataLoss for a wrong sum, kFailedPrecondition for another version of the superblock or a
// text that makes no sense.
absl::StatusOr<Superblock> Decode(ConstBytes bytes);

// Where the copy begins on a medium of this size. At least kSmallestMedium.
inline constexpr uint64_t kSmallestMedium = 2 * Superblock::kBytes;
constexpr uint64_t SuperblockCopyAt(uint64_t medium_size) {
  return medium_size / Superblock::kBytes * Superblock::kBytes - Superblock::kBytes;
}

// What a layer knows of the medium that it opens.
struct SuperblockWanted {
  std::string kind;
  uint32_t oldest_version = 1;
  uint32_t newest_version = 1;
  uint64_t block_size = 0;  // 0: any
  std::string fingerprint;
  uint32_t leg = 0;
  uint32_t legs = 1;
  absl::optional<Uuid> set_uuid;  // absent: any, as for the first leg of a set
};

namespace superblock_internal {

absl::StatusOr<Superblock> Read(const MediumView& medium, const SuperblockWanted& wanted);
std::vector<std::string> Flaws(const MediumView& medium, const Superblock& opened);
absl::StatusOr<std::string> Contents(const MediumView& medium);

template <Device B, class Use>
auto WithView(typename B::State& below, Use use) {
  static_assert(Superblock::kBytes % B::kBlockSize == 0, "buse: a medium with a superblock has blocks of at most 4096 bytes");
  const auto read = [&below](uint64_t offset, Bytes out) { return B::Read(below, offset, out); };
  return use(MediumView{B::Size(below), read});
}

}  // namespace superblock_internal

// Makes the device below a medium that no layer opens, durably: a Format begins with it, so that one that is interrupted leaves
// nothing that looks whole.
template <Device B>
requires CanWrite<B> absl::Status EraseSuperblock(typename B::State& below) {
  static_assert(Superblock::kBytes % B::kBlockSize == 0, "buse: a medium with a superblock has blocks of at most 4096 bytes");
  const uint64_t size = B::Size(below);
  if (size < Superblock::kBytes) return absl::OkStatus();
  for (uint64_t at : {uint64_t{0}, SuperblockCopyAt(size)}) {
    absl::Status status = buse::WriteZeroes<B>(below, {at, Superblock::kBytes});
    if (!status.ok()) return status;
  }
  return B::Flush(below);
}

// Ends a Format: makes all that was written durable, then the copy, then the superblock.
template <Device B>
requires CanWrite<B> absl::Status WriteSuperblock(typename B::State& below, const Superblock& superblock) {
  static_assert(Superblock::kBytes % B::kBlockSize == 0, "buse: a medium with a superblock has blocks of at most 4096 bytes");
  assert(superblock.medium_size == B::Size(below) && superblock.medium_size >= kSmallestMedium);
  const auto bytes = Encode(superblock);
  for (uint64_t at : {SuperblockCopyAt(superblock.medium_size), uint64_t{0}}) {
    if (absl::Status status = B::Flush(below); !status.ok()) return status;
    if (absl::Status status = B::Write(below, at, bytes); !status.ok()) return status;
  }
  return B::Flush(below);
}

// Reads the superblock and judges it. Each error is one sentence that names what was found, what is wanted and what to do:
// kFailedPrecondition where the medium is not what is wanted (never formatted, somebody else's, another layer's, too old, too
// new, another block size, other layers below, of another set, at another place in the set, of another size), kDataLoss where
// both copies are damaged; where neither can be read, the error of the first read.
template <Device B>
absl::StatusOr<Superblock> ReadSuperblock(typename B::State& below, const SuperblockWanted& wanted) {
  return superblock_internal::WithView<B>(below,
                                          [&](const MediumView& medium) { return superblock_internal::Read(medium, wanted); });
}

// For Check: what is wrong with the copies of the superblock that was opened, a sentence for each.
template <Device B>
std::vector<std::string> SuperblockFlaws(typename B::State& below, const Superblock& opened) {
  return superblock_internal::WithView<B>(below,
                                          [&](const MediumView& medium) { return superblock_internal::Flaws(medium, opened); });
}

// What a Format of the device below would destroy, in words that follow "holds": a medium of ours, a known format, or data of an
// unknown kind; empty where there seems to be nothing (see WhatWouldBeLost).
template <Device B>
absl::StatusOr<std::string> Contents(typename B::State& below) {
  return superblock_internal::WithView<B>(below,
                                          [](const MediumView& medium) { return superblock_internal::Contents(medium); });
}

}  // namespace buse

#endif  // LAYERS_SUPERBLOCK_H_

// SPDX-License-Identifier: Apache-2.0
//
// The superblock as bytes, and its judgement: decoding first, then which copy to believe, then every refusal.

#include "layers/superblock.h"

#include <sys/random.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "buse/size.h"
#include "isa-l/crc.h"
#include "layers/little_endian.h"

namespace buse {
namespace {

constexpr size_t kVersionAt = 8;
constexpr size_t kLengthAt = 12;
constexpr size_t kSumAt = 16;
constexpr size_t kTextAt = 20;
constexpr size_t kSector = 512;

using Block = std::array<std::byte, Superblock::kBytes>;

// CRC-32C of a block whose own sum counts as zero.
uint32_t Sum(ConstBytes bytes) {
  Block block;
  std::memcpy(block.data(), bytes.data(), block.size());
  PutLittleEndian(block.data() + kSumAt, uint32_t{0});
  return ~crc32_iscsi(reinterpret_cast<unsigned char*>(block.data()), static_cast<int>(block.size()), ~0u);
}

// Text of a medium, which may hold anything, for a terminal.
std::string Clean(absl::string_view text) { return absl::Utf8SafeCEscape(text); }

bool AllZero(ConstBytes bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

bool BeginsWithMagic(ConstBytes bytes) {
  return std::memcmp(bytes.data(), Superblock::kMagic.data(), Superblock::kMagic.size()) == 0;
}

// Whether a block that is no superblock was one: by its beginning, or a later sector of nothing but magic.
bool WasSuperblock(ConstBytes bytes) {
  if (BeginsWithMagic(bytes)) return true;
  std::array<char, kSector> filling;
  for (size_t i = 0; i < kSector; ++i) filling[i] = Superblock::kMagic[i % Superblock::kMagic.size()];
  for (size_t at = kSector; at < Superblock::kBytes; at += kSector) {
    if (std::memcmp(bytes.data() + at, filling.data(), kSector) == 0) return true;
  }
  return false;
}

std::string Text(const Superblock& superblock) {
  std::string text =
      absl::StrCat("kind ", superblock.kind, "\nversion ", superblock.version, "\nuuid ", FormatUuid(superblock.uuid), "\nset ",
                   FormatUuid(superblock.set_uuid), "\nleg ", superblock.leg, "\nlegs ", superblock.legs, "\nmedium-size ",
                   superblock.medium_size, "\nsize ", superblock.size, "\nblock-size ", superblock.block_size, "\nfingerprint ",
                   superblock.fingerprint, "\n");
  for (const auto& [name, value] : superblock.fields) absl::StrAppend(&text, "field.", name, " ", value, "\n");
  return text;
}

template <class Number>
absl::Status Parse(absl::string_view name, absl::string_view text, Number& number) {
  if (absl::SimpleAtoi(text, &number)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("its line \"", name, " ", absl::Utf8SafeCEscape(text), "\" makes no sense"));
}

absl::Status Parse(absl::string_view name, absl::string_view text, Uuid& uuid) {
  absl::StatusOr<Uuid> parsed = ParseUuid(text);
  if (!parsed.ok()) return absl::FailedPreconditionError(absl::StrCat("its ", name, " ", parsed.status().message()));
  uuid = *parsed;
  return absl::OkStatus();
}

absl::Status ParseLine(absl::string_view name, absl::string_view value, Superblock& superblock) {
  if (name == "kind") superblock.kind = std::string(value);
  if (name == "fingerprint") superblock.fingerprint = std::string(value);
  if (name == "version") return Parse(name, value, superblock.version);
  if (name == "uuid") return Parse(name, value, superblock.uuid);
  if (name == "set") return Parse(name, value, superblock.set_uuid);
  if (name == "leg") return Parse(name, value, superblock.leg);
  if (name == "legs") return Parse(name, value, superblock.legs);
  if (name == "medium-size") return Parse(name, value, superblock.medium_size);
  if (name == "size") return Parse(name, value, superblock.size);
  if (name == "block-size") return Parse(name, value, superblock.block_size);
  absl::string_view field = name;
  if (absl::ConsumePrefix(&field, "field.")) {
    uint64_t number = 0;
    if (absl::Status status = Parse(name, value, number); !status.ok()) return status;
    superblock.fields.emplace_back(std::string(field), number);
  }
  return absl::OkStatus();
}

}  // namespace

Uuid NewUuid() {
  Uuid uuid;
  // Fewer than 257 bytes are never given in part; it fails only where the kernel lacks the call.
  if (getrandom(uuid.data(), uuid.size(), 0) != static_cast<ssize_t>(uuid.size())) std::abort();
  uuid[6] = static_cast<uint8_t>((uuid[6] & 0x0f) | 0x40);  // version 4: random
  uuid[8] = static_cast<uint8_t>((uuid[8] & 0x3f) | 0x80);
  return uuid;
}

std::string FormatUuid(const Uuid& uuid) {
  std::string text;
  for (size_t i = 0; i < uuid.size(); ++i) {
    absl::StrAppendFormat(&text, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
  }
  return text;
}

absl::StatusOr<Uuid> ParseUuid(absl::string_view text) {
  Uuid uuid = {};
  size_t digits = 0;
  bool good = text.size() == 36;
  for (size_t i = 0; good && i < text.size(); ++i) {
    if (i == 8 || i == 13 || i == 18 || i == 23) {
      good = text[i] == '-';
      continue;
    }
    const char digit = text[i];
    good = absl::ascii_isxdigit(static_cast<unsigned char>(digit)) && !absl::ascii_isupper(static_cast<unsigned char>(digit));
    if (!good) break;
    uuid[digits / 2] = static_cast<uint8_t>(uuid[digits / 2] << 4 | (digit <= '9' ? digit - '0' : digit - 'a' + 10));
    ++digits;
  }
  if (good) return uuid;
  return absl::InvalidArgumentError(
      absl::StrCat("\"", absl::Utf8SafeCEscape(text), "\" is no UUID: that has 8-4-4-4-12 lower-case hexadecimal digits"));
}

absl::StatusOr<uint64_t> Superblock::Field(absl::string_view name) const {
  for (const auto& [known, value] : fields) {
    if (known == name) return value;
  }
  return absl::FailedPreconditionError(absl::StrCat(kind, ": the superblock has no field \"", name, "\""));
}

std::array<std::byte, Superblock::kBytes> Encode(const Superblock& superblock) {
  Block block;
  for (size_t i = 0; i < block.size(); ++i) {
    block[i] = static_cast<std::byte>(Superblock::kMagic[i % Superblock::kMagic.size()]);
  }
  const std::string text = Text(superblock);
  assert(kTextAt + text.size() <= block.size() && "the text of a superblock has room");
  PutLittleEndian(block.data() + kVersionAt, Superblock::kSuperblockVersion);
  PutLittleEndian(block.data() + kLengthAt, static_cast<uint32_t>(text.size()));
  std::memcpy(block.data() + kTextAt, text.data(), text.size());
  PutLittleEndian(block.data() + kSumAt, Sum(block));
  return block;
}

absl::StatusOr<Superblock> Decode(ConstBytes bytes) {
  assert(bytes.size() == Superblock::kBytes);
  if (!BeginsWithMagic(bytes)) return absl::NotFoundError("it is no superblock");
  const uint32_t found = GetLittleEndian<uint32_t>(bytes.data() + kSumAt);
  const uint32_t wanted = Sum(bytes);
  if (found != wanted) {
    return absl::DataLossError(absl::StrFormat("its checksum is %08x, and that of its bytes %08x", found, wanted));
  }
  const uint32_t version = GetLittleEndian<uint32_t>(bytes.data() + kVersionAt);
  if (version != Superblock::kSuperblockVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "its superblock has version ", version, ", and this program knows version ", Superblock::kSuperblockVersion, ": use ",
        version > Superblock::kSuperblockVersion ? "a newer" : "an older", " program"));
  }
  const uint32_t length = GetLittleEndian<uint32_t>(bytes.data() + kLengthAt);
  if (length > bytes.size() - kTextAt) {
    return absl::FailedPreconditionError(absl::StrCat("its text of ", length, " bytes does not fit"));
  }
  Superblock superblock;
  const absl::string_view text(reinterpret_cast<const char*>(bytes.data()) + kTextAt, length);
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(' ', 1));
    if (absl::Status status = ParseLine(parts.first, parts.second, superblock); !status.ok()) return status;
  }
  return superblock;
}

namespace superblock_internal {
namespace {

template <class... Said>
absl::Status Refused(const SuperblockWanted& wanted, const Said&... said) {
  return absl::FailedPreconditionError(absl::StrCat(wanted.kind, ": ", said...));
}

// What is no superblock of ours, nor a damaged one.
absl::Status Foreign(const MediumView& medium, const SuperblockWanted& wanted, ConstBytes beginning) {
  Block copy;
  const uint64_t copy_at = SuperblockCopyAt(medium.size);
  if (medium.read(copy_at, copy).ok() && Decode(copy).ok()) {
    const std::string known = KnownFormatOfBeginning(beginning);
    return Refused(wanted, "the medium begins with ",
                   !known.empty()       ? known
                   : AllZero(beginning) ? "zeroes"
                                        : "something unknown",
                   " and not with its superblock, of which the copy at offset ", copy_at,
                   " is sound. If nobody put that there on purpose, copy the ", Superblock::kBytes,
                   " bytes of the copy to offset 0; else the medium is in use for something else");
  }
  absl::StatusOr<std::string> known = KnownFormat(medium);
  if (!known.ok()) return known.status();
  if (!known->empty()) {
    return Refused(wanted, "the medium holds ", *known, " and no superblock of ", wanted.kind,
                   ": name another, or use `format`, which destroys what it holds");
  }
  if (AllZero(beginning)) {
    return Refused(wanted, "the medium was never formatted: it begins with zeroes. Use `format` first");
  }
  const absl::string_view bytes(reinterpret_cast<const char*>(beginning.data()), Superblock::kMagic.size());
  return Refused(wanted, "the medium holds something unknown, which begins with the bytes ", absl::BytesToHexString(bytes),
                 ", and no superblock of ", wanted.kind, ": name another, or use `format`, which destroys what it holds");
}

absl::Status JudgePlace(const Superblock& found, const SuperblockWanted& wanted) {
  if (found.legs != wanted.legs) {
    return Refused(wanted, "the medium is one of ", found.legs, " that belong together, but ", wanted.legs,
                   " are given: give all of them, in their order");
  }
  if (wanted.set_uuid && found.set_uuid != *wanted.set_uuid) {
    return Refused(wanted, "the medium given as leg ", wanted.leg, " belongs to the set ", FormatUuid(found.set_uuid),
                   ", but those before it to ", FormatUuid(*wanted.set_uuid), ": give the legs of one set");
  }
  if (found.leg != wanted.leg) {
    return Refused(wanted, "the medium is leg ", found.leg, " of ", found.legs, ", but is given as leg ", wanted.leg,
                   ": give the legs in their order, counted from 0");
  }
  return absl::OkStatus();
}

absl::Status Judge(const Superblock& found, const SuperblockWanted& wanted, uint64_t medium_size) {
  if (found.kind != wanted.kind) {
    return Refused(wanted, "the medium was formatted by the layer ", Clean(found.kind), " and not by ", wanted.kind,
                   ": use the program that formatted it, or the layers in the order they had then");
  }
  if (found.version < wanted.oldest_version || found.version > wanted.newest_version) {
    return Refused(
        wanted, "the medium has version ", found.version, " of the format of ", wanted.kind, ", and this program knows ",
        wanted.oldest_version, " to ", wanted.newest_version, ": it is too ",
        found.version < wanted.oldest_version ? "old, use an older program to copy what it holds" : "new, use a newer program");
  }
  if (wanted.block_size != 0 && found.block_size != wanted.block_size) {
    return Refused(wanted, "the medium has blocks of ", found.block_size, " bytes, and this program those of ",
                   wanted.block_size, ": use the program that formatted it");
  }
  if (found.fingerprint != wanted.fingerprint) {
    return Refused(wanted, "the medium was formatted for the layers \"", Clean(found.fingerprint),
                   "\", and this program has \"", wanted.fingerprint, "\": use the program that formatted it");
  }
  if (absl::Status status = JudgePlace(found, wanted); !status.ok()) return status;
  if (found.medium_size != medium_size) {
    return Refused(wanted, "the medium has ", medium_size, " bytes, but had ", found.medium_size,
                   " when it was formatted: it is too ",
                   medium_size < found.medium_size ? "small, so some of it is gone; find the rest, or restore it"
                                                   : "large; give it its size again (truncate -s does so for a file)");
  }
  return absl::OkStatus();
}

// The block at `offset`, if it can be read and is a superblock.
absl::StatusOr<Superblock> ReadAt(const MediumView& medium, uint64_t offset, Block& block) {
  if (absl::Status status = medium.read(offset, block); !status.ok()) return status;
  return Decode(block);
}

}  // namespace

absl::StatusOr<Superblock> Read(const MediumView& medium, const SuperblockWanted& wanted) {
  if (medium.size < kSmallestMedium) {
    return Refused(wanted, "the medium has ", medium.size, " bytes, but a superblock and its copy alone need ", kSmallestMedium,
                   ": make it larger and use `format`");
  }
  const auto judge = [&](const absl::StatusOr<Superblock>& found) -> absl::StatusOr<Superblock> {
    if (!found.ok()) return Refused(wanted, "the medium is not understood: ", found.status().message());
    absl::Status status = Judge(*found, wanted, medium.size);
    return status.ok() ? found : status;
  };
  const auto decided = [](const absl::StatusOr<Superblock>& found) {
    return found.ok() || absl::IsFailedPrecondition(found.status());
  };
  alignas(Superblock::kBytes) Block block;
  const absl::Status read = medium.read(0, block);
  const absl::StatusOr<Superblock> first = read.ok() ? Decode(block) : read;
  if (read.ok()) {
    if (decided(first)) return judge(first);
    // A medium that lost its magic alone is ours still.
    const bool ours = absl::IsDataLoss(first.status()) || (WasSuperblock(block) && KnownFormatOfBeginning(block).empty());
    if (!ours) return Foreign(medium, wanted, block);
  }
  const uint64_t copy_at = SuperblockCopyAt(medium.size);
  const absl::StatusOr<Superblock> copy = ReadAt(medium, copy_at, block);
  if (copy.ok() || (read.ok() && decided(copy))) return judge(copy);
  if (!read.ok()) return read;
  return absl::DataLossError(absl::StrCat(wanted.kind, ": the superblock is damaged (", first.status().message(),
                                          "), and so is its copy at offset ", copy_at, " (", copy.status().message(),
                                          "): without either the medium cannot be used; restore one of them from a backup"));
}

std::vector<std::string> Flaws(const MediumView& medium, const Superblock& opened) {
  std::vector<std::string> flaws;
  for (uint64_t at : {uint64_t{0}, SuperblockCopyAt(medium.size)}) {
    alignas(Superblock::kBytes) Block block;
    const absl::StatusOr<Superblock> found = ReadAt(medium, at, block);
    const std::string which = absl::StrCat(at == 0 ? "the superblock" : "the copy of the superblock", " at offset ", at);
    if (!found.ok()) {
      flaws.push_back(absl::StrCat(which, " is damaged: ", found.status().message()));
    } else if (*found != opened) {
      flaws.push_back(absl::StrCat(which, " is that of another medium, UUID ", FormatUuid(found->uuid)));
    }
  }
  return flaws;
}

absl::StatusOr<std::string> Contents(const MediumView& medium) {
  if (medium.size < kSmallestMedium) return WhatWouldBeLost(medium);
  for (uint64_t at : {uint64_t{0}, SuperblockCopyAt(medium.size)}) {
    alignas(Superblock::kBytes) Block block;
    if (absl::Status status = medium.read(at, block); !status.ok()) return status;
    const absl::StatusOr<Superblock> found = Decode(block);
    if (found.ok()) {
      return absl::StrCat("a medium of ", Clean(found->kind), ", ", FormatSizeRoughly(found->size), ", UUID ",
                          FormatUuid(found->uuid), at == 0 ? "" : ", whose superblock is damaged");
    }
    if (!absl::IsNotFound(found.status())) return std::string("a medium of buse that is damaged or too new for this program");
  }
  return WhatWouldBeLost(medium);
}

}  // namespace superblock_internal

}  // namespace buse

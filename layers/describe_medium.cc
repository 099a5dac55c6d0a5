// SPDX-License-Identifier: Apache-2.0
//
// Superblocks in words, outermost medium first.

#include "layers/describe_medium.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "buse/io.h"
#include "buse/size.h"
#include "buse/status.h"
#include "layers/superblock.h"

namespace buse {
namespace {

// Media nested deeper than any stack: a superblock that leads in a circle.
constexpr int kMostLevels = 16;

std::string InWords(uint64_t bytes) {
  const std::string size = FormatSizeRoughly(bytes);
  const std::string plain = absl::StrCat(bytes, " byte");
  return size.rfind(plain, 0) == 0 ? size : absl::StrCat(size, " (", bytes, " bytes)");
}

// Text of a medium, which may hold anything.
std::string Clean(absl::string_view text) { return absl::Utf8SafeCEscape(text); }

struct Copy {
  uint64_t at;
  absl::StatusOr<Superblock> superblock;
};

Copy ReadCopy(const MediumView& medium, uint64_t at) {
  alignas(Superblock::kBytes) std::array<std::byte, Superblock::kBytes> block;
  if (absl::Status status = medium.read(at, block); !status.ok()) return {at, status};
  return {at, Decode(block)};
}

std::string Words(const Superblock& superblock, const std::string& indent) {
  std::string text = absl::StrCat(indent, "a medium of the layer ", Clean(superblock.kind), ", version ", superblock.version,
                                  " of its format\n", indent, "UUID ", FormatUuid(superblock.uuid), "\n", indent,
                                  "shows a device of ", InWords(superblock.size), ", in blocks of ", superblock.block_size,
                                  " bytes\n", indent, "made for a medium of ", InWords(superblock.medium_size),
                                  ", and for the layers ", Clean(superblock.fingerprint), "\n");
  if (superblock.legs != 1) {
    absl::StrAppend(&text, indent, "leg ", superblock.leg, " of ", superblock.legs, " (counted from 0) of the set ",
                    FormatUuid(superblock.set_uuid), "\n");
  }
  for (const auto& [name, value] : superblock.fields) absl::StrAppend(&text, indent, Clean(name), " ", value, "\n");
  return text;
}

std::string State(const Copy& copy, bool known_good_elsewhere) {
  if (copy.superblock.ok()) return "sound";
  const bool gone = absl::IsNotFound(copy.superblock.status());
  return absl::StrCat(gone && known_good_elsewhere ? "lost" : "damaged", ": ", copy.superblock.status().message());
}

// What there is where no superblock of ours is sound.
absl::Status DescribeForeign(const MediumView& medium, const std::string& indent, MediumDescription& result) {
  if (medium.size > 0 && medium.size < MediumView::kPiece) {
    absl::StrAppend(&result.text, indent, "nothing of ours, for which it is too small\n");
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> contents = superblock_internal::Contents(medium);
  if (!contents.ok()) return contents.status();
  absl::StrAppend(&result.text, indent, contents->empty() ? "nothing: it is empty, as far as was looked" : *contents, "\n");
  return absl::OkStatus();
}

absl::Status DescribeLevel(const MediumView& medium, const std::string& indent, int levels, MediumDescription& result) {
  if (levels == 0) return absl::OkStatus();
  if (medium.size < kSmallestMedium) return DescribeForeign(medium, indent, result);
  const Copy first = ReadCopy(medium, 0);
  const Copy copy = ReadCopy(medium, SuperblockCopyAt(medium.size));
  if (absl::IsNotFound(first.superblock.status()) && absl::IsNotFound(copy.superblock.status())) {
    return DescribeForeign(medium, indent, result);
  }
  result.ours = true;
  const bool sound = first.superblock.ok() || copy.superblock.ok();
  if (sound) absl::StrAppend(&result.text, Words(first.superblock.ok() ? *first.superblock : *copy.superblock, indent));
  absl::StrAppend(&result.text, indent, "superblock at offset 0: ", State(first, sound), "\n", indent, "its copy at offset ",
                  copy.at, ": ", State(copy, sound), "\n");
  if (!first.superblock.ok() || !copy.superblock.ok()) result.damaged = true;
  if (!sound) return absl::OkStatus();
  const Superblock& superblock = first.superblock.ok() ? *first.superblock : *copy.superblock;
  if (copy.superblock.ok() && !(*copy.superblock == superblock)) {
    absl::StrAppend(&result.text, indent, "the copy is that of another medium, UUID ", FormatUuid(copy.superblock->uuid), "\n");
    result.damaged = true;
  }
  if (superblock.medium_size != medium.size) {
    absl::StrAppend(&result.text, indent, "the medium has ", InWords(medium.size), ": it is too ",
                    medium.size < superblock.medium_size ? "small" : "large", "\n");
    result.damaged = true;
  }
  const absl::StatusOr<uint64_t> data = superblock.Field("data");
  // Not what a superblock claims that was made up.
  if (!data.ok() || *data > medium.size || superblock.size > medium.size - *data) return absl::OkStatus();
  absl::StrAppend(&result.text, indent, "inside, from offset ", *data, " on:\n");
  const auto read = [&](uint64_t offset, Bytes out) { return medium.read(*data + offset, out); };
  return DescribeLevel({superblock.size, read}, indent + "  ", levels - 1, result);
}

}  // namespace

absl::StatusOr<MediumDescription> DescribeMedium(const MediumView& medium) {
  MediumDescription result;
  if (absl::Status status = DescribeLevel(medium, "  ", kMostLevels, result); !status.ok()) return status;
  return result;
}

absl::StatusOr<MediumDescription> DescribeMediumAt(const std::string& path) {
  struct stat found = {};
  if (stat(path.c_str(), &found) != 0) {
    if (errno == ENOENT) return absl::NotFoundError(absl::StrCat(path, ": there is no such file"));
    return StatusFromErrno(errno, path);
  }
  // Looked at before it is opened: opening a pipe waits.
  if (!S_ISREG(found.st_mode) && !S_ISBLK(found.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": is neither a regular file nor a block device"));
  }
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd.valid()) return StatusFromErrno(errno, absl::StrCat(path, ": cannot open"));
  const off_t size = lseek(fd.get(), 0, SEEK_END);
  if (size < 0) return StatusFromErrno(errno, absl::StrCat(path, ": cannot find its size"));
  const auto read = [&](uint64_t offset, Bytes out) { return ReadFully(fd.get(), offset, out, path); };
  absl::StatusOr<MediumDescription> result = DescribeMedium({static_cast<uint64_t>(size), read});
  if (result.ok()) result->text = absl::StrCat(path, ": ", InWords(static_cast<uint64_t>(size)), "\n", result->text);
  return result;
}

}  // namespace buse

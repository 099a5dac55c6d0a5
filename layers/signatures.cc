// SPDX-License-Identifier: Apache-2.0
//
// The table of signatures, and who looks them up. The offsets are those of each format's own documentation.

#include "layers/signatures.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace buse {
namespace {

constexpr uint64_t kPiece = MediumView::kPiece;
constexpr uint64_t kBeginning = 132 << 10;
constexpr uint64_t kEnd = 64 << 10;

struct Signature {
  uint64_t offset;
  absl::string_view bytes;
  const char* what;
};

// By how sure they are: a boot sector's two bytes also begin a GPT, and may begin a file system. None crosses a piece.
constexpr Signature kSignatures[] = {
    {0, absl::string_view("LUKS\xba\xbe", 6), "a LUKS volume"},
    {0, "XFSB", "an XFS file system"},
    {1080, absl::string_view("\x53\xef", 2), "an ext2, ext3 or ext4 file system"},
    {65600, "_BHRfS_M", "a btrfs file system"},
    {4096 + 1024, absl::string_view("\x10\x20\xf5\xf2", 4), "an F2FS file system"},
    {1024, absl::string_view("\x10\x20\xf5\xf2", 4), "an F2FS file system"},
    {0, "hsqs", "a squashfs file system"},
    {1024, absl::string_view("\xe2\xe1\xf5\xe0", 4), "an EROFS file system"},
    {32769, "CD001", "an ISO 9660 file system"},
    {3, "NTFS    ", "an NTFS file system"},
    {3, "EXFAT   ", "an exFAT file system"},
    {54, "FAT", "a FAT file system"},
    {82, "FAT32", "a FAT file system"},
    {131072, absl::string_view("\x0c\xb1\xba\x00\x00\x00\x00\x00", 8), "a ZFS pool"},
    {512, "LABELONE", "an LVM physical volume"},
    {4096, absl::string_view("\xfc\x4e\x2b\xa9", 4), "a member of a Linux RAID"},
    {0, absl::string_view("\xfc\x4e\x2b\xa9", 4), "a member of a Linux RAID"},
    {4086, "SWAPSPACE2", "swap space"},
    {0, "integrt", "a dm-integrity volume"},
    {0, "verity", "a dm-verity hash tree"},
    {4096 + 24, absl::string_view("\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", 16), "a bcache device"},
    {0, absl::string_view("QFI\xfb", 4), "a qcow2 image"},
    {0, "KDMV", "a VMDK image"},
    {64, absl::string_view("\x7f\x10\xda\xbe", 4), "a VDI image"},
    {0, "vhdxfile", "a VHDX image"},
    {0, "conectix", "a VHD image"},
    {0, absl::string_view("\x67\x6a\x73\x77\x6f\x72\x67\x73", 8), "a log of writes"},
    {0, absl::string_view("SQLite format 3\0", 16), "an SQLite database"},
    {257, "ustar", "a tar archive"},
    {0, absl::string_view("PK\x03\x04", 4), "a ZIP archive"},
    {0, absl::string_view("\x1f\x8b", 2), "gzip data"},
    {0, absl::string_view("\xfd\x37zXZ\0", 6), "xz data"},
    {0, absl::string_view("\x28\xb5\x2f\xfd", 4), "zstd data"},
    {0, absl::string_view("\x7f\x45LF", 4), "an executable file"},
    {0, "%PDF-", "a PDF document"},
    {512, "EFI PART", "a GPT partition table"},
    {4096, "EFI PART", "a GPT partition table"},
    {510, absl::string_view("\x55\xaa", 2), "an MBR partition table or a boot sector"},
};

constexpr bool NoneCrossesAPiece() {
  for (const Signature& signature : kSignatures) {
    if (signature.offset % kPiece + signature.bytes.size() > kPiece) return false;
    if (signature.offset + signature.bytes.size() > kBeginning) return false;
  }
  return true;
}
static_assert(NoneCrossesAPiece());

using Piece = std::array<std::byte, kPiece>;

bool Matches(const Signature& signature, const std::byte* piece) {
  return std::memcmp(piece + signature.offset % kPiece, signature.bytes.data(), signature.bytes.size()) == 0;
}

bool AllZero(ConstBytes bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace

absl::StatusOr<std::string> KnownFormat(const MediumView& medium) {
  // The surest of all, so every piece is looked at.
  const Signature* best = nullptr;
  alignas(kPiece) Piece piece;
  uint64_t at = UINT64_MAX;
  for (uint64_t offset : {uint64_t{0}, kPiece, uint64_t{32768}, uint64_t{65536}, uint64_t{131072}}) {
    if (medium.size < kPiece || offset > medium.size - kPiece) continue;
    if (absl::Status status = medium.read(offset, piece); !status.ok()) return status;
    at = offset;
    for (const Signature& signature : kSignatures) {
      if (signature.offset / kPiece * kPiece != at || !Matches(signature, piece.data())) continue;
      if (best == nullptr || &signature < best) best = &signature;
    }
  }
  return best == nullptr ? std::string() : std::string(best->what);
}

std::string KnownFormatOfBeginning(ConstBytes piece) {
  for (const Signature& signature : kSignatures) {
    if (signature.offset < kPiece && Matches(signature, piece.data())) return signature.what;
  }
  return "";
}

absl::StatusOr<std::string> WhatWouldBeLost(const MediumView& medium) {
  absl::StatusOr<std::string> known = KnownFormat(medium);
  if (!known.ok() || !known->empty()) return known;
  alignas(kPiece) Piece piece;
  const uint64_t pieces = medium.size / kPiece;
  for (uint64_t number = 0; number < pieces; ++number) {
    const uint64_t offset = number * kPiece;
    if (offset >= kBeginning && number + kEnd / kPiece < pieces) {
      number = pieces - kEnd / kPiece - 1;
      continue;
    }
    if (absl::Status status = medium.read(offset, piece); !status.ok()) return status;
    if (AllZero(piece)) continue;
    const auto found = std::find_if(piece.begin(), piece.end(), [](std::byte byte) { return byte != std::byte{0}; });
    return absl::StrCat("data of an unknown kind (at offset ", offset + (found - piece.begin()), ")");
  }
  return std::string();
}

}  // namespace buse

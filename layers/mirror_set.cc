// SPDX-License-Identifier: Apache-2.0
//
// An open mirror apart from its legs, and the making of a leg.

#include "layers/mirror_set.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"

namespace buse {

absl::Status MirrorSet::Open(MirrorLinks links, std::span<const MirrorMetadata::Found> found, const MirrorLayout& layout,
                             const Options& options) {
  layout_ = layout;
  options_ = options;
  copier_.Open(layout, options.block_size, options.writable);
  return metadata_.Open(links, found, layout, options.degraded, options.writable, options.idle_flushes);
}

// What is copied is flushed, too.
absl::Status MirrorSet::Flush(MirrorLinks links) {
  copier_.RebuildIfIdle(links, options_.flush_step);
  return metadata_.Flush(links);
}

absl::Status MirrorSet::Replace(size_t leg, absl::FunctionRef<void()> close, absl::FunctionRef<absl::StatusOr<Uuid>()> open) {
  std::lock_guard lock(replacing_);
  if (!options_.writable) {
    return absl::FailedPreconditionError("mirror: a leg cannot be written, so that none can be replaced: make all writable");
  }
  if (legs_.state(leg) != LegState::kFailed) {
    return absl::FailedPreconditionError(absl::StrCat("mirror: leg ", leg, " is in use: only one that failed is replaced"));
  }
  // A call may be under way that began when it was in use; no other will use it.
  copier_.Alone(close);
  const absl::StatusOr<Uuid> uuid = open();
  if (!uuid.ok()) return uuid.status();
  copier_.Alone([&] { metadata_.Replace(leg, *uuid); });
  return absl::OkStatus();
}

LegsStatus MirrorSet::Status() const {
  static_assert(MirrorHead::kMostLegs <= LegsStatus::kMostLegs);
  const MirrorCopier::Counts& counts = copier_.counts();
  LegsStatus status = {.legs = metadata_.legs(),
                       .may_fail = static_cast<size_t>(std::popcount(legs_.InSync())) - 1,
                       .event = metadata_.event(),
                       .bytes_of_leg = layout_.size,
                       .bytes_to_rebuild = copier_.bytes_to_rebuild(),
                       .bytes_to_resync = copier_.bytes_to_resync(),
                       .bytes_to_scrub = copier_.bytes_to_scrub(),
                       .repaired = counts.repaired,
                       .rebuilt = counts.rebuilt,
                       .mismatched = counts.mismatched,
                       .unreadable = counts.unreadable};
  for (size_t leg = 0; leg < status.legs; ++leg) status.leg[leg] = {legs_.state(leg), legs_.errors(leg)};
  return status;
}

absl::Status FormatMirrorLeg(DeviceIo& link, const MirrorLayout& layout, const MirrorHead& head, const Uuid& uuid,
                             absl::FunctionRef<void(uint64_t)> add) {
  MirrorPage page;
  EncodeMirrorHead(head, uuid, page);
  for (size_t copy = 0; copy < 2; ++copy) {
    if (absl::Status status = link.Write(MirrorLayout::kHeadAt[copy], page); !status.ok()) return status;
  }
  const std::array<uint64_t, MirrorLayout::kPageWords> none = {};
  for (uint64_t number = 0; number < layout.pages; ++number) {
    EncodeMirrorBits(none, uuid, number, page);
    absl::Status status = link.Write(MirrorLayout::kBitmapAt + number * sizeof(page), page);
    if (!status.ok()) return status;
  }
  // In pieces, for the progress.
  static constexpr uint64_t kStep = 64 << 20;
  for (uint64_t at = 0; at < layout.size; at += kStep) {
    const uint64_t length = std::min(kStep, layout.size - at);
    if (absl::Status status = link.Zero({layout.data + at, length}, true); !status.ok()) return status;
    add(length);
  }
  return absl::OkStatus();
}

Superblock MakeMirrorSuperblock(const MirrorLayout& layout, const Uuid& set, size_t leg, size_t legs) {
  return {.kind = "mirror",
          .version = MirrorLayout::kVersion,
          .uuid = NewUuid(),
          .set_uuid = set,
          .leg = static_cast<uint32_t>(leg),
          .legs = static_cast<uint32_t>(legs),
          .size = layout.size,
          .fields = {{"data", layout.data}, {"region", layout.region}}};
}

absl::StatusOr<MirrorLayout> ReadMirrorLayout(const Superblock& superblock) {
  absl::StatusOr<uint64_t> data = superblock.Field("data");
  if (!data.ok()) return data.status();
  absl::StatusOr<uint64_t> region = superblock.Field("region");
  if (!region.ok()) return region.status();
  MirrorLayout layout = {.size = superblock.size, .region = *region, .data = *data};
  if (layout.region >= 512 && layout.data > MirrorLayout::kBitmapAt && layout.size > 0) {
    layout.pages = (layout.data - MirrorLayout::kBitmapAt) / sizeof(MirrorPage);
    if (layout.regions() <= layout.pages * MirrorLayout::kPageRegions) return layout;
  }
  return absl::FailedPreconditionError(absl::StrCat("mirror: the superblock has data at ", layout.data, " and regions of ",
                                                    layout.region, " bytes, which makes no sense for ", layout.size,
                                                    " bytes: use the program that formatted it"));
}

}  // namespace buse

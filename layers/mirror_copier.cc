// SPDX-License-Identifier: Apache-2.0
//
// Reading from one leg and writing to the others.

#include "layers/mirror_copier.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "layers/defect.h"

namespace buse {

void MirrorCopier::Open(const MirrorLayout& layout, uint64_t block_size, bool writable) {
  layout_ = layout;
  unit_ = std::max<uint64_t>(512, block_size);
  writable_ = writable;
  good_.resize(kChunk);
  other_.resize(kChunk);
}

// ---- One piece.

// Reads the piece into `good` from the first leg in sync that can, and has others hold the same: those that cannot read it and
// those that have something else. Which it looks at, `why` says.
absl::Status MirrorCopier::Unify(MirrorLinks links, Range piece, Bytes good, Why why) {
  const uint64_t at = layout_.data + piece.offset;
  LegErrors unread;
  size_t source = MirrorHead::kMostLegs;
  ForEachLeg(legs_.InSync(), [&](size_t leg) {
    if (source != MirrorHead::kMostLegs) return;
    absl::Status status = links[leg]->Read(at, good);
    if (status.ok()) source = leg;
    unread.Add(leg, status);
  });
  const bool found = source != MirrorHead::kMostLegs;
  LegMask differing = 0;
  if (found) {
    const LegMask others = why == Why::kRead ? suspect_ & legs_.InSync() : why == Why::kScrub ? legs_.InSync() : legs_.Active();
    ForEachLeg(others & ~(unread.failed | Leg(source)), [&](size_t leg) {
      const Bytes other = Bytes(other_).first(good.size());
      absl::Status status = links[leg]->Read(at, other);
      unread.Add(leg, status);
      if (why == Why::kRead || !status.ok()) return;
      if (std::memcmp(other.data(), good.data(), good.size()) != 0) differing |= Leg(leg);
    });
  }
  // One bad block is no reason to write more than that, nor to give up what another leg has beside it.
  if (unread.failed != 0 && piece.length > kPiece) return UnifyParts(links, piece, good, why, kPiece);
  if (!found && piece.length > unit_) return UnifyParts(links, piece, good, why, unit_);
  if (!found) {
    counts_.unreadable += piece.length;
    return unread.first;
  }
  if (!writable_ || (unread.failed | differing) == 0) return absl::OkStatus();
  return Rewrite(links, piece, good, unread.failed, differing, why);
}

absl::Status MirrorCopier::UnifyParts(MirrorLinks links, Range piece, Bytes good, Why why, uint64_t part) {
  absl::Status first;
  for (uint64_t at = 0; at < piece.length; at += part) {
    const uint64_t length = std::min(part, piece.length - at);
    first.Update(Unify(links, {piece.offset + at, length}, good.subspan(at, length), why));
  }
  return first;
}

// What is read from one leg must stay, even if that leg is then given up: on the others in sync it is durable before.
absl::Status MirrorCopier::Rewrite(MirrorLinks links, Range piece, ConstBytes good, LegMask bad, LegMask differing, Why why) {
  const uint64_t at = layout_.data + piece.offset;
  const LegMask in_sync = legs_.InSync();
  if (why != Why::kRead) legs_.CountErrors(bad);  // those of a read are counted
  LegErrors errors;
  ForEachLeg(bad | differing, [&](size_t leg) {
    absl::Status status = Has(in_sync, leg) ? links[leg]->WriteThrough(at, good) : links[leg]->Write(at, good);
    if (Has(bad, leg)) {
      const Bytes other = Bytes(other_).first(good.size());
      if (status.ok()) status = links[leg]->Read(at, other);
      if (status.ok() && std::memcmp(other.data(), good.data(), good.size()) != 0) {
        status = absl::DataLossError(absl::StrCat("mirror: what was written to leg ", leg, " reads back differently"));
      }
    }
    errors.Add(leg, status);
    if (!status.ok()) return;
    (Has(bad, leg) ? counts_.repaired : why == Why::kScrub ? counts_.mismatched : counts_.rebuilt) += piece.length;
  });
  if (errors.failed == 0) return absl::OkStatus();
  absl::Status status = metadata_.Degrade(links, errors);
  // The bytes are good, and the next change waits for the record. Where legs differ, what was read must stay what is read.
  return why == Why::kRead ? absl::OkStatus() : status;
}

// ---- Read.

absl::Status MirrorCopier::Read(MirrorLinks links, Range range, Bytes out, LegMask suspect) {
  legs_.CountErrors(suspect);
  std::lock_guard lock(mutex_);
  suspect_ = suspect;
  while (range.length > 0) {
    // Whole pages, since a leg may need them to repair something in them.
    const uint64_t begin = range.offset / kPiece * kPiece;
    const Range page = {begin, std::min(kPiece, layout_.size - begin)};
    const Range wanted = {range.offset, std::min(range.length, page.end() - range.offset)};
    if (absl::Status status = ReadPiece(links, page, wanted, out.first(wanted.length)); !status.ok()) return status;
    out = out.subspan(wanted.length);
    range = {wanted.end(), range.length - wanted.length};
  }
  return absl::OkStatus();
}

absl::Status MirrorCopier::ReadPiece(MirrorLinks links, Range page, Range wanted, Bytes out) {
  RangeMutex::Guard guard(ranges_, page, RangeMutex::Mode::kExclusive);
  const Why why = intents_.InDoubt(page) && !BUSE_DEFECT("mirror-doubt-read-from-any") ? Why::kRebuild : Why::kRead;
  const Bytes good = Bytes(good_).first(page.length);
  absl::Status status = Unify(links, page, good, why);
  if (!status.ok()) {
    // What is bad may lie beside what is wanted.
    const uint64_t begin = wanted.offset / unit_ * unit_;
    const uint64_t end = std::min((wanted.end() + unit_ - 1) / unit_ * unit_, page.end());
    status = UnifyParts(links, {begin, end - begin}, good.subspan(begin - page.offset, end - begin), why, unit_);
  }
  if (status.ok()) std::memcpy(out.data(), good.data() + (wanted.offset - page.offset), wanted.length);
  return status;
}

// ---- Rebuilding: in rounds from the beginning to the end of the device.

absl::StatusOr<uint64_t> MirrorCopier::Rebuild(MirrorLinks links, uint64_t max_bytes) {
  std::lock_guard lock(mutex_);
  return RebuildLocked(links, max_bytes);
}

void MirrorCopier::RebuildIfIdle(MirrorLinks links, uint64_t max_bytes) {
  if (bytes_left() == 0) return;
  std::unique_lock lock(mutex_, std::try_to_lock);
  // What cannot be read is counted, and a client that reads it is told.
  if (lock) RebuildLocked(links, max_bytes).status().IgnoreError();
}

uint64_t MirrorCopier::bytes_to_rebuild() const {
  return legs_.Rebuilding() == 0 ? 0 : layout_.size - std::min(rebuild_at_.load(), layout_.size - 1);
}

uint64_t MirrorCopier::bytes_to_resync() const { return std::min(intents_.bytes_in_doubt(), layout_.size); }

void MirrorCopier::Alone(absl::FunctionRef<void()> use) {
  std::lock_guard lock(mutex_);
  const RangeMutex::Guard guard(ranges_, {0, layout_.size}, RangeMutex::Mode::kExclusive);
  rebuild_at_ = 0;
  metadata_.Alone(use);
}

absl::StatusOr<uint64_t> MirrorCopier::RebuildLocked(MirrorLinks links, uint64_t max_bytes) {
  absl::Status first;
  for (uint64_t done = 0; writable_ && done < max_bytes && bytes_left() != 0;) {
    if (rebuild_at_ == 0) {
      round_ = legs_.Rebuilding();
      round_whole_ = true;
    }
    const uint64_t begin = (round_ & legs_.Rebuilding()) != 0 ? rebuild_at_.load() : intents_.NextDoubt(rebuild_at_);
    if (begin == layout_.size) {
      rebuild_at_ = 0;
      first.Update(EndRound(links));
      continue;
    }
    const Range chunk = {begin, std::min(kChunk, intents_.RegionEnd(begin) - begin)};
    first.Update(RebuildChunk(links, chunk));
    rebuild_at_ = chunk.end();
    done += chunk.length;
    if (rebuild_at_ == layout_.size) {
      rebuild_at_ = 0;
      first.Update(EndRound(links));
    }
  }
  if (!first.ok()) return first;
  return bytes_left();
}

absl::Status MirrorCopier::RebuildChunk(MirrorLinks links, Range chunk) {
  RangeMutex::Guard guard(ranges_, chunk, RangeMutex::Mode::kExclusive);
  if (chunk.offset % layout_.region == 0) {
    intents_.BeginResync(chunk.offset);
    region_whole_ = true;
  }
  absl::Status status = Unify(links, chunk, Bytes(good_).first(chunk.length), Why::kRebuild);
  region_whole_ = region_whole_ && status.ok();
  round_whole_ = round_whole_ && status.ok();
  if (chunk.end() == intents_.RegionEnd(chunk.offset) && region_whole_) {
    intents_.EndResync(chunk.offset / layout_.region * layout_.region);
  }
  return status;
}

absl::Status MirrorCopier::EndRound(MirrorLinks links) {
  absl::Status first;
  if (!round_whole_) return first;
  ForEachLeg(round_ & legs_.Rebuilding(), [&](size_t leg) { first.Update(metadata_.Rebuilt(links, leg)); });
  return first;
}

// ---- Scrub and Check.

absl::StatusOr<uint64_t> MirrorCopier::Scrub(MirrorLinks links, uint64_t max_bytes) {
  std::lock_guard lock(mutex_);
  absl::Status first;
  for (uint64_t done = 0; done < max_bytes;) {
    const Range chunk = {scrub_at_, std::min(kChunk, layout_.size - scrub_at_)};
    {
      RangeMutex::Guard guard(ranges_, chunk, RangeMutex::Mode::kExclusive);
      const Why why = intents_.InDoubt(chunk) ? Why::kRebuild : Why::kScrub;
      first.Update(Unify(links, chunk, Bytes(good_).first(chunk.length), why));
    }
    done += chunk.length;
    scrub_at_ = chunk.end();
    if (scrub_at_ == layout_.size) break;
  }
  const uint64_t left = layout_.size - scrub_at_;
  if (left == 0) scrub_at_ = 0;
  if (!first.ok()) return first;
  return left;
}

// What Check found that harms no byte.
struct MirrorCopier::Checked {
  std::array<uint64_t, MirrorHead::kMostLegs> unread = {};
  std::array<std::string, MirrorHead::kMostLegs> why = {};
};

absl::Status MirrorCopier::Check(MirrorLinks links, const CheckReport& report) {
  std::lock_guard lock(mutex_);
  Checked checked;
  for (uint64_t at = 0; at < layout_.size;) {
    const Range chunk = {at, std::min(kChunk, layout_.size - at)};
    CheckPart(links, chunk, report, checked);
    at = chunk.end();
    report.progress(at, layout_.size);
  }
  for (size_t leg = 0; leg < links.size(); ++leg) {
    if (checked.unread[leg] != 0) {
      report.flawed(absl::StrCat("leg ", leg, ": ", checked.unread[leg],
                                 " bytes cannot be read that another leg has, the first: ", checked.why[leg],
                                 "; reading or scrubbing repairs them"));
    }
    if (legs_.state(leg) == MirrorLegs::State::kFailed) report.flawed(absl::StrCat("leg ", leg, " is not in use"));
  }
  if (const uint64_t bytes = bytes_left(); bytes != 0)
    report.flawed(absl::StrCat(bytes, " bytes wait for a rebuild or resync"));
  return absl::OkStatus();
}

void MirrorCopier::CheckPart(MirrorLinks links, Range part, const CheckReport& report, Checked& checked) {
  const Bytes good = Bytes(good_).first(part.length);
  const Bytes other = Bytes(other_).first(part.length);
  LegErrors unread;
  LegMask differing = 0;
  size_t source = MirrorHead::kMostLegs;
  ForEachLeg(legs_.InSync(), [&](size_t leg) {
    const bool first = source == MirrorHead::kMostLegs;
    absl::Status status = links[leg]->Read(layout_.data + part.offset, first ? good : other);
    unread.Add(leg, status);
    if (!status.ok()) return;
    if (first) {
      source = leg;
    } else if (std::memcmp(good.data(), other.data(), good.size()) != 0) {
      differing |= Leg(leg);
    }
  });
  if (intents_.InDoubt(part)) differing = 0;  // they may
  if (unread.failed == 0 && differing == 0) return;
  if (part.length > unit_) {
    const uint64_t size = part.length > kPiece ? kPiece : unit_;
    for (uint64_t at = 0; at < part.length; at += size) {
      CheckPart(links, {part.offset + at, std::min(size, part.length - at)}, report, checked);
    }
    return;
  }
  if (source == MirrorHead::kMostLegs) {
    report.damaged(part, absl::StrCat("no leg can read it: ", unread.first.message()));
    return;
  }
  ForEachLeg(unread.failed, [&](size_t leg) {
    if (checked.unread[leg] == 0) checked.why[leg] = std::string(unread.first.message());
    checked.unread[leg] += part.length;
  });
  if (differing == 0) return;
  report.damaged(part, absl::StrCat("leg ", std::countr_zero(differing), " differs from leg ", source));
}

}  // namespace buse

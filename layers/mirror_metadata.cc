// SPDX-License-Identifier: Apache-2.0
//
// The heads and bitmaps of a mirror's legs, read at Open and kept durable.

#include "layers/mirror_metadata.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "absl/strings/str_cat.h"
#include "layers/defect.h"

namespace buse {

// ---- Open.

MirrorMetadata::Heads MirrorMetadata::ReadHeads(DeviceIo& link, const Uuid& uuid) {
  Heads heads;
  for (size_t i = 0; i < 2; ++i) {
    MirrorPage page;
    if (link.Read(MirrorLayout::kHeadAt[i], page).ok()) heads.copies[i] = DecodeMirrorHead(page, uuid);
  }
  heads.newer = heads.copies[1] && (!heads.copies[0] || heads.copies[1]->event > heads.copies[0]->event) ? 1 : 0;
  return heads;
}

absl::Status MirrorMetadata::Open(MirrorLinks links, std::span<const Found> found, const MirrorLayout& layout, bool degraded,
                                  bool writable, uint64_t idle_flushes) {
  layout_ = layout;
  intents_.Open(layout, idle_flushes);
  uuids_.resize(links.size());
  found_.resize(links.size());
  for (size_t leg = 0; leg < links.size(); ++leg) {
    if (!found[leg].uuid) continue;
    uuids_[leg] = *found[leg].uuid;
    const Heads heads = ReadHeads(*links[leg], uuids_[leg]);
    newer_[leg] = heads.newer;
    found_[leg] = heads.copies[heads.newer];
    if (found_[leg] && found_[leg]->legs != links.size()) found_[leg].reset();
    if (heads.copies[0] != heads.copies[1]) half_written_ |= Leg(leg);
  }
  if (absl::Status status = Choose(found, degraded, writable); !status.ok()) return status;
  LoadIntents(links);
  if (!writable) return absl::OkStatus();
  // From here on the legs in use agree about who is in sync: no other set of them may come to another conclusion.
  std::lock_guard lock(mutex_);
  return unrecorded_ ? Record(links) : absl::OkStatus();
}

absl::Status MirrorMetadata::Choose(std::span<const Found> found, bool degraded, bool writable) {
  absl::StatusOr<MirrorHead> newest = NewestMirrorHead(found_);
  if (!newest.ok()) return newest.status();
  head_ = *newest;
  event_ = head_.event;
  LegMask in_sync = 0;
  LegMask rebuilding = 0;
  for (size_t leg = 0; leg < found.size(); ++leg) {
    const bool same = head_.leg[leg].uuid == uuids_[leg] || BUSE_DEFECT("mirror-old-leg-believed");
    const bool usable = found_[leg].has_value() && !head_.leg[leg].failed && same;
    if (usable) {
      in_sync |= Leg(leg);
      unrecorded_ = unrecorded_ || *found_[leg] != head_ || Has(half_written_, leg);
      continue;
    }
    if (absl::Status status = Judge(found, leg, degraded); !status.ok()) return status;
    if (found[leg].uuid && writable) rebuilding |= Leg(leg);
    unrecorded_ = unrecorded_ || !head_.leg[leg].failed;
  }
  if (in_sync == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("mirror: of ", found.size(), " legs only stale ones are given: give one that is in sync"));
  }
  legs_.Open(in_sync, rebuilding);
  return absl::OkStatus();
}

// Whether a mirror may go without this leg for now.
absl::Status MirrorMetadata::Judge(std::span<const Found> found, size_t leg, bool degraded) const {
  const std::string which = absl::StrCat("mirror: leg ", leg, " of ", found.size(), " ");
  const bool failed = head_.leg[leg].failed;
  const bool known = head_.leg[leg].uuid == uuids_[leg];
  if (found[leg].uuid && !found_[leg] && !failed && known) {
    return absl::FailedPreconditionError(
        absl::StrCat(which,
                     "has no head that can be read, and may know of writes that the others missed: if it does not, take it "
                     "away and use --degraded"));
  }
  if (degraded) return absl::OkStatus();
  if (!found[leg].uuid) {
    return absl::FailedPreconditionError(
        absl::StrCat(which, "is missing (", found[leg].why, "): use --degraded to go on without it"));
  }
  const std::string why =
      failed ? absl::StrCat("it failed at event ", head_.leg[leg].since, ", the others are at event ", head_.event,
                            ", and it knows ",
                            found_[leg] ? absl::StrCat("nothing later than event ", found_[leg]->event) : "none")
             : "it is not the medium that is known to be in sync";
  return absl::FailedPreconditionError(
      absl::StrCat(which, "is stale: ", why, ". Use --degraded to go on with the others and bring it up to date"));
}

// A bit counts that is set on any leg in sync; what no leg can tell is in doubt.
void MirrorMetadata::LoadIntents(MirrorLinks links) {
  std::vector<uint64_t> words(layout_.pages * MirrorLayout::kPageWords);
  for (size_t number = 0; number < layout_.pages; ++number) {
    const std::span<uint64_t> of_page = std::span(words).subspan(number * MirrorLayout::kPageWords, MirrorLayout::kPageWords);
    uint8_t sound = 0;
    ForEachLeg(legs_.InSync(), [&](size_t leg) {
      if (!links[leg]->Read(MirrorLayout::kBitmapAt + number * sizeof(page_), page_).ok()) return;
      sound |= DecodeMirrorBits(page_, uuids_[leg], number, of_page);
    });
    SetUnsoundMirrorBits(sound, of_page);
  }
  intents_.Load(words, HasMany(legs_.InSync()));
}

// ---- Changes.

absl::Status MirrorMetadata::BeginChange(MirrorLinks links, Range range) {
  // One leg differs from nobody.
  const bool ready = intents_.Begin(range) || !HasMany(legs_.Active());
  if (ready && !unrecorded_) return absl::OkStatus();
  absl::Status status;
  {
    std::lock_guard lock(mutex_);
    status = MakeReady(links, range);
  }
  if (!status.ok()) intents_.End(range, false);
  return status;
}

absl::Status MirrorMetadata::MakeReady(MirrorLinks links, Range range) {
  if (unrecorded_) {
    if (absl::Status status = Record(links); !status.ok()) return status;
  }
  // Another thread may have set it, for all that waited.
  return HasMany(legs_.Active()) && !intents_.IsSet(range) ? SetIntents(links) : absl::OkStatus();
}

absl::Status MirrorMetadata::SetIntents(MirrorLinks links) {
  LegErrors errors;
  const std::vector<size_t>& pages = intents_.PagesToSet();
  ForEachLeg(legs_.Active(), [&](size_t leg) {
    absl::Status status;
    for (size_t page : pages) {
      EncodePage(leg, page);
      const uint64_t at = MirrorLayout::kBitmapAt + page * sizeof(page_);
      status.Update(BUSE_DEFECT("mirror-intent-not-durable") ? links[leg]->Write(at, page_)
                                                             : links[leg]->WriteThrough(at, page_));
    }
    errors.Add(leg, status);
  });
  absl::Status status = Settle(links, errors);
  if (!status.ok()) return Owe(status);
  intents_.Set();
  return status;
}

absl::Status MirrorMetadata::EndChange(MirrorLinks links, Range range, const LegErrors& errors) {
  absl::Status status;
  if (errors.failed != 0 || unrecorded_) {
    std::lock_guard lock(mutex_);
    status = Settle(links, errors);
  }
  intents_.End(range, !status.ok() && HasMany(legs_.Active()));
  return status;
}

absl::Status MirrorMetadata::Degrade(MirrorLinks links, const LegErrors& errors) {
  std::lock_guard lock(mutex_);
  return Settle(links, errors);
}

// What comes of a request that some legs failed.
absl::Status MirrorMetadata::Settle(MirrorLinks links, const LegErrors& errors) {
  legs_.CountErrors(errors.failed);
  const LegMask in_sync = legs_.InSync();
  legs_.Fail(errors.failed & ~in_sync);  // is recorded as failed
  const LegMask failing = errors.failed & in_sync;
  if (failing == in_sync) return errors.first;
  if (failing == 0) return unrecorded_ ? Record(links) : absl::OkStatus();
  unrecorded_ = true;  // first: who finds the leg gone finds that, too
  legs_.Fail(failing);
  return Record(links);
}

// A leg may have flushed for it, and forgotten that it could not: the next Flush must fail.
absl::Status MirrorMetadata::Owe(const absl::Status& status) {
  owed_ = status;
  return status;
}

// Makes it durable on the legs in sync who is.
absl::Status MirrorMetadata::Record(MirrorLinks links) {
  for (;;) {
    const LegMask in_sync = legs_.InSync();
    ++head_.event;
    for (size_t leg = 0; leg < head_.legs; ++leg) {
      const bool failed = !Has(in_sync, leg);
      if (failed == head_.leg[leg].failed) continue;
      // Of one that failed, the medium that it was is still known.
      head_.leg[leg] = {.since = head_.event, .failed = failed, .uuid = failed ? head_.leg[leg].uuid : uuids_[leg]};
    }
    LegErrors errors;
    ForEachLeg(in_sync, [&](size_t leg) { errors.Add(leg, WriteHead(*links[leg], leg)); });
    legs_.CountErrors(errors.failed);
    if (errors.failed == in_sync) return Owe(errors.first);
    if (errors.failed == 0) {
      event_ = head_.event;
      unrecorded_ = false;
      return absl::OkStatus();
    }
    legs_.Fail(errors.failed);
  }
}

// Both copies, so that one may be damaged later.
absl::Status MirrorMetadata::WriteHead(DeviceIo& link, size_t leg) {
  EncodeMirrorHead(head_, uuids_[leg], page_);
  if (BUSE_DEFECT("mirror-degraded-not-durable")) return link.Write(MirrorLayout::kHeadAt[1 - newer_[leg]], page_);
  absl::Status status;
  for (int i = 0; i < 2 && status.ok(); ++i) {
    const size_t copy = 1 - newer_[leg];
    status = link.WriteThrough(MirrorLayout::kHeadAt[copy], page_);
    if (status.ok()) newer_[leg] = copy;
  }
  return status;
}

void MirrorMetadata::EncodePage(size_t leg, size_t page) { EncodeMirrorBits(intents_.words(page), uuids_[leg], page, page_); }

// ---- Flush.

absl::Status MirrorMetadata::Flush(MirrorLinks links) {
  const uint64_t enough = intents_.flushes_begun() + 1;
  std::lock_guard lock(mutex_);
  if (unrecorded_) {
    if (absl::Status status = Record(links); !status.ok()) return status;
  }
  const auto doubt = [this] {
    if (HasMany(legs_.Active())) intents_.DoubtAll();
  };
  if (!owed_.ok()) {
    doubt();
    return std::exchange(owed_, absl::OkStatus());
  }
  // One that began after this call, while it waited, did its work.
  if (intents_.flushed() >= enough) return absl::OkStatus();
  if (BUSE_DEFECT("mirror-clear-before-flush")) ClearIntents(links);
  const uint64_t flush = intents_.BeginFlush();
  LegErrors errors;
  ForEachLeg(legs_.Active(), [&](size_t leg) { errors.Add(leg, links[leg]->Flush()); });
  if (absl::Status status = Settle(links, errors); !status.ok()) {
    doubt();
    return status;
  }
  intents_.Flushed(flush);
  ClearIntents(links);
  return absl::OkStatus();
}

void MirrorMetadata::ClearIntents(MirrorLinks links) {
  if (!HasMany(legs_.Active())) return;
  const absl::optional<size_t> page = intents_.ClearIdle();
  if (!page) return;
  LegErrors errors;
  ForEachLeg(legs_.Active(), [&](size_t leg) {
    EncodePage(leg, *page);
    errors.Add(leg, links[leg]->Write(MirrorLayout::kBitmapAt + *page * sizeof(page_), page_));
  });
  // A bit too many harms nobody; a leg that failed and is not recorded holds up the next request.
  Settle(links, errors).IgnoreError();
}

// ---- Rebuilding.

absl::Status MirrorMetadata::Rebuilt(MirrorLinks links, size_t leg) {
  std::lock_guard lock(mutex_);
  if (legs_.state(leg) != MirrorLegs::State::kRebuilding) return absl::OkStatus();
  LegErrors errors;
  intents_.Snapshot();
  absl::Status status;
  for (size_t page = 0; page < layout_.pages && status.ok(); ++page) {
    EncodePage(leg, page);
    status = links[leg]->Write(MirrorLayout::kBitmapAt + page * sizeof(page_), page_);
  }
  if (status.ok() && !BUSE_DEFECT("mirror-rebuilt-not-flushed")) status = links[leg]->Flush();
  // A new medium has no head yet, and must not be known to be in sync before it has one.
  if (status.ok() && !BUSE_DEFECT("mirror-rebuilt-without-head")) status = WriteHead(*links[leg], leg);
  errors.Add(leg, status);
  if (errors.failed != 0) return Settle(links, errors);
  unrecorded_ = true;
  legs_.Join(leg);
  return Record(links);
}

absl::Status MirrorMetadata::Fail(MirrorLinks links, size_t leg) {
  std::lock_guard lock(mutex_);
  if (legs_.InSync() == Leg(leg)) {
    return absl::FailedPreconditionError(
        absl::StrCat("mirror: leg ", leg, " cannot be taken away: it is the only one that has everything"));
  }
  LegErrors errors;
  errors.Add(leg, absl::AbortedError("taken away"));
  return Settle(links, errors);
}

void MirrorMetadata::Replace(size_t leg, const Uuid& uuid) {
  assert(legs_.state(leg) == LegState::kFailed);
  uuids_[leg] = uuid;
  newer_[leg] = 0;
  legs_.Replace(leg);
}

// ---- Check.

std::vector<std::string> MirrorMetadata::Flaws(MirrorLinks links) const {
  std::vector<std::string> flaws;
  ForEachLeg(legs_.InSync(), [&](size_t leg) {
    const Heads heads = ReadHeads(*links[leg], uuids_[leg]);
    for (size_t i = 0; i < 2; ++i) {
      if (heads.copies[i]) continue;
      flaws.push_back(absl::StrCat("leg ", leg, ": the head at offset ", MirrorLayout::kHeadAt[i], " is damaged"));
    }
    for (size_t number = 0; number < layout_.pages; ++number) {
      MirrorPage page;
      std::vector<uint64_t> words(MirrorLayout::kPageWords);
      const uint64_t at = MirrorLayout::kBitmapAt + number * sizeof(page);
      if (links[leg]->Read(at, page).ok() && DecodeMirrorBits(page, uuids_[leg], number, words) == 0xff) continue;
      flaws.push_back(absl::StrCat("leg ", leg, ": the bitmap at offset ", at, " is damaged"));
    }
  });
  return flaws;
}

}  // namespace buse

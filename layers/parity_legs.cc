// SPDX-License-Identifier: Apache-2.0
//
// The heads of a parity's legs, read at Open and kept durable.

#include "layers/parity_legs.h"

#include <cassert>

#include "absl/strings/str_cat.h"
#include "layers/defect.h"

namespace buse {

ParityLegs::Heads ParityLegs::ReadHeads(DeviceIo& link, const Uuid& uuid) {
  Heads heads;
  for (size_t i = 0; i < 2; ++i) {
    ParityPage page;
    if (link.Read(ParityLayout::kHeadAt[i], page).ok()) heads.copies[i] = DecodeParityHead(page, uuid);
  }
  heads.newer = heads.copies[1] && (!heads.copies[0] || heads.copies[1]->event > heads.copies[0]->event) ? 1 : 0;
  return heads;
}

absl::Status ParityLegs::Open(ParityLinks links, std::span<const Found> found, const ParityLayout& layout, bool degraded) {
  layout_ = layout;
  uuids_.resize(links.size());
  std::vector<absl::optional<ParityHead>> heads(links.size());
  bool half_written = false;
  for (size_t leg = 0; leg < links.size(); ++leg) {
    if (!found[leg].uuid) continue;
    uuids_[leg] = *found[leg].uuid;
    const Heads read = ReadHeads(*links[leg], uuids_[leg]);
    newer_[leg] = read.newer;
    heads[leg] = read.copies[read.newer];
    half_written = half_written || read.copies[0] != read.copies[1];
    if (heads[leg] && heads[leg]->legs != links.size()) heads[leg].reset();
  }
  absl::StatusOr<ParityHead> newest = NewestParityHead(heads, layout.data_legs > layout.parity_legs);
  if (!newest.ok()) return newest.status();
  head_ = *newest;
  event_ = head_.event;
  LegMask in_sync = 0;
  LegMask rebuilding = 0;
  bool differs = half_written;
  for (size_t leg = 0; leg < links.size(); ++leg) {
    if (heads[leg] && !head_.leg[leg].failed && head_.leg[leg].uuid == uuids_[leg]) {
      in_sync |= Leg(leg);
      differs = differs || *heads[leg] != head_;
      continue;
    }
    differs = differs || !head_.leg[leg].failed;
    if (absl::Status status = Judge(found[leg], heads[leg].has_value(), leg, degraded); !status.ok()) return status;
    if (found[leg].uuid) rebuilding |= Leg(leg);
  }
  if (!Enough(in_sync)) {
    return absl::FailedPreconditionError(absl::StrCat("parity: of ", links.size(), " legs ", std::popcount(in_sync),
                                                      " are in sync, and ", layout.data_legs,
                                                      " are needed to have all data: give more of them"));
  }
  in_sync_ = in_sync;
  active_ = in_sync | rebuilding;
  // From here on the legs in use agree about who is in sync: no other set of them may come to another conclusion.
  return differs ? Record(links) : absl::OkStatus();
}

// Whether a parity may go without this leg for now.
absl::Status ParityLegs::Judge(const Found& found, bool has_head, size_t leg, bool degraded) const {
  const std::string which = absl::StrCat("parity: leg ", leg, " of ", layout_.legs(), " ");
  const bool failed = head_.leg[leg].failed;
  if (found.uuid && !has_head && !failed && layout_.data_legs <= layout_.parity_legs) {
    return absl::FailedPreconditionError(
        absl::StrCat(which,
                     "has no head that can be read, and may know of writes that the others missed: if it does not, take it "
                     "away and use --degraded"));
  }
  if (degraded) return absl::OkStatus();
  if (!found.uuid) {
    return absl::FailedPreconditionError(
        absl::StrCat(which, "is missing (", found.why, "): use --degraded to go on without it"));
  }
  return absl::FailedPreconditionError(absl::StrCat(
      which, "is stale: ",
      failed     ? absl::StrCat("it failed at event ", head_.leg[leg].since, ", and the others are at event ", head_.event)
      : has_head ? std::string("it is not the medium that is known to be in sync")
                 : std::string("it has no head that can be read"),
      ". Use --degraded to go on with the others and rebuild it"));
}

void ParityLegs::CountErrors(LegMask legs) {
  ForEachLeg(legs, [this](size_t leg) { errors_[leg].fetch_add(1, std::memory_order_relaxed); });
}

absl::Status ParityLegs::Settle(ParityLinks links, const LegErrors& errors) {
  if (errors.failed == 0) return absl::OkStatus();
  CountErrors(errors.failed);
  const LegMask in_sync = in_sync_;
  active_ &= ~(errors.failed & ~in_sync);  // is recorded as failed
  const LegMask failing = errors.failed & in_sync;
  if (failing == 0) return absl::OkStatus();
  if (!Enough(in_sync & ~failing)) return Stop(errors.first);
  in_sync_ &= ~failing;
  active_ &= ~failing;
  if (BUSE_DEFECT("parity-degraded-not-recorded")) return absl::OkStatus();
  return Record(links);
}

absl::Status ParityLegs::Stop(const absl::Status& why) {
  if (!is_stopped_) {
    stopped_ =
        absl::Status(why.code(), absl::StrCat("parity: stopped, since fewer than ", layout_.data_legs, " of ", layout_.legs(),
                                              " legs work, open it again when they do: ", why.message()));
    is_stopped_ = true;
  }
  return stopped_;
}

// Makes it durable on the legs in sync who is, and the session.
absl::Status ParityLegs::Record(ParityLinks links) {
  for (;;) {
    const LegMask in_sync = in_sync_;
    ++head_.event;
    for (size_t leg = 0; leg < head_.legs; ++leg) {
      const bool failed = !Has(in_sync, leg);
      if (failed == head_.leg[leg].failed) continue;
      head_.leg[leg].since = head_.event;
      head_.leg[leg].failed = failed;
    }
    LegErrors errors;
    ForEachLeg(in_sync, [&](size_t leg) { errors.Add(leg, WriteHead(*links[leg], leg)); });
    CountErrors(errors.failed);
    if (errors.failed == 0) {
      event_ = head_.event;
      return absl::OkStatus();
    }
    if (!Enough(in_sync & ~errors.failed)) return Stop(errors.first);
    in_sync_ &= ~errors.failed;
    active_ &= ~errors.failed;
  }
}

// Both copies, so that one may be damaged later.
absl::Status ParityLegs::WriteHead(DeviceIo& link, size_t leg) {
  EncodeParityHead(head_, uuids_[leg], page_);
  absl::Status status;
  for (int i = 0; i < 2 && status.ok(); ++i) {
    const size_t copy = 1 - newer_[leg];
    status = link.WriteThrough(ParityLayout::kHeadAt[copy], page_);
    if (status.ok()) newer_[leg] = copy;
  }
  return status;
}

absl::Status ParityLegs::BeginSession(ParityLinks links) {
  head_.session = head_.event + 1;
  return Record(links);
}

absl::Status ParityLegs::Rebuilt(ParityLinks links, size_t leg) {
  if (state(leg) != State::kRebuilding) return absl::OkStatus();
  LegErrors errors;
  if (!BUSE_DEFECT("parity-rebuilt-not-flushed")) {
    ForEachLeg(in_sync_ | Leg(leg), [&](size_t flushed) { errors.Add(flushed, links[flushed]->Flush()); });
  }
  // A new medium has no head yet, and must not be known to be in sync before it has one. In this one it is still a leg that
  // failed: it has no say before the others know, or it might be alone with it. So its newest head comes last.
  errors.Add(leg, WriteHead(*links[leg], leg));
  if (errors.failed != 0) return Settle(links, errors);
  const LegMask before = in_sync_;
  ++head_.event;
  // What is in the logs is in place, durably, and void from now on: this leg's log has nothing of it, and once others are
  // replaced too, it could not be completed.
  head_.session = head_.event;
  head_.leg[leg] = {.since = head_.event, .failed = false, .uuid = uuids_[leg]};
  ForEachLeg(before, [&](size_t other) { errors.Add(other, WriteHead(*links[other], other)); });
  in_sync_ |= Leg(leg);
  event_ = head_.event;
  if (errors.failed == 0) errors.Add(leg, WriteHead(*links[leg], leg));
  return Settle(links, errors);
}

void ParityLegs::Replace(size_t leg, const Uuid& uuid) {
  assert(state(leg) == State::kFailed);
  uuids_[leg] = uuid;
  newer_[leg] = 0;
  errors_[leg] = 0;
  active_ |= Leg(leg);
}

std::vector<std::string> ParityLegs::Flaws(ParityLinks links) const {
  std::vector<std::string> flaws;
  ForEachLeg(Active(), [&](size_t leg) {
    const Heads heads = ReadHeads(*links[leg], uuids_[leg]);
    for (size_t i = 0; i < 2; ++i) {
      if (heads.copies[i]) continue;
      flaws.push_back(absl::StrCat("leg ", leg, ": the head at offset ", ParityLayout::kHeadAt[i], " is damaged"));
    }
  });
  return flaws;
}

}  // namespace buse

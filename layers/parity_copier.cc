// SPDX-License-Identifier: Apache-2.0
//
// Rebuilding, in rounds from the beginning to the end of the legs; scrubbing; and the check, which changes nothing.

#include "layers/parity_copier.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace buse {

Range ParityCopier::PieceAt(uint64_t there) const {
  const uint64_t piece = std::min(layout_.chunk, ParityElements::kPiece);
  return {there, piece - there % piece};
}

// ---- Rebuilding.

absl::StatusOr<uint64_t> ParityCopier::Rebuild(ParityLinks links, uint64_t max_bytes) {
  absl::Status first;
  for (uint64_t done = 0; done < max_bytes && legs_.Rebuilding() != 0;) {
    if (absl::Status status = legs_.stopped(); !status.ok()) return status;
    // A leg that came later needs what the others have already.
    if (rebuild_at_ == 0 || round_ != legs_.Rebuilding()) {
      rebuild_at_ = 0;
      round_ = legs_.Rebuilding();
      round_whole_ = true;
    }
    const Range there = PieceAt(rebuild_at_);
    absl::Status status = RebuildPiece(links, there);
    round_whole_ = round_whole_ && status.ok();
    first.Update(status);
    done += there.length;
    rebuild_at_ = there.end();
    if (rebuild_at_ == layout_.leg_data) first.Update(EndRound(links));
  }
  if (!first.ok()) return first;
  return bytes_to_rebuild();
}

absl::Status ParityCopier::RebuildPiece(ParityLinks links, Range there) {
  absl::Status status = elements_.Get(links, there, layout_.ElementsOf(legs_.Rebuilding(), there.offset));
  if (!status.ok()) return status;
  LegErrors errors;
  ForEachLeg(legs_.Rebuilding(), [&](size_t leg) {
    const std::byte* const bytes = elements_.at(layout_.ElementOf(leg, there.offset));
    errors.Add(leg, links[leg]->Write(layout_.data() + there.offset, {bytes, there.length}));
    rebuilt_ += there.length;
  });
  return legs_.Settle(links, errors);
}

absl::Status ParityCopier::EndRound(ParityLinks links) {
  absl::Status first;
  rebuild_at_ = 0;
  if (!round_whole_) return first;
  ForEachLeg(round_ & legs_.Rebuilding(), [&](size_t leg) {
    if (legs_.stopped().ok()) first.Update(legs_.Rebuilt(links, leg));
  });
  return first;
}

// ---- Scrubbing.

absl::StatusOr<uint64_t> ParityCopier::Scrub(ParityLinks links, uint64_t max_bytes) {
  absl::Status first;
  for (uint64_t done = 0; done < max_bytes;) {
    if (absl::Status status = legs_.stopped(); !status.ok()) return status;
    const Range there = PieceAt(scrub_at_);
    first.Update(ScrubPiece(links, there));
    done += there.length;
    scrub_at_ = there.end();
    if (scrub_at_ == layout_.leg_data) break;
  }
  const uint64_t left = layout_.leg_data - scrub_at_;
  if (left == 0) scrub_at_ = 0;
  if (!first.ok()) return first;
  return left;
}

absl::Status ParityCopier::ScrubPiece(ParityLinks links, Range there) {
  const LegMask all = layout_.ElementsOf(legs_.InSync(), there.offset);
  if (absl::Status status = elements_.Get(links, there, all); !status.ok()) return status;
  if (!Consistent(all, 0, there.length)) SettleMismatch(links, there, all);
  return absl::OkStatus();
}

// Whether what is more than K elements follows from the first K.
bool ParityCopier::Consistent(LegMask elements, uint64_t shift, uint64_t bytes) {
  LegMask known = 0;
  LegMask rest = elements;
  while (rest != 0 && !legs_.Enough(known)) {
    known |= rest & ~(rest - 1);
    rest &= rest - 1;
  }
  std::array<std::byte*, ParityCode::kMostElements> pointers;
  for (size_t i = 0; i < layout_.legs(); ++i) pointers[i] = elements_.at(i) + shift;
  bool same = true;
  ForEachLeg(rest, [&](size_t element) {
    if (!same) return;
    auto target = pointers;
    target[element] = elements_.spare();
    code_.Reconstruct(known, Leg(element), target.data(), bytes);
    same = std::memcmp(elements_.spare(), pointers[element], bytes) == 0;
  });
  return same;
}

// The one element without which the others agree, if there are enough others to tell and it is the only one.
LegMask ParityCopier::WhichIsWrong(LegMask elements, uint64_t shift, uint64_t bytes) {
  LegMask wrong = 0;
  ForEachLeg(elements, [&](size_t element) {
    const LegMask others = elements & ~Leg(element);
    if (static_cast<size_t>(std::popcount(others)) > layout_.data_legs && Consistent(others, shift, bytes))
      wrong |= Leg(element);
  });
  return HasMany(wrong) ? 0 : wrong;
}

// Stripes are never left half-written: some leg changed its bytes by itself.
void ParityCopier::SettleMismatch(ParityLinks links, Range there, LegMask elements) {
  for (uint64_t shift = 0; shift < there.length; shift += layout_.block) {
    if (Consistent(elements, shift, layout_.block)) continue;
    const LegMask wrong = WhichIsWrong(elements, shift, layout_.block);
    if (wrong == 0) {
      mismatched_ += layout_.block;
      continue;
    }
    std::array<std::byte*, ParityCode::kMostElements> pointers;
    for (size_t i = 0; i < layout_.legs(); ++i) pointers[i] = elements_.at(i) + shift;
    code_.Reconstruct(elements & ~wrong, wrong, pointers.data(), layout_.block);
    const auto element = static_cast<size_t>(std::countr_zero(wrong));
    const size_t leg = layout_.LegOf(element, there.offset);
    const ParityElements::Repairing repairing(elements_);
    LegErrors errors;
    errors.Add(leg, links[leg]->Write(layout_.data() + there.offset + shift, {pointers[element], layout_.block}));
    legs_.CountErrors(Leg(leg));
    repaired_ += layout_.block;
    legs_.Settle(links, errors).IgnoreError();  // it stops by itself
  }
}

// ---- Check.

absl::Status ParityCopier::Check(ParityLinks links, const CheckReport& report) {
  for (const std::string& flaw : legs_.Flaws(links)) report.flawed(flaw);
  for (size_t leg = 0; leg < layout_.legs(); ++leg) {
    if (legs_.state(leg) == ParityLegs::State::kFailed) report.flawed(absl::StrCat("leg ", leg, " is not in use"));
    if (legs_.state(leg) == ParityLegs::State::kRebuilding) report.flawed(absl::StrCat("leg ", leg, " waits to be rebuilt"));
  }
  uint64_t contradicting = 0;
  std::vector<Range> damaged;
  for (uint64_t at = 0; at < layout_.leg_data;) {
    const Range there = PieceAt(at);
    CheckPiece(links, there, damaged, contradicting);
    at = there.end();
    if (at % layout_.chunk != 0) continue;
    // A stripe's in the order of the device.
    std::sort(damaged.begin(), damaged.end(), [](const Range& a, const Range& b) { return a.offset < b.offset; });
    for (const Range& range : damaged) {
      report.damaged(range,
                     absl::StrCat("fewer than ", layout_.data_legs, " of ", layout_.legs(), " legs can read its stripe"));
    }
    damaged.clear();
    report.progress(at * layout_.data_legs, layout_.size());
  }
  if (contradicting != 0) {
    report.flawed(absl::StrCat(contradicting,
                               " bytes on each leg contradict those on the others; scrubbing repairs them where "
                               "it can be told which is wrong"));
  }
  return legs_.stopped();
}

void ParityCopier::CheckPiece(ParityLinks links, Range there, std::vector<Range>& damaged, uint64_t& contradicting) {
  const LegMask in_sync = layout_.ElementsOf(legs_.InSync(), there.offset);
  const LegMask data = (LegMask{1} << layout_.data_legs) - 1;
  if (elements_.Get(links, there, in_sync | data, false).ok()) {
    if (elements_.read() == in_sync && !Consistent(in_sync, 0, there.length)) contradicting += there.length;
    return;
  }
  for (uint64_t at = there.offset; at < there.end(); at += layout_.block) {
    ForEachLeg(data, [&](size_t element) {
      if (elements_.Get(links, {at, layout_.block}, Leg(element), false).ok()) return;
      const uint64_t offset =
          at / layout_.chunk * layout_.chunk * layout_.data_legs + element * layout_.chunk + at % layout_.chunk;
      damaged.push_back({offset, layout_.block});
    });
  }
}

}  // namespace buse

// SPDX-License-Identifier: Apache-2.0
//
// Opening, reads, writes to the stage, and maintenance.

#include "layers/parity_set.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "layers/parity_recovery.h"

namespace buse {

absl::Status ParitySet::Open(ParityLinks links, std::span<const ParityLegs::Found> found, const ParityLayout& layout,
                             const Options& options) {
  layout_ = layout;
  options_ = options;
  code_.Open(layout.data_legs, layout.parity_legs);
  if (options.stage < kLeastStage) {
    return absl::InvalidArgumentError(
        absl::StrCat("parity: a stage of ", options.stage, " bytes is too small: it needs at least ", kLeastStage));
  }
  stage_pages_ = options.stage / 2 / ParityLayout::kPage;
  absl::Status status = elements_.Open();
  for (ParityStage& stage : stages_) status.Update(stage.Allocate(2 * stage_pages_, layout.block));
  status.Update(log_.Open(layout));
  if (!status.ok()) return status;
  if (absl::Status opened = legs_.Open(links, found, layout, options.degraded); !opened.ok()) return opened;
  ParityRecovery recovery(layout_, code_, legs_);
  return recovery.Run(links);
}

// ---- Read.

// Of what begins at `offset` the part in one page, at most `most` bytes.
ParitySet::Place ParitySet::PlaceOf(uint64_t offset, uint64_t most) const {
  const uint64_t there = layout_.ThereAt(offset);
  const size_t element = layout_.ElementAt(offset);
  const uint64_t in_page = there % ParityLayout::kPage;
  return {.key = there / ParityLayout::kPage * layout_.data_legs + element,
          .first = in_page / layout_.block,
          .element = element,
          .there = {there, std::min(most, ParityLayout::kPage - in_page)}};
}

absl::Status ParitySet::Read(ParityLinks links, uint64_t offset, Bytes out) {
  if (absl::Status status = legs_.stopped(); !status.ok()) return status;
  for (uint64_t done = 0; done < out.size();) {
    const uint64_t at = offset + done;
    const uint64_t piece = std::min(layout_.chunk, ParityElements::kPiece);
    const uint64_t length = std::min<uint64_t>(out.size() - done, piece - at % piece);
    if (absl::Status status = ReadPiece(links, at, out.subspan(done, length)); !status.ok()) return status;
    done += length;
  }
  return absl::OkStatus();
}

// In one chunk.
absl::Status ParitySet::ReadPiece(ParityLinks links, uint64_t offset, Bytes out) {
  std::array<uint32_t, ParityElements::kPiece / ParityLayout::kPage + 1> found = {};
  {
    std::lock_guard lock(map_);
    const bool none = active_->empty() && frozen_->empty();
    size_t number = 0;
    for (uint64_t done = 0; done < out.size() && !none; ++number) {
      const Place place = PlaceOf(offset + done, out.size() - done);
      for (const ParityStage* stage : {active_, frozen_}) {
        stage->Get(place.key, place.first, out.subspan(done, place.there.length), found[number]);
      }
      done += place.there.length;
    }
  }
  // What is on the leg, as much at once as there is.
  const size_t element = layout_.ElementAt(offset);
  const uint64_t there = layout_.ThereAt(offset);
  Range run = {0, 0};  // in `out`
  const auto read = [&] {
    if (run.length == 0) return absl::OkStatus();
    return ReadThere(links, {there + run.offset, run.length}, element, out.subspan(run.offset, run.length));
  };
  size_t number = 0;
  for (uint64_t done = 0; done < out.size(); ++number) {
    const uint64_t length = PlaceOf(offset + done, out.size() - done).there.length;
    for (uint64_t block = 0; block < length / layout_.block; ++block) {
      if ((found[number] >> block & 1) == 0) {
        if (run.length == 0) run.offset = done + block * layout_.block;
        run.length += layout_.block;
        continue;
      }
      if (absl::Status status = read(); !status.ok()) return status;
      run.length = 0;
    }
    done += length;
  }
  return read();
}

absl::Status ParitySet::ReadThere(ParityLinks links, Range there, size_t element, Bytes out) {
  const size_t leg = layout_.LegOf(element, there.offset);
  // First that it is being read, then whether it may be: Replace does it the other way round.
  ++reading_[leg];
  const uint64_t repairs = elements_.repairs();
  bool done = repairs % 2 == 0 && Has(legs_.InSync(), leg) && links[leg]->Read(layout_.data() + there.offset, out).ok();
  done = done && elements_.repairs() == repairs;  // or it may have read what was half-written
  --reading_[leg];
  if (done) return absl::OkStatus();
  std::lock_guard io(io_);
  if (absl::Status status = legs_.stopped(); !status.ok()) return status;
  absl::Status status = elements_.Get(links, there, Leg(element));
  if (status.ok()) std::memcpy(out.data(), elements_.at(element), out.size());
  return status;
}

// ---- Write.

absl::Status ParitySet::Write(ParityLinks links, uint64_t offset, ConstBytes in) {
  if (absl::Status status = legs_.stopped(); !status.ok()) return status;
  for (uint64_t done = 0; !PutSome(offset, in, done);) {
    absl::Status status = Commit(links);
    // What could not be committed may have left no room.
    if (!status.ok() && !PutSome(offset, in, done)) return status;
  }
  return absl::OkStatus();
}

// Copies to the stage from byte `done` on, as far as there is room. True: that was all.
bool ParitySet::PutSome(uint64_t offset, ConstBytes in, uint64_t& done) {
  while (done < in.size()) {
    const Place place = PlaceOf(offset + done, in.size() - done);
    std::lock_guard lock(map_);
    // What is frozen may have to come back, all of it.
    if (active_->size() >= stage_pages_ || active_->size() + frozen_->size() >= active_->capacity()) return false;
    active_->Put(place.key, place.first, in.subspan(done, place.there.length));
    done += place.there.length;
  }
  return true;
}

absl::Status ParitySet::Flush(ParityLinks links) {
  absl::Status status = Commit(links);
  // What cannot be read is counted, and a client that reads it is told.
  if (options_.flush_step > 0 && legs_.Rebuilding() != 0) Rebuild(links, options_.flush_step).status().IgnoreError();
  return status;
}

// ---- Maintenance.

absl::StatusOr<uint64_t> ParitySet::Rebuild(ParityLinks links, uint64_t max_bytes) {
  std::lock_guard io(io_);
  return copier_.Rebuild(links, max_bytes);
}

absl::StatusOr<uint64_t> ParitySet::Scrub(ParityLinks links, uint64_t max_bytes) {
  std::lock_guard io(io_);
  return copier_.Scrub(links, max_bytes);
}

absl::Status ParitySet::Check(ParityLinks links, const CheckReport& report) {
  if (absl::Status status = Commit(links); !status.ok()) return status;
  std::lock_guard io(io_);
  return copier_.Check(links, report);
}

absl::Status ParitySet::Replace(size_t leg, absl::FunctionRef<absl::StatusOr<Uuid>()> open) {
  std::lock_guard io(io_);
  if (absl::Status status = legs_.stopped(); !status.ok()) return status;
  if (legs_.state(leg) != ParityLegs::State::kFailed) {
    return absl::FailedPreconditionError(absl::StrCat("parity: leg ", leg, " is in use: only one that failed is replaced"));
  }
  while (reading_[leg] != 0) std::this_thread::yield();
  const absl::StatusOr<Uuid> uuid = open();
  if (!uuid.ok()) return uuid.status();
  legs_.Replace(leg, *uuid);
  copier_.BeginAgain();
  return absl::OkStatus();
}

absl::Status ParitySet::Fail(ParityLinks links, size_t leg) {
  std::lock_guard io(io_);
  if (absl::Status status = legs_.stopped(); !status.ok()) return status;
  if (Has(legs_.InSync(), leg) && !legs_.Enough(legs_.InSync() & ~Leg(leg))) {
    return absl::FailedPreconditionError(
        absl::StrCat("parity: leg ", leg, " cannot be taken away: fewer than ", layout_.data_legs, " would be left"));
  }
  LegErrors errors;
  errors.Add(leg, absl::AbortedError("taken away"));
  return legs_.Settle(links, errors);
}

LegsStatus ParitySet::Status() const {
  static_assert(ParityHead::kMostLegs <= LegsStatus::kMostLegs);
  LegsStatus status = {.legs = layout_.legs(),
                       .may_fail = static_cast<size_t>(std::popcount(legs_.InSync())) - layout_.data_legs,
                       .stopped = std::string(legs_.stopped().message()),
                       .event = legs_.event(),
                       .bytes_of_leg = layout_.leg_data,
                       .bytes_to_rebuild = copier_.bytes_to_rebuild(),
                       .bytes_to_scrub = layout_.leg_data - copier_.scrubbed(),
                       .repaired = elements_.repaired() + copier_.repaired(),
                       .rebuilt = copier_.rebuilt(),
                       .mismatched = copier_.mismatched(),
                       .unreadable = elements_.unreadable()};
  for (size_t leg = 0; leg < status.legs; ++leg) status.leg[leg] = {legs_.state(leg), legs_.errors(leg)};
  return status;
}

absl::Status FormatParityLeg(DeviceIo& link, const ParityLayout& layout, const Uuid& uuid, const ParityHead* head,
                             absl::FunctionRef<void(uint64_t)> add) {
  ParityPage page = {};
  if (head != nullptr) EncodeParityHead(*head, uuid, page);
  for (const uint64_t at : ParityLayout::kHeadAt) {
    if (absl::Status status = link.Write(at, page); !status.ok()) return status;
  }
  if (absl::Status status = link.Zero({ParityLayout::kLogAt, layout.data() - ParityLayout::kLogAt}, true); !status.ok()) {
    return status;
  }
  // In pieces, for the progress.
  static constexpr uint64_t kStep = 64 << 20;
  for (uint64_t at = 0; at < layout.leg_data; at += kStep) {
    const uint64_t length = std::min(kStep, layout.leg_data - at);
    if (absl::Status status = link.Zero({layout.data() + at, length}, true); !status.ok()) return status;
    add(length);
  }
  return absl::OkStatus();
}

}  // namespace buse

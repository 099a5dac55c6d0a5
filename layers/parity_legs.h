// SPDX-License-Identifier: Apache-2.0
//
// ParityLegs: which legs of a parity are good, and that this is durable on all that are before anything is built on it.
//
// A leg is in sync: it has everything; rebuilding: it gets every change, and is not read; or failed: not used. What failed or was
// missing must be rebuilt before it is in sync again. Fewer than K legs are never recorded as all that is left: where so many
// fail, the parity stops, since with these errors nobody knows what is on them, and the log sorts it out when it is opened again.
//
// The masks, counts and stopped() may be read by any thread. All else is called by one at a time.

#ifndef LAYERS_PARITY_LEGS_H_
#define LAYERS_PARITY_LEGS_H_

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "layers/device_io.h"
#include "layers/leg_mask.h"
#include "layers/legs_status.h"
#include "layers/parity_format.h"
#include "layers/parity_links.h"

namespace buse {

class ParityLegs {
 public:
  using State = LegState;

  struct Found {
    absl::optional<Uuid> uuid;  // absent: the leg is missing
    std::string why;            // it is missing
  };

  // Reads the heads and decides who is in sync; that some are not becomes durable. kFailedPrecondition: a leg is missing or stale and
  // `degraded` is not set, too many are, or they were changed apart from each other.
  absl::Status Open(ParityLinks links, std::span<const Found> found, const ParityLayout& layout, bool degraded);

  LegMask InSync() const { return in_sync_; }
  LegMask Active() const { return active_; }  // in sync or rebuilding
  LegMask Rebuilding() const { return active_ & ~in_sync_; }
  State state(size_t leg) const {
    return Has(in_sync_, leg) ? State::kInSync : Has(active_, leg) ? State::kRebuilding : State::kFailed;
  }
  bool Enough(LegMask legs) const { return static_cast<size_t>(std::popcount(legs)) >= layout_.data_legs; }
  uint64_t errors(size_t leg) const { return errors_[leg]; }
  uint64_t event() const { return event_; }
  uint64_t session() const { return head_.session; }
  const Uuid& uuid(size_t leg) const { return uuids_[leg]; }

  // What comes of a request that some legs failed. OK: they are not used any more, durably. Else too few would be left: it is
  // stopped, with the first of the errors.
  absl::Status Settle(ParityLinks links, const LegErrors& errors);
  // OK, or why nothing may go on from here.
  absl::Status stopped() const { return is_stopped_ ? stopped_ : absl::OkStatus(); }
  void CountErrors(LegMask legs);

  // All that was ever logged is in place on the legs in sync, durably, or is to be forgotten. OK: its records are void, also those on
  // legs that are missing or could not be read.
  absl::Status BeginSession(ParityLinks links);
  // The leg has everything. OK: it is in sync, durably, in a new session, or failed. If the power goes meanwhile, it is one or the
  // other: a leg that failed, or one in sync.
  absl::Status Rebuilt(ParityLinks links, size_t leg);
  // Another medium takes the place of a leg that failed, and is to be rebuilt.
  void Replace(size_t leg, const Uuid& uuid);

  // A sentence for each damaged head.
  std::vector<std::string> Flaws(ParityLinks links) const;

 private:
  struct Heads {
    std::array<absl::optional<ParityHead>, 2> copies;
    size_t newer = 0;
  };
  static Heads ReadHeads(DeviceIo& link, const Uuid& uuid);
  absl::Status Judge(const Found& found, bool has_head, size_t leg, bool degraded) const;
  absl::Status Record(ParityLinks links);
  absl::Status Stop(const absl::Status& why);
  absl::Status WriteHead(DeviceIo& link, size_t leg);

  ParityLayout layout_;
  std::vector<Uuid> uuids_;
  ParityHead head_;
  std::array<size_t, ParityHead::kMostLegs> newer_ = {};  // the copy of the head not to write next
  ParityPage page_;
  std::atomic<LegMask> in_sync_ = 0;
  std::atomic<LegMask> active_ = 0;
  std::atomic<uint64_t> event_ = 0;
  std::array<std::atomic<uint64_t>, ParityHead::kMostLegs> errors_ = {};
  absl::Status stopped_;
  std::atomic<bool> is_stopped_ = false;  // set after stopped_, once
};

}  // namespace buse

#endif  // LAYERS_PARITY_LEGS_H_

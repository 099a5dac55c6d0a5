// SPDX-License-Identifier: Apache-2.0
//
// ParitySet: a parity while it is open, but for the types of its legs. Writes wait in a stage and are committed together. Thread-safe.
//
// Two locks: io_ is held by one commit, rebuilding step, scrubbing step, or read that must reconstruct, across the calls below;
// map_ for a look into the stages, or a copy to them. io_ comes first.
//
// A read looks into the stages first and at the leg then: what was acknowledged before it began is in a stage until it is in place. What
// is written in place is in a stage meanwhile, so that no read of the leg meets it; where a leg is repaired, the read begins anew.

#ifndef LAYERS_PARITY_SET_H_
#define LAYERS_PARITY_SET_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "layers/leg_mask.h"
#include "layers/legs_status.h"
#include "layers/parity_code.h"
#include "layers/parity_copier.h"
#include "layers/parity_elements.h"
#include "layers/parity_format.h"
#include "layers/parity_legs.h"
#include "layers/parity_links.h"
#include "layers/parity_log.h"
#include "layers/parity_stage.h"
#include "layers/superblock.h"

namespace buse {

class ParitySet {
 public:
  static constexpr uint64_t kLeastStage = 65536;

  struct Options {
    bool degraded = false;
    uint64_t stage = 0;
    uint64_t flush_step = 0;
  };

  absl::Status Open(ParityLinks links, std::span<const ParityLegs::Found> found, const ParityLayout& layout,
                    const Options& options);

  const ParityLayout& layout() const { return layout_; }

  absl::Status Read(ParityLinks links, uint64_t offset, Bytes out);
  absl::Status Write(ParityLinks links, uint64_t offset, ConstBytes in);
  absl::Status Flush(ParityLinks links);

  absl::StatusOr<uint64_t> Rebuild(ParityLinks links, uint64_t max_bytes);
  absl::StatusOr<uint64_t> Scrub(ParityLinks links, uint64_t max_bytes);
  absl::Status Check(ParityLinks links, const CheckReport& report);
  // `open` makes another medium the leg, and returns its UUID; nobody uses the leg meanwhile. kFailedPrecondition: it has not failed.
  absl::Status Replace(size_t leg, absl::FunctionRef<absl::StatusOr<Uuid>()> open);
  // Gives up a leg that may be in sync.
  absl::Status Fail(ParityLinks links, size_t leg);

  LegsStatus Status() const;

 private:
  struct Place {
    uint64_t key;
    uint64_t first;  // block
    size_t element;
    Range there;
  };
  Place PlaceOf(uint64_t offset, uint64_t most) const;

  absl::Status ReadPiece(ParityLinks links, uint64_t offset, Bytes out);
  absl::Status ReadThere(ParityLinks links, Range there, size_t element, Bytes out);
  bool PutSome(uint64_t offset, ConstBytes in, uint64_t& done);

  absl::Status Commit(ParityLinks links);
  size_t Fill(ParityLinks links, const std::vector<ParityStage::Page>& pages, size_t at, absl::Status& first);
  absl::Status AddPage(ParityLinks links, std::span<const ParityStage::Page> pages);
  absl::Status AddBlocks(ParityLinks links, std::span<const ParityStage::Page> pages, LegMask changed, uint64_t first,
                         uint64_t end);
  absl::Status CarryOut(ParityLinks links);
  absl::Status FlushLegs(ParityLinks links, LegErrors errors);

  ParityLayout layout_;
  Options options_;
  ParityCode code_;
  ParityLegs legs_;
  ParityElements elements_{layout_, code_, legs_};
  ParityCopier copier_{layout_, code_, legs_, elements_};
  std::array<std::atomic<uint32_t>, ParityHead::kMostLegs> reading_ = {};  // reads of each leg that hold no lock

  std::mutex io_;
  ParityLog log_;  // these are guarded by io_
  uint64_t session_ = 0;
  uint64_t next_id_ = 1;  // of this session
  std::vector<ParityStage::Page> stuck_;
  uint64_t flushed_repairs_ = 0;

  std::mutex map_;
  uint64_t stage_pages_ = 0;
  std::array<ParityStage, 2> stages_;  // these are guarded by map_; the frozen one does not change while io_ is held
  ParityStage* active_ = &stages_[0];
  ParityStage* frozen_ = &stages_[1];
};

// What Format writes to a leg but for the superblock. Without a head it is to be rebuilt, and has no say before.
absl::Status FormatParityLeg(DeviceIo& link, const ParityLayout& layout, const Uuid& uuid, const ParityHead* head,
                             absl::FunctionRef<void(uint64_t)> add);

}  // namespace buse

#endif  // LAYERS_PARITY_SET_H_

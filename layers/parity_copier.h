// SPDX-License-Identifier: Apache-2.0
//
// ParityCopier: goes through the stripes: rebuilds legs, and compares what belongs together. One thread at a time, and none changes
// the elements meanwhile; the counts may be read by any.

#ifndef LAYERS_PARITY_COPIER_H_
#define LAYERS_PARITY_COPIER_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "layers/leg_mask.h"
#include "layers/parity_code.h"
#include "layers/parity_elements.h"
#include "layers/parity_format.h"
#include "layers/parity_legs.h"
#include "layers/parity_links.h"

namespace buse {

class ParityCopier {
 public:
  ParityCopier(const ParityLayout& layout, const ParityCode& code, ParityLegs& legs, ParityElements& elements)
      : layout_(layout), code_(code), legs_(legs), elements_(elements) {}

  // Goes on with the legs that are to be rebuilt, for about `max_bytes` of each, and returns how many are left: with 0 all active
  // legs are in sync. An error is of a stripe that cannot be read; the next call goes on behind it.
  absl::StatusOr<uint64_t> Rebuild(ParityLinks links, uint64_t max_bytes);
  // Another medium is there in place of one that was to be rebuilt, or is to be from now on.
  void BeginAgain() { rebuild_at_ = 0; }
  // Goes on comparing, for about `max_bytes` of each leg, and returns how many are left of this round, 0 at its end.
  absl::StatusOr<uint64_t> Scrub(ParityLinks links, uint64_t max_bytes);
  absl::Status Check(ParityLinks links, const CheckReport& report);

  uint64_t bytes_to_rebuild() const { return legs_.Rebuilding() == 0 ? 0 : layout_.leg_data - rebuild_at_; }
  uint64_t scrubbed() const { return scrub_at_; }
  uint64_t rebuilt() const { return rebuilt_; }
  uint64_t repaired() const { return repaired_; }
  uint64_t mismatched() const { return mismatched_; }

 private:
  Range PieceAt(uint64_t there) const;
  absl::Status RebuildPiece(ParityLinks links, Range there);
  absl::Status EndRound(ParityLinks links);
  absl::Status ScrubPiece(ParityLinks links, Range there);
  bool Consistent(LegMask elements, uint64_t shift, uint64_t bytes);
  LegMask WhichIsWrong(LegMask elements, uint64_t shift, uint64_t bytes);
  void SettleMismatch(ParityLinks links, Range there, LegMask elements);
  void CheckPiece(ParityLinks links, Range there, std::vector<Range>& damaged, uint64_t& contradicting);

  const ParityLayout& layout_;
  const ParityCode& code_;
  ParityLegs& legs_;
  ParityElements& elements_;
  LegMask round_ = 0;  // legs that this round of rebuilding began with
  bool round_whole_ = true;
  std::atomic<uint64_t> rebuild_at_ = 0;
  std::atomic<uint64_t> scrub_at_ = 0;
  std::atomic<uint64_t> rebuilt_ = 0;
  std::atomic<uint64_t> repaired_ = 0;
  std::atomic<uint64_t> mismatched_ = 0;
};

}  // namespace buse

#endif  // LAYERS_PARITY_COPIER_H_

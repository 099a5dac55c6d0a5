// SPDX-License-Identifier: Apache-2.0
//
// MirrorCopier: makes the legs of a mirror agree. Repairs what a leg could not read, brings legs up to date, compares them.
// Thread-safe: one thread at a time copies, with the range locked, and holds both locks across the calls below.

#ifndef LAYERS_MIRROR_COPIER_H_
#define LAYERS_MIRROR_COPIER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "buse/range_mutex.h"
#include "layers/mirror_format.h"
#include "layers/mirror_intents.h"
#include "layers/mirror_legs.h"
#include "layers/mirror_metadata.h"

namespace buse {

class MirrorCopier {
 public:
  // See LegsStatus.
  struct Counts {
    std::atomic<uint64_t> repaired = 0;
    std::atomic<uint64_t> rebuilt = 0;
    std::atomic<uint64_t> mismatched = 0;
    std::atomic<uint64_t> unreadable = 0;
  };

  MirrorCopier(MirrorLegs& legs, MirrorIntents& intents, MirrorMetadata& metadata, RangeMutex& ranges)
      : legs_(legs), intents_(intents), metadata_(metadata), ranges_(ranges) {}

  void Open(const MirrorLayout& layout, uint64_t block_size, bool writable);

  // Reads what the legs of `suspect` failed to read, or what the legs may differ in; afterwards they agree.
  absl::Status Read(MirrorLinks links, Range range, Bytes out, LegMask suspect);

  // Goes on with what must be copied, for about `max_bytes` looked at, and returns how many are left. An error: of a part that no
  // leg in sync can read, or a leg that failed and cannot be recorded; the next call goes on behind it.
  absl::StatusOr<uint64_t> Rebuild(MirrorLinks links, uint64_t max_bytes);
  // The same in passing: nothing where another thread is at it.
  void RebuildIfIdle(MirrorLinks links, uint64_t max_bytes);
  uint64_t bytes_to_rebuild() const;  // of each leg that is rebuilt
  uint64_t bytes_to_resync() const;   // in which legs in sync may differ
  uint64_t bytes_to_scrub() const { return layout_.size - scrub_at_; }

  // Calls `use` while nobody reads, writes or copies; then rebuilding begins at the beginning.
  void Alone(absl::FunctionRef<void()> use);

  // Goes on comparing the legs in sync, and returns how many bytes of this round are left. Errors as in Rebuild.
  absl::StatusOr<uint64_t> Scrub(MirrorLinks links, uint64_t max_bytes);

  absl::Status Check(MirrorLinks links, const CheckReport& report);

  const Counts& counts() const { return counts_; }

 private:
  uint64_t bytes_left() const { return legs_.Rebuilding() != 0 ? bytes_to_rebuild() : bytes_to_resync(); }

  static constexpr uint64_t kChunk = 65536;
  static constexpr uint64_t kPiece = 4096;

  enum class Why { kRead, kRebuild, kScrub };

  // Those below need mutex_, and the piece locked.
  absl::Status Unify(MirrorLinks links, Range piece, Bytes good, Why why);
  absl::Status UnifyParts(MirrorLinks links, Range piece, Bytes good, Why why, uint64_t part);
  absl::Status Rewrite(MirrorLinks links, Range piece, ConstBytes good, LegMask bad, LegMask differing, Why why);
  absl::Status ReadPiece(MirrorLinks links, Range page, Range wanted, Bytes out);
  absl::StatusOr<uint64_t> RebuildLocked(MirrorLinks links, uint64_t max_bytes);
  absl::Status RebuildChunk(MirrorLinks links, Range chunk);
  absl::Status EndRound(MirrorLinks links);

  struct Checked;
  void CheckPart(MirrorLinks links, Range part, const CheckReport& report, Checked& checked);

  MirrorLegs& legs_;
  MirrorIntents& intents_;
  MirrorMetadata& metadata_;
  RangeMutex& ranges_;
  MirrorLayout layout_;
  uint64_t unit_ = 512;  // the least that is repaired
  bool writable_ = false;
  Counts counts_;

  std::mutex mutex_;  // guards what follows
  std::vector<std::byte> good_;
  std::vector<std::byte> other_;
  LegMask suspect_ = 0;                   // of Read
  std::atomic<uint64_t> rebuild_at_ = 0;  // atomic for bytes_to_rebuild alone
  LegMask round_ = 0;                     // rebuilding since the round began
  bool round_whole_ = true;               // everything could be read
  bool region_whole_ = true;
  std::atomic<uint64_t> scrub_at_ = 0;  // the same
};

}  // namespace buse

#endif  // LAYERS_MIRROR_COPIER_H_

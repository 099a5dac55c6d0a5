// SPDX-License-Identifier: Apache-2.0
//
// MirrorMetadata: what a mirror must have durable on its legs before it may go on: that a leg failed, and in which regions the
// legs may differ. Thread-safe. One thread at a time writes metadata or flushes; it holds a lock across the calls below.
//
// Order is everything here:
//   a bit is durable on every leg in use  before  data of its region changes on any of them
//   a failed leg is durably recorded on the others  before  any change or flush that it missed is acknowledged
//   a flush reached every leg in use  before  a bit is cleared
//   a rebuilt leg has flushed its data and bitmap, and has a head  before  any head calls it in sync
//
// The last leg in sync is never recorded as failed: its errors are the mirror's. Where all legs in sync fail the same request,
// none is better than the others: the error is passed on, and the legs are in doubt there.

#ifndef LAYERS_MIRROR_METADATA_H_
#define LAYERS_MIRROR_METADATA_H_

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
#include "absl/types/optional.h"
#include "buse/device.h"
#include "layers/device_io.h"
#include "layers/mirror_format.h"
#include "layers/mirror_intents.h"
#include "layers/mirror_legs.h"
#include "layers/mirror_links.h"

namespace buse {

class MirrorMetadata {
 public:
  MirrorMetadata(MirrorLegs& legs, MirrorIntents& intents) : legs_(legs), intents_(intents) {}

  struct Found {
    absl::optional<Uuid> uuid;  // absent: the leg is missing
    std::string why;            // it is missing
  };

  // Decides which legs are in sync, and opens `legs` and `intents`. kFailedPrecondition: a leg is missing or stale and `degraded`
  // is not set, or the legs were changed apart.
  absl::Status Open(MirrorLinks links, std::span<const Found> found, const MirrorLayout& layout, bool degraded, bool writable,
                    uint64_t idle_flushes);

  // Before data of the range changes. OK: the caller may change it on the active legs, and calls EndChange then.
  absl::Status BeginChange(MirrorLinks links, Range range);
  // What comes of the change.
  absl::Status EndChange(MirrorLinks links, Range range, const LegErrors& errors);

  absl::Status Flush(MirrorLinks links);

  // These legs failed where others did not. OK: that is durable.
  absl::Status Degrade(MirrorLinks links, const LegErrors& errors);
  // The leg has everything. OK: it is in sync, durably, or failed.
  absl::Status Rebuilt(MirrorLinks links, size_t leg);

  // Gives up a leg, which may be in sync. kFailedPrecondition: none would be left.
  absl::Status Fail(MirrorLinks links, size_t leg);
  // Calls `use` while nothing is written or flushed here.
  void Alone(absl::FunctionRef<void()> use) {
    std::lock_guard lock(mutex_);
    use();
  }
  // Another medium takes the place of a leg that failed, and is to be rebuilt. Within Alone.
  void Replace(size_t leg, const Uuid& uuid);

  size_t legs() const { return uuids_.size(); }
  uint64_t event() const { return event_; }
  // A sentence for each damaged head or bitmap. No other call runs.
  std::vector<std::string> Flaws(MirrorLinks links) const;

 private:
  struct Heads {
    std::array<absl::optional<MirrorHead>, 2> copies;
    size_t newer = 0;
  };
  static Heads ReadHeads(DeviceIo& link, const Uuid& uuid);
  absl::Status Choose(std::span<const Found> found, bool degraded, bool writable);
  absl::Status Judge(std::span<const Found> found, size_t leg, bool degraded) const;
  void LoadIntents(MirrorLinks links);

  // The caller of each holds mutex_.
  absl::Status MakeReady(MirrorLinks links, Range range);
  absl::Status SetIntents(MirrorLinks links);
  void ClearIntents(MirrorLinks links);
  absl::Status Settle(MirrorLinks links, const LegErrors& errors);
  absl::Status Record(MirrorLinks links);
  absl::Status Owe(const absl::Status& status);
  absl::Status WriteHead(DeviceIo& link, size_t leg);
  void EncodePage(size_t leg, size_t page);

  MirrorLegs& legs_;
  MirrorIntents& intents_;
  MirrorLayout layout_;
  std::mutex mutex_;
  std::vector<Uuid> uuids_;                               // changed where all are locked out
  std::vector<absl::optional<MirrorHead>> found_;         // by Open
  LegMask half_written_ = 0;                              // by Open: of whose head one copy is old or damaged
  MirrorHead head_;                                       // guarded by mutex_, as is what follows
  std::array<size_t, MirrorHead::kMostLegs> newer_ = {};  // the copy of the head not to write next
  MirrorPage page_;
  absl::Status owed_;                     // to the next Flush
  std::atomic<bool> unrecorded_ = false;  // a leg failed, and that is not durable
  std::atomic<uint64_t> event_ = 0;
};

}  // namespace buse

#endif  // LAYERS_MIRROR_METADATA_H_

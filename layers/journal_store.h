// SPDX-License-Identifier: Apache-2.0
//
// JournalStore: all of Journal that does not depend on the stack. layers/journal.h argues the order in which it writes.
//
// Any thread may call anything after Open. `io` is always the same device.

#ifndef LAYERS_JOURNAL_STORE_H_
#define LAYERS_JOURNAL_STORE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <shared_mutex>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"
#include "layers/device_io.h"
#include "layers/journal_record.h"
#include "layers/mapped_array.h"
#include "layers/write_stage.h"

namespace buse {

class JournalStore {
 public:
  // Leaves slots without records. Not durable.
  static absl::Status Format(DeviceIo& io, const JournalGeometry& geometry);

  // Once, before anything else. Replays what is in the log; where nothing may be written, into memory.
  absl::Status Open(DeviceIo& io, const JournalGeometry& geometry, bool writable);

  const JournalGeometry& geometry() const { return geometry_; }

  absl::Status Read(DeviceIo& io, uint64_t first, Bytes out);
  // At most what is atomic. A failed one has changed nothing.
  absl::Status Write(DeviceIo& io, uint64_t first, ConstBytes in);
  absl::Status Flush(DeviceIo& io);

 private:
  // How far the transaction has come that is being committed.
  enum class Phase { kNone, kRecord, kInPlace };

  WriteStage& filling() { return stages_[filling_]; }
  WriteStage& committing() { return stages_[1 - filling_]; }

  absl::StatusOr<bool> ReadRecord(DeviceIo& io, uint64_t transaction);
  absl::Status ReplayRecord(DeviceIo& io);
  absl::StatusOr<uint64_t> NumberIn(DeviceIo& io, uint64_t slot);
  absl::Status Recover(DeviceIo& io, bool writable);
  absl::Status Commit(DeviceIo& io, uint64_t writes);
  absl::Status CarryOn(DeviceIo& io);

  JournalGeometry geometry_;
  std::array<WriteStage, 2> stages_;
  uint64_t capacity_ = 0;  // pages of a stage

  std::shared_mutex stages_mutex_;  // exclusive: to stage, and to exchange the stages; shared: to read what is staged
  size_t filling_ = 0;
  uint64_t writes_ = 0;  // staged so far

  std::mutex commit_;  // one at a time; guards what follows
  Phase phase_ = Phase::kNone;
  uint64_t transaction_ = 1;    // that is being committed, or is the next
  uint64_t committing_to_ = 0;  // of writes_: those that it has, and all before
  uint64_t committed_ = 0;
  bool replay_previous_ = false;  // what it left in its place may be lost
  MappedArray<std::byte> record_;
};

}  // namespace buse

#endif  // LAYERS_JOURNAL_STORE_H_

// SPDX-License-Identifier: Apache-2.0
//
// ChecksumStore: all of Checksum that does not depend on the stack: what is staged, the log, the table, the order in which they
// are written, and what is made of them when the medium is opened. layers/checksum.h says what lies where, and argues the
// order.
//
// Any thread may call anything after Open. `io` is always the same device.

#ifndef LAYERS_CHECKSUM_STORE_H_
#define LAYERS_CHECKSUM_STORE_H_

#include <array>
#include <atomic>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "layers/checksum_committer.h"
#include "layers/checksum_geometry.h"
#include "layers/checksum_hash.h"
#include "layers/checksum_log.h"
#include "layers/checksum_recovery.h"
#include "layers/checksum_table.h"
#include "layers/device_io.h"
#include "layers/mapped_array.h"
#include "layers/write_stage.h"

namespace buse {

class ChecksumStore {
 public:
  using Held = std::bitset<WriteStage::kMaxGet>;

  static constexpr uint64_t kPage = ChecksumGeometry::kPage;
  static constexpr uint64_t kMinStage = 4 * kPage;  // two stages, two pages in each

  struct Options {
    uint64_t stage = 0;        // bytes, of both stages together
    uint64_t table_cache = 0;  // bytes
    uint64_t head_bytes = 0;   // what a head is written in
    bool writable = false;
    bool committer = false;  // a full stage is committed by a thread of its own
  };

  // Writes all but the superblock. Not durable.
  static absl::Status Format(DeviceIo& io, const ChecksumGeometry& geometry, uint64_t head_bytes, bool can_trim,
                             Progress progress);

  // Once, before anything else. Recovers. `io` must live as long as this. kDataLoss where no head is intact.
  absl::Status Open(DeviceIo& io, const ChecksumGeometry& geometry, SumFunction sum, const Options& options);

  const ChecksumGeometry& geometry() const { return geometry_; }

  // ---- To read: what is held first, then what is below, which is to have the sums. What is below and its sums may change
  // ---- while they are read, unless commits are excluded meanwhile.

  // Copies the blocks from `first` on that are not below, and sets their bits.
  void ReadHeld(uint64_t first, Bytes out, Held& held) {
    if (stages_[0].empty() && stages_[1].empty() && !has_zeroes_.load(std::memory_order_acquire)) return;
    ReadHeldSlowly(first, out, held);
  }
  absl::Status Sums(DeviceIo& io, uint64_t first, uint64_t count, std::byte* out);
  class CommitLock {
   public:
    explicit CommitLock(ChecksumStore& store) : store_(store) { store_.commit_.lock(); }
    CommitLock(const CommitLock&) = delete;
    CommitLock& operator=(const CommitLock&) = delete;
    ~CommitLock() {
      store_.commit_.unlock();
      store_.TellProgress();
    }

   private:
    ChecksumStore& store_;
  };
  CommitLock ExcludeCommits() { return CommitLock(*this); }

  // What is known of the block `first` without reading it, and of how many from there on. They are only known to be zeroes
  // where both the device below and the table say so.
  struct Known {
    uint64_t count = 0;
    Extent::Kind kind = Extent::Kind::kData;
  };
  absl::StatusOr<Known> ZeroesFrom(DeviceIo& io, uint64_t first, uint64_t count);

  // ---- To write. A failed one may leave its own blocks old or new.

  absl::Status Write(DeviceIo& io, uint64_t first, ConstBytes in);
  // False: a part was written, or nothing, and the rest would have to wait for room.
  bool TryWrite(uint64_t first, ConstBytes in);
  // `release`: by Trim where there is one.
  absl::Status Zero(DeviceIo& io, uint64_t first, uint64_t count, bool release);
  // Commits in the calling thread, after the committer. Also tells what the committer failed with, even if that is repaired.
  absl::Status Flush(DeviceIo& io);

  // Reports copies of the head and slots of the log that are damaged or cannot be read.
  void CheckHeads(DeviceIo& io, const CheckReport& report);

 private:
  struct BlockRange {
    uint64_t first = 0;
    uint64_t count = 0;
    bool release = false;
  };
  struct Overlaid {
    uint64_t first;
    uint64_t count;
    uint64_t at;  // in overlay_sums_
  };

  void ReadHeldSlowly(uint64_t first, Bytes out, Held& held);

  // `put(stage, first, done, count)` returns how many blocks the stage took.
  template <class Put>
  absl::Status Stage(DeviceIo& io, uint64_t first, uint64_t count, Put put);
  // Has the active stage take what it can, and returns the stage, or null if it took all: then the committer was asked early,
  // so that the next one need not wait.
  template <class Put>
  const WriteStage* StageSome(uint64_t first, uint64_t count, uint64_t& done, Put put);
  WriteStage& EnterActive(size_t& index);
  void LeaveActive(size_t index);

  // What the committer does.
  void CommitIfFull(DeviceIo& io);
  // Sees to it that the active stage is not `full`, or not full any more.
  absl::Status MakeRoom(DeviceIo& io, const WriteStage& full);
  void TellProgress() {
    progress_.fetch_add(1);
    progress_.notify_all();
  }

  // ---- The rest with commit_ held.

  absl::Status FlushLocked(DeviceIo& io);
  // Finishes what an earlier failure left, and commits what is staged; in the log alone if `journal` and it is little.
  absl::Status CommitAll(DeviceIo& io, bool journal);
  void Seal();
  absl::Status Commit(DeviceIo& io, bool journal);
  absl::Status LogBatch(DeviceIo& io, bool journal);
  // How many slots may be written in one piece now, at least one.
  absl::Status RoomInLog(DeviceIo& io, uint64_t& room);
  bool Journal(LogWriter& writer);
  absl::Status WriteLog(DeviceIo& io, LogWriter& writer);
  absl::Status PutInPlace(DeviceIo& io);
  absl::Status PutSums(DeviceIo& io, uint64_t first, uint64_t count, const std::byte* sums);
  absl::Status ZeroSums(DeviceIo& io, uint64_t first, uint64_t count);
  absl::Status LogZeroes(DeviceIo& io, const BlockRange& range);
  absl::Status FinishZeroes(DeviceIo& io);
  absl::Status Checkpoint(DeviceIo& io);
  absl::Status Settle(DeviceIo& io);
  absl::Status WriteHead(DeviceIo& io, const ChecksumHead& head, bool durable);

  absl::Status ReadHead(DeviceIo& io);
  absl::Status Recover(DeviceIo& io, SumFunction sum);
  absl::Status Redo(DeviceIo& io, const ChecksumRecovery& recovery);
  absl::Status Overlay(const ChecksumRecovery& recovery);

  ChecksumGeometry geometry_;
  Options options_;
  uint64_t largest_staged_zeroes_ = 0;  // blocks
  ChecksumTable table_;

  std::array<WriteStage, 2> stages_;
  std::atomic<size_t> active_ = 0;
  std::array<std::atomic<uint64_t>, 2> writers_ = {};  // in stages_

  // Blocks that read as zeroes, whatever is below.
  std::atomic<bool> has_zeroes_ = false;
  std::mutex zeroes_mutex_;
  std::vector<BlockRange> zeroes_;  // guarded by zeroes_mutex_, but changed with commit_ held
  std::vector<Overlaid> overlay_;   // sums that a table that cannot be written does not have; ascending; does not change
  std::vector<std::byte> overlay_sums_;

  std::atomic<uint32_t> progress_ = 0;  // changes when another stage is active, and when commit_ was released

  std::mutex commit_;  // guards the rest, and is held across calls below
  MappedArray<std::byte> scratch_;
  MappedArray<std::byte> head_page_;
  ChecksumHead head_;              // the last that was written
  uint64_t last_ = 0;              // sequence, tried or written
  bool log_was_damaged_ = false;   // when it was opened
  bool log_failed_ = false;        // what the last slots hold is unknown
  bool unflushed_ = false;         // something is only in place, and not known to be durable
  uint64_t open_since_ = 0;        // first sequence of what is logged and not yet in place and in the table; 0: nothing
  WriteStage* sealed_ = nullptr;   // what is being committed
  uint64_t batch_begin_ = 0;       // pages of it: those before are done,
  uint64_t batch_end_ = 0;         // those from batch_begin_ to here are logged,
  bool batch_in_journal_ = false;  // with their content

  ChecksumCommitter committer_;  // last: its thread uses the rest
};

}  // namespace buse

#endif  // LAYERS_CHECKSUM_STORE_H_

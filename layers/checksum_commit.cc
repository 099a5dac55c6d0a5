// SPDX-License-Identifier: Apache-2.0
//
// Commits of Checksum: what is staged goes into the log, into its place and into the table, in this order.

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include "layers/checksum_store.h"
#include "layers/defect.h"

namespace buse {
namespace {

// A Flush that commits so little writes the content into the log, which saves one of two syncs. No more than a quarter of the
// log, so that not every few flushes need a checkpoint.
constexpr uint64_t kMostJournaledPages = 16;

// Gathers consecutive blocks into few writes: as they lie in memory where they are neighbours there too, else by copying.
class Coalescer {
 public:
  Coalescer(DeviceIo& io, Bytes scratch) : io_(io), scratch_(scratch) {}

  absl::Status Add(uint64_t offset, Bytes data) {
    if (size_ > 0 && offset == offset_ + size_) {
      if (!copied_ && data.data() == begin_ + size_) {
        size_ += data.size();
        return absl::OkStatus();
      }
      if (size_ + data.size() <= scratch_.size()) {
        if (!copied_) std::memcpy(scratch_.data(), begin_, size_);
        std::memcpy(scratch_.data() + size_, data.data(), data.size());
        begin_ = scratch_.data();
        copied_ = true;
        size_ += data.size();
        return absl::OkStatus();
      }
    }
    absl::Status status = Finish();
    offset_ = offset;
    begin_ = data.data();
    size_ = data.size();
    copied_ = false;
    return status;
  }

  absl::Status Finish() {
    if (size_ == 0) return absl::OkStatus();
    const uint64_t size = std::exchange(size_, 0);
    return io_.Write(offset_, {begin_, size});
  }

 private:
  DeviceIo& io_;
  const Bytes scratch_;
  uint64_t offset_ = 0;
  std::byte* begin_ = nullptr;
  uint64_t size_ = 0;
  bool copied_ = false;
};

}  // namespace

void ChecksumStore::CommitIfFull(DeviceIo& io) {
  const CommitLock lock(*this);
  if (stages_[active_.load()].full()) committer_.Remember(CommitAll(io, false));
}

// While one thread commits what is sealed, the others fill the stage that then is active. If that is full too, they wait.
absl::Status ChecksumStore::MakeRoom(DeviceIo& io, const WriteStage& full) {
  for (;;) {
    const uint32_t seen = progress_.load();
    if (&stages_[active_.load()] != &full || !full.full()) return absl::OkStatus();
    if (committer_.started()) {
      if (absl::Status status = committer_.TakeError(); !status.ok()) return status;
      committer_.Ask();
      progress_.wait(seen);
      continue;
    }
    if (!commit_.try_lock()) {
      progress_.wait(seen);
      continue;
    }
    absl::Status status;
    if (&stages_[active_.load()] == &full && full.full()) status = CommitAll(io, false);
    commit_.unlock();
    TellProgress();
    return status;
  }
}

absl::Status ChecksumStore::CommitAll(DeviceIo& io, bool journal) {
  if (absl::Status status = FinishZeroes(io); !status.ok()) return status;
  if (sealed_ != nullptr) {
    if (absl::Status status = Commit(io, false); !status.ok()) return status;
  }
  if (stages_[active_.load()].empty()) return absl::OkStatus();
  Seal();
  return Commit(io, journal && !unflushed_);
}

// Closes the active stage and opens the other one, which is empty.
void ChecksumStore::Seal() {
  const size_t index = active_.load();
  assert(sealed_ == nullptr && stages_[1 - index].empty());
  active_.store(1 - index);
  TellProgress();
  for (uint64_t n = writers_[index].load(); n != 0; n = writers_[index].load()) writers_[index].wait(n);
  sealed_ = &stages_[index];
  sealed_->Sort();
  batch_begin_ = batch_end_ = 0;
}

// Goes on where an earlier call failed.
absl::Status ChecksumStore::Commit(DeviceIo& io, bool journal) {
  while (batch_begin_ < sealed_->pages()) {
    if (batch_end_ == batch_begin_) {
      if (absl::Status status = LogBatch(io, journal); !status.ok()) return status;
    }
    if (absl::Status status = PutInPlace(io); !status.ok()) return status;
    absl::Status status;
    sealed_->ForEachRun(batch_begin_, batch_end_, [&](const WriteStage::Piece& piece) {
      status = PutSums(io, piece.first, piece.count, piece.sums);
      return status.ok();
    });
    if (!status.ok()) return status;
    batch_begin_ = batch_end_;
    open_since_ = 0;
  }
  sealed_->Drop();
  sealed_ = nullptr;
  return absl::OkStatus();
}

absl::Status ChecksumStore::RoomInLog(DeviceIo& io, uint64_t& room) {
  if (log_failed_ || last_ - head_.checkpoint == geometry_.slots) {
    if (absl::Status status = Checkpoint(io); !status.ok()) return status;
  }
  const uint64_t free = geometry_.slots - (last_ - head_.checkpoint);
  const uint64_t before_end = geometry_.slots - (last_ + 1) % geometry_.slots;
  room = std::min({free, before_end, scratch_.size() / kPage});
  return absl::OkStatus();
}

// Makes durable which sums the next pages of the sealed stage may come to have.
absl::Status ChecksumStore::LogBatch(DeviceIo& io, bool journal) {
  uint64_t room;
  if (absl::Status status = RoomInLog(io, room); !status.ok()) return status;
  if (journal && sealed_->pages() <= std::min(kMostJournaledPages, geometry_.slots / 4)) {
    LogWriter writer(scratch_.span().first(room * kPage), geometry_, last_ + 1);
    if (Journal(writer)) {
      batch_in_journal_ = true;
      batch_end_ = sealed_->pages();
      absl::Status status = WriteLog(io, writer);
      if (!status.ok()) batch_end_ = batch_begin_;
      return status;
    }
  }
  LogWriter writer(scratch_.span().first(room * kPage), geometry_, last_ + 1);
  uint64_t end = batch_begin_;
  for (; end < sealed_->pages(); ++end) {
    const bool fits = sealed_->ForEachPiece(end, end + 1, [&](const WriteStage::Piece& piece) {
      return writer.Add({LogRecord::Kind::kSums, piece.first, piece.count, piece.sums});
    });
    if (!fits) break;
  }
  assert(end > batch_begin_ && "what is logged of one page fits in a slot");
  absl::Status status = WriteLog(io, writer);
  if (status.ok()) {
    batch_end_ = end;
    batch_in_journal_ = false;
  }
  return status;
}

// False: it does not fit.
bool ChecksumStore::Journal(LogWriter& writer) {
  const bool added = sealed_->ForEachPiece(0, sealed_->pages(), [&](const WriteStage::Piece& piece) {
    return writer.Add({LogRecord::Kind::kContent, piece.first, piece.count, piece.sums}) && writer.headers() == 1;
  });
  return added && sealed_->ForEachPiece(0, sealed_->pages(), [&](const WriteStage::Piece& piece) {
    return writer.AddContent({LogRecord::Kind::kContent, piece.first, piece.count, piece.sums},
                             {piece.data, piece.count * geometry_.block_size});
  });
}

absl::Status ChecksumStore::WriteLog(DeviceIo& io, LogWriter& writer) {
  const uint64_t slots = writer.Finish();
  const uint64_t offset = geometry_.log + (last_ + 1) % geometry_.slots * kPage;
  const uint64_t since = last_ + 1;
  // Whatever becomes of them, no other slots ever have these sequences.
  last_ += slots;
  const ConstBytes bytes = scratch_.span().first(slots * kPage);
  absl::Status status = BUSE_DEFECT("checksum-log-not-durable") ? io.Write(offset, bytes) : io.WriteThrough(offset, bytes);
  log_failed_ = !status.ok();
  if (status.ok()) open_since_ = since;
  return status;
}

// In the order of addresses.
absl::Status ChecksumStore::PutInPlace(DeviceIo& io) {
  if (!batch_in_journal_) unflushed_ = true;
  Coalescer writes(io, scratch_.span());
  BlockRange zeroes;
  absl::Status status;
  const auto finish_zeroes = [&] {
    if (zeroes.count == 0) return absl::OkStatus();
    const uint64_t count = std::exchange(zeroes.count, 0);
    return io.Zero({geometry_.OffsetOf(zeroes.first), count * geometry_.block_size}, true);
  };
  sealed_->ForEachRun(batch_begin_, batch_end_, [&](const WriteStage::Piece& piece) {
    if (!piece.release) {
      status = writes.Add(geometry_.OffsetOf(piece.first), {piece.data, piece.count * geometry_.block_size});
    } else if (zeroes.count > 0 && zeroes.first + zeroes.count == piece.first) {
      zeroes.count += piece.count;
    } else {
      status = finish_zeroes();
      zeroes = {piece.first, piece.count, true};
    }
    return status.ok();
  });
  if (status.ok()) status = writes.Finish();
  return status.ok() ? finish_zeroes() : status;
}

absl::Status ChecksumStore::PutSums(DeviceIo& io, uint64_t first, uint64_t count, const std::byte* sums) {
  for (;;) {
    uint64_t done = 0;
    absl::Status status = table_.Put(io, first, count, sums, done);
    if (!status.ok() || done == count) return status;
    first += done;
    count -= done;
    if (sums != nullptr) sums += done * geometry_.sum_bytes;
    if (status = Checkpoint(io); !status.ok()) return status;
  }
}

// Of whole pages of the table on the medium, which then need not be read. First the data is made durable: the blocks may be
// written again, and after a power cut they would hold what they did before the zeroes, whose sums would be gone.
absl::Status ChecksumStore::ZeroSums(DeviceIo& io, uint64_t first, uint64_t count) {
  const uint64_t per_page = geometry_.sums_per_page();
  const uint64_t begin = (first + per_page - 1) / per_page;
  const uint64_t end = (first + count) / per_page;
  if (begin >= end) return PutSums(io, first, count, nullptr);
  if (!BUSE_DEFECT("checksum-table-zeroed-early")) {
    if (absl::Status status = io.Flush(); !status.ok()) return status;
  }
  absl::Status status = io.Zero({geometry_.table + begin * kPage, (end - begin) * kPage}, true);
  if (!status.ok()) return status;
  table_.Forget(begin, end);
  if (begin * per_page > first) status = PutSums(io, first, begin * per_page - first, nullptr);
  if (!status.ok() || end * per_page == first + count) return status;
  return PutSums(io, end * per_page, first + count - end * per_page, nullptr);
}

}  // namespace buse

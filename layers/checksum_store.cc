// SPDX-License-Identifier: Apache-2.0
//
// Staging, reading, and what makes things durable. checksum_commit.cc has the commits, checksum_open.cc what happens before the
// first request.

#include "layers/checksum_store.h"

#include <algorithm>
#include <cstring>

#include "layers/defect.h"

namespace buse {

// ---- Staging.

// The active stage, which is not sealed before LeaveActive.
WriteStage& ChecksumStore::EnterActive(size_t& index) {
  for (;;) {
    index = active_.load();
    writers_[index].fetch_add(1);
    if (active_.load() == index) return stages_[index];
    LeaveActive(index);
  }
}

void ChecksumStore::LeaveActive(size_t index) {
  if (writers_[index].fetch_sub(1) == 1 && active_.load() != index) writers_[index].notify_all();
}

template <class Put>
const WriteStage* ChecksumStore::StageSome(uint64_t first, uint64_t count, uint64_t& done, Put put) {
  size_t index;
  WriteStage& stage = EnterActive(index);
  done += put(stage, first + done, done, count - done);
  LeaveActive(index);
  if (done < count) return &stage;
  if (committer_.started() && stage.full()) committer_.Ask();
  return nullptr;
}

template <class Put>
absl::Status ChecksumStore::Stage(DeviceIo& io, uint64_t first, uint64_t count, Put put) {
  for (uint64_t done = 0;;) {
    const WriteStage* full = StageSome(first, count, done, put);
    if (full == nullptr) return absl::OkStatus();
    if (absl::Status status = MakeRoom(io, *full); !status.ok()) return status;
  }
}

absl::Status ChecksumStore::Write(DeviceIo& io, uint64_t first, ConstBytes in) {
  const uint64_t block = geometry_.block_size;
  return Stage(io, first, in.size() / block, [&](WriteStage& stage, uint64_t at, uint64_t done, uint64_t) {
    return stage.Put(at, in.subspan(done * block));
  });
}

bool ChecksumStore::TryWrite(uint64_t first, ConstBytes in) {
  uint64_t done = 0;
  return StageSome(first, in.size() / geometry_.block_size, done,
                   [&](WriteStage& stage, uint64_t at, uint64_t, uint64_t) { return stage.Put(at, in); }) == nullptr;
}

absl::Status ChecksumStore::Zero(DeviceIo& io, uint64_t first, uint64_t count, bool release) {
  if (count <= largest_staged_zeroes_) {
    return Stage(io, first, count,
                 [&](WriteStage& stage, uint64_t at, uint64_t, uint64_t left) { return stage.PutZeroes(at, left, release); });
  }
  const CommitLock lock(*this);
  // What was written there before must not come after.
  if (absl::Status status = CommitAll(io, false); !status.ok()) return status;
  if (absl::Status status = LogZeroes(io, {first, count, release}); !status.ok()) return status;
  return FinishZeroes(io);
}

void ChecksumStore::ReadHeldSlowly(uint64_t first, Bytes out, Held& held) {
  // The newer before the older. If they change places meanwhile, then what is found is as new as this call, and what is not
  // found was put in place.
  const size_t active = active_.load();
  for (size_t index : {active, 1 - active}) {
    if (BUSE_DEFECT("checksum-sealed-not-read") && index != active) continue;
    if (!stages_[index].empty()) stages_[index].Get(first, out, held);
  }
  if (!has_zeroes_.load(std::memory_order_acquire)) return;
  std::lock_guard lock(zeroes_mutex_);
  const uint64_t end = first + out.size() / geometry_.block_size;
  for (const BlockRange& range : zeroes_) {
    for (uint64_t at = std::max(first, range.first); at < std::min(end, range.first + range.count); ++at) {
      if (held[at - first]) continue;
      std::memset(out.data() + (at - first) * geometry_.block_size, 0, geometry_.block_size);
      held.set(at - first);
    }
  }
}

absl::Status ChecksumStore::Sums(DeviceIo& io, uint64_t first, uint64_t count, std::byte* out) {
  absl::Status status = table_.Get(io, first, count, out);
  if (overlay_.empty() || !status.ok()) return status;
  const uint64_t size = geometry_.sum_bytes;
  auto over = std::lower_bound(overlay_.begin(), overlay_.end(), first, [](const Overlaid& overlaid, uint64_t block) {
    return overlaid.first + overlaid.count <= block;
  });
  for (; over != overlay_.end() && over->first < first + count; ++over) {
    const uint64_t begin = std::max(first, over->first);
    const uint64_t end = std::min(first + count, over->first + over->count);
    const std::byte* sums = overlay_sums_.data() + over->at + (begin - over->first) * size;
    std::memcpy(out + (begin - first) * size, sums, (end - begin) * size);
  }
  return status;
}

absl::StatusOr<ChecksumStore::Known> ChecksumStore::ZeroesFrom(DeviceIo& io, uint64_t first, uint64_t count) {
  const absl::StatusOr<Extent> below = io.FirstExtent({geometry_.OffsetOf(first), count * geometry_.block_size});
  if (!below.ok()) return below.status();
  if (below->kind == Extent::Kind::kData) {
    return Known{(below->range.length + geometry_.block_size - 1) / geometry_.block_size, Extent::Kind::kData};
  }
  uint64_t zeroes = below->range.length / geometry_.block_size;
  for (WriteStage& stage : stages_) zeroes = stage.CountAbsent(first, zeroes);
  const absl::StatusOr<uint64_t> in_table = table_.CountZeroes(io, first, zeroes);
  if (!in_table.ok()) return in_table.status();
  if (*in_table > 0 && overlay_.empty()) return Known{*in_table, below->kind};
  const uint64_t per_page = kPage / geometry_.block_size;
  return Known{std::min(count, per_page - first % per_page), Extent::Kind::kData};
}

// ---- Ranges of zeroes.

absl::Status ChecksumStore::LogZeroes(DeviceIo& io, const BlockRange& range) {
  uint64_t room;
  if (absl::Status status = RoomInLog(io, room); !status.ok()) return status;
  LogWriter writer(scratch_.span().first(kPage), geometry_, last_ + 1);
  writer.Add({LogRecord::Kind::kZeroes, range.first, range.count, nullptr});
  if (absl::Status status = WriteLog(io, writer); !status.ok()) return status;
  std::lock_guard lock(zeroes_mutex_);
  zeroes_.push_back(range);
  has_zeroes_.store(true, std::memory_order_release);
  return absl::OkStatus();
}

// The range reads as zeroes already, and will after a power cut.
absl::Status ChecksumStore::FinishZeroes(DeviceIo& io) {
  if (!has_zeroes_.load(std::memory_order_relaxed)) return absl::OkStatus();
  const BlockRange range = zeroes_.front();
  absl::Status status = io.Zero({geometry_.OffsetOf(range.first), range.count * geometry_.block_size}, range.release);
  if (status.ok()) status = ZeroSums(io, range.first, range.count);
  if (!status.ok()) return status;
  open_since_ = 0;
  std::lock_guard lock(zeroes_mutex_);
  zeroes_.clear();
  has_zeroes_.store(false, std::memory_order_release);
  return absl::OkStatus();
}

// ---- What makes things durable.

absl::Status ChecksumStore::Flush(DeviceIo& io) {
  if (!options_.writable) return absl::OkStatus();
  if (BUSE_DEFECT("checksum-flush-past-committer")) {
    if (!commit_.try_lock()) return absl::OkStatus();
    commit_.unlock();
  }
  absl::Status status;
  {
    const CommitLock lock(*this);
    status = FlushLocked(io);
  }
  // What failed may have been lost below though it is said to be durable there now.
  status.Update(committer_.TakeError());
  return status;
}

absl::Status ChecksumStore::FlushLocked(DeviceIo& io) {
  if (BUSE_DEFECT("checksum-early-acknowledgement") && !unflushed_) return absl::OkStatus();
  if (absl::Status status = CommitAll(io, true); !status.ok()) return status;
  if (unflushed_) return Settle(io);
  if (log_failed_ || head_.logged == last_) return absl::OkStatus();
  // All is in the log, which is durable. That it is shall be known if a part of it is lost.
  ChecksumHead head = head_;
  head.logged = last_;
  return WriteHead(io, head, false);
}

absl::Status ChecksumStore::Settle(DeviceIo& io) {
  // What is on the medium of slots that could not be written must not pass for settled.
  if (log_failed_) return Checkpoint(io);
  ChecksumHead head = head_;
  head.settled = head.logged = last_;
  if (BUSE_DEFECT("checksum-settled-early")) {
    if (absl::Status status = WriteHead(io, head, true); !status.ok()) return status;
  }
  if (!BUSE_DEFECT("checksum-no-flush")) {
    if (absl::Status status = io.Flush(); !status.ok()) return status;
  }
  unflushed_ = false;
  return BUSE_DEFECT("checksum-settled-early") ? absl::OkStatus() : WriteHead(io, head, false);
}

// Writes what the log says into the table, so that its slots are free.
absl::Status ChecksumStore::Checkpoint(DeviceIo& io) {
  if (!BUSE_DEFECT("checksum-table-before-data")) {
    if (absl::Status status = io.Flush(); !status.ok()) return status;
  }
  if (absl::Status status = table_.WriteDirty(io, scratch_.span()); !status.ok()) return status;
  if (!BUSE_DEFECT("checksum-log-reused-early")) {
    if (absl::Status status = io.Flush(); !status.ok()) return status;
  }
  unflushed_ = open_since_ != 0;
  ChecksumHead head = head_;
  head.checkpoint = open_since_ != 0 ? open_since_ - 1 : last_;
  head.settled = std::max(head.settled, head.checkpoint);
  head.logged = last_;
  absl::Status status = WriteHead(io, head, !BUSE_DEFECT("checksum-head-not-durable"));
  if (status.ok()) log_failed_ = false;
  return status;
}

absl::Status ChecksumStore::WriteHead(DeviceIo& io, const ChecksumHead& head, bool durable) {
  ChecksumHead next = head;
  ++next.number;
  const Bytes bytes = head_page_.span().first(options_.head_bytes);
  next.Encode(geometry_.salt, bytes);
  const uint64_t offset = geometry_.heads[next.number % 2];
  absl::Status status = durable ? io.WriteThrough(offset, bytes) : io.Write(offset, bytes);
  if (status.ok()) head_ = next;
  return status;
}

}  // namespace buse

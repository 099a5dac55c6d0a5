// SPDX-License-Identifier: Apache-2.0

#include "layers/journal_store.h"

#include <algorithm>
#include <bitset>
#include <cassert>

#include "layers/checksum_hash.h"
#include "layers/defect.h"

namespace buse {

absl::Status JournalStore::Format(DeviceIo& io, const JournalGeometry& geometry) {
  for (uint64_t slot : {0, 1}) {
    absl::Status status = io.Zero({geometry.SlotOf(slot), JournalGeometry::kPage}, false);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status JournalStore::Open(DeviceIo& io, const JournalGeometry& geometry, bool writable) {
  geometry_ = geometry;
  capacity_ = geometry.PagesOfTransaction();
  for (WriteStage& stage : stages_) {
    absl::Status status =
        stage.Allocate(capacity_ * WriteStage::kPage, geometry.block_size, SumBlocks<Crc32c>, Crc32c::kBytes, geometry.salt());
    if (!status.ok()) return status;
  }
  if (absl::Status status = record_.Open(geometry.slot_bytes); !status.ok()) return status;
  return Recover(io, writable);
}

// ---- Recovery.

// The number of the transaction whose record seems to be in a slot; 0: none.
absl::StatusOr<uint64_t> JournalStore::NumberIn(DeviceIo& io, uint64_t slot) {
  const Bytes head = record_.span().first(JournalGeometry::kPage);
  if (absl::Status status = io.Read(geometry_.SlotOf(slot), head); !status.ok()) return status;
  const JournalRecord record(geometry_, record_.span());
  return record.LengthOf(slot) > 0 ? record.number() : 0;
}

// Whether the transaction is in its slot: then it is in record_.
absl::StatusOr<bool> JournalStore::ReadRecord(DeviceIo& io, uint64_t transaction) {
  const uint64_t slot = geometry_.SlotOf(transaction);
  const Bytes all = record_.span();
  if (absl::Status status = io.Read(slot, all.first(JournalGeometry::kPage)); !status.ok()) return status;
  const JournalRecord record(geometry_, all);
  const uint64_t length = record.LengthOf(transaction);
  if (length == 0 || record.number() != transaction) return false;
  if (length > JournalGeometry::kPage) {
    const Bytes rest = all.subspan(JournalGeometry::kPage, length - JournalGeometry::kPage);
    if (absl::Status status = io.Read(slot + JournalGeometry::kPage, rest); !status.ok()) return status;
  }
  return record.IsSound();
}

absl::Status JournalStore::ReplayRecord(DeviceIo& io) {
  return JournalRecord(geometry_, record_.span()).ForEachRun([&](uint64_t first, ConstBytes blocks) {
    return io.Write(geometry_.OffsetOf(first), blocks);
  });
}

absl::Status JournalStore::Recover(DeviceIo& io, bool writable) {
  uint64_t newest = 0;
  for (uint64_t slot : {0, 1}) {
    const absl::StatusOr<uint64_t> number = NumberIn(io, slot);
    if (!number.ok()) return number.status();
    const absl::StatusOr<bool> sound = *number == 0 ? false : ReadRecord(io, *number);
    if (!sound.ok()) return sound.status();
    if (*sound) newest = std::max(newest, *number);
  }
  transaction_ = newest + 1;
  if (newest == 0) return absl::OkStatus();
  // The one before may not be durable in its place either. Older ones are.
  for (uint64_t number : {newest - 1, newest}) {
    if (number == 0 || (number != newest && BUSE_DEFECT("journal-replays-only-the-newest"))) continue;
    const absl::StatusOr<bool> sound = ReadRecord(io, number);
    if (!sound.ok()) return sound.status();
    if (!*sound) continue;
    absl::Status status;
    if (writable) {
      status = ReplayRecord(io);
    } else {
      WriteStage& stage = number == newest ? filling() : committing();
      status = JournalRecord(geometry_, record_.span()).ForEachRun([&](uint64_t first, ConstBytes blocks) {
        stage.Put(first, blocks);
        return absl::OkStatus();
      });
    }
    if (!status.ok()) return status;
  }
  return writable ? io.Flush() : absl::OkStatus();
}

// ---- Reading and staging.

absl::Status JournalStore::Read(DeviceIo& io, uint64_t first, Bytes out) {
  const uint64_t block = geometry_.block_size;
  for (Bytes rest = out; !rest.empty();) {
    const Bytes part = rest.first(std::min<uint64_t>(rest.size(), WriteStage::kMaxGet * block));
    std::bitset<WriteStage::kMaxGet> found;
    {
      std::shared_lock lock(stages_mutex_);
      if (!filling().empty()) filling().Get(first, part, found);
      if (!committing().empty()) committing().Get(first, part, found);
    }
    // What is not staged now is in its place, whatever happens meanwhile.
    const uint64_t count = part.size() / block;
    for (uint64_t at = 0; at < count;) {
      uint64_t end = at;
      while (end < count && !found[end]) ++end;
      if (end > at) {
        absl::Status status = io.Read(geometry_.OffsetOf(first + at), part.subspan(at * block, (end - at) * block));
        if (!status.ok()) return status;
      }
      at = end;
      while (at < count && found[at]) ++at;
    }
    first += count;
    rest = rest.subspan(part.size());
  }
  return absl::OkStatus();
}

absl::Status JournalStore::Write(DeviceIo& io, uint64_t first, ConstBytes in) {
  const uint64_t per_page = WriteStage::kPage / geometry_.block_size;
  const uint64_t count = in.size() / geometry_.block_size;
  const uint64_t pages = (first + count - 1) / per_page - first / per_page + 1;
  assert(pages <= capacity_);
  for (;;) {
    uint64_t writes = 0;
    {
      std::lock_guard lock(stages_mutex_);
      if (filling().pages() + pages <= capacity_) {
        filling().Put(first, in);
        ++writes_;
        return absl::OkStatus();
      }
      writes = writes_;
    }
    if (absl::Status status = Commit(io, writes); !status.ok()) return status;
  }
}

// ---- Committing.

absl::Status JournalStore::Flush(DeviceIo& io) {
  uint64_t writes = 0;
  {
    std::shared_lock lock(stages_mutex_);
    writes = writes_;
  }
  return BUSE_DEFECT("journal-no-flush") ? absl::OkStatus() : Commit(io, writes);
}

// Until so many writes, counted from Open, are in the log. Those who wait here meanwhile find theirs done.
absl::Status JournalStore::Commit(DeviceIo& io, uint64_t writes) {
  std::lock_guard commit(commit_);
  while (committed_ < writes) {
    if (phase_ == Phase::kNone) {
      std::lock_guard lock(stages_mutex_);
      filling_ = 1 - filling_;
      committing_to_ = writes_;
      phase_ = Phase::kRecord;
    }
    if (absl::Status status = CarryOn(io); !status.ok()) return status;
  }
  return absl::OkStatus();
}

// Takes up the transaction where it failed, or from its beginning.
absl::Status JournalStore::CarryOn(DeviceIo& io) {
  WriteStage& stage = committing();
  if (phase_ == Phase::kRecord) {
    if (replay_previous_) {
      const absl::StatusOr<bool> there = ReadRecord(io, transaction_ - 1);
      if (!there.ok()) return there.status();
      if (!*there) return absl::DataLossError("journal: the last transaction is no longer in the log");
      if (absl::Status status = ReplayRecord(io); !status.ok()) return status;
    }
    stage.Sort();
    const uint64_t length = JournalRecord(geometry_, record_.span()).Encode(transaction_, stage);
    absl::Status status = io.Write(geometry_.SlotOf(transaction_), record_.span().first(length));
    if (!status.ok()) return status;
    if (!BUSE_DEFECT("journal-in-place-too-early")) {
      // Also makes the transaction before this one durable in its place, or else it must be written there once more.
      replay_previous_ = transaction_ > 1;
      if (absl::Status status = io.Flush(); !status.ok()) return status;
      replay_previous_ = false;
    }
    phase_ = Phase::kInPlace;
  }
  absl::Status status;
  stage.ForEachRun(0, stage.pages(), [&](const WriteStage::Piece& run) {
    status = io.Write(geometry_.OffsetOf(run.first), {run.data, run.count * geometry_.block_size});
    return status.ok();
  });
  if (!status.ok()) return status;
  {
    std::lock_guard lock(stages_mutex_);
    stage.Drop();
  }
  phase_ = Phase::kNone;
  committed_ = committing_to_;
  ++transaction_;
  return absl::OkStatus();
}

}  // namespace buse

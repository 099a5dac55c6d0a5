// SPDX-License-Identifier: Apache-2.0
//
// How a medium is made, and what is done when it is opened.

#include <algorithm>
#include <cstring>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/optional.h"
#include "layers/checksum_store.h"

namespace buse {
namespace {

// What is written into the log, or brought together, at once.
constexpr uint64_t kScratch = 256 << 10;

}  // namespace

absl::Status ChecksumStore::Format(DeviceIo& io, const ChecksumGeometry& geometry, uint64_t head_bytes, bool can_trim,
                                   Progress progress) {
  // All but the two superblocks.
  const uint64_t begin = geometry.heads[0];
  const uint64_t end = geometry.heads[1] + kPage;
  const uint64_t piece = can_trim ? end - begin : 16 << 20;
  for (uint64_t at = begin; at < end; at += piece) {
    if (absl::Status status = io.Zero({at, std::min(piece, end - at)}, true); !status.ok()) return status;
    progress(std::min(at + piece, end) - begin, end - begin);
  }
  for (uint64_t number : {1, 2}) {
    ChecksumHead head;
    head.number = number;
    std::array<std::byte, kPage> bytes;
    head.Encode(geometry.salt, Bytes(bytes).first(head_bytes));
    absl::Status status = io.Write(geometry.heads[number % 2], ConstBytes(bytes).first(head_bytes));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ChecksumStore::Open(DeviceIo& io, const ChecksumGeometry& geometry, SumFunction sum, const Options& options) {
  geometry_ = geometry;
  options_ = options;
  largest_staged_zeroes_ = std::max<uint64_t>(1, options.stage / 16 / geometry.block_size);
  for (WriteStage& stage : stages_) {
    absl::Status status =
        stage.Allocate(options.stage / 2 / kPage * kPage, geometry.block_size, sum, geometry.sum_bytes, geometry.salt);
    if (!status.ok()) return status;
  }
  if (absl::Status status = table_.Allocate(options.table_cache, geometry_); !status.ok()) return status;
  if (absl::Status status = scratch_.Open(kScratch); !status.ok()) return status;
  if (absl::Status status = head_page_.Open(kPage); !status.ok()) return status;
  zeroes_.reserve(1);
  {
    const CommitLock lock(*this);
    if (absl::Status status = ReadHead(io); !status.ok()) return status;
    if (absl::Status status = Recover(io, sum); !status.ok()) return status;
  }
  if (!options.writable || !options.committer) return absl::OkStatus();
  return committer_.Start([this, &io] { CommitIfFull(io); });
}

void ChecksumStore::CheckHeads(DeviceIo& io, const CheckReport& report) {
  const CommitLock lock(*this);
  for (uint64_t offset : geometry_.heads) {
    const Bytes bytes = head_page_.span().first(options_.head_bytes);
    absl::Status status = io.Read(offset, bytes);
    if (status.ok() && ChecksumHead::Decode(geometry_.salt, bytes).has_value()) continue;
    report.flawed(absl::StrFormat("the head of the log at offset %d %s; the other one is used", offset,
                                  status.ok() ? "is damaged" : absl::StrCat("cannot be read: ", status.message())));
  }
  if (log_was_damaged_) {
    report.flawed(
        "a part of the log was lost when the device was opened: blocks that were written shortly before it was last "
        "closed are damaged, and some may hold what they held before");
  }
  for (uint64_t i = 0; i < geometry_.slots; ++i) {
    const uint64_t offset = geometry_.log + i * kPage;
    absl::Status status = io.Read(offset, scratch_.span().first(kPage));
    if (status.ok()) continue;
    report.flawed(absl::StrFormat("the log at offset %d cannot be read: %s", offset, std::string(status.message())));
  }
}

absl::Status ChecksumStore::ReadHead(DeviceIo& io) {
  const Bytes bytes = head_page_.span().first(options_.head_bytes);
  bool found = false;
  absl::Status unreadable;
  for (uint64_t offset : geometry_.heads) {
    if (absl::Status status = io.Read(offset, bytes); !status.ok()) {
      unreadable = status;
      continue;
    }
    const absl::optional<ChecksumHead> head = ChecksumHead::Decode(geometry_.salt, bytes);
    if (!head.has_value() || (found && head->number < head_.number)) continue;
    head_ = *head;
    found = true;
  }
  if (found) return absl::OkStatus();
  if (!unreadable.ok()) return unreadable;
  return absl::DataLossError(absl::StrFormat(
      "checksum: both heads of the log, at offsets %d and %d, are damaged, so that it is not known which sums are valid; "
      "the data, from offset %d on, may be intact",
      geometry_.heads[0], geometry_.heads[1], geometry_.data));
}

absl::Status ChecksumStore::Recover(DeviceIo& io, SumFunction sum) {
  ChecksumRecovery recovery(geometry_, head_, sum);
  absl::Status status = recovery.Run(io, [&](uint64_t block, std::byte* out) { return table_.Get(io, block, 1, out); });
  if (!status.ok()) return status;
  last_ = std::max({head_.checkpoint, head_.settled, head_.logged, recovery.last()});
  log_was_damaged_ = !recovery.complete();
  if (recovery.last() == 0 && recovery.complete()) return absl::OkStatus();
  if (!options_.writable) return Overlay(recovery);
  // The log stays valid until all is done, so that this may be interrupted and begin anew.
  open_since_ = head_.checkpoint + 1;
  if (status = Redo(io, recovery); !status.ok()) return status;
  open_since_ = 0;
  // A slot that could not be read now, and can be later, is then an old one.
  last_ += geometry_.slots;
  return Checkpoint(io);
}

absl::Status ChecksumStore::Redo(DeviceIo& io, const ChecksumRecovery& recovery) {
  for (const ChecksumRecovery::Zeroes& zeroes : recovery.zeroes()) {
    absl::Status status;
    if (zeroes.redo) status = io.Zero({geometry_.OffsetOf(zeroes.first), zeroes.count * geometry_.block_size}, true);
    if (status.ok()) status = ZeroSums(io, zeroes.first, zeroes.count);
    if (!status.ok()) return status;
  }
  for (const ChecksumRecovery::Blocks& blocks : recovery.blocks()) {
    const uint64_t offset = geometry_.OffsetOf(blocks.first);
    absl::Status status;
    if (blocks.redo && blocks.content != nullptr) status = io.Write(offset, {blocks.content, geometry_.block_size});
    if (blocks.redo && blocks.content == nullptr) status = io.Zero({offset, geometry_.block_size}, false);
    if (status.ok() && blocks.sums != nullptr) status = PutSums(io, blocks.first, blocks.count, blocks.sums);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// Where nothing can be written, what would be is kept in memory.
absl::Status ChecksumStore::Overlay(const ChecksumRecovery& recovery) {
  for (const ChecksumRecovery::Zeroes& zeroes : recovery.zeroes()) zeroes_.push_back({zeroes.first, zeroes.count, false});
  has_zeroes_.store(!zeroes_.empty());
  for (const ChecksumRecovery::Blocks& blocks : recovery.blocks()) {
    if (blocks.sums != nullptr) {
      overlay_.push_back({blocks.first, blocks.count, overlay_sums_.size()});
      overlay_sums_.insert(overlay_sums_.end(), blocks.sums, blocks.sums + blocks.count * geometry_.sum_bytes);
    }
    if (!blocks.redo) continue;
    const uint64_t taken = blocks.content != nullptr ? stages_[0].Put(blocks.first, {blocks.content, geometry_.block_size})
                                                     : stages_[0].PutZeroes(blocks.first, 1, false);
    if (taken == 1) continue;
    return absl::FailedPreconditionError(absl::StrFormat(
        "checksum: the device was not flushed when it was last used, and what is to be written again does not fit into a stage "
        "of %d bytes: give it a larger --stage, or open it once for writing",
        options_.stage));
  }
  return absl::OkStatus();
}

}  // namespace buse

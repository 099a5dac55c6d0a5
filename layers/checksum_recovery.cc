// SPDX-License-Identifier: Apache-2.0

#include "layers/checksum_recovery.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "layers/defect.h"

namespace buse {

constexpr uint64_t kSlot = ChecksumGeometry::kPage;

const std::byte* ChecksumRecovery::Reader::Get(DeviceIo& io, const ChecksumGeometry& geometry, uint64_t block) {
  if (block < first_ || block >= first_ + count_) {
    const uint64_t doubled = block == first_ + count_ ? std::max<uint64_t>(1, 2 * count_) : 1;
    for (uint64_t count : {std::min({doubled, kWindow / geometry.block_size, geometry.blocks - block}), uint64_t{1}}) {
      first_ = block;
      count_ = count;
      if (io.Read(geometry.OffsetOf(block), memory_.span().first(count * geometry.block_size)).ok()) break;
      count_ = 0;
    }
    if (count_ == 0) return nullptr;
  }
  return memory_.data() + (block - first_) * geometry.block_size;
}

bool ChecksumRecovery::IsZeroSum(const std::byte* sum) const {
  return std::all_of(sum, sum + geometry_.sum_bytes, [](std::byte b) { return b == std::byte{0}; });
}

absl::Status ChecksumRecovery::ReadLog(DeviceIo& io) {
  if (absl::Status status = log_.Open(geometry_.slots * kSlot); !status.ok()) return status;
  if (io.Read(geometry_.log, log_.span()).ok()) return absl::OkStatus();
  for (uint64_t i = 0; i < geometry_.slots; ++i) {
    // What cannot be read is no valid slot.
    const Bytes slot = SlotAt(i);
    if (!io.Read(geometry_.log + i * kSlot, slot).ok()) std::fill(slot.begin(), slot.end(), std::byte{0});
  }
  return absl::OkStatus();
}

// Fills mentions_ and ranges_ in the order in which they were logged.
void ChecksumRecovery::Collect() {
  struct Live {
    uint64_t sequence;
    uint64_t index;
    uint64_t end;  // the sequence after it and its content
  };
  std::vector<Live> live;
  for (uint64_t i = 0; i < geometry_.slots; ++i) {
    const auto slot = LogSlot::Decode(geometry_, i, SlotAt(i), [](const LogRecord&) {});
    if (!slot.has_value() || slot->sequence <= head_.checkpoint) continue;
    live.push_back({slot->sequence, i, slot->sequence + 1 + slot->content_slots});
    // Content may look like anything, so also like a slot.
    i += slot->content_slots;
  }
  std::sort(live.begin(), live.end(), [](const Live& a, const Live& b) { return a.sequence < b.sequence; });
  uint64_t next = head_.checkpoint + 1;
  for (const Live& slot : live) {
    complete_ = complete_ && (slot.sequence <= next || next > head_.logged);
    next = std::max(next, slot.end);
    last_ = next - 1;
    const std::byte* content = log_.data() + (slot.index + 1) * kSlot;
    LogSlot::Decode(geometry_, slot.index, SlotAt(slot.index), [&](const LogRecord& record) {
      AddRecord(record, slot.sequence <= head_.settled, content, log_.data() + log_.size());
    });
  }
  complete_ = complete_ && next > head_.logged;
}

void ChecksumRecovery::AddRecord(const LogRecord& record, bool settled, const std::byte*& content,
                                 const std::byte* content_end) {
  const uint64_t order = mentions_.size() + ranges_.size();
  if (record.kind == LogRecord::Kind::kZeroes) {
    ranges_.push_back({record.first, record.count, order, nullptr, nullptr, settled});
    return;
  }
  for (uint64_t i = 0; i < record.count; ++i) {
    const uint64_t number = record.first + i;
    Mention mention = {number, 1, order + i, record.sums + i * geometry_.sum_bytes, nullptr, settled};
    if (record.kind == LogRecord::Kind::kContent && !IsZeroSum(mention.sum)) {
      if (content_end - content >= static_cast<ptrdiff_t>(geometry_.block_size)) {
        Sum sum;
        sum_(geometry_.salt, number, {content, geometry_.block_size}, geometry_.block_size, sum.data());
        // Damaged content is none, and then the sum is still good for what is in place.
        if (std::memcmp(sum.data(), mention.sum, geometry_.sum_bytes) == 0) mention.content = content;
        content += geometry_.block_size;
      }
    }
    mentions_.push_back(mention);
  }
}

void ChecksumRecovery::Resolve(uint64_t number, const std::byte* sum, const Mention* redo) {
  Block block = {number, {}, redo != nullptr, redo != nullptr ? redo->content : nullptr};
  if (sum != nullptr) std::memcpy(block.sum.data(), sum, geometry_.sum_bytes);
  blocks_.push_back(block);
}

absl::Status ChecksumRecovery::Decide(DeviceIo& io, std::span<const Mention* const> newest_first,
                                      absl::FunctionRef<absl::Status(uint64_t block, std::byte* sum)> table) {
  const Mention& newest = *newest_first.front();
  const uint64_t number = newest.first;
  if (newest.settled || CarriesContent(newest)) {
    Resolve(number, newest.sum, newest.settled ? nullptr : &newest);
    return absl::OkStatus();
  }
  const std::byte* bytes = reader_.Get(io, geometry_, number);
  if (bytes == nullptr) {
    Resolve(number, newest.sum, nullptr);
    return absl::OkStatus();
  }
  Sum actual;
  sum_(geometry_.salt, number, {bytes, geometry_.block_size}, geometry_.block_size, actual.data());
  const Mention* redo = nullptr;  // the newest content
  Sum base = {};
  bool matches = false;
  auto mention = newest_first.begin();
  for (; mention != newest_first.end() && !matches; ++mention) {
    const std::byte* sum = (*mention)->sum != nullptr ? (*mention)->sum : base.data();
    if (redo == nullptr && !(*mention)->settled && CarriesContent(**mention)) redo = *mention;
    matches = std::memcmp(sum, actual.data(), geometry_.sum_bytes) == 0;
    if ((*mention)->settled) break;
  }
  // Nothing is settled: there may be what was there before.
  if (!matches && mention == newest_first.end()) {
    if (absl::Status status = table(number, base.data()); !status.ok()) return status;
    matches = std::memcmp(base.data(), actual.data(), geometry_.sum_bytes) == 0;
  }
  if (!matches) {
    Resolve(number, newest.sum, nullptr);
  } else {
    Resolve(number, redo != nullptr ? redo->sum : actual.data(), redo);
  }
  return absl::OkStatus();
}

absl::Status ChecksumRecovery::Run(DeviceIo& io, absl::FunctionRef<absl::Status(uint64_t block, std::byte* sum)> table) {
  if (absl::Status status = ReadLog(io); !status.ok()) return status;
  if (absl::Status status = reader_.Allocate(); !status.ok()) return status;
  Collect();
  std::stable_sort(mentions_.begin(), mentions_.end(), [](const Mention& a, const Mention& b) { return a.first < b.first; });
  std::vector<const Mention*> newest_first;
  for (size_t begin = 0; begin < mentions_.size();) {
    newest_first.clear();
    const uint64_t number = mentions_[begin].first;
    size_t end = begin;
    for (; end < mentions_.size() && mentions_[end].first == number; ++end) newest_first.push_back(&mentions_[end]);
    for (const Mention& range : ranges_) {
      if (number - range.first < range.count) newest_first.push_back(&range);
    }
    std::sort(newest_first.begin(), newest_first.end(), [](const Mention* a, const Mention* b) {
      return BUSE_DEFECT("checksum-recovery-takes-oldest") ? a->order < b->order : a->order > b->order;
    });
    begin = end;
    // Where zeroes are the newest, the block is one of many in their range.
    if (newest_first.front()->sum == nullptr) continue;
    if (absl::Status status = Decide(io, newest_first, table); !status.ok()) return status;
  }
  SplitZeroes();
  return absl::OkStatus();
}

// Leaves out the blocks that were decided about: what is newest of those was logged after the zeroes.
void ChecksumRecovery::SplitZeroes() {
  for (const Mention& range : ranges_) {
    uint64_t at = range.first;
    const uint64_t end = range.first + range.count;
    const auto first = std::lower_bound(blocks_.begin(), blocks_.end(), at,
                                        [](const Block& block, uint64_t number) { return block.number < number; });
    for (auto block = first; block != blocks_.end() && block->number < end; ++block) {
      if (block->number > at) zeroes_.push_back({at, block->number - at, complete_ && !range.settled});
      at = block->number + 1;
    }
    if (at < end) zeroes_.push_back({at, end - at, complete_ && !range.settled});
  }
}

}  // namespace buse

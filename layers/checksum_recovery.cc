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
  uint64_t mentions = 0;
  for (uint64_t i = 0; i < geometry_.slots; ++i) {
    uint64_t in_slot = 0;
    const auto slot = LogSlot::Decode(geometry_, i, SlotAt(i), [&](const LogRecord& record) {
      in_slot += record.kind == LogRecord::Kind::kContent ? record.count : 1;
    });
    if (!slot.has_value() || slot->sequence <= head_.checkpoint) continue;
    mentions += in_slot;
    live.push_back({slot->sequence, i, slot->sequence + 1 + slot->content_slots});
    // Content may look like anything, so also like a slot.
    i += slot->content_slots;
  }
  std::sort(live.begin(), live.end(), [](const Live& a, const Live& b) { return a.sequence < b.sequence; });
  mentions_.reserve(mentions);
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
  if (record.kind == LogRecord::Kind::kSums) {
    mentions_.push_back({record.first, record.count, order, record.sums, nullptr, settled});
    return;
  }
  for (uint64_t i = 0; i < record.count; ++i) {
    const uint64_t number = record.first + i;
    Mention mention = {number, 1, order + i, record.sums + i * geometry_.sum_bytes, nullptr, settled};
    if (!IsZeroSum(mention.sums) && content_end - content >= static_cast<ptrdiff_t>(geometry_.block_size)) {
      Sum sum;
      sum_(geometry_.salt, number, {content, geometry_.block_size}, geometry_.block_size, sum.data());
      // Damaged content is none, and then the sum is still good for what is in place.
      if (std::memcmp(sum.data(), mention.sums, geometry_.sum_bytes) == 0) mention.content = content;
      content += geometry_.block_size;
    }
    mentions_.push_back(mention);
  }
}

ChecksumRecovery::Sweep::Sweep(std::vector<Mention>& mentions) : mentions_(mentions) {
  std::sort(mentions.begin(), mentions.end(), [](const Mention& a, const Mention& b) { return a.first < b.first; });
}

bool ChecksumRecovery::Sweep::Find(uint64_t& number) {
  MoveTo(number);
  if (!here_.empty()) return true;
  if (next_ == mentions_.size()) return false;
  number = mentions_[next_].first;
  MoveTo(number);
  return true;
}

void ChecksumRecovery::Sweep::MoveTo(uint64_t number) {
  for (; next_ < mentions_.size() && mentions_[next_].first <= number; ++next_) here_.push_back(&mentions_[next_]);
  std::erase_if(here_, [&](const Mention* mention) { return number - mention->first >= mention->count; });
}

void ChecksumRecovery::Resolve(uint64_t number, const std::byte* sum, const Mention* redo) {
  if (redo == nullptr && !blocks_.empty()) {
    Blocks& last = blocks_.back();
    const std::byte* next = last.sums == nullptr ? nullptr : last.sums + last.count * geometry_.sum_bytes;
    if (!last.redo && last.first + last.count == number && sum == next) {
      ++last.count;
      return;
    }
  }
  blocks_.push_back({number, 1, sum, redo != nullptr, redo != nullptr ? redo->content : nullptr});
}

absl::Status ChecksumRecovery::Decide(DeviceIo& io, uint64_t number, std::span<const Mention* const> newest_first,
                                      absl::FunctionRef<absl::Status(uint64_t block, std::byte* sum)> table) {
  const Mention& newest = *newest_first.front();
  if (newest.settled || CarriesContent(newest, number)) {
    Resolve(number, SumOf(newest, number), newest.settled ? nullptr : &newest);
    return absl::OkStatus();
  }
  const std::byte* bytes = reader_.Get(io, geometry_, number);
  if (bytes == nullptr) {
    Resolve(number, SumOf(newest, number), nullptr);
    return absl::OkStatus();
  }
  Sum actual;
  sum_(geometry_.salt, number, {bytes, geometry_.block_size}, geometry_.block_size, actual.data());
  const Mention* redo = nullptr;  // the newest content
  const std::byte* sum = nullptr;
  bool matches = false;
  auto mention = newest_first.begin();
  for (; mention != newest_first.end() && !matches; ++mention) {
    sum = SumOf(**mention, number);
    if (redo == nullptr && !(*mention)->settled && CarriesContent(**mention, number)) redo = *mention;
    matches = std::memcmp(sum, actual.data(), geometry_.sum_bytes) == 0;
    if ((*mention)->settled) break;
  }
  // Nothing is settled: there may be what was there before.
  if (!matches && mention == newest_first.end()) {
    Sum base;
    if (absl::Status status = table(number, base.data()); !status.ok()) return status;
    matches = std::memcmp(base.data(), actual.data(), geometry_.sum_bytes) == 0;
    sum = nullptr;
  }
  if (!matches) {
    Resolve(number, SumOf(newest, number), nullptr);
  } else {
    Resolve(number, redo != nullptr ? SumOf(*redo, number) : sum, redo);
  }
  return absl::OkStatus();
}

absl::Status ChecksumRecovery::Run(DeviceIo& io, absl::FunctionRef<absl::Status(uint64_t block, std::byte* sum)> table) {
  if (absl::Status status = ReadLog(io); !status.ok()) return status;
  if (absl::Status status = reader_.Allocate(); !status.ok()) return status;
  Collect();
  Sweep sums(mentions_);
  Sweep ranges(ranges_);
  std::vector<const Mention*> newest_first;
  for (uint64_t number = 0; sums.Find(number); ++number) {
    ranges.MoveTo(number);
    newest_first = sums.here();
    newest_first.insert(newest_first.end(), ranges.here().begin(), ranges.here().end());
    std::sort(newest_first.begin(), newest_first.end(), [](const Mention* a, const Mention* b) {
      return BUSE_DEFECT("checksum-recovery-takes-oldest") ? a->order < b->order : a->order > b->order;
    });
    // Where zeroes are the newest, the block is one of many in their range.
    if (newest_first.front()->sums == nullptr) continue;
    if (absl::Status status = Decide(io, number, newest_first, table); !status.ok()) return status;
  }
  SplitZeroes();
  return absl::OkStatus();
}

// Leaves out the blocks that were decided about: what is newest of those was logged after the zeroes.
void ChecksumRecovery::SplitZeroes() {
  for (const Mention& range : ranges_) {
    uint64_t at = range.first;
    const uint64_t end = range.first + range.count;
    const auto first = std::lower_bound(blocks_.begin(), blocks_.end(), at, [](const Blocks& blocks, uint64_t number) {
      return blocks.first + blocks.count <= number;
    });
    for (auto blocks = first; blocks != blocks_.end() && blocks->first < end; ++blocks) {
      if (blocks->first > at) zeroes_.push_back({at, blocks->first - at, complete_ && !range.settled});
      at = blocks->first + blocks->count;
    }
    if (at < end) zeroes_.push_back({at, end - at, complete_ && !range.settled});
  }
}

}  // namespace buse

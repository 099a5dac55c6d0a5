// SPDX-License-Identifier: Apache-2.0
//
// A transaction's records, one buffer for each leg.

#include "layers/parity_log.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "layers/crc32c.h"
#include "layers/defect.h"

namespace buse {

absl::Status ParityLog::Open(const ParityLayout& layout) {
  layout_ = layout;
  const uint64_t most_entries = layout.log_slot / layout.block;
  most_header_ = ParityRecord::BytesOf(most_entries, layout.block);
  buffer_bytes_ = most_header_ + layout.log_slot;
  entries_.reserve(most_entries);
  sums_.resize(layout.legs());
  for (std::vector<uint32_t>& of_leg : sums_) of_leg.reserve(most_entries);
  used_.resize(layout.legs());
  return buffers_.Open(layout.legs() * buffer_bytes_);
}

bool ParityLog::HasRoom() const {
  const uint64_t header = ParityRecord::BytesOf(entries_.size() + layout_.blocks_per_page(), layout_.block);
  return header + *std::max_element(used_.begin(), used_.end()) + ParityLayout::kPage <= layout_.log_slot;
}

void ParityLog::Begin(uint64_t id) {
  id_ = id;
  legs_ = 0;
  entries_.clear();
  for (size_t leg = 0; leg < layout_.legs(); ++leg) {
    sums_[leg].clear();
    used_[leg] = 0;
  }
}

void ParityLog::Add(uint64_t page, uint64_t first, uint64_t end, LegMask legs, const std::byte* const* pieces) {
  const uint64_t bytes = (end - first) * layout_.block;
  assert(HasRoom() || bytes < ParityLayout::kPage);
  for (size_t leg = 0; leg < layout_.legs(); ++leg) {
    uint32_t sum = 0;
    if (Has(legs, leg)) {
      std::byte* const to = PiecesOf(leg) + used_[leg];
      std::memcpy(to, pieces[leg], bytes);
      sum = ExtendCrc32c(0, {to, bytes});
      used_[leg] += bytes;
    }
    sums_[leg].push_back(sum);
  }
  legs_ |= legs;
  entries_.push_back({.page = page, .legs = legs, .first = static_cast<uint8_t>(first), .end = static_cast<uint8_t>(end)});
}

LegErrors ParityLog::WriteRecords(ParityLinks links, const ParityLegs& legs, LegMask which) {
  LegErrors errors;
  const uint64_t header = ParityRecord::BytesOf(entries_.size(), layout_.block);
  ForEachLeg(legs_ & which, [&](size_t leg) {
    for (size_t i = 0; i < entries_.size(); ++i) entries_[i].sum = sums_[leg][i];
    std::byte* const record = PiecesOf(leg) - header;
    EncodeParityRecord(legs.session(), id_, entries_, legs.uuid(leg), {record, header});
    const uint64_t slot = BUSE_DEFECT("parity-one-log-slot") ? 0 : id_;
    errors.Add(leg, links[leg]->Write(layout_.slot_at(slot), {record, header + used_[leg]}));
  });
  return errors;
}

LegErrors ParityLog::WriteInPlace(ParityLinks links, LegMask which) {
  LegErrors errors;
  ForEachLeg(legs_ & which, [&](size_t leg) {
    // Neighbours in one write.
    absl::Status status;
    const std::byte* pieces = PiecesOf(leg);
    Range run = {0, 0};
    const auto write = [&] {
      if (run.length > 0) status.Update(links[leg]->Write(layout_.data() + run.offset, {pieces, run.length}));
      pieces += run.length;
    };
    for (const ParityEntry& entry : entries_) {
      if (!Has(entry.legs, leg)) continue;
      const uint64_t at = entry.page * ParityLayout::kPage + entry.first * layout_.block;
      const uint64_t length = (entry.end - entry.first) * layout_.block;
      if (run.length > 0 && run.end() == at) {
        run.length += length;
        continue;
      }
      write();
      run = {at, length};
    }
    write();
    errors.Add(leg, status);
  });
  return errors;
}

}  // namespace buse

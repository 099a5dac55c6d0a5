// SPDX-License-Identifier: Apache-2.0
//
// Reads the records, plans block by block, and writes only when the plan is complete.

#include "layers/parity_recovery.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "layers/crc32c.h"
#include "layers/defect.h"

namespace buse {

absl::Status ParityRecovery::Run(ParityLinks links) {
  ForEachLeg(legs_.InSync(), [&](size_t leg) {
    for (uint64_t slot = 0; slot < ParityLayout::kSlots; ++slot) ReadRecord(links, leg, slot);
  });
  if (transactions_.empty()) {
    const bool all = !unread_ && static_cast<uint64_t>(std::popcount(legs_.InSync())) == layout_.legs();
    return all && legs_.session() != 0 ? absl::OkStatus() : legs_.BeginSession(links);
  }
  const uint64_t last = transactions_.rbegin()->first;
  Plan plan;
  if (Make(links, last, plan)) {
    if (absl::Status status = legs_.Settle(links, CompleteRecords(links, last, plan)); !status.ok()) return status;
  } else if (!Make(links, last - 1, plan)) {
    return absl::DataLossError(absl::StrCat(
        "parity: what the legs were being written when they were stopped cannot be completed: the log of transaction ",
        last - 1, " is damaged on more legs than parity can replace: give the legs that are missing, or restore a backup"));
  }
  if (absl::Status status = legs_.Settle(links, Write(links, plan)); !status.ok()) return status;
  LegErrors errors;
  ForEachLeg(legs_.Active(), [&](size_t leg) { errors.Add(leg, links[leg]->Flush()); });
  if (absl::Status status = legs_.Settle(links, errors); !status.ok()) return status;
  // Also what was dropped is void then: it must not come back when other legs are there.
  return legs_.BeginSession(links);
}

// ---- Reading.

void ParityRecovery::ReadRecord(ParityLinks links, size_t leg, uint64_t slot) {
  std::vector<std::byte> header(layout_.block);
  const uint64_t at = layout_.slot_at(slot);
  const auto read = [&] {
    const bool ok = links[leg]->Read(at, header).ok();
    unread_ = unread_ || !ok;
    return ok;
  };
  if (!read()) return;
  // How many entries there are is looked at before it is believed.
  uint64_t entries = 0;
  for (size_t i = 4; i-- > 0;) entries = entries << 8 | std::to_integer<uint64_t>(header[ParityRecord::kCountAt + i]);
  const uint64_t length = ParityRecord::BytesOf(entries, layout_.block);
  if (length > layout_.log_slot) return;
  header.resize(length);
  if (length > layout_.block && !read()) return;
  const auto record = DecodeParityRecord(header, legs_.uuid(leg));
  if (!record || record->session != legs_.session()) return;
  Transaction& transaction = transactions_[record->id];
  if (transaction.recorded == 0) {
    for (uint64_t i = 0; i < record->entries; ++i) transaction.entries.push_back(DecodeParityEntry(header, i));
    transaction.pieces.resize(record->entries);
  }
  transaction.recorded |= Leg(leg);
  uint64_t from = length;
  for (uint64_t i = 0; i < std::min<uint64_t>(record->entries, transaction.entries.size()); ++i) {
    const ParityEntry entry = DecodeParityEntry(header, i);
    if (!entry.Matches(transaction.entries[i])) return;
    if (!Has(entry.legs, leg)) continue;
    const uint64_t bytes = (entry.end - entry.first) * layout_.block;
    if (from + bytes > layout_.log_slot) return;
    std::vector<std::byte>& piece = memory_.emplace_back(bytes);
    if (links[leg]->Read(at + from, piece).ok() && ExtendCrc32c(0, piece) == entry.sum)
      transaction.pieces[i][leg] = piece.data();
    from += bytes;
  }
}

// ---- Planning.

// Whether everything up to `last` can be put in place.
bool ParityRecovery::Make(ParityLinks links, uint64_t last, Plan& plan) {
  plan.clear();
  if (last != 0 && !transactions_.contains(last)) return false;
  for (const auto& [id, transaction] : transactions_) {
    if (id == last || id + 1 == last) AddToPlan(transaction, plan);
  }
  return Complete(links, plan);
}

void ParityRecovery::AddToPlan(const Transaction& transaction, Plan& plan) const {
  for (size_t i = 0; i < transaction.entries.size(); ++i) {
    const ParityEntry& entry = transaction.entries[i];
    for (uint64_t at = entry.first; at < entry.end; ++at) {
      Block& block = plan[entry.page * layout_.blocks_per_page() + at];
      const LegMask legs = entry.legs & legs_.InSync();
      block.changed |= legs;
      ForEachLeg(legs, [&](size_t leg) {
        const std::byte* const piece = transaction.pieces[i][leg];
        block.content[leg] = piece == nullptr ? nullptr : piece + (at - entry.first) * layout_.block;
      });
    }
  }
}

bool ParityRecovery::Complete(ParityLinks links, Plan& plan) {
  return std::all_of(plan.begin(), plan.end(), [&](auto& block) { return CompleteBlock(links, block.first, block.second); });
}

// Finds out what follows for those that lost their piece.
bool ParityRecovery::CompleteBlock(ParityLinks links, uint64_t number, Block& block) {
  LegMask lost = 0;
  LegMask known = 0;
  ForEachLeg(block.changed, [&](size_t leg) { (block.content[leg] != nullptr ? known : lost) |= Leg(leg); });
  block.made = lost;
  if (lost == 0) return true;
  const uint64_t there = number * layout_.block;
  ForEachLeg(legs_.InSync() & ~block.changed, [&](size_t leg) {
    if (legs_.Enough(known)) return;
    std::vector<std::byte>& bytes = memory_.emplace_back(layout_.block);
    if (!links[leg]->Read(layout_.data() + there, bytes).ok()) return;
    block.content[leg] = bytes.data();
    known |= Leg(leg);
  });
  if (!legs_.Enough(known)) return false;
  std::array<std::byte*, ParityHead::kMostLegs> elements = {};
  ForEachLeg(lost, [&](size_t leg) { block.content[leg] = memory_.emplace_back(layout_.block).data(); });
  ForEachLeg(known | lost,
             [&](size_t leg) { elements[layout_.ElementOf(leg, there)] = const_cast<std::byte*>(block.content[leg]); });
  code_.Reconstruct(layout_.ElementsOf(known, there), layout_.ElementsOf(lost, there), elements.data(), layout_.block);
  return true;
}

// Writes the records of legs that have not all of theirs, and makes all records durable: those that are whole may be so in caches
// only, where the process was killed and not the power.
LegErrors ParityRecovery::CompleteRecords(ParityLinks links, uint64_t id, const Plan& plan) const {
  LegErrors errors;
  const Transaction& transaction = transactions_.at(id);
  ForEachLeg(legs_.InSync(), [&](size_t leg) {
    bool whole = true;
    std::vector<ParityEntry> entries = transaction.entries;
    std::vector<std::byte> record(ParityRecord::BytesOf(entries.size(), layout_.block));
    const size_t header = record.size();
    for (size_t i = 0; i < entries.size(); ++i) {
      ParityEntry& entry = entries[i];
      entry.sum = 0;
      if (!Has(entry.legs, leg)) continue;
      whole = whole && transaction.pieces[i][leg] != nullptr;
      const size_t begin = record.size();
      for (uint64_t at = entry.first; at < entry.end; ++at) {
        const std::byte* const block = plan.at(entry.page * layout_.blocks_per_page() + at).content[leg];
        record.insert(record.end(), block, block + layout_.block);
      }
      entry.sum = ExtendCrc32c(0, ConstBytes(record).subspan(begin));
    }
    if (whole) return;
    EncodeParityRecord(legs_.session(), id, entries, legs_.uuid(leg), Bytes(record).first(header));
    errors.Add(leg, links[leg]->Write(layout_.slot_at(id), record));
  });
  ForEachLeg(legs_.InSync() & ~errors.failed, [&](size_t leg) { errors.Add(leg, links[leg]->Flush()); });
  return errors;
}

LegErrors ParityRecovery::Write(ParityLinks links, const Plan& plan) const {
  static constexpr uint64_t kMost = 65536;  // in one write
  LegErrors errors;
  std::vector<std::byte> run;
  ForEachLeg(legs_.InSync(), [&](size_t leg) {
    absl::Status status;
    uint64_t end = 0;
    const auto write = [&] {
      if (!run.empty()) status.Update(links[leg]->Write(layout_.data() + end - run.size(), run));
      run.clear();
    };
    for (const auto& [number, block] : plan) {
      if (!Has(block.changed, leg) || (Has(block.made, leg) && BUSE_DEFECT("parity-lost-piece-left"))) continue;
      if (number * layout_.block != end || run.size() == kMost) write();
      run.insert(run.end(), block.content[leg], block.content[leg] + layout_.block);
      end = (number + 1) * layout_.block;
    }
    write();
    errors.Add(leg, status);
  });
  return errors;
}

}  // namespace buse

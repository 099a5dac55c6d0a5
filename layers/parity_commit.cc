// SPDX-License-Identifier: Apache-2.0
//
// How a ParitySet commits what was written: in transactions, each first to the log and then to its place.

#include <array>
#include <cstdint>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "layers/defect.h"
#include "layers/parity_set.h"

namespace buse {

absl::Status ParitySet::Commit(ParityLinks links) {
  std::lock_guard io(io_);
  if (absl::Status status = legs_.stopped(); !status.ok()) return status;
  {
    std::lock_guard lock(map_);
    if (!active_->empty()) std::swap(active_, frozen_);
  }
  // What was repaired is in no log.
  if (frozen_->empty()) return elements_.repairs() == flushed_repairs_ ? absl::OkStatus() : FlushLegs(links, {});
  const std::vector<ParityStage::Page>& pages = frozen_->Sort();
  stuck_.clear();
  absl::Status first;
  for (size_t at = 0; at < pages.size();) {
    if (session_ != legs_.session()) {
      session_ = legs_.session();
      next_id_ = 1;
    }
    log_.Begin(next_id_);
    at = Fill(links, pages, at, first);
    if (absl::Status status = legs_.stopped(); !status.ok()) return status;
    if (log_.empty()) continue;
    ++next_id_;
    if (absl::Status status = CarryOut(links); !status.ok()) return status;
  }
  std::lock_guard lock(map_);
  for (const ParityStage::Page& page : stuck_) active_->PutAbsent(page);
  frozen_->Clear();
  return first;
}

// Adds pages to the transaction, from `at` on, and returns where it had no room for more. Those of a stripe that cannot be read are
// stuck.
size_t ParitySet::Fill(ParityLinks links, const std::vector<ParityStage::Page>& pages, size_t at, absl::Status& first) {
  while (at < pages.size() && log_.HasRoom()) {
    const uint64_t page = pages[at].key / layout_.data_legs;
    size_t end = at;
    while (end < pages.size() && pages[end].key / layout_.data_legs == page) ++end;
    const auto row = std::span(pages).subspan(at, end - at);
    if (absl::Status status = AddPage(links, row); !status.ok()) {
      stuck_.insert(stuck_.end(), row.begin(), row.end());
      first.Update(status);
    }
    at = end;
  }
  return at;
}

// Of one page of the legs: `pages` are those of its elements that are held.
absl::Status ParitySet::AddPage(ParityLinks links, std::span<const ParityStage::Page> pages) {
  // Blocks that the same elements hold are added together. What nobody wrote is not written again: others may be reading it.
  const auto holders = [&](uint64_t block) {
    LegMask elements = 0;
    for (const ParityStage::Page& page : pages) {
      if ((page.held >> block & 1) != 0) elements |= Leg(page.key % layout_.data_legs);
    }
    return elements;
  };
  absl::Status status;
  for (uint64_t first = 0, end = 0; first < layout_.blocks_per_page(); first = end) {
    const LegMask changed = holders(first);
    for (end = first + 1; end < layout_.blocks_per_page() && holders(end) == changed; ++end) {
    }
    if (changed == 0 || AddBlocks(links, pages, changed, first, end).ok()) continue;
    // Some may be lost, and others not.
    for (uint64_t block = first; block < end; ++block) status.Update(AddBlocks(links, pages, changed, block, block + 1));
  }
  return status;
}

// Blocks that the elements in `changed` hold, and no others.
absl::Status ParitySet::AddBlocks(ParityLinks links, std::span<const ParityStage::Page> pages, LegMask changed, uint64_t first,
                                  uint64_t end) {
  const uint64_t page = pages[0].key / layout_.data_legs;
  const Range there = {page * ParityLayout::kPage + first * layout_.block, (end - first) * layout_.block};
  const LegMask others = ((LegMask{1} << layout_.data_legs) - 1) & ~changed;
  if (others != 0) {
    if (absl::Status status = elements_.Get(links, there, others); !status.ok()) return status;
  }
  std::array<std::byte*, ParityCode::kMostElements> elements;
  for (size_t i = 0; i < layout_.legs(); ++i) elements[i] = elements_.at(i);
  for (const ParityStage::Page& held : pages) {
    const size_t element = held.key % layout_.data_legs;
    if (Has(changed, element)) elements[element] = held.data + first * layout_.block;
  }
  code_.Encode(elements.data(), there.length);
  for (size_t i = layout_.data_legs; i < layout_.legs(); ++i) changed |= Leg(i);
  std::array<const std::byte*, ParityCode::kMostElements> pieces = {};
  ForEachLeg(changed, [&](size_t element) { pieces[layout_.LegOf(element, there.offset)] = elements[element]; });
  log_.Add(page, first, end, layout_.LegsOf(changed, there.offset) & legs_.Active(), pieces.data());
  return absl::OkStatus();
}

absl::Status ParitySet::CarryOut(ParityLinks links) {
  LegErrors errors;
  if (!BUSE_DEFECT("parity-no-log")) {
    errors = log_.WriteRecords(links, legs_, legs_.Active());
    if (BUSE_DEFECT("parity-log-not-flushed")) {
      if (absl::Status status = legs_.Settle(links, errors); !status.ok()) return status;
    } else {
      // All legs: the transaction before this one becomes durable in its place.
      if (absl::Status status = FlushLegs(links, errors); !status.ok()) return status;
    }
  }
  return legs_.Settle(links, log_.WriteInPlace(links, legs_.Active()));
}

// And settles that together with `errors`, which some legs had before.
absl::Status ParitySet::FlushLegs(ParityLinks links, LegErrors errors) {
  const uint64_t repairs = elements_.repairs();
  ForEachLeg(legs_.Active() & ~errors.failed, [&](size_t leg) { errors.Add(leg, links[leg]->Flush()); });
  absl::Status status = legs_.Settle(links, errors);
  if (status.ok()) flushed_repairs_ = repairs;
  return status;
}

}  // namespace buse

// SPDX-License-Identifier: Apache-2.0
//
// The regions of a mirror: bits in memory.

#include "layers/mirror_intents.h"

#include <algorithm>
#include <bit>
#include <cassert>

#include "layers/defect.h"

namespace buse {

void MirrorIntents::Open(const MirrorLayout& layout, uint64_t idle_flushes) {
  assert(idle_flushes >= 1);
  layout_ = layout;
  idle_flushes_ = idle_flushes;
  const size_t words = layout.pages * MirrorLayout::kPageWords;
  regions_.resize(layout.regions());
  for (std::vector<uint64_t>* bits : {&set_, &wanted_, &doubt_, &target_}) bits->resize(words);
  pages_.reserve(layout.pages);
}

void MirrorIntents::Load(std::span<const uint64_t> found, bool doubt) {
  for (size_t region = 0; region < regions_.size(); ++region) {
    if ((found[region / 64] >> (region % 64) & 1) == 0) continue;
    set_[region / 64] |= uint64_t{1} << (region % 64);
    if (doubt) Doubt(region);
  }
}

bool MirrorIntents::Begin(Range range) {
  std::lock_guard lock(mutex_);
  bool set = true;
  for (size_t region = First(range); region <= Last(range); ++region) {
    ++regions_[region].writers;
    if (Test(set_, region)) continue;
    wanted_[region / 64] |= uint64_t{1} << (region % 64);
    set = false;
  }
  return set;
}

bool MirrorIntents::IsSet(Range range) const {
  std::lock_guard lock(mutex_);
  for (size_t region = First(range); region <= Last(range); ++region) {
    if (!Test(set_, region)) return false;
  }
  return true;
}

void MirrorIntents::End(Range range, bool failed) {
  std::lock_guard lock(mutex_);
  for (size_t region = First(range); region <= Last(range); ++region) {
    --regions_[region].writers;
    regions_[region].written = flushes_begun_;
    if (failed && Test(set_, region)) Doubt(region);
  }
}

bool MirrorIntents::FindDoubt(Range range) const {
  std::lock_guard lock(mutex_);
  for (size_t region = First(range); region <= Last(range); ++region) {
    if (Test(doubt_, region)) return true;
  }
  return false;
}

void MirrorIntents::Doubt(size_t region) {
  doubted_again_ = doubted_again_ || region == resync_;
  if (Test(doubt_, region)) return;
  doubt_[region / 64] |= uint64_t{1} << (region % 64);
  ++doubts_;
}

const std::vector<size_t>& MirrorIntents::PagesToSet() {
  std::lock_guard lock(mutex_);
  pages_.clear();
  for (size_t word = 0; word < set_.size(); ++word) {
    target_[word] = set_[word] | wanted_[word];
    const size_t page = word / MirrorLayout::kPageWords;
    if (target_[word] != set_[word] && (pages_.empty() || pages_.back() != page)) pages_.push_back(page);
  }
  return pages_;
}

void MirrorIntents::Set() {
  std::lock_guard lock(mutex_);
  for (size_t word = 0; word < set_.size(); ++word) {
    set_[word] = target_[word];
    wanted_[word] &= ~target_[word];
  }
}

void MirrorIntents::Snapshot() {
  std::lock_guard lock(mutex_);
  target_ = set_;
}

absl::optional<size_t> MirrorIntents::ClearIdle() {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < layout_.pages; ++i) {
    const size_t page = (clear_next_ + i) % layout_.pages;
    if (!ClearIdleIn(page)) continue;
    clear_next_ = page + 1;
    const size_t begin = page * MirrorLayout::kPageWords;
    std::copy_n(set_.begin() + begin, MirrorLayout::kPageWords, target_.begin() + begin);
    return page;
  }
  return absl::nullopt;
}

bool MirrorIntents::ClearIdleIn(size_t page) {
  bool any = false;
  const size_t begin = page * MirrorLayout::kPageWords;
  for (size_t word = begin; word < begin + MirrorLayout::kPageWords; ++word) {
    for (uint64_t rest = set_[word] & ~doubt_[word]; rest != 0; rest &= rest - 1) {
      const uint64_t bit = rest & -rest;
      const Region& region = regions_[word * 64 + static_cast<size_t>(std::countr_zero(bit))];
      if (region.writers != 0) continue;
      if (region.written + idle_flushes_ > flushed_ && !BUSE_DEFECT("mirror-clear-before-flush")) continue;
      // From here on a write sets the bit anew.
      set_[word] &= ~bit;
      any = true;
    }
  }
  return any;
}

std::span<const uint64_t> MirrorIntents::words(size_t page) const {
  return std::span<const uint64_t>(target_).subspan(page * MirrorLayout::kPageWords, MirrorLayout::kPageWords);
}

uint64_t MirrorIntents::BeginFlush() {
  std::lock_guard lock(mutex_);
  return ++flushes_begun_;
}

void MirrorIntents::Flushed(uint64_t flush) { flushed_ = flush; }

void MirrorIntents::DoubtAll() {
  std::lock_guard lock(mutex_);
  for (size_t region = 0; region < regions_.size(); ++region) {
    if (Test(set_, region)) Doubt(region);
  }
}

uint64_t MirrorIntents::RegionEnd(uint64_t offset) const {
  const uint64_t end = offset / layout_.region * layout_.region + layout_.region;
  return std::min(end, layout_.size);
}

uint64_t MirrorIntents::NextDoubt(uint64_t offset) const {
  if (doubts_ == 0) return layout_.size;
  std::lock_guard lock(mutex_);
  for (size_t region = offset / layout_.region; region < regions_.size(); ++region) {
    if (Test(doubt_, region)) return std::max(offset, region * layout_.region);
  }
  return layout_.size;
}

void MirrorIntents::BeginResync(uint64_t offset) {
  std::lock_guard lock(mutex_);
  resync_ = offset / layout_.region;
  doubted_again_ = false;
}

void MirrorIntents::EndResync(uint64_t offset) {
  std::lock_guard lock(mutex_);
  const size_t region = offset / layout_.region;
  assert(region == resync_);
  resync_ = SIZE_MAX;
  if (doubted_again_ || !Test(doubt_, region)) return;
  doubt_[region / 64] &= ~(uint64_t{1} << (region % 64));
  regions_[region].written = flushes_begun_;
  --doubts_;
}

}  // namespace buse

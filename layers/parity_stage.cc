// SPDX-License-Identifier: Apache-2.0
//
// All memory is reserved in Allocate.

#include "layers/parity_stage.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace buse {

absl::Status ParityStage::Allocate(uint64_t pages, uint64_t block) {
  assert(kPage % block == 0 && kPage / block <= 8);
  capacity_ = pages;
  block_ = block;
  index_.reserve(pages);
  pages_.reserve(pages);
  sorted_.reserve(pages);
  return arena_.Open(pages * kPage);
}

ParityStage::Page& ParityStage::PageOf(uint64_t key) {
  const auto [place, is_new] = index_.try_emplace(key, static_cast<uint32_t>(pages_.size()));
  if (is_new) {
    assert(pages_.size() < capacity_);
    pages_.push_back({.key = key, .data = arena_.data() + pages_.size() * kPage});
  }
  return pages_[place->second];
}

void ParityStage::Put(uint64_t key, uint64_t first, ConstBytes in) {
  Page& page = PageOf(key);
  std::memcpy(page.data + first * block_, in.data(), in.size());
  page.held = static_cast<uint8_t>(page.held | ((1u << (in.size() / block_)) - 1) << first);
}

void ParityStage::PutAbsent(const Page& page) {
  Page& here = PageOf(page.key);
  for (uint64_t block = 0; block < kPage / block_; ++block) {
    if ((page.held & ~here.held) >> block & 1) std::memcpy(here.data + block * block_, page.data + block * block_, block_);
  }
  here.held |= page.held;
}

void ParityStage::Get(uint64_t key, uint64_t first, Bytes out, uint32_t& found) const {
  const auto place = index_.find(key);
  if (place == index_.end()) return;
  const Page& page = pages_[place->second];
  for (uint64_t i = 0; i < out.size() / block_; ++i) {
    if ((page.held >> (first + i) & 1) == 0 || (found >> i & 1) != 0) continue;
    std::memcpy(out.data() + i * block_, page.data + (first + i) * block_, block_);
    found |= 1u << i;
  }
}

const std::vector<ParityStage::Page>& ParityStage::Sort() {
  sorted_.assign(pages_.begin(), pages_.end());
  std::sort(sorted_.begin(), sorted_.end(), [](const Page& a, const Page& b) { return a.key < b.key; });
  return sorted_;
}

void ParityStage::Clear() {
  // One by one: clear() would give the memory back.
  for (const Page& page : pages_) index_.erase(page.key);
  pages_.clear();
}

}  // namespace buse

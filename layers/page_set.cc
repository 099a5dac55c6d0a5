// SPDX-License-Identifier: Apache-2.0

#include "layers/page_set.h"

#include <cassert>

#include "layers/splitmix.h"

namespace buse {

absl::Status PageSet::Open(uint32_t capacity) {
  capacity_ = capacity;
  return capacity == 0 ? absl::OkStatus() : nodes_.Open(capacity);
}

uint64_t PageSet::Rank(uint64_t page) { return Mix64(page + 1); }

bool PageSet::Insert(uint64_t page) {
  if (size_ == capacity_) return false;
  uint32_t added = unused_;
  if (added != kNone) {
    unused_ = nodes_[added].less;
  } else {
    added = fresh_++;
  }
  // Down to where its rank belongs, ...
  uint32_t* at = &root_;
  while (*at != kNone && Rank(nodes_[*at].page) > Rank(page)) {
    assert(nodes_[*at].page != page);
    at = page < nodes_[*at].page ? &nodes_[*at].less : &nodes_[*at].greater;
  }
  uint32_t rest = *at;
  *at = added;
  nodes_[added].page = page;
  // ... and what stood there is split into the smaller and the greater ones.
  uint32_t* less = &nodes_[added].less;
  uint32_t* greater = &nodes_[added].greater;
  while (rest != kNone) {
    Node& node = nodes_[rest];
    if (node.page < page) {
      *less = rest;
      less = &node.greater;
      rest = node.greater;
    } else {
      *greater = rest;
      greater = &node.less;
      rest = node.less;
    }
  }
  *less = kNone;
  *greater = kNone;
  ++size_;
  return true;
}

void PageSet::Erase(uint64_t page) {
  uint32_t* at = &root_;
  while (nodes_[*at].page != page) at = page < nodes_[*at].page ? &nodes_[*at].less : &nodes_[*at].greater;
  const uint32_t erased = *at;
  uint32_t less = nodes_[erased].less;
  uint32_t greater = nodes_[erased].greater;
  // Its two trees are merged in its place.
  while (less != kNone && greater != kNone) {
    if (Rank(nodes_[less].page) > Rank(nodes_[greater].page)) {
      *at = less;
      at = &nodes_[less].greater;
      less = *at;
    } else {
      *at = greater;
      at = &nodes_[greater].less;
      greater = *at;
    }
  }
  *at = less != kNone ? less : greater;
  nodes_[erased].less = unused_;
  unused_ = erased;
  --size_;
}

bool PageSet::Contains(uint64_t page) const { return Next(page) == page; }

std::optional<uint64_t> PageSet::Next(uint64_t from) const {
  std::optional<uint64_t> next;
  for (uint32_t at = root_; at != kNone;) {
    const Node& node = nodes_[at];
    if (node.page == from) return from;
    if (node.page > from) next = node.page;
    at = node.page > from ? node.less : node.greater;
  }
  return next;
}

}  // namespace buse

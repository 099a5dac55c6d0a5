// SPDX-License-Identifier: Apache-2.0
//
// PageSet: a set of page numbers in ascending order, of bounded size.
//
// A treap: a binary search tree that is balanced because each node's rank among its ancestors is a hash of its number. Insert,
// Erase, Contains and Next take a number of steps that grows with the logarithm of the size. Not thread-safe. Allocates in Open
// only, 16 bytes for each number of its capacity.

#ifndef LAYERS_PAGE_SET_H_
#define LAYERS_PAGE_SET_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "layers/mapped_array.h"

namespace buse {

class PageSet {
 public:
  // A capacity of 0 is possible.
  absl::Status Open(uint32_t capacity);

  // The number must not be in the set. False: the set is full.
  bool Insert(uint64_t page);
  // The number must be in the set.
  void Erase(uint64_t page);
  bool Contains(uint64_t page) const;
  // The least number that is at least `from`.
  std::optional<uint64_t> Next(uint64_t from) const;

  uint32_t size() const { return size_; }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  struct Node {
    uint64_t page;
    uint32_t less;     // the tree of the smaller ones; of an unused node, the next such
    uint32_t greater;  // the tree of the greater ones
  };

  static uint64_t Rank(uint64_t page);

  uint32_t root_ = kNone;
  uint32_t unused_ = kNone;  // nodes that were used before
  uint32_t fresh_ = 0;       // nodes from here on were never used
  uint32_t size_ = 0;
  uint32_t capacity_ = 0;
  MappedArray<Node> nodes_;
};

}  // namespace buse

#endif  // LAYERS_PAGE_SET_H_

// SPDX-License-Identifier: Apache-2.0
//
// ParityStage: blocks that were written and wait to be committed. A bounded arena of pages of 4096 bytes, found by their keys, with
// a bit for each block that is held. Not thread-safe; any calls that do not change it may run together.
//
// A key is (page of the legs' data) * K + element: in the order of keys, what belongs to one stripe comes together.

#ifndef LAYERS_PARITY_STAGE_H_
#define LAYERS_PARITY_STAGE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "buse/device.h"
#include "layers/mapped_array.h"

namespace buse {

class ParityStage {
 public:
  static constexpr uint64_t kPage = 4096;

  struct Page {
    uint64_t key = 0;
    uint8_t held = 0;  // a bit for each block
    std::byte* data = nullptr;
  };

  // Once, before anything else. `block` divides kPage at most 8 times.
  absl::Status Allocate(uint64_t pages, uint64_t block);

  bool empty() const { return pages_.empty(); }
  uint64_t size() const { return pages_.size(); }
  uint64_t capacity() const { return capacity_; }

  // Takes blocks of one page, from `first` on. There is room, or the page is held.
  void Put(uint64_t key, uint64_t first, ConstBytes in);
  // Takes those of its blocks that are not held here. There is room.
  void PutAbsent(const Page& page);

  // Copies what is held of the blocks from `first` on that are not in `found`, and adds them there, where bit 0 is `first`.
  void Get(uint64_t key, uint64_t first, Bytes out, uint32_t& found) const;

  // In ascending order of keys; then no Put, until Clear.
  const std::vector<Page>& Sort();
  void Clear();

 private:
  Page& PageOf(uint64_t key);

  uint64_t capacity_ = 0;  // pages
  uint64_t block_ = 0;
  absl::flat_hash_map<uint64_t, uint32_t> index_;
  std::vector<Page> pages_;
  std::vector<Page> sorted_;
  MappedArray<std::byte> arena_;
};

}  // namespace buse

#endif  // LAYERS_PARITY_STAGE_H_

// SPDX-License-Identifier: Apache-2.0
//
// WriteStage: blocks that were written and wait to be carried out together, with their sums. A bounded arena of pages of 4096
// bytes, found by their numbers, with a bit for each block that is held.
//
// A stage is filled by any number of threads and read by any number; pages are locked by 64 mutexes, so that the bytes of a
// block and its sum always belong together. When it is full, or when it is time, its owner sees to it that no Put runs, calls
// Sort, goes through the pieces, and drops all. Get may run at any time.

#ifndef LAYERS_WRITE_STAGE_H_
#define LAYERS_WRITE_STAGE_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "buse/device.h"
#include "layers/checksum_hash.h"
#include "layers/mapped_array.h"

namespace buse {

class WriteStage {
 public:
  static constexpr uint64_t kPage = 4096;
  // The most blocks that one Get looks for.
  static constexpr size_t kMaxGet = 512;

  // Consecutive blocks, of one page: written, or zeroed by a Trim that may release their space.
  struct Piece {
    uint64_t first;
    uint64_t count;
    std::byte* data;
    const std::byte* sums;
    bool release;
  };

  // Once, before anything else. `bytes` is a multiple of kPage, and kPage one of `block_size`.
  absl::Status Allocate(uint64_t bytes, uint64_t block_size, SumFunction sum, uint64_t sum_bytes, uint64_t salt);

  // Takes blocks from `first` on as long as there is room, and returns how many.
  uint64_t Put(uint64_t first, ConstBytes in);
  uint64_t PutZeroes(uint64_t first, uint64_t count, bool release);

  bool empty() const { return used_.load(std::memory_order_acquire) == 0; }
  bool full() const { return used_.load(std::memory_order_acquire) >= capacity_; }

  // Copies what is held of the blocks from `first` on, and sets their bits in `found`, where 0 stands for `first`.
  void Get(uint64_t first, Bytes out, std::bitset<kMaxGet>& found);

  // How many of the blocks from `first` on are not held.
  uint64_t CountAbsent(uint64_t first, uint64_t count);

  // Puts the pages in ascending order. No Put may run from here to the end of Drop.
  void Sort();
  uint64_t pages() const { return used_.load(std::memory_order_relaxed); }
  // Calls `use(piece)` with what is held in the pages [begin, end) of that order. Stops, and returns false, where it does.
  template <class Use>
  bool ForEachPiece(uint64_t begin, uint64_t end, Use use);
  // The same with pieces of any length: those that lie one behind the other in the stage too are one.
  template <class Use>
  bool ForEachRun(uint64_t begin, uint64_t end, Use use);
  // Forgets everything.
  void Drop();

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr uint64_t kGroup = 16;  // neighbouring pages under one mutex
  static constexpr uint64_t kMutexes = 64;

  struct Page {
    uint64_t number;
    uint32_t next;  // in the same bucket
    uint8_t held;   // a bit for each block
    uint8_t release;
  };

  template <class Fill>
  uint64_t PutBlocks(uint64_t first, uint64_t count, Fill fill);

  uint64_t BucketOf(uint64_t number) const;
  std::mutex& MutexOf(uint64_t bucket) { return mutexes_[bucket / kGroup % kMutexes]; }
  uint32_t Find(uint64_t bucket, uint64_t number) const;
  uint32_t Add(uint64_t bucket, uint64_t number);
  std::byte* SumAt(uint32_t index, uint64_t block) { return sums_.data() + (index * per_page_ + block) * sum_bytes_; }

  uint64_t capacity_ = 0;  // pages
  uint64_t block_size_ = 0;
  uint64_t per_page_ = 0;  // blocks
  SumFunction sum_ = nullptr;
  uint64_t sum_bytes_ = 0;
  uint64_t salt_ = 0;
  uint64_t bucket_mask_ = 0;
  std::atomic<uint64_t> used_ = 0;
  std::array<std::mutex, kMutexes> mutexes_;
  std::unique_ptr<uint32_t[]> buckets_;  // like what follows, guarded by the mutex of the bucket
  std::unique_ptr<Page[]> pages_;
  MappedArray<std::byte> data_;
  MappedArray<std::byte> sums_;
  std::unique_ptr<uint32_t[]> order_;
};

template <class Use>
bool WriteStage::ForEachPiece(uint64_t begin, uint64_t end, Use use) {
  for (uint64_t i = begin; i < end; ++i) {
    const uint32_t index = order_[i];
    const Page& page = pages_[index];
    for (uint64_t at = 0; at < per_page_;) {
      const uint32_t held = page.held >> at;
      if ((held & 1) == 0) {
        ++at;
        continue;
      }
      // As far as they are held, and of one kind.
      const bool release = (page.release >> at & 1) != 0;
      const uint32_t kind = release ? page.release >> at : ~(page.release >> at);
      const uint64_t count = static_cast<uint64_t>(std::countr_one(held & kind));
      const Piece piece = {page.number * per_page_ + at, count, data_.data() + index * kPage + at * block_size_,
                           SumAt(index, at), release};
      if (!use(piece)) return false;
      at += count;
    }
  }
  return true;
}

template <class Use>
bool WriteStage::ForEachRun(uint64_t begin, uint64_t end, Use use) {
  Piece run = {};
  const bool all = ForEachPiece(begin, end, [&](const Piece& piece) {
    if (run.count > 0 && piece.first == run.first + run.count && piece.release == run.release &&
        piece.data == run.data + run.count * block_size_) {
      run.count += piece.count;
      return true;
    }
    const bool more = run.count == 0 || use(run);
    run = piece;
    return more;
  });
  return all && (run.count == 0 || use(run));
}

}  // namespace buse

#endif  // LAYERS_WRITE_STAGE_H_

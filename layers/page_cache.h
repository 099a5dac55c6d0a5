// SPDX-License-Identifier: Apache-2.0
//
// PageCache: pages of a device in memory, with what of them is valid and what is dirty. The data structure of Cache, which does
// the input and output.
//
// A page has 4096 bytes, in sectors of 512 or, if that is more, of the device's block size. A sector is valid: it holds what a
// read must return; and it may be dirty: the device below does not hold that yet. Pages are spread over shards by their number,
// each with its own mutex, hash index and S3-FIFO, and copied under the mutex, so that what does not meet in a shard does not
// meet at all. Dirty pages are also in a set in the order of their numbers, whose size is bounded, and are not evicted; neither
// are pages that are lent.
//
// What the caller owes. Calls marked "held" concern what is below: while one runs, and from before the device below is asked
// until the answer is stored here, no other held call for a page in question may run. All others may run at any time. Offsets
// and ranges lie within the device and are aligned to its blocks.
//
// Memory beside the data, for each page: 24 bytes for S3Fifo and 16 for its ghosts, 5 to 10 for the index, 8 for its
// state, and 16 if it may be dirty. All is allocated in Open.

#ifndef LAYERS_PAGE_CACHE_H_
#define LAYERS_PAGE_CACHE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "layers/mapped_array.h"
#include "layers/page_set.h"
#include "layers/s3_fifo.h"

namespace buse {

class PageCache {
 public:
  static constexpr uint64_t kPage = 4096;

  struct Limits {
    uint64_t pages = 0;        // that are cached, at least 1
    uint64_t dirty_pages = 0;  // of these
  };

  PageCache();
  ~PageCache();

  // For a device of `size` bytes in blocks of `block`, a power of two up to kPage.
  absl::Status Open(uint64_t size, uint64_t block, const Limits& limits);

  uint64_t sector() const { return uint64_t{1} << sector_bits_; }
  uint64_t pages() const { return shard_pages_ << shard_bits_; }
  uint64_t dirty_pages();

  // ---- What is cached.

  // Copies bytes up to the first page of which a wanted sector is not valid, and says how many.
  uint64_t Read(uint64_t offset, Bytes out);

  // Appends the pieces of pages up to the first of which a wanted sector is not valid, each pinned until the gather is
  // released, and says how many bytes.
  uint64_t Lend(Range range, Gather& gather);

  // How many bytes at the beginning of the range lie in pages of which all wanted sectors are valid, or in pages of which
  // not all are.
  uint64_t Leading(Range range, bool cached);

  // Emits what of a prefix of the range is cached and dirty, of at most kMostTold pages. What changes meanwhile may be told
  // either way.
  void Residency(Range range, EmitResident emit);
  static constexpr uint64_t kMostTold = 1 << 16;

  // ---- What was written above and is to be written below.

  enum class Obstacle {
    kNone,
    kPartOfSector,  // it begins or ends inside a sector that is not valid
    kNoRoom,        // no more pages may be dirty, or none can be evicted
  };
  struct Written {
    uint64_t bytes;
    Obstacle obstacle;  // of the page after these bytes
  };
  // Stores bytes up to an obstacle. They are then dirty.
  Written Write(uint64_t offset, ConstBytes in);

  // The first dirty pages at or after an offset, at most `most` bytes of adjacent ones; empty: none. A page is dirty until all
  // its bytes were written below.
  Range NextDirty(uint64_t from, uint64_t most);
  // The ones after what it returned last, starting over at the end.
  Range TakeDirty(uint64_t most);

  // Held. Has `write` called with what is dirty in the range, which consists of sectors, in ascending order, each time with as
  // much as is adjacent; `write` may call anything but what is held for these pages. `buffer` has room for the range. What is
  // written while this goes on stays dirty; what fails stays dirty. Returns the first error and goes on after it.
  absl::Status WriteBack(Range range, Bytes buffer, absl::FunctionRef<absl::Status(uint64_t, ConstBytes)> write);

  // ---- What is below. All of these are held.

  // What was read from below: whole pages, or up to the end of the device. What is not valid is stored where a page can be had.
  // What is valid is copied over `bytes`, which then are what a read must return. The first `used` bytes
  // need not be read from here to be used.
  void Fill(uint64_t offset, Bytes bytes, uint64_t used);
  // Only the second half of that.
  void Overlay(uint64_t offset, Bytes bytes);
  // What was just written below, over whatever is cached.
  void Store(uint64_t offset, ConstBytes in);
  // What is below may have changed: forgets it, but for what is dirty.
  void Forget(Range range);
  // What is below has become zeroes: forgets it, dirty or not.
  void Clear(Range range);

 private:
  using Mask = uint8_t;  // a bit for each sector

  // What a range has of one page.
  struct Piece;
  struct Page;
  class Shard;

  template <class Use>
  void ForEachPiece(Range range, Use use);
  template <class Use>
  void ForEachRun(const Piece& piece, Mask sectors, Use use) const;
  template <class Use>
  void ForEachCached(Range range, Use use);
  Piece PieceOf(uint64_t offset, uint64_t length) const;
  Range BytesOf(uint64_t first_page, uint64_t end_page) const;
  Range RunFrom(uint64_t page, uint64_t most) const;
  bool CountDirty(uint64_t page);
  void UncountDirty(uint64_t page);
  void Clean(Shard& shard, uint32_t slot, uint64_t page, Mask sectors);
  Obstacle WritePiece(const Piece& piece, const std::byte* in);
  Mask Snapshot(const Piece& piece, std::byte* copy);
  void Settle(Range range, bool written);

  uint64_t size_ = 0;
  unsigned sector_bits_ = 9;
  unsigned shard_bits_ = 0;
  uint64_t shard_pages_ = 0;
  std::unique_ptr<Shard[]> shards_;
  MappedArray<std::byte> data_;

  std::mutex dirty_mutex_;  // taken inside that of a shard
  PageSet dirty_;
  uint64_t next_dirty_ = 0;  // a page
};

}  // namespace buse

#endif  // LAYERS_PAGE_CACHE_H_

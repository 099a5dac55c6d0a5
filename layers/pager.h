// SPDX-License-Identifier: Apache-2.0
//
// Pager: moves pages between a PageCache and the device below: reads what is missing and what will be next, writes back what is
// dirty. What Cache does, apart from the device's type; its header says what to expect.
//
// Every call below is made while its pages are held exclusively in a RangeMutex. So no two concern the same page, and what was
// read cannot come into the cache after something newer was written below. A thread holds one range at a time and waits for
// nothing else meanwhile.

#ifndef LAYERS_PAGER_H_
#define LAYERS_PAGER_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "buse/range_mutex.h"
#include "layers/buffer_pool.h"
#include "layers/page_cache.h"
#include "layers/read_ahead.h"

namespace buse {

class Pager {
 public:
  static constexpr uint64_t kPage = PageCache::kPage;

  // The device below, for one call.
  struct Source {
    absl::FunctionRef<absl::Status(uint64_t offset, Bytes out)> read;
    absl::FunctionRef<absl::Status(Range)> prefetch;
  };
  using Put = absl::FunctionRef<absl::Status(uint64_t offset, ConstBytes in)>;

  struct Limits {
    uint64_t size = 0;        // bytes of pages
    uint64_t dirty = 0;       // bytes of dirty pages
    uint64_t read_ahead = 0;  // bytes
  };

  // For a device of `size` bytes in blocks of `block`.
  absl::Status Open(uint64_t size, uint64_t block, const Limits& limits);

  absl::Status Read(uint64_t offset, Bytes out, Source below);
  // The gather overflows where something cannot be read, or not be kept.
  void View(Range range, Gather& gather, Source below);
  // At most half of the cache.
  absl::Status Prefetch(Range range, Source below);
  absl::Status Write(uint64_t offset, ConstBytes in, Source below, Put write);

  // The same where nothing need be asked or written below. False: some of the bytes may have been stored.
  bool TryRead(uint64_t offset, Bytes out) { return pages_.Read(offset, out) == out.size(); }
  bool TryWrite(uint64_t offset, ConstBytes in) { return pages_.Write(offset, in).bytes == in.size(); }

  // Has `put` write bytes below, and takes them over.
  absl::Status WriteBelow(uint64_t offset, ConstBytes in, Put put, Put write);
  // Has the range cleared below, and forgets it.
  absl::Status Clear(Range range, absl::FunctionRef<absl::Status()> clear, Put write);
  // Writes below all that was dirty when it was called. Returns the first error and goes on after it.
  absl::Status WriteBackAll(Put write);

  // Emits an extent of the device below, with what is dirty in it as data. False: `emit` wants no more. Call it while the
  // extents of a range are asked for inside Held, as else what is dirty then may be below when it is looked for here.
  bool EmitWithDirty(const Extent& below, EmitExtent emit);
  absl::Status Held(Range range, absl::FunctionRef<absl::Status()> call);

  // What of the range is cached, for a prefix.
  void Residency(Range range, EmitResident emit) { pages_.Residency(range, emit); }

  uint64_t dirty_bytes() { return pages_.dirty_pages() * kPage; }

 private:
  // How often Write tries to overcome what keeps a page from the cache.
  static constexpr int kAttempts = 3;

  static constexpr Range Rest(Range range, uint64_t done) { return {range.offset + done, range.length - done}; }
  Range PagesAround(Range range) const;
  RangeMutex::Guard Hold(Range range);
  absl::StatusOr<uint64_t> Fetch(Range range, Bytes out, const Source& below);
  absl::StatusOr<uint64_t> ReadPages(Range missing, uint64_t offset, Bytes buffer, Bytes out, const Source& below);
  absl::Status WriteBack(Range& run, Put write);
  absl::Status WriteBackEdges(Range range, Put write);

  uint64_t size_ = 0;
  PageCache pages_;
  RangeMutex busy_;  // pages that a call below concerns
  BufferPool buffers_;
  class ReadAhead read_ahead_;  // not the function of buse/io.h
};

}  // namespace buse

#endif  // LAYERS_PAGER_H_

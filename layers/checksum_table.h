// SPDX-License-Identifier: Apache-2.0
//
// ChecksumTable: the sums of all blocks, as they lie on the medium, through a bounded cache of pages.
//
// Any thread may Get. One at a time may Put; what it changed stays in the cache until WriteDirty. Where the cache cannot hold
// the whole table, Put refuses to change more than half of a part of it before that, so that there is always room for Get.
// Pages are replaced by the clock algorithm; the cache has up to 16 parts, each with a mutex that is held for a copy of sums
// and never across a call below.

#ifndef LAYERS_CHECKSUM_TABLE_H_
#define LAYERS_CHECKSUM_TABLE_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"
#include "layers/checksum_geometry.h"
#include "layers/device_io.h"
#include "layers/mapped_array.h"

namespace buse {

class ChecksumTable {
 public:
  static constexpr uint64_t kPage = ChecksumGeometry::kPage;
  static constexpr uint64_t kMinCache = 2 * kPage;

  // Once, before anything else. `cache_bytes` is at least kMinCache.
  absl::Status Allocate(uint64_t cache_bytes, const ChecksumGeometry& geometry);

  // Copies the sums of `count` blocks.
  absl::Status Get(DeviceIo& io, uint64_t first, uint64_t count, std::byte* out);

  // How many of the blocks from `first` on have the sum of zeroes; fewer where that takes reading more than 64 pages. What is a
  // hole of the table is not read.
  absl::StatusOr<uint64_t> CountZeroes(DeviceIo& io, uint64_t first, uint64_t count);

  // Sets the sums of blocks from `first` on, which are those of zeroes where `sums` is null. Returns in `done` how many: fewer
  // than `count` where WriteDirty must come before the rest.
  absl::Status Put(DeviceIo& io, uint64_t first, uint64_t count, const std::byte* sums, uint64_t& done);

  // Writes what was changed, neighbours together by way of `scratch`, which has whole pages. No Put may run.
  absl::Status WriteDirty(DeviceIo& io, Bytes scratch);

  // Drops the pages [begin, end) from the cache, changed or not. No Put may run.
  void Forget(uint64_t begin, uint64_t end);

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  enum class Holds : uint8_t { kNothing, kLoading, kClean, kDirty };

  struct Frame {
    uint64_t page = 0;
    uint32_t next = kNone;  // in the same bucket
    Holds holds = Holds::kNothing;
    bool used = false;  // since the hand passed
  };

  struct Part {
    std::mutex mutex;  // guards the rest, and the bytes of the frames
    std::condition_variable loaded;
    std::vector<Frame> frames;
    std::vector<uint32_t> buckets;
    uint32_t first_frame = 0;  // number of frames[0] in memory_
    uint32_t hand = 0;
    uint32_t dirty = 0;
    uint32_t most_dirty = 0;
  };

  Part& PartOf(uint64_t page) { return parts_[page % parts_count_]; }
  uint32_t& BucketOf(Part& part, uint64_t page) const { return part.buckets[page / parts_count_ % part.buckets.size()]; }
  std::byte* BytesOf(const Part& part, uint32_t frame) const { return memory_.data() + (part.first_frame + frame) * kPage; }
  static void Unlink(uint32_t& bucket, Part& part, uint32_t frame);
  uint32_t Find(Part& part, uint64_t page) const;
  uint32_t Victim(Part& part) const;
  // The frame with the page, which is loaded if need be. May release the lock meanwhile.
  absl::Status Load(DeviceIo& io, Part& part, std::unique_lock<std::mutex>& lock, uint64_t page, uint32_t& frame);

  ChecksumGeometry geometry_;
  uint64_t parts_count_ = 0;
  std::unique_ptr<Part[]> parts_;
  MappedArray<std::byte> memory_;
  std::vector<std::pair<uint64_t, std::byte*>> dirty_;  // of WriteDirty; has room for all
};

}  // namespace buse

#endif  // LAYERS_CHECKSUM_TABLE_H_

// SPDX-License-Identifier: Apache-2.0

#include "layers/checksum_table.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace buse {

absl::Status ChecksumTable::Allocate(uint64_t cache_bytes, const ChecksumGeometry& geometry) {
  assert(cache_bytes >= kMinCache);
  geometry_ = geometry;
  uint64_t frames = cache_bytes / kPage;
  parts_count_ = std::clamp(std::min(frames, geometry.table_pages()) / 16, uint64_t{1}, uint64_t{16});
  const uint64_t pages_of_part = (geometry.table_pages() + parts_count_ - 1) / parts_count_;
  const bool holds_all = pages_of_part * parts_count_ <= frames;
  if (holds_all) frames = pages_of_part * parts_count_;
  parts_ = std::make_unique<Part[]>(parts_count_);
  uint64_t given = 0;
  for (uint64_t i = 0; i < parts_count_; ++i) {
    Part& part = parts_[i];
    const uint64_t end = frames * (i + 1) / parts_count_;
    part.first_frame = static_cast<uint32_t>(given);
    part.frames.resize(end - given);
    part.buckets.assign(end - given, kNone);
    part.most_dirty = static_cast<uint32_t>(holds_all ? end - given : (end - given) / 2);
    given = end;
  }
  dirty_.reserve(frames);
  return memory_.Open(frames * kPage);
}

uint32_t ChecksumTable::Find(Part& part, uint64_t page) const {
  uint32_t frame = BucketOf(part, page);
  while (frame != kNone && part.frames[frame].page != page) frame = part.frames[frame].next;
  return frame;
}

void ChecksumTable::Unlink(uint32_t& bucket, Part& part, uint32_t frame) {
  uint32_t* link = &bucket;
  while (*link != frame) link = &part.frames[*link].next;
  *link = part.frames[frame].next;
  part.frames[frame].holds = Holds::kNothing;
}

// A frame that can be taken, or kNone where all that are not dirty are being loaded.
uint32_t ChecksumTable::Victim(Part& part) const {
  for (size_t i = 0; i < 2 * part.frames.size(); ++i) {
    const uint32_t frame = part.hand;
    Frame& candidate = part.frames[frame];
    part.hand = (part.hand + 1) % part.frames.size();
    if (candidate.holds == Holds::kNothing) return frame;
    if (candidate.holds != Holds::kClean) continue;
    if (!candidate.used) return frame;
    candidate.used = false;
  }
  return kNone;
}

absl::Status ChecksumTable::Load(DeviceIo& io, Part& part, std::unique_lock<std::mutex>& lock, uint64_t page, uint32_t& frame) {
  for (;;) {
    frame = Find(part, page);
    if (frame != kNone && part.frames[frame].holds != Holds::kLoading) {
      part.frames[frame].used = true;
      return absl::OkStatus();
    }
    // Somebody loads it, or all frames are taken by those who load others.
    if (frame == kNone) frame = Victim(part);
    if (frame == kNone || part.frames[frame].holds == Holds::kLoading) {
      if (!io.may_wait()) return absl::Status(absl::StatusCode::kCancelled, "");
      part.loaded.wait(lock);
      continue;
    }
    if (part.frames[frame].holds == Holds::kClean) Unlink(BucketOf(part, part.frames[frame].page), part, frame);
    uint32_t& bucket = BucketOf(part, page);
    part.frames[frame] = {page, bucket, Holds::kLoading, true};
    bucket = frame;
    lock.unlock();
    absl::Status status = io.Read(geometry_.table + page * kPage, {BytesOf(part, frame), kPage});
    lock.lock();
    if (status.ok()) {
      part.frames[frame].holds = Holds::kClean;
    } else {
      Unlink(bucket, part, frame);
    }
    part.loaded.notify_all();
    return status;
  }
}

absl::Status ChecksumTable::Get(DeviceIo& io, uint64_t first, uint64_t count, std::byte* out) {
  const uint64_t per_page = geometry_.sums_per_page();
  while (count > 0) {
    const uint64_t page = first / per_page;
    const uint64_t n = std::min(count, per_page - first % per_page);
    const uint64_t bytes = n * geometry_.sum_bytes;
    Part& part = PartOf(page);
    std::unique_lock lock(part.mutex);
    uint32_t frame;
    if (absl::Status status = Load(io, part, lock, page, frame); !status.ok()) return status;
    std::memcpy(out, BytesOf(part, frame) + first % per_page * geometry_.sum_bytes, bytes);
    first += n;
    count -= n;
    out += bytes;
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> ChecksumTable::CountZeroes(DeviceIo& io, uint64_t first, uint64_t count) {
  constexpr int kMostLoads = 64;
  const uint64_t per_page = geometry_.sums_per_page();
  uint64_t hole_end = 0;  // pages
  int loads = 0;
  for (uint64_t done = 0; done < count;) {
    const uint64_t block = first + done;
    const uint64_t page = block / per_page;
    const uint64_t n = std::min(count - done, per_page - block % per_page);
    Part& part = PartOf(page);
    std::unique_lock lock(part.mutex);
    if (Find(part, page) == kNone && page >= hole_end) {
      lock.unlock();
      const Range rest = {geometry_.table + page * kPage, geometry_.data - geometry_.table - page * kPage};
      const absl::StatusOr<Extent> extent = io.FirstExtent(rest);
      if (!extent.ok()) return extent.status();
      if (extent->kind != Extent::Kind::kData) hole_end = page + extent->range.length / kPage;
      lock.lock();
    }
    uint32_t frame = Find(part, page);
    if (frame != kNone || page >= hole_end) {
      if (frame == kNone && ++loads > kMostLoads) return done;
      if (absl::Status status = Load(io, part, lock, page, frame); !status.ok()) return status;
      const std::byte* sums = BytesOf(part, frame) + block % per_page * geometry_.sum_bytes;
      const std::byte* end = sums + n * geometry_.sum_bytes;
      const std::byte* other = std::find_if(sums, end, [](std::byte b) { return b != std::byte{0}; });
      if (other != end) return done + (other - sums) / geometry_.sum_bytes;
    }
    done += n;
  }
  return count;
}

absl::Status ChecksumTable::Put(DeviceIo& io, uint64_t first, uint64_t count, const std::byte* sums, uint64_t& done) {
  const uint64_t per_page = geometry_.sums_per_page();
  for (done = 0; done < count;) {
    const uint64_t block = first + done;
    const uint64_t page = block / per_page;
    const uint64_t n = std::min(count - done, per_page - block % per_page);
    Part& part = PartOf(page);
    std::unique_lock lock(part.mutex);
    uint32_t frame;
    if (absl::Status status = Load(io, part, lock, page, frame); !status.ok()) return status;
    if (part.frames[frame].holds != Holds::kDirty) {
      if (part.dirty == part.most_dirty) return absl::OkStatus();
      ++part.dirty;
      part.frames[frame].holds = Holds::kDirty;
    }
    std::byte* to = BytesOf(part, frame) + block % per_page * geometry_.sum_bytes;
    if (sums != nullptr) {
      std::memcpy(to, sums + done * geometry_.sum_bytes, n * geometry_.sum_bytes);
    } else {
      std::memset(to, 0, n * geometry_.sum_bytes);
    }
    done += n;
  }
  return absl::OkStatus();
}

absl::Status ChecksumTable::WriteDirty(DeviceIo& io, Bytes scratch) {
  dirty_.clear();
  for (uint64_t i = 0; i < parts_count_; ++i) {
    Part& part = parts_[i];
    std::lock_guard lock(part.mutex);
    for (uint32_t frame = 0; frame < part.frames.size(); ++frame) {
      if (part.frames[frame].holds == Holds::kDirty) dirty_.push_back({part.frames[frame].page, BytesOf(part, frame)});
    }
  }
  std::sort(dirty_.begin(), dirty_.end());
  // Dirty frames keep their bytes and their pages as long as no Put runs.
  for (size_t begin = 0; begin < dirty_.size();) {
    size_t end = begin;
    for (; end < dirty_.size() && dirty_[end].first == dirty_[begin].first + (end - begin); ++end) {
      if ((end - begin + 1) * kPage > scratch.size()) break;
      std::memcpy(scratch.data() + (end - begin) * kPage, dirty_[end].second, kPage);
    }
    absl::Status status = io.Write(geometry_.table + dirty_[begin].first * kPage, scratch.first((end - begin) * kPage));
    if (!status.ok()) return status;
    begin = end;
  }
  for (uint64_t i = 0; i < parts_count_; ++i) {
    Part& part = parts_[i];
    std::lock_guard lock(part.mutex);
    for (Frame& frame : part.frames) {
      if (frame.holds == Holds::kDirty) frame.holds = Holds::kClean;
    }
    part.dirty = 0;
  }
  return absl::OkStatus();
}

void ChecksumTable::Forget(uint64_t begin, uint64_t end) {
  for (uint64_t i = 0; i < parts_count_; ++i) {
    Part& part = parts_[i];
    std::unique_lock lock(part.mutex);
    for (uint32_t index = 0; index < part.frames.size(); ++index) {
      Frame& frame = part.frames[index];
      // What is being loaded now may be of before.
      part.loaded.wait(lock, [&] { return frame.holds != Holds::kLoading || frame.page < begin || frame.page >= end; });
      if (frame.holds == Holds::kNothing || frame.page < begin || frame.page >= end) continue;
      part.dirty -= frame.holds == Holds::kDirty;
      Unlink(BucketOf(part, frame.page), part, index);
    }
    part.loaded.notify_all();
  }
}

}  // namespace buse

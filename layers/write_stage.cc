// SPDX-License-Identifier: Apache-2.0
//
// A hash table of pages in chains. The buckets of neighbouring pages are neighbours and share a mutex, so that a long request
// locks once for sixteen pages.

#include "layers/write_stage.h"

#include <cassert>
#include <cstring>
#include <numeric>

#include "layers/splitmix.h"

namespace buse {

absl::Status WriteStage::Allocate(uint64_t bytes, uint64_t block_size, SumFunction sum, uint64_t sum_bytes, uint64_t salt) {
  assert(bytes % kPage == 0 && kPage % block_size == 0 && kPage / block_size <= 8);
  capacity_ = bytes / kPage;
  block_size_ = block_size;
  per_page_ = kPage / block_size;
  sum_ = sum;
  sum_bytes_ = sum_bytes;
  salt_ = salt;
  const uint64_t buckets = std::bit_ceil(std::max(capacity_, kGroup));
  bucket_mask_ = buckets - 1;
  buckets_ = std::make_unique<uint32_t[]>(buckets);
  std::fill_n(buckets_.get(), buckets, kNone);
  pages_ = std::make_unique<Page[]>(capacity_);
  order_ = std::make_unique<uint32_t[]>(capacity_);
  if (absl::Status status = data_.Open(bytes, true); !status.ok()) return status;
  return sums_.Open(capacity_ * per_page_ * sum_bytes);
}

uint64_t WriteStage::BucketOf(uint64_t number) const {
  return (Mix64(number / kGroup) * kGroup + number % kGroup) & bucket_mask_;
}

uint32_t WriteStage::Find(uint64_t bucket, uint64_t number) const {
  uint32_t index = buckets_[bucket];
  while (index != kNone && pages_[index].number != number) index = pages_[index].next;
  return index;
}

uint32_t WriteStage::Add(uint64_t bucket, uint64_t number) {
  const uint64_t index = used_.fetch_add(1, std::memory_order_acq_rel);
  if (index >= capacity_) {
    used_.fetch_sub(1, std::memory_order_acq_rel);
    return kNone;
  }
  pages_[index] = {number, buckets_[bucket], 0, 0};
  buckets_[bucket] = static_cast<uint32_t>(index);
  return buckets_[bucket];
}

// `fill(index, at, count, done)` sets `count` blocks from `at` on in a page; `done` blocks of the request came before.
template <class Fill>
uint64_t WriteStage::PutBlocks(uint64_t first, uint64_t count, Fill fill) {
  std::unique_lock<std::mutex> lock;
  for (uint64_t done = 0; done < count;) {
    const uint64_t number = (first + done) / per_page_;
    const uint64_t bucket = BucketOf(number);
    if (std::mutex& mutex = MutexOf(bucket); lock.mutex() != &mutex) {
      if (lock.owns_lock()) lock.unlock();
      lock = std::unique_lock(mutex);
    }
    uint32_t index = Find(bucket, number);
    if (index == kNone) index = Add(bucket, number);
    if (index == kNone) return done;
    const uint64_t at = (first + done) % per_page_;
    const uint64_t n = std::min(count - done, per_page_ - at);
    fill(index, at, n, done);
    done += n;
  }
  return count;
}

uint64_t WriteStage::Put(uint64_t first, ConstBytes in) {
  return PutBlocks(first, in.size() / block_size_, [&](uint32_t index, uint64_t at, uint64_t count, uint64_t done) {
    const Bytes to = data_.span().subspan(index * kPage + at * block_size_, count * block_size_);
    std::memcpy(to.data(), in.data() + done * block_size_, to.size());
    // Of the copy, which nobody else changes.
    sum_(salt_, first + done, to, block_size_, SumAt(index, at));
    const uint32_t bits = ((1u << count) - 1) << at;
    pages_[index].held |= bits;
    pages_[index].release &= ~bits;
  });
}

uint64_t WriteStage::PutZeroes(uint64_t first, uint64_t count, bool release) {
  return PutBlocks(first, count, [&](uint32_t index, uint64_t at, uint64_t n, uint64_t) {
    std::memset(data_.data() + index * kPage + at * block_size_, 0, n * block_size_);
    std::memset(SumAt(index, at), 0, n * sum_bytes_);
    const uint32_t bits = ((1u << n) - 1) << at;
    pages_[index].held |= bits;
    if (release) {
      pages_[index].release |= bits;
    } else {
      pages_[index].release &= ~bits;
    }
  });
}

void WriteStage::Get(uint64_t first, Bytes out, std::bitset<kMaxGet>& found) {
  const uint64_t count = out.size() / block_size_;
  std::unique_lock<std::mutex> lock;
  for (uint64_t done = 0; done < count;) {
    const uint64_t number = (first + done) / per_page_;
    const uint64_t bucket = BucketOf(number);
    if (std::mutex& mutex = MutexOf(bucket); lock.mutex() != &mutex) {
      if (lock.owns_lock()) lock.unlock();
      lock = std::unique_lock(mutex);
    }
    const uint64_t at = (first + done) % per_page_;
    const uint64_t n = std::min(count - done, per_page_ - at);
    const uint32_t index = Find(bucket, number);
    const uint32_t held = index != kNone ? pages_[index].held : 0;
    for (uint64_t i = 0; i < n && held != 0; ++i) {
      if ((held >> (at + i) & 1) == 0 || found[done + i]) continue;
      std::memcpy(out.data() + (done + i) * block_size_, data_.data() + index * kPage + (at + i) * block_size_, block_size_);
      found.set(done + i);
    }
    done += n;
  }
}

uint64_t WriteStage::CountAbsent(uint64_t first, uint64_t count) {
  if (empty()) return count;
  for (uint64_t done = 0; done < count;) {
    const uint64_t number = (first + done) / per_page_;
    const uint64_t bucket = BucketOf(number);
    const uint64_t at = (first + done) % per_page_;
    const uint64_t n = std::min(count - done, per_page_ - at);
    std::lock_guard lock(MutexOf(bucket));
    const uint32_t index = Find(bucket, number);
    const uint32_t held = index != kNone ? pages_[index].held >> at : 0;
    const uint64_t absent = static_cast<uint64_t>(std::countr_zero(held));
    if (absent < n) return done + absent;
    done += n;
  }
  return count;
}

void WriteStage::Sort() {
  std::iota(order_.get(), order_.get() + pages(), 0u);
  std::sort(order_.get(), order_.get() + pages(), [&](uint32_t a, uint32_t b) { return pages_[a].number < pages_[b].number; });
}

void WriteStage::Drop() {
  // A mutex at a time: when the last one is free again, no Get copies from the arena any more.
  for (uint64_t group = 0; group < kMutexes; ++group) {
    std::lock_guard lock(mutexes_[group]);
    for (uint64_t bucket = group * kGroup; bucket <= bucket_mask_; bucket += kMutexes * kGroup) {
      std::fill_n(buckets_.get() + bucket, kGroup, kNone);
    }
  }
  used_.store(0, std::memory_order_release);
}

}  // namespace buse

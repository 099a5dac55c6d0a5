// SPDX-License-Identifier: Apache-2.0
//
// LatencyHistogram: counts durations, to tell quantiles. A quantile is at most 1/32 too large and never too small; the maximum
// is exact.

#ifndef BENCH_HISTOGRAM_H_
#define BENCH_HISTOGRAM_H_

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace buse::bench {

// Of nanoseconds. Not thread-safe: each thread has one, and they are merged.
class LatencyHistogram {
 public:
  void Record(uint64_t nanoseconds) {
    ++buckets_[BucketOf(nanoseconds)];
    ++count_;
    max_ = std::max(max_, nanoseconds);
  }

  void Merge(const LatencyHistogram& other) {
    for (size_t i = 0; i < buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
    count_ += other.count_;
    max_ = std::max(max_, other.max_);
  }

  uint64_t count() const { return count_; }
  uint64_t max() const { return max_; }

  // What a part `q` of the durations, 0 to 1, did not exceed; 0 if there were none.
  uint64_t Quantile(double q) const {
    const uint64_t rank = std::max<uint64_t>(1, static_cast<uint64_t>(q * static_cast<double>(count_) + 0.5));
    uint64_t seen = 0;
    for (size_t i = 0; i < buckets_.size(); ++i) {
      seen += buckets_[i];
      if (seen >= rank) return std::min(LongestOf(i), max_);
    }
    return max_;
  }

 private:
  // 32 buckets for each power of two from 32 ns on.
  static constexpr int kBits = 5;
  static constexpr size_t kPart = size_t{1} << kBits;
  static constexpr size_t kBuckets = (64 - kBits + 1) * kPart;

  static constexpr size_t BucketOf(uint64_t value) {
    if (value < kPart) return value;
    const int shift = static_cast<int>(std::bit_width(value)) - 1 - kBits;
    return kPart * (shift + 1) + (value >> shift) - kPart;
  }

  static constexpr uint64_t LongestOf(size_t bucket) {
    if (bucket < kPart) return bucket;
    const size_t shift = bucket / kPart - 1;
    return ((bucket % kPart + kPart + 1) << shift) - 1;
  }

  std::array<uint64_t, kBuckets> buckets_ = {};
  uint64_t count_ = 0;
  uint64_t max_ = 0;
};

}  // namespace buse::bench

#endif  // BENCH_HISTOGRAM_H_

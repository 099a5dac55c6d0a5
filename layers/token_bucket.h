// SPDX-License-Identifier: Apache-2.0
//
// TokenBucket: how much of something may be used, at a rate and with a burst.

#ifndef LAYERS_TOKEN_BUCKET_H_
#define LAYERS_TOKEN_BUCKET_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>

namespace buse {

// Thread-safe and without a lock: the state is one number, the time until which the tokens taken so far are paid for at the
// rate. Whoever takes tokens is told when to go on, and may be told so in advance; then the next one is told a later time, so
// that all go on in the order they came, and nobody waits for a bucket that a large request empties again and again.
class TokenBucket {
 public:
  using Time = std::chrono::nanoseconds;  // since any moment

  // Once, before it is used. A rate of 0 is unlimited. The bucket holds as many tokens as flow in during `burst`, and is full.
  void Start(uint64_t tokens_per_second, Time burst) {
    cost_ = tokens_per_second == 0 ? 0 : 1e9 / static_cast<double>(tokens_per_second);
    burst_ = burst.count();
  }

  bool unlimited() const { return cost_ == 0; }

  // Takes tokens, and returns from when on they may be used, which is not after `now` where the bucket is not empty. More than
  // it holds may be taken: it then owes them to those who come later.
  Time Take(Time now, uint64_t tokens) {
    if (unlimited()) return now;
    const auto cost = static_cast<int64_t>(std::min(kMost, std::ceil(static_cast<double>(tokens) * cost_)));
    const int64_t most = now.count() + static_cast<int64_t>(kMost);
    int64_t paid = paid_until_.load(std::memory_order_relaxed);
    int64_t start;
    do {
      start = std::max(paid, now.count() - burst_);
    } while (!paid_until_.compare_exchange_weak(paid, std::min(most, start + cost), std::memory_order_relaxed));
    return Time(start);
  }

 private:
  static constexpr double kMost = 1e17;  // three years, so that no sum overflows

  double cost_ = 0;  // nanoseconds per token
  int64_t burst_ = 0;
  std::atomic<int64_t> paid_until_ = INT64_MIN;
};

}  // namespace buse

#endif  // LAYERS_TOKEN_BUCKET_H_

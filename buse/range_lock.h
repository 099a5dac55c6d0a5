// SPDX-License-Identifier: Apache-2.0
//
// RangeLock: lets calls on ranges that do not overlap run together, and makes the others wait.

#ifndef BUSE_RANGE_LOCK_H_
#define BUSE_RANGE_LOCK_H_

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "buse/device.h"

namespace buse {

// Thread-safe. Cost: one mutex, and a scan of the ranges held at the moment. Waiters are not queued in order.
class RangeLock {
 public:
  void Lock(Range range) {
    std::unique_lock lock(mutex_);
    released_.wait(lock, [&] { return std::none_of(held_.begin(), held_.end(), [&](Range h) { return Overlap(h, range); }); });
    held_.push_back(range);
  }

  // `range` is one that was locked.
  void Unlock(Range range) {
    {
      std::lock_guard lock(mutex_);
      auto it = std::find(held_.begin(), held_.end(), range);
      *it = held_.back();
      held_.pop_back();
    }
    released_.notify_all();
  }

 private:
  static bool Overlap(Range a, Range b) { return a.offset < b.end() && b.offset < a.end(); }

  std::mutex mutex_;
  std::condition_variable released_;
  std::vector<Range> held_;
};

}  // namespace buse

#endif  // BUSE_RANGE_LOCK_H_

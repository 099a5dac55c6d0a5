// SPDX-License-Identifier: Apache-2.0
//
// RangeMutex: a shared mutex for every range of bytes. What does not overlap never waits, and neither do shared guards.
//
// First come, first served: a guard waits for the earlier ones that it conflicts with, so none starves. Guards live on their
// owners' stacks and are linked in the order they came; nothing is allocated, and the inner mutex is held for one walk along
// the list, whose length is the number of threads that hold or await a guard.

#ifndef BUSE_RANGE_MUTEX_H_
#define BUSE_RANGE_MUTEX_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "buse/device.h"

namespace buse {

class RangeMutex {
 public:
  enum class Mode { kShared, kExclusive };

  // Holds a range from the end of its construction to its destruction. A thread that holds one must not construct another of
  // the same mutex.
  class Guard {
   public:
    Guard(RangeMutex& mutex, Range range, Mode mode) : mutex_(mutex), range_(range), mode_(mode) {
      std::unique_lock lock(mutex_.mutex_);
      previous_ = mutex_.last_;
      (previous_ != nullptr ? previous_->next_ : mutex_.first_) = this;
      mutex_.last_ = this;
      for (const Guard* earlier = mutex_.first_; earlier != this; earlier = earlier->next_)
        waits_for_ += ConflictsWith(*earlier);
      free_.wait(lock, [this] { return waits_for_ == 0; });
    }

    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

    ~Guard() {
      std::lock_guard lock(mutex_.mutex_);
      for (Guard* later = next_; later != nullptr; later = later->next_) {
        // Under the lock: once awake, `later` may vanish with its owner's stack.
        if (ConflictsWith(*later) && --later->waits_for_ == 0) later->free_.notify_one();
      }
      (previous_ != nullptr ? previous_->next_ : mutex_.first_) = next_;
      (next_ != nullptr ? next_->previous_ : mutex_.last_) = previous_;
    }

   private:
    bool ConflictsWith(const Guard& other) const {
      return (mode_ == Mode::kExclusive || other.mode_ == Mode::kExclusive) && range_.offset < other.range_.end() &&
             other.range_.offset < range_.end();
    }

    RangeMutex& mutex_;
    const Range range_;
    const Mode mode_;
    Guard* previous_ = nullptr;
    Guard* next_ = nullptr;
    uint64_t waits_for_ = 0;
    std::condition_variable free_;
  };

 private:
  std::mutex mutex_;
  Guard* first_ = nullptr;
  Guard* last_ = nullptr;
};

}  // namespace buse

#endif  // BUSE_RANGE_MUTEX_H_

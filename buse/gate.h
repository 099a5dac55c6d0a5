// SPDX-License-Identifier: Apache-2.0
//
// Gate: keeps the promise of a stack's kConcurrency when requests come from many connections.

#ifndef BUSE_GATE_H_
#define BUSE_GATE_H_

#include <cstdint>
#include <mutex>

#include "buse/device.h"
#include "buse/range_mutex.h"

namespace buse {

// One for all connections to a device. `Pass(range, call)` makes the call when the stack allows it; a call that concerns the
// whole device (Flush) passes an empty range.
template <Concurrency kConcurrency, uint64_t kBlockSize>
class Gate;

template <uint64_t kBlockSize>
class Gate<Concurrency::kParallel, kBlockSize> {
 public:
  template <class Call>
  auto Pass(Range, Call&& call) {
    return call();
  }
};

template <uint64_t kBlockSize>
class Gate<Concurrency::kSerial, kBlockSize> {
 public:
  template <class Call>
  auto Pass(Range, Call&& call) {
    std::lock_guard lock(mutex_);
    return call();
  }

 private:
  std::mutex mutex_;
};

template <uint64_t kBlockSize>
class Gate<Concurrency::kDisjoint, kBlockSize> {
 public:
  template <class Call>
  auto Pass(Range range, Call&& call) {
    if (range.length == 0) return call();
    const uint64_t begin = range.offset - range.offset % kBlockSize;
    const uint64_t last = range.end() - 1;
    const Range blocks = {begin, last - last % kBlockSize + kBlockSize - begin};
    RangeMutex::Guard guard(mutex_, blocks, RangeMutex::Mode::kExclusive);
    return call();
  }

 private:
  RangeMutex mutex_;
};

}  // namespace buse

#endif  // BUSE_GATE_H_

// SPDX-License-Identifier: Apache-2.0
//
// ReadAhead: sees from the requests that miss which of them read on where an earlier one ended, and says how much to read
// beyond them: nothing at first, then 16 KiB, and each time twice as much, up to the window. It follows eight streams at a
// time. Thread-safe; hits never come here.

#ifndef LAYERS_READ_AHEAD_H_
#define LAYERS_READ_AHEAD_H_

#include <array>
#include <cstdint>
#include <mutex>

#include "buse/device.h"

namespace buse {

class ReadAhead {
 public:
  // A window of 0 turns it off.
  void Open(uint64_t window) { window_ = window; }

  // For a range that is about to be read, because it is missing: how many bytes to read after it.
  uint64_t Miss(Range range);

 private:
  // It may go on anywhere from the end of the request to the end of what was read ahead, as requests that are under way
  // together come in any order.
  struct Stream {
    uint64_t begin = UINT64_MAX;
    uint64_t end = 0;
    uint64_t ahead = 0;
    uint64_t used = 0;
  };

  static constexpr uint64_t kFirst = 16384;

  uint64_t window_ = 0;
  std::mutex mutex_;
  uint64_t misses_ = 0;
  std::array<Stream, 8> streams_;
};

}  // namespace buse

#endif  // LAYERS_READ_AHEAD_H_

// SPDX-License-Identifier: Apache-2.0

#include "layers/read_ahead.h"

#include <algorithm>

namespace buse {

uint64_t ReadAhead::Miss(Range range) {
  if (window_ == 0) return 0;
  std::lock_guard lock(mutex_);
  Stream* stream = std::find_if(streams_.begin(), streams_.end(),
                                [&](const Stream& s) { return s.begin <= range.offset && range.offset <= s.end; });
  if (stream != streams_.end()) {
    stream->ahead = std::min(window_, std::max(kFirst, 2 * stream->ahead));
  } else {
    stream =
        std::min_element(streams_.begin(), streams_.end(), [](const Stream& a, const Stream& b) { return a.used < b.used; });
    stream->ahead = 0;
  }
  stream->begin = range.end();
  stream->end = range.end() + stream->ahead;
  stream->used = ++misses_;
  return stream->ahead;
}

}  // namespace buse

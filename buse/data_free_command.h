// SPDX-License-Identifier: Apache-2.0
//
// The commands that carry no data and have no answer but that they are done: FLUSH, TRIM, WRITE_ZEROES and CACHE.

#ifndef BUSE_DATA_FREE_COMMAND_H_
#define BUSE_DATA_FREE_COMMAND_H_

#include "buse/nbd.h"
#include "buse/request.h"
#include "buse/session.h"

namespace buse {

// Of a request that was checked, also by CheckZeroing.
template <bool kChunks, class Session>
void DoWithoutData(Session& session, const nbd::Request& request) {
  if (request.type == nbd::kCmdFlush) {
    Conclude<kChunks>(session, request, "flush", session.exported.Flush());
  } else if (request.type == nbd::kCmdTrim) {
    Conclude<kChunks>(session, request, "trim", session.exported.Trim(request));
  } else if (request.type == nbd::kCmdCache) {
    Conclude<kChunks>(session, request, "prefetch", session.exported.Cache(request));
  } else {
    Conclude<kChunks>(session, request, "write zeroes", session.exported.WriteZeroes(request));
  }
}

}  // namespace buse

#endif  // BUSE_DATA_FREE_COMMAND_H_

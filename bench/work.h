// SPDX-License-Identifier: Apache-2.0
//
// What a client does to a device, as one word: 4k-randread-d32 is random reads of 4 KiB, 32 in flight.
//
//   BLOCK-PATTERN-dDEPTH[-cCONNECTIONS][-fN]
//
//   BLOCK          bytes of a request: 512, 4k, 256k, 1m
//   PATTERN        randread, randwrite, randrw (reads and writes by turns of chance), seqread, seqwrite
//   DEPTH          requests in flight on each connection
//   CONNECTIONS    how many, 1 if not said
//   fN             a flush after every N writes

#ifndef BENCH_WORK_H_
#define BENCH_WORK_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace buse::bench {

struct Work {
  uint32_t block = 4096;
  bool random = true;
  uint32_t read_percent = 100;
  uint32_t depth = 1;
  uint32_t connections = 1;
  uint32_t flush_every = 0;  // writes; 0: never

  static constexpr uint32_t kMaxBlock = 4 << 20;
  static constexpr uint32_t kMaxDepth = 256;
  static constexpr uint32_t kMaxConnections = 256;

  // Errors: kInvalidArgument, naming the part that is wrong.
  static absl::StatusOr<Work> Parse(absl::string_view name);

  friend bool operator==(const Work&, const Work&) = default;
};

}  // namespace buse::bench

#endif  // BENCH_WORK_H_

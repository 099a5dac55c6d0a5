// SPDX-License-Identifier: Apache-2.0
//
// S3Fifo: which of a fixed number of slots to use next, by the S3-FIFO policy (Yang, Zhang, Qiu, Yue and Vinayak, SOSP 2023).
//
// What is new stands in a small queue, a tenth of the slots. What was used again by the time it reaches the end of that queue
// goes on to the main queue, and the rest leaves; so a scan passes through a tenth of the slots and spares the others. What left
// the small queue is remembered without its slot, as a ghost, for twice as many departures as there are slots; when a ghost
// comes back, it goes to the main queue at once. There, what was used since it last reached the end goes round again. (In the
// paper, two more uses are asked for and ghosts last half as long. This also catches loops over up to twice what fits, for
// half a percent on zipf.)
//
// Why this and not LRU or ARC: a use is one store of a small number, and moves nothing, so that hits do not contend for the
// head of a list; and it keeps more of what will be used again. Of the accesses of a trace, so many are hits
// (tests/layers/s3_fifo_test.cc, 2,048 slots; the optimum knows the future):
//
//   100,000 accesses                                S3-FIFO    LRU    ARC   optimum
//   zipf 0.9 over 20,480 pages                        63 %    57 %   63 %    74 %
//   zipf 1.0 over 20,480 pages                        73 %    69 %   73 %    81 %
//   the same, half of all being scans                 35 %    29 %   35 %    40 %
//   a loop over 3,072 pages, with scans between       26 %     0 %    0 %    48 %
//
// Not thread-safe. Allocates in Open only: 24 bytes for each slot, and 16 for its ghosts.

#ifndef LAYERS_S3_FIFO_H_
#define LAYERS_S3_FIFO_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "layers/mapped_array.h"

namespace buse {

class S3Fifo {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // Slots are numbers less than `slots`, which is not 0.
  absl::Status Open(uint32_t slots);

  // A slot without a key, or kNone: there were Evict's to be used.
  uint32_t Unused();

  // Takes a slot from its key, the one that is worth least of those for which `may` says yes. kNone: there is none. It keeps its
  // key until Add gives it another.
  uint32_t Evict(absl::FunctionRef<bool(uint32_t slot)> may);

  // Why a key comes. If only a guess, the first Touch is its first use, and else its second.
  enum class Reason { kUse, kGuess };

  // Gives a slot from Unused or Evict to a key. The hash of a key must always be the same.
  void Add(uint32_t slot, uint64_t key, uint64_t hash, Reason reason);

  uint64_t key(uint32_t slot) const { return nodes_[slot].key; }

  // The key of the slot was used again.
  void Touch(uint32_t slot) {
    Node& node = nodes_[slot];
    if (node.uses < kMostUses) ++node.uses;
  }

  // Takes the slot out of its queue, so that it stays until it is put back.
  void Hold(uint32_t slot);
  // As the latest of its queue, which is what writing it back makes of a page.
  void PutBack(uint32_t slot);

  // Takes the slot from its key, which is gone for good.
  void Discard(uint32_t slot);

 private:
  static constexpr int8_t kMostUses = 3;
  static constexpr uint32_t kWays = 8;  // ghosts in a bucket

  // Where a slot stands.
  enum Place : uint8_t { kSmall, kMain };

  struct Node {
    uint64_t key;
    uint32_t hash;
    uint32_t newer;
    uint32_t older;
    int8_t uses;  // after the first
    Place place;
  };
  struct Queue {
    uint32_t newest = kNone;
    uint32_t oldest = kNone;
    uint32_t size = 0;
  };
  // 0: none.
  struct Ghost {
    uint32_t hash;
    uint32_t departure;
  };

  void Push(uint32_t slot, Place place);
  void Unlink(uint32_t slot);
  Ghost* Bucket(uint32_t hash) const;
  void RememberGhost(uint32_t hash);
  bool TakeGhost(uint32_t hash);

  uint32_t slots_ = 0;
  uint32_t fresh_ = 0;          // slots from here on were never used
  uint32_t discarded_ = kNone;  // the first of the others without a key, linked by `older`
  Queue queues_[2];
  uint32_t departures_ = 0;
  MappedArray<Node> nodes_;
  MappedArray<Ghost> ghosts_;
};

}  // namespace buse

#endif  // LAYERS_S3_FIFO_H_

// SPDX-License-Identifier: Apache-2.0
//
// FaultPlan: which operations of a device go wrong, and how. Faulty does what it says; a test may change it at any time.
//
// As text, faults are separated by semicolons: a kind, then what narrows it down, separated by commas.
//
//   error,op=write,nth=3              the third write fails
//   flip,at=1M+4K                     every sector of this range reads with a bit flipped
//   lost,in=1000; torn,in=1000        of 1000 changes, one or so is lost, and one or so is torn
//   short,op=read,nth=2,times=5       the second read and the four after it
//   delay,ms=20,op=flush
//
//   op=OPERATION      read, write, flush, write-through, trim, write-zeroes, prefetch, resize; absent: all that the kind
//                     concerns, which is reads for flip, all but flush for lost, and what it can be for the others
//   at=OFFSET+LENGTH  operations that touch these bytes; Flush and Resize touch no bytes
//   nth=N             from the Nth of those operations on, 1 being the first; once unless `times` says otherwise
//   times=N           so many of them
//   in=N              each with a chance of one in N, decided by the seed
//   ms=N              how long a delay is
//
// Where several faults would strike one operation, the first in the plan does, and the others count it as struck.

#ifndef LAYERS_FAULT_PLAN_H_
#define LAYERS_FAULT_PLAN_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "buse/device.h"
#include "layers/operation.h"

namespace buse {

struct Fault {
  enum class Kind { kError, kShort, kDelay, kFlip, kLost, kMisdirected, kTorn };

  Kind kind = Kind::kError;
  std::optional<Operation> operation = {};
  std::optional<Range> at = {};
  uint64_t nth = 0;    // 0: from the first on
  uint64_t times = 0;  // 0: once with `nth`, else without end
  uint64_t one_in = 1;
  uint64_t milliseconds = 0;
};

// Thread-safe.
class FaultPlan {
 public:
  // What bits flip in: a medium loses them in units that it protects by one code.
  static constexpr uint64_t kSector = 512;

  // What shall happen to one operation.
  struct Strike {
    Fault::Kind kind;
    uint64_t milliseconds;
    uint64_t random;  // for what the kind leaves open
  };

  // Adds the faults of a text. kInvalidArgument says what is wrong with it, and then none was added.
  absl::Status Parse(absl::string_view text);
  void Add(const Fault& fault);
  // Nothing goes wrong any more, and what was flipped reads well again. Counting begins anew.
  void Clear();
  void set_seed(uint64_t seed);

  // Counts the operation. The first fault that concerns it strikes.
  std::optional<Strike> Next(Operation operation, Range range);

  // Whether sectors must be shown to Flip.
  bool flips() const;
  // Flips a bit of the sector `number` if it is a bad one. Which are, and which bit, is a function of the seed, the number and
  // the content: a second read gives the same, and new content is a new draw.
  void Flip(uint64_t number, Bytes sector);
  // Makes this sector a bad one as long as it holds this.
  void MakeBad(uint64_t number, ConstBytes sector);

  // How many operations were struck, and how many sectors were shown with a bit flipped.
  uint64_t strikes() const;
  uint64_t flipped() const;

 private:
  struct Planned {
    Fault fault;
    uint64_t matched = 0;
    uint64_t struck = 0;
  };

  bool Strikes(Planned& planned, size_t index);

  mutable std::mutex mutex_;
  std::vector<Planned> faults_;       // those below too are guarded by mutex_
  std::map<uint64_t, uint64_t> bad_;  // sector number to the hash of its content
  uint64_t seed_ = 0;
  uint64_t strikes_ = 0;
  uint64_t flipped_ = 0;
};

}  // namespace buse

#endif  // LAYERS_FAULT_PLAN_H_

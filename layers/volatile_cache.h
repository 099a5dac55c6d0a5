// SPDX-License-Identifier: Apache-2.0
//
// VolatileCache: the changes that a disk has acknowledged and may still lose, and what its medium may hold if they are.
//
// The model. The medium consists of sectors, and a sector is written whole or not at all. From the moment a change is in the
// cache until it is flushed, the disk may write any sector of it at any time, in any order, and each time it writes the sector
// as it then is. So after a power cut each sector holds, independently of all others, one of the values it has had since it
// was last flushed: what is on the medium, or that with the first change to the sector, or with the first two, and so on. All
// subsets of the changes, all reorderings and all torn writes are among these. A change of a part of a sector counts as a
// change of the sector.
//
// Not thread-safe. Allocates for every change. Searches all that it holds for every call.

#ifndef LAYERS_VOLATILE_CACHE_H_
#define LAYERS_VOLATILE_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"

namespace buse {

class VolatileCache {
 public:
  enum class Kind { kData, kZeroes, kTrim };

  // One change, or what is left of it.
  struct Change {
    Kind kind = Kind::kData;
    Range range;
    std::vector<std::byte> data;  // of kData only
  };

  // A part of a change, borrowed.
  struct Part {
    Kind kind;
    Range range;
    ConstBytes data;
  };

  // A part of the medium and the different values it may hold. The first is what is there now.
  struct Doubt {
    Range range;
    std::vector<std::vector<std::byte>> values;
  };

  // Adds a change, which is then the latest. `in` is for kData.
  void Add(Kind kind, Range range, ConstBytes in);

  // Puts the held bytes of the range over what the medium has there.
  void Overlay(uint64_t offset, Bytes out) const;

  // Calls `use` with what is held of the range, in the order in which it came, up to the first error.
  absl::Status ForEach(Range range, absl::FunctionRef<absl::Status(const Part&)> use) const;

  // Forgets what is held of the range, which must consist of whole sectors.
  void Remove(Range range);

  bool empty() const { return changes_.empty(); }
  const std::deque<Change>& changes() const { return changes_; }
  void RemoveOldest();
  void Clear();

  // How many bytes of the device the changes concern, each counted by itself.
  uint64_t bytes() const { return bytes_; }

  // Every part of a medium of `size` bytes about which there is doubt, in windows of `window` bytes from offset 0, ascending;
  // the medium is read by `read`. Where `window` is a sector, what the medium may hold is each combination of one value from
  // each doubt, and none comes twice. Larger windows give fewer combinations, all possible ones: within a window everything up
  // to one moment was written.
  absl::StatusOr<std::vector<Doubt>> Doubts(uint64_t window, uint64_t size,
                                            absl::FunctionRef<absl::Status(uint64_t offset, Bytes out)> read) const;

 private:
  std::deque<Change> changes_;
  uint64_t bytes_ = 0;
};

}  // namespace buse

#endif  // LAYERS_VOLATILE_CACHE_H_

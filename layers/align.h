// SPDX-License-Identifier: Apache-2.0
//
// Align: takes requests of any offset and length to a device that requires whole blocks. A write of a part of a block reads
// the block, changes the part and writes the block back.
//
// Family: transform.
// Guarantees: calls on disjoint bytes do not disturb one another, even within one block below. A power cut leaves each sector
// old or new, where the device below does (tests/power_cut); it does not make a block atomic.
// Passes on: every operation below has, its range widened to whole blocks. Trim and WriteZeroes write zeroes at the partial
// edges and hand the whole blocks on; a WriteThrough is durable, edges included. View and Backing only where the device below
// takes any offset already, since what they lend is used after the call, when nothing keeps a block from being rewritten.
// Concurrency: that of the device below. Where that is not kSerial, this layer locks ranges of blocks across its calls below:
//   kParallel  changing a part of a block excludes every other call in its blocks: it would undo a write that came between its
//              read and its write, and what runs beside its write has an unspecified outcome in all of the block.
//   kDisjoint  a call that touches a part of a block excludes its like: their bytes are disjoint, their blocks are not. A call
//              on whole blocks has them to itself and takes no lock.
// Cost: for each partial edge of a request one read of a block, and for a write also one write of it; a scratch block on the
// stack; under kParallel two short critical sections per call. None at all where the device below takes any offset.
// Failure: that of the device below, with one more victim: where writing a partial edge fails, all of that block is
// unspecified, its neighbouring bytes too, as the device below cannot be written in less.
//
//   using Stack = buse::Align<buse::Memory>;
//   Stack::Config config{.below = {.size = 64 << 20}};

#ifndef LAYERS_ALIGN_H_
#define LAYERS_ALIGN_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/range_mutex.h"

namespace buse {

template <Device B>
struct Align {
  using Below = B;

  static_assert(Below::kBlockSize <= 4096,
                "buse: Align keeps one block of the device below on the stack, so that kBlockSize must be at most 4096");

  struct Config {
    typename Below::Config below;
  };

  struct NoLock {};
  static constexpr bool kConverts = Below::kBlockSize != 1;
  static constexpr bool kLocks = kConverts && Below::kConcurrency != Concurrency::kSerial;

  struct State {
    typename Below::State below;
    [[no_unique_address]] std::conditional_t<kLocks, RangeMutex, NoLock> blocks;
  };

  static constexpr uint64_t kBlockSize = 1;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;

  static constexpr Description<Config> Describe() {
    return {"align", "takes any offset and length to a device that requires whole blocks", Family::kTransform};
  }

  static absl::Status Open(const Config& config, State& self) { return Below::Open(config.below, self.below); }

  static uint64_t Size(const State& self) { return Below::Size(self.below); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    const Range range = {offset, out.size()};
    [[maybe_unused]] const auto lock = Lock(self, range, Access::kLook);
    return Split(
        range,
        [&](Range whole) { return Below::Read(self.below, whole.offset, out.subspan(whole.offset - offset, whole.length)); },
        [&](Range part) {
          Block block;
          absl::Status status = Below::Read(self.below, RoundDown(part.offset), block);
          if (status.ok()) {
            std::memcpy(out.data() + (part.offset - offset), block.data() + part.offset % Below::kBlockSize, part.length);
          }
          return status;
        });
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    return Store(self, offset, in, [&](uint64_t at, ConstBytes bytes) { return Below::Write(self.below, at, bytes); });
  }

  static absl::Status Flush(State& self) requires CanFlush<Below> { return Below::Flush(self.below); }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<Below> {
    return Store(self, offset, in, [&](uint64_t at, ConstBytes bytes) { return Below::WriteThrough(self.below, at, bytes); });
  }

  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> {
    return Clear(self, range, [&](Range whole) { return Below::Trim(self.below, whole); });
  }

  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    return Clear(self, range, [&](Range whole) { return Below::WriteZeroes(self.below, whole); });
  }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) requires CanExtents<Below> {
    [[maybe_unused]] const auto lock = Lock(self, range, Access::kLook);
    return Below::Extents(self.below, Outward(range), [&](const Extent& extent) {
      // Never empty: extents are whole blocks, and `range` has bytes in each block of what was asked for.
      const uint64_t begin = std::max(extent.range.offset, range.offset);
      const uint64_t end = std::min(extent.range.end(), range.end());
      return emit({{begin, end - begin}, extent.kind});
    });
  }

  // What is true of a block is true of its parts.
  static absl::Status Residency(State& self, Range range, EmitResident emit) requires CanResidency<Below> {
    [[maybe_unused]] const auto lock = Lock(self, range, Access::kLook);
    return Below::Residency(self.below, Outward(range), [&](const Resident& resident) {
      const uint64_t begin = std::max(resident.range.offset, range.offset);
      const uint64_t end = std::min(resident.range.end(), range.end());
      return emit({{begin, end - begin}, resident.cached, resident.dirty});
    });
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    [[maybe_unused]] const auto lock = Lock(self, range, Access::kLook);
    return Below::Prefetch(self.below, Outward(range));
  }

  static absl::Status View(State& self, Range range, Gather& gather) requires(CanView<Below> && !kConverts) {
    return Below::View(self.below, range, gather);
  }

  static bool TryRead(State& self, uint64_t offset, Bytes out) requires(CanTryRead<Below> && !kConverts) {
    return Below::TryRead(self.below, offset, out);
  }

  static bool TryWrite(State& self, uint64_t offset, ConstBytes in) requires(CanTryWrite<Below> && !kConverts) {
    return Below::TryWrite(self.below, offset, in);
  }

  static absl::Status Place(State& self, Range range, Scatter& scatter) requires(CanPlace<Below> && !kConverts) {
    return Below::Place(self.below, range, scatter);
  }

  static absl::Status Placed(State& self, Range range) requires(CanPlaced<Below> && !kConverts) {
    return Below::Placed(self.below, range);
  }

  static std::optional<FileRange> Backing(State& self, Range range) requires(CanBacking<Below> && !kConverts) {
    return Below::Backing(self.below, range);
  }

  static absl::Status Resize(State& self, uint64_t size) requires CanResize<Below> {
    if (size % Below::kBlockSize != 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "align: a size of %d bytes is no multiple of the block size below, which is %d", size, Below::kBlockSize));
    }
    return Below::Resize(self.below, size);
  }

 private:
  using Block = std::array<std::byte, Below::kBlockSize>;
  enum class Access { kLook, kChange };

  static constexpr uint64_t RoundDown(uint64_t offset) { return offset - offset % Below::kBlockSize; }

  // The blocks in which the range has bytes. Does not wrap, since Size is a multiple of the block size.
  static constexpr Range Outward(Range range) {
    const uint64_t begin = RoundDown(range.offset);
    return {begin, RoundDown(range.end() - 1) + Below::kBlockSize - begin};
  }

  // What keeps the call from the others that may run: see Concurrency above.
  static auto Lock(State& self, Range range, Access access) {
    if constexpr (!kLocks) {
      return NoLock{};
    } else {
      using Guard = std::optional<RangeMutex::Guard>;
      const Range blocks = Outward(range);
      const bool partial = blocks != range;
      if (kConcurrency == Concurrency::kDisjoint) {
        return partial ? Guard(std::in_place, self.blocks, blocks, RangeMutex::Mode::kExclusive) : Guard();
      }
      const bool exclusive = partial && access == Access::kChange;
      return Guard(std::in_place, self.blocks, blocks, exclusive ? RangeMutex::Mode::kExclusive : RangeMutex::Mode::kShared);
    }
  }

  // Calls, in order, `whole` with the whole blocks of the range and `part` with what it has of a block, up to the first error.
  template <class Whole, class Part>
  static absl::Status Split(Range range, Whole whole, Part part) {
    if constexpr (!kConverts) {
      return whole(range);
    } else {
      for (uint64_t at = range.offset; at < range.end();) {
        const uint64_t skipped = at % Below::kBlockSize;
        const uint64_t left = range.end() - at;
        const bool is_whole = skipped == 0 && left >= Below::kBlockSize;
        const uint64_t length = is_whole ? RoundDown(left) : std::min(Below::kBlockSize - skipped, left);
        absl::Status status = is_whole ? whole(Range{at, length}) : part(Range{at, length});
        if (!status.ok()) return status;
        at += length;
      }
      return absl::OkStatus();
    }
  }

  // Has `change` edit the bytes of `part`, which lies in one block, and `put` write that block.
  template <class Change, class Put>
  static absl::Status Modify(State& self, Range part, Change change, Put put) {
    Block block;
    const uint64_t at = RoundDown(part.offset);
    if (absl::Status status = Below::Read(self.below, at, block); !status.ok()) return status;
    change(block.data() + (part.offset - at));
    return put(at, ConstBytes(block));
  }

  template <class Put>
  static absl::Status Store(State& self, uint64_t offset, ConstBytes in, Put put) {
    const Range range = {offset, in.size()};
    [[maybe_unused]] const auto lock = Lock(self, range, Access::kChange);
    return Split(
        range, [&](Range whole) { return put(whole.offset, in.subspan(whole.offset - offset, whole.length)); },
        [&](Range part) {
          const auto change = [&](std::byte* bytes) { std::memcpy(bytes, in.data() + (part.offset - offset), part.length); };
          return Modify(self, part, change, put);
        });
  }

  template <class Whole>
  static absl::Status Clear(State& self, Range range, Whole whole) {
    [[maybe_unused]] const auto lock = Lock(self, range, Access::kChange);
    return Split(range, whole, [&](Range part) {
      const auto change = [&](std::byte* bytes) { std::memset(bytes, 0, part.length); };
      return Modify(self, part, change, [&](uint64_t at, ConstBytes bytes) { return Below::Write(self.below, at, bytes); });
    });
  }
};

}  // namespace buse

#endif  // LAYERS_ALIGN_H_

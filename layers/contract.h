// SPDX-License-Identifier: Apache-2.0
//
// Contract: aborts, with a sentence that says who broke what, where the contract of buse/device.h is broken above or below it.
// For tests and debugging, in every build: `Contract<Layer<Contract<Leaf>>>` watches a layer from both sides.
//
// Family: observer.
// Guarantees: a call that arrives below keeps these preconditions, and one that returns kept these postconditions:
//   above  Open is called once and first; a range is not empty, does not wrap, ends within Size and is aligned to kBlockSize,
//          and so is the size of a Resize; calls run together only as kConcurrency allows. Flush has no range and under
//          kDisjoint may run beside anything; Resize concerns all bytes and runs alone.
//   below  Size is a multiple of kBlockSize; Extents emits aligned, not empty extents in order, without gaps, inside the
//          range, at least one, and none after it was told to stop; View and Place append exactly the bytes asked for unless
//          they overflow; what Trim and WriteZeroes zeroed, and Resize added, reads as zeroes; Resize leaves the size asked
//          for.
// Zeroes are looked for in the first and the last MiB of the range, where no other call ran meanwhile that may have changed
// them, and where a block fits in 4 KiB of stack.
// Concurrency: that of the device below.
// Cost: two short critical sections per call; one read of what was zeroed.
// Failure: that of the device below; a broken contract aborts.
//
//   using Stack = buse::Contract<buse::Memory>;
//   Stack::Config config{.below = {.size = 64 << 20}};

#ifndef LAYERS_CONTRACT_H_
#define LAYERS_CONTRACT_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "buse/scatter.h"
#include "layers/contract_calls.h"
#include "layers/operation.h"

namespace buse {

template <Device B>
struct Contract {
  using Below = B;

  struct Config {
    typename Below::Config below;
  };

  struct State {
    typename Below::State below;
    contract_internal::Calls calls;
    bool open_called = false;
    bool open = false;
  };

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;
  static constexpr bool kMayPark = true;

  static constexpr Description<Config> Describe() {
    return {"contract", "aborts where the contract of a device is broken above or below", Family::kObserver};
  }

  static absl::Status Open(const Config& config, State& self) {
    if (self.open_called) contract_internal::Fail(Name(), "open", 0, Side::kAbove, "Open needs a fresh State");
    self.open_called = true;
    absl::Status status = Below::Open(config.below, self.below);
    self.open = status.ok();
    if (self.open) Size(self);
    return status;
  }

  static uint64_t Size(const State& self) {
    if (!self.open) contract_internal::Fail(Name(), "size", 0, Side::kAbove, "the device is not open");
    const uint64_t size = Below::Size(self.below);
    if (size % kBlockSize != 0) {
      contract_internal::Fail(Name(), "size", size, Side::kBelow, "Size must be a multiple of kBlockSize" + BlockSize());
    }
    return size;
  }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    Entry entry(self, Operation::kRead, {offset, out.size()});
    return Below::Read(self.below, offset, out);
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    Entry entry(self, Operation::kWrite, {offset, in.size()});
    return Below::Write(self.below, offset, in);
  }

  static absl::Status Flush(State& self) requires CanFlush<Below> {
    Entry entry(self, Operation::kFlush, {});
    return Below::Flush(self.below);
  }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<Below> {
    Entry entry(self, Operation::kWriteThrough, {offset, in.size()});
    return Below::WriteThrough(self.below, offset, in);
  }

  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> {
    Entry entry(self, Operation::kTrim, range);
    absl::Status status = Below::Trim(self.below, range);
    if (status.ok()) entry.ExpectZeroes(range);
    return status;
  }

  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    Entry entry(self, Operation::kWriteZeroes, range);
    absl::Status status = Below::WriteZeroes(self.below, range);
    if (status.ok()) entry.ExpectZeroes(range);
    return status;
  }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) requires CanExtents<Below> {
    Entry entry(self, Operation::kExtents, range);
    uint64_t next = range.offset;
    bool more = true;
    absl::Status status = Below::Extents(self.below, range, [&](const Extent& extent) {
      const Range got = extent.range;
      entry.Ensure(more, "Extents must emit nothing after it was told to stop");
      entry.Ensure(got.length > 0, "an extent must not be empty");
      entry.Ensure(got.offset == next, "extents must come in order and without gaps");
      entry.Ensure(got.length <= range.end() - next, "an extent must not reach past the range");
      entry.Ensure(got.length % kBlockSize == 0, "an extent must be aligned to kBlockSize" + BlockSize());
      next = got.end();
      more = emit(extent);
      return more;
    });
    if (status.ok()) entry.Ensure(next != range.offset, "Extents must emit at least one extent");
    return status;
  }

  static absl::Status Residency(State& self, Range range, EmitResident emit) requires CanResidency<Below> {
    Entry entry(self, Operation::kResidency, range);
    uint64_t next = range.offset;
    bool more = true;
    absl::Status status = Below::Residency(self.below, range, [&](const Resident& resident) {
      const Range got = resident.range;
      entry.Ensure(more, "Residency must emit nothing after it was told to stop");
      entry.Ensure(got.length > 0 && got.offset == next && got.length <= range.end() - next,
                   "what Residency emits must come in order, without gaps, not be empty and lie within the range");
      entry.Ensure(got.length % kBlockSize == 0, "what Residency emits must be aligned to kBlockSize" + BlockSize());
      entry.Ensure(resident.cached || !resident.dirty, "what Residency calls dirty must be cached");
      next = got.end();
      more = emit(resident);
      return more;
    });
    if (status.ok()) entry.Ensure(next != range.offset, "Residency must emit something");
    return status;
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    Entry entry(self, Operation::kPrefetch, range);
    return Below::Prefetch(self.below, range);
  }

  static absl::Status View(State& self, Range range, Gather& gather) requires CanView<Below> {
    Entry entry(self, Operation::kView, range);
    const size_t before = gather.bytes();
    absl::Status status = Below::View(self.below, range, gather);
    if (status.ok() && !gather.overflowed()) {
      entry.Ensure(gather.bytes() - before == range.length, "View must append exactly the bytes asked for");
    }
    return status;
  }

  static bool TryRead(State& self, uint64_t offset, Bytes out) requires CanTryRead<Below> {
    Entry entry(self, Operation::kRead, {offset, out.size()});
    return Below::TryRead(self.below, offset, out);
  }

  static bool TryWrite(State& self, uint64_t offset, ConstBytes in) requires CanTryWrite<Below> {
    Entry entry(self, Operation::kWrite, {offset, in.size()});
    return Below::TryWrite(self.below, offset, in);
  }

  static absl::Status Place(State& self, Range range, Scatter& scatter) requires CanPlace<Below> {
    Entry entry(self, Operation::kWrite, range);
    const size_t before = scatter.bytes();
    absl::Status status = Below::Place(self.below, range, scatter);
    if (status.ok() && !scatter.overflowed()) {
      entry.Ensure(scatter.bytes() - before == range.length, "Place must append exactly the bytes asked for");
    }
    return status;
  }

  static absl::Status Placed(State& self, Range range) requires CanPlaced<Below> {
    Entry entry(self, Operation::kWrite, range);
    return Below::Placed(self.below, range);
  }

  static absl::Status Resize(State& self, uint64_t size) requires CanResize<Below> {
    const uint64_t before = Size(self);
    Entry entry(self, Operation::kResize, {0, size});
    absl::Status status = Below::Resize(self.below, size);
    if (!status.ok()) return status;
    entry.Ensure(Size(self) == size, "Resize must leave the size asked for");
    if (size > before) entry.ExpectZeroes({before, size - before});
    return status;
  }

 private:
  using Side = contract_internal::Side;

  static absl::string_view Name() {
    if constexpr (requires { Below::Describe().name; }) {
      return Below::Describe().name;
    } else {
      return "a device";
    }
  }

  static std::string BlockSize() { return ", which is " + std::to_string(kBlockSize); }

  // One call, from its preconditions to its end.
  class Entry {
   public:
    Entry(State& self, Operation operation, Range range) : self_(self), call_{operation, range} {
      if (!self_.open) Fail(0, Side::kAbove, "the device is not open");
      const std::string beside = self_.calls.Enter(call_, kConcurrency);
      const uint64_t size = Size(self_);
      if (!beside.empty()) Fail(size, Side::kAbove, beside);
      if (operation == Operation::kFlush) return;
      if (operation != Operation::kResize) {
        if (range.length == 0) Fail(size, Side::kAbove, "the range must not be empty");
        if (range.length > UINT64_MAX - range.offset) Fail(size, Side::kAbove, "offset + length must not wrap");
        if (range.end() > size) Fail(size, Side::kAbove, "the range must end within Size");
      }
      if (range.offset % kBlockSize != 0 || range.length % kBlockSize != 0) {
        Fail(size, Side::kAbove, "offset and length must be multiples of kBlockSize" + BlockSize());
      }
    }
    ~Entry() { self_.calls.Leave(call_); }
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;

    // A postcondition.
    void Ensure(bool kept, absl::string_view clause) {
      if (!kept) Fail(Below::Size(self_.below), Side::kBelow, clause);
    }

    void ExpectZeroes(Range range) {
      if constexpr (kBlockSize <= 4096) {
        static constexpr uint64_t kEnd = (1 << 20) / kBlockSize * kBlockSize;
        const uint64_t head = std::min(range.length, kEnd);
        const uint64_t tail = std::min(range.length - head, kEnd);
        Ensure(ReadsAsZeroes({range.offset, head}) && ReadsAsZeroes({range.end() - tail, tail}),
               "the range must read as zeroes afterwards");
      }
    }

   private:
    [[noreturn]] void Fail(uint64_t size, Side side, absl::string_view clause) {
      contract_internal::Fail(Name(), contract_internal::ToString(call_.operation, call_.range), size, side, clause);
    }

    // True also where it cannot be told: reading failed, or another call may have written.
    bool ReadsAsZeroes(Range range) {
      std::array<std::byte, 4096 / kBlockSize * kBlockSize> piece;
      while (range.length > 0 && self_.calls.Alone(call_)) {
        const uint64_t n = std::min<uint64_t>(range.length, piece.size());
        if (!Below::Read(self_.below, range.offset, Bytes(piece.data(), n)).ok()) return true;
        const bool zero = std::all_of(piece.begin(), piece.begin() + n, [](std::byte b) { return b == std::byte{0}; });
        if (!zero) return !self_.calls.Alone(call_);
        range = {range.offset + n, range.length - n};
      }
      return true;
    }

    State& self_;
    contract_internal::Call call_;
  };
};

}  // namespace buse

#endif  // LAYERS_CONTRACT_H_

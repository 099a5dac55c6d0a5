// SPDX-License-Identifier: Apache-2.0
//
// The device contract: what a type must offer to be a block device, and what it may offer besides.
//
// A device is an empty struct of static functions over an explicit `State`. A layer is a device that is a template over the
// device below it: its `State` and `Config` hold the ones below as `below`, and it names that device `Below` (a `std::tuple`
// of devices where it has several branches).
//
//   struct Config;                   plain aggregate with defaults; `below` is its last member
//   struct State;                    default-constructed, need not move; `below` is its first member; its destructor
//                                    releases resources and does no I/O: what must last went through Flush
//   kBlockSize                       bytes; offsets and lengths must be multiples of it. 1 means any
//   kConcurrency                     which calls may run at the same time, see Concurrency
//   kWaits                           whether calls may wait for more than memory and each other: a disk, a network, a clock.
//                                    May be left out: then whether those below do, and a leaf is taken to. buse::Waits tells
//   kMayPark                         true: Read and Write hold no lock across the calls below or the system's, and keep nothing
//                                    in the thread, so that other calls may run in it meanwhile. May be left out: then false.
//                                    Counts where all below say so too. buse::MayPark tells
//   Status Open(const Config&, State&)                           opens the device below first; the State is fresh
//   uint64_t Size(const State&)                                  bytes, a multiple of kBlockSize
//   Status Read(State&, uint64_t offset, span<byte> out)         OK: all of `out` is filled
//   Status Write(State&, uint64_t offset, span<const byte> in)   OK: every later Read sees it. Needs Flush.
//   Status Flush(State&)                 OK: all writes that completed before the call are durable
//   Status WriteThrough(State&, uint64_t offset, span<const byte> in)   Write, and this write is durable
//   Status Trim(State&, Range)           OK: reads as zeroes; space may be released
//   Status WriteZeroes(State&, Range)    OK: reads as zeroes; space stays allocated
//   Status Extents(State&, Range, EmitExtent)   emits a non-empty prefix of the range, in order, without gaps
//   Status Residency(State&, Range, EmitResident)   emits a prefix likewise: what is in memory, and what of that is only there
//   Status Prefetch(State&, Range)       a hint: the range will be read soon
//   Status View(State&, Range, Gather&)  OK: the bytes were appended in order; valid until the gather is released, for which no
//                                        View may wait
//   Status Place(State&, Range, Scatter&)   OK: where the bytes of a write to come lie was appended in order, for the caller to
//                                        put them there. By itself it changes nothing. Needs Placed and Write
//   Status Placed(State&, Range)         follows a Place of this very range once bytes were put there, if only a part of them.
//                                        OK: as after a Write; what was not put there is unspecified
//   bool TryRead(State&, uint64_t offset, span<byte> out)          true: read, as by Read, and nothing was waited for but memory
//                                        and other calls. False: it may have to wait, or failed; as after a failed Read
//   bool TryWrite(State&, uint64_t offset, span<const byte> in)    the same for Write
//   optional<FileRange> Backing(State&, Range)   the file in which these very bytes lie, if they do
//   Status Resize(State&, uint64_t size) OK: Size is the new one; what was added reads as zeroes. kInvalidArgument: it cannot
//                                        have that size
//   bool Writable(const State&)          false: opened read-only. Absent: what the devices below say
//   Status Format(const Config&, decltype(State::below)&, Progress)   of a layer with a format of its own on the device below:
//   Status Check(State&, const CheckReport&)                          makes the medium, and reads all of it; buse/medium.h
//   StatusOr<MemoryContents> HandOver(State&), void Adopt(Config&, const MemoryContents&)   of a leaf that keeps its bytes in
//                                        memory: for the process that takes over from this one; buse/handover.h
//   Describe()                           the layer's name, options and help: buse/description.h
//
// Mandatory: Config, State, the constants, Open, Size, Read. Any other function is offered by being there and refused by
// being absent; one that would always fail must be absent. Generic code calls what may be absent through buse/operations.h.
//
// Preconditions of every call, which the caller must keep (buse::Disk and the server check them; buse::Contract asserts them):
// the device is open, ranges lie within Size, are aligned to kBlockSize and are not empty; what changes the device is only
// called where it is writable. A State whose Open failed may only be destroyed.
//
// Extents are aligned to kBlockSize too, so that a caller can go on where a prefix ended; its callback must not call the
// device. Flush has no range: it may run beside any call but under kSerial. Resize runs alone. A View that fails may leave
// pieces in the gather, which the caller drops by its mark; what a View has released when its pieces were used may run beside
// any call. From Place to Placed, or until the caller gives up without having put anything there, a Write of the range counts
// as running, for as long as a client takes to send it: what is put there may be seen before Placed, half of it too, and Read
// and Trim of the range beside it must bear that. So a layer offers Place only where its bytes may be seen half-written, and
// where nothing need be known of a write before its bytes are there.
//
// Errors are values (buse/status.h says what each code means to a client). A failed Write, Trim or WriteZeroes leaves its own
// range unspecified, in whole blocks of the device that holds the bytes, and touches nothing else. kDataLoss means "these bytes
// are wrong" and nothing else.

#ifndef BUSE_DEVICE_H_
#define BUSE_DEVICE_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace buse {

class Gather;
class Scatter;

using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;

// Which calls on one State may run at the same time, from least to most. A layer may lower what is below it; only a layer
// made for it (a lock) may raise it.
enum class Concurrency {
  kSerial,    // one call at a time
  kDisjoint,  // calls whose ranges do not overlap, counted in blocks of this device's kBlockSize
  kParallel,  // any calls; the outcome of overlapping ones is unspecified within the overlap, and stable once they returned
};

// Bytes [offset, offset + length) of a device. Does not wrap.
struct Range {
  uint64_t offset = 0;
  uint64_t length = 0;

  constexpr uint64_t end() const { return offset + length; }
  friend constexpr bool operator==(const Range&, const Range&) = default;
};

struct Extent {
  enum class Kind {
    kData,  // anything
    kZero,  // allocated, reads as zeroes
    kHole,  // reads as zeroes; not allocated, or not to anyone's knowledge
  };
  Range range;
  Kind kind = Kind::kData;

  friend constexpr bool operator==(const Extent&, const Extent&) = default;
};

// Takes the next extent. Returns false to end the enumeration early.
using EmitExtent = absl::FunctionRef<bool(const Extent&)>;

// Where bytes are that a device may keep in memory.
struct Resident {
  Range range;
  bool cached = false;  // in memory, so that reading them waits for nothing
  bool dirty = false;   // only there: a Flush has something to do. What is dirty is cached

  bool AlikeIn(const Resident& other) const { return cached == other.cached && dirty == other.dirty; }
  friend constexpr bool operator==(const Resident&, const Resident&) = default;
};

// As EmitExtent.
using EmitResident = absl::FunctionRef<bool(const Resident&)>;

// Bytes of a device that are bytes of an open file.
struct FileRange {
  int fd = -1;
  uint64_t offset = 0;
};

// ---- What a device offers beyond the mandatory. Each is true if the call is well-formed, so a layer passes an operation on
// ---- with a `requires` clause, and an omission is a missing capability, never a call that slips past the layer.

template <class D>
concept CanWrite = requires(typename D::State& self, uint64_t offset, ConstBytes in) {
  { D::Write(self, offset, in) } -> std::same_as<absl::Status>;
};
template <class D>
concept CanFlush = requires(typename D::State& self) {
  { D::Flush(self) } -> std::same_as<absl::Status>;
};
template <class D>
concept CanWriteThrough = requires(typename D::State& self, uint64_t offset, ConstBytes in) {
  { D::WriteThrough(self, offset, in) } -> std::same_as<absl::Status>;
};
template <class D>
concept CanTrim = requires(typename D::State& self, Range range) {
  { D::Trim(self, range) } -> std::same_as<absl::Status>;
};
template <class D>
concept CanWriteZeroes = requires(typename D::State& self, Range range) {
  { D::WriteZeroes(self, range) } -> std::same_as<absl::Status>;
};
template <class D>
concept CanExtents = requires(typename D::State& self, Range range, EmitExtent emit) {
  { D::Extents(self, range, emit) } -> std::same_as<absl::Status>;
};
template <class D>
concept CanResidency = requires(typename D::State& self, Range range, EmitResident emit) {
  { D::Residency(self, range, emit) } -> std::same_as<absl::Status>;
};
template <class D>
concept CanPrefetch = requires(typename D::State& self, Range range) {
  { D::Prefetch(self, range) } -> std::same_as<absl::Status>;
};
template <class D>
concept CanView = requires(typename D::State& self, Range range, Gather& gather) {
  { D::View(self, range, gather) } -> std::same_as<absl::Status>;
};
template <class D>
concept CanPlace = requires(typename D::State& self, Range range, Scatter& scatter) {
  { D::Place(self, range, scatter) } -> std::same_as<absl::Status>;
};
template <class D>
concept CanPlaced = requires(typename D::State& self, Range range) {
  { D::Placed(self, range) } -> std::same_as<absl::Status>;
};
template <class D>
concept CanTryRead = requires(typename D::State& self, uint64_t offset, Bytes out) {
  { D::TryRead(self, offset, out) } -> std::same_as<bool>;
};
template <class D>
concept CanTryWrite = requires(typename D::State& self, uint64_t offset, ConstBytes in) {
  { D::TryWrite(self, offset, in) } -> std::same_as<bool>;
};
template <class D>
concept CanBacking = requires(typename D::State& self, Range range) {
  { D::Backing(self, range) } -> std::same_as<std::optional<FileRange>>;
};
template <class D>
concept CanResize = requires(typename D::State& self, uint64_t size) {
  { D::Resize(self, size) } -> std::same_as<absl::Status>;
};
template <class D>
concept CanSayWritable = requires(const typename D::State& self) {
  { D::Writable(self) } -> std::same_as<bool>;
};

namespace device_internal {

template <class D>
concept HasTypes = std::is_empty_v<D> && requires {
  typename D::Config;
  typename D::State;
};
template <class D>
concept HasConstants = requires {
  { D::kBlockSize } -> std::convertible_to<uint64_t>;
  { D::kConcurrency } -> std::convertible_to<Concurrency>;
};
template <class D>
concept HasOpen = requires(const typename D::Config& config, typename D::State& self) {
  { D::Open(config, self) } -> std::same_as<absl::Status>;
};
template <class D>
concept HasSize = requires(const typename D::State& self) {
  { D::Size(self) } -> std::same_as<uint64_t>;
};
template <class D>
concept HasRead = requires(typename D::State& self, uint64_t offset, Bytes out) {
  { D::Read(self, offset, out) } -> std::same_as<absl::Status>;
};

// One sentence for the first rule that `D` breaks, in place of a page of unsatisfied constraints.
template <class D>
consteval bool IsDevice() {
  if constexpr (!HasTypes<D>) {
    static_assert(HasTypes<D>, "buse: this is no device: a device is an empty struct with nested types Config and State");
  } else {
    static_assert(HasConstants<D>, "buse: this device lacks a constant: it needs kBlockSize and kConcurrency");
    static_assert(HasOpen<D>, "buse: this device lacks Open: absl::Status Open(const Config&, State&)");
    static_assert(HasSize<D>, "buse: this device lacks Size: uint64_t Size(const State&)");
    static_assert(HasRead<D>, "buse: this device lacks Read: absl::Status Read(State&, uint64_t offset, std::span<std::byte>)");
    static_assert(
        !CanWrite<D> || CanFlush<D>,
        "buse: a device with Write needs Flush: absl::Status Flush(State&). Without it, what was written could be lost "
        "and nobody would know. (A layer's Write is there only where it says requires CanWrite<Below>)");
    static_assert(CanWrite<D> || !(CanWriteThrough<D> || CanTrim<D> || CanWriteZeroes<D>),
                  "buse: a device without Write is read-only, so it cannot have WriteThrough, Trim or WriteZeroes. (A "
                  "Write of another signature than that in buse/device.h does not count)");
    static_assert(
        CanPlace<D> == CanPlaced<D> && (CanWrite<D> || !CanPlace<D>),
        "buse: Place, Placed and Write come together: absl::Status Place(State&, Range, Scatter&) lends the place of a "
        "write, absl::Status Placed(State&, Range) completes it, and Write does both where Place cannot");
    if constexpr (HasConstants<D>) static_assert(D::kBlockSize >= 1, "buse: kBlockSize is in bytes and at least 1");
  }
  return true;
}

}  // namespace device_internal

// A legal device. Where it is not, compilation ends with the sentence that says why: use it as a requirement, not as a
// question.
template <class D>
concept Device = device_internal::IsDevice<D>();

}  // namespace buse

#endif  // BUSE_DEVICE_H_

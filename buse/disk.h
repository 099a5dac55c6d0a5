// SPDX-License-Identifier: Apache-2.0
//
// Disk: an opened stack as a value. The door for programs that use a block device themselves rather than serve it.

#ifndef BUSE_DISK_H_
#define BUSE_DISK_H_

#include <cassert>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "buse/device.h"
#include "buse/operations.h"

namespace buse {

namespace disk_internal {

inline absl::Status CheckRange(absl::string_view operation, Range range, uint64_t size, uint64_t block_size) {
  // In this order nothing overflows.
  if (range.offset <= size && range.length <= size - range.offset && range.offset % block_size == 0 &&
      range.length % block_size == 0) {
    return absl::OkStatus();
  }
  const std::string which = absl::StrCat(operation, " of ", range.length, " bytes at offset ", range.offset);
  if (range.offset > size || range.length > size - range.offset) {
    return absl::InvalidArgumentError(absl::StrCat(which, " reaches past the end: the device has ", size, " bytes"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(which, " is not aligned: offset and length must be multiples of ", block_size, " bytes"));
}

}  // namespace disk_internal

// A movable handle that owns the state of an opened stack. Destruction closes it and does no I/O: what must last was flushed.
//
// Units: offsets, lengths and sizes are in bytes; offsets and lengths must be multiples of block_size(). An empty range is OK
// and does nothing.
//
// Errors: kInvalidArgument for a range that is not aligned or reaches past the end, kPermissionDenied for a change to a device
// that was opened read-only; both name the numbers, and then nothing was done. All others come from the stack and mean what
// buse/status.h says. A change that failed leaves its own range unspecified and touches nothing else. What a stack cannot do
// at all does not compile.
//
// Concurrency: that of Stack::kConcurrency, and keeping to it is up to the caller. Moving is not concurrent with anything.
template <Device Stack>
class Disk {
 public:
  static absl::StatusOr<Disk> Open(const typename Stack::Config& config) {
    auto state = std::make_unique<typename Stack::State>();
    if (absl::Status status = Stack::Open(config, *state); !status.ok()) return status;
    return Disk(std::move(state));
  }

  // Closes the stack, and opens it again in its place: references to the state stay good. Until Reopen has succeeded, nothing
  // else may be called.
  void Close() {
    std::destroy_at(&state());
    std::construct_at(state_.get());
  }
  absl::Status Reopen(const typename Stack::Config& config) {
    Close();
    return Stack::Open(config, state());
  }

  uint64_t size() const { return Stack::Size(state()); }
  static constexpr uint64_t block_size() { return Stack::kBlockSize; }
  // False: changes are refused.
  bool writable() const { return buse::Writable<Stack>(state()); }

  // Fills all of `out`.
  absl::Status Read(uint64_t offset, Bytes out) {
    if (out.empty()) return absl::OkStatus();
    if (absl::Status status = Check("Read", {offset, out.size()}); !status.ok()) return status;
    return Stack::Read(state(), offset, out);
  }

  // Every later Read sees what was written. It is durable after the next Flush.
  absl::Status Write(uint64_t offset, ConstBytes in) requires CanWrite<Stack> {
    if (in.empty()) return absl::OkStatus();
    if (absl::Status status = CheckChange("Write", {offset, in.size()}); !status.ok()) return status;
    return Stack::Write(state(), offset, in);
  }

  // Makes all changes that completed before the call durable.
  absl::Status Flush() requires CanFlush<Stack> { return Stack::Flush(state()); }

  // Writes and makes this write durable.
  absl::Status WriteThrough(uint64_t offset, ConstBytes in) requires CanWrite<Stack> {
    if (in.empty()) return absl::OkStatus();
    if (absl::Status status = CheckChange("WriteThrough", {offset, in.size()}); !status.ok()) return status;
    return buse::WriteThrough<Stack>(state(), offset, in);
  }

  // Makes the range read as zeroes; its space may be released.
  absl::Status Trim(Range range) requires CanTrim<Stack> {
    if (range.length == 0) return absl::OkStatus();
    if (absl::Status status = CheckChange("Trim", range); !status.ok()) return status;
    return Stack::Trim(state(), range);
  }

  // Makes the range read as zeroes and keeps its space.
  absl::Status WriteZeroes(Range range) requires CanWrite<Stack> {
    if (range.length == 0) return absl::OkStatus();
    if (absl::Status status = CheckChange("WriteZeroes", range); !status.ok()) return status;
    return buse::WriteZeroes<Stack>(state(), range);
  }

  // Emits what is allocated in a non-empty prefix of the range, in order.
  absl::Status Extents(Range range, EmitExtent emit) {
    if (range.length == 0) return absl::OkStatus();
    if (absl::Status status = Check("Extents", range); !status.ok()) return status;
    return buse::Extents<Stack>(state(), range, emit);
  }

  // Hints that the range will be read soon.
  absl::Status Prefetch(Range range) {
    if (range.length == 0) return absl::OkStatus();
    if (absl::Status status = Check("Prefetch", range); !status.ok()) return status;
    return buse::Prefetch<Stack>(state(), range);
  }

  // The stack itself, for a server: it checks ranges on its own.
  typename Stack::State& state() {
    assert(state_ != nullptr && "this Disk was moved from");
    return *state_;
  }
  const typename Stack::State& state() const {
    assert(state_ != nullptr && "this Disk was moved from");
    return *state_;
  }

 private:
  explicit Disk(std::unique_ptr<typename Stack::State> state) : state_(std::move(state)) {}

  absl::Status Check(absl::string_view operation, Range range) const {
    return disk_internal::CheckRange(operation, range, size(), block_size());
  }

  absl::Status CheckChange(absl::string_view operation, Range range) const {
    if (!writable()) {
      return absl::PermissionDeniedError(absl::StrCat(operation, " of ", range.length, " bytes at offset ", range.offset,
                                                      ": the device was opened read-only"));
    }
    return Check(operation, range);
  }

  std::unique_ptr<typename Stack::State> state_;
};

}  // namespace buse

#endif  // BUSE_DISK_H_

// SPDX-License-Identifier: Apache-2.0
//
// DeviceIo: a device behind virtual functions, for the parts of a layer that are compiled once and not for each stack.
//
//   DeviceIoOf<Below> io(self.below);  // on the stack of a call; borrows the state
//   store.Flush(io);
//
// Operations that the device may lack are those of buse/operations.h. What changes a device must not be called on one that
// cannot be written.

#ifndef LAYERS_DEVICE_IO_H_
#define LAYERS_DEVICE_IO_H_

#include <cassert>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"
#include "buse/operations.h"

namespace buse {

class DeviceIo {
 public:
  virtual absl::Status Read(uint64_t offset, Bytes out) = 0;
  virtual absl::Status Write(uint64_t offset, ConstBytes in) = 0;
  virtual absl::Status WriteThrough(uint64_t offset, ConstBytes in) = 0;
  virtual absl::Status Flush() = 0;
  // Makes the range read as zeroes; where `release` is set, by Trim if there is one.
  virtual absl::Status Zero(Range range, bool release) = 0;
  // The first of what Extents says.
  virtual absl::StatusOr<Extent> FirstExtent(Range range) = 0;

  // False: of Read only what needs no waiting is done, by TryRead. All else fails with kCancelled, and so shall whoever calls
  // this where he would wait for another call.
  virtual bool may_wait() const { return true; }

 protected:
  ~DeviceIo() = default;
};

template <Device B>
class DeviceIoOf : public DeviceIo {
 public:
  explicit DeviceIoOf(typename B::State& state) : state_(state) {}

  absl::Status Read(uint64_t offset, Bytes out) override { return B::Read(state_, offset, out); }

  absl::Status Write(uint64_t offset, ConstBytes in) override {
    if constexpr (CanWrite<B>) return B::Write(state_, offset, in);
    return ReadOnly();
  }

  absl::Status WriteThrough(uint64_t offset, ConstBytes in) override {
    if constexpr (CanWrite<B>) return buse::WriteThrough<B>(state_, offset, in);
    return ReadOnly();
  }

  absl::Status Flush() override {
    if constexpr (CanWrite<B>) return B::Flush(state_);
    return ReadOnly();
  }

  absl::Status Zero(Range range, bool release) override {
    if constexpr (CanWrite<B>) return release ? buse::Zero<B>(state_, range) : buse::WriteZeroes<B>(state_, range);
    return ReadOnly();
  }

  absl::StatusOr<Extent> FirstExtent(Range range) override {
    Extent first = {range, Extent::Kind::kData};
    absl::Status status = buse::Extents<B>(state_, range, [&](const Extent& extent) {
      first = extent;
      return false;
    });
    if (!status.ok()) return status;
    return first;
  }

 private:
  static absl::Status ReadOnly() {
    assert(false && "a change to a device that cannot be written");
    return absl::PermissionDeniedError("the device below cannot be written");
  }

  typename B::State& state_;
};

// For a TryRead. Only Read may be called.
template <Device B>
class TryingIoOf final : public DeviceIoOf<B> {
 public:
  explicit TryingIoOf(typename B::State& state) : DeviceIoOf<B>(state), state_(state) {}

  absl::Status Read(uint64_t offset, Bytes out) override {
    return TryRead<B>(state_, offset, out) ? absl::OkStatus() : absl::Status(absl::StatusCode::kCancelled, "");
  }

  bool may_wait() const override { return false; }

 private:
  typename B::State& state_;
};

}  // namespace buse

#endif  // LAYERS_DEVICE_IO_H_

// SPDX-License-Identifier: Apache-2.0
//
// The operations a device may leave out, for any device: its own where it has one, else what the contract says absence means.
// Preconditions and errors are those of the contract (buse/device.h).

#ifndef BUSE_OPERATIONS_H_
#define BUSE_OPERATIONS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "buse/device.h"

namespace buse {

// Writes and makes this write durable (FUA). Absent: Write, then Flush.
template <Device D>
requires CanWrite<D> absl::Status WriteThrough(typename D::State& self, uint64_t offset, ConstBytes in) {
  if constexpr (CanWriteThrough<D>) {
    return D::WriteThrough(self, offset, in);
  } else {
    absl::Status status = D::Write(self, offset, in);
    return status.ok() ? D::Flush(self) : status;
  }
}

// Makes the range read as zeroes and keeps its space. Absent: zeroes are written, at most 64 KiB with each Write.
template <Device D>
requires CanWrite<D> absl::Status WriteZeroes(typename D::State& self, Range range) {
  if constexpr (CanWriteZeroes<D>) {
    return D::WriteZeroes(self, range);
  } else {
    // A multiple of the block size, so that every piece stays aligned.
    static constexpr size_t kPiece = std::max<size_t>(1, 65536 / D::kBlockSize) * D::kBlockSize;
    alignas(4096) static constexpr std::array<std::byte, kPiece> kZeroes{};
    while (range.length > 0) {
      const uint64_t n = std::min<uint64_t>(range.length, kPiece);
      if (absl::Status status = D::Write(self, range.offset, ConstBytes(kZeroes.data(), n)); !status.ok()) return status;
      range = {range.offset + n, range.length - n};
    }
    return absl::OkStatus();
  }
}

// Makes the range read as zeroes by the cheapest means: Trim where it is offered, which may release space.
template <Device D>
requires CanWrite<D> absl::Status Zero(typename D::State& self, Range range) {
  if constexpr (CanTrim<D>) {
    return D::Trim(self, range);
  } else {
    return buse::WriteZeroes<D>(self, range);
  }
}

// Says what is allocated. Absent: all is data.
template <Device D>
absl::Status Extents(typename D::State& self, Range range, EmitExtent emit) {
  if constexpr (CanExtents<D>) {
    return D::Extents(self, range, emit);
  } else {
    emit(Extent{range, Extent::Kind::kData});
    return absl::OkStatus();
  }
}

// Hints that the range will be read soon. Absent: nothing is done.
template <Device D>
absl::Status Prefetch(typename D::State& self, Range range) {
  if constexpr (CanPrefetch<D>) {
    return D::Prefetch(self, range);
  } else {
    return absl::OkStatus();
  }
}

// Reads or writes if that takes no waiting. Absent: not known.
template <Device D>
bool TryRead(typename D::State& self, uint64_t offset, Bytes out) {
  if constexpr (CanTryRead<D>) {
    return D::TryRead(self, offset, out);
  } else {
    return false;
  }
}
template <Device D>
bool TryWrite(typename D::State& self, uint64_t offset, ConstBytes in) {
  if constexpr (CanTryWrite<D>) {
    return D::TryWrite(self, offset, in);
  } else {
    return false;
  }
}

// Whether calls may wait for more than memory and each other: what the outermost layer says that says it, else whether a branch
// may. A leaf that does not say may.
template <Device D>
consteval bool Waits() {
  if constexpr (requires { D::kWaits; }) {
    return D::kWaits;
  } else if constexpr (requires { std::tuple_size<typename D::Below>::value; }) {
    return []<size_t... I>(std::index_sequence<I...>) { return (Waits<std::tuple_element_t<I, typename D::Below>>() || ...); }
    (std::make_index_sequence<std::tuple_size_v<typename D::Below>>());
  } else if constexpr (requires { typename D::Below; }) {
    return Waits<typename D::Below>();
  } else {
    return true;
  }
}

// Whether Read and Write may be parked in a fiber (buse/fibers.h): the device and all below say so by kMayPark.
template <Device D>
consteval bool MayPark() {
  if constexpr (!requires { D::kMayPark; }) {
    return false;
  } else if constexpr (requires { std::tuple_size<typename D::Below>::value; }) {
    return D::kMayPark && []<size_t... I>(std::index_sequence<I...>) {
      return (MayPark<std::tuple_element_t<I, typename D::Below>>() && ...);
    }
    (std::make_index_sequence<std::tuple_size_v<typename D::Below>>());
  } else if constexpr (requires { typename D::Below; }) {
    return D::kMayPark && MayPark<typename D::Below>();
  } else {
    return D::kMayPark;
  }
}

template <Device D>
bool Writable(const typename D::State& self);

namespace operations_internal {

template <class Below, class State>
bool BelowWritable(const State& below) {
  return Writable<Below>(below);
}
template <class Below, class State, size_t... I>
bool AllWritable(const State& below, std::index_sequence<I...>) {
  return (Writable<std::tuple_element_t<I, Below>>(std::get<I>(below)) && ...);
}

}  // namespace operations_internal

// Whether the device was opened for writing. A type without Write is not; otherwise the outermost layer that says so decides,
// and without one all branches must be writable.
template <Device D>
bool Writable(const typename D::State& self) {
  if constexpr (!CanWrite<D>) {
    return false;
  } else if constexpr (CanSayWritable<D>) {
    return D::Writable(self);
  } else if constexpr (requires { std::tuple_size<typename D::Below>::value; }) {
    return operations_internal::AllWritable<typename D::Below>(
        self.below, std::make_index_sequence<std::tuple_size_v<typename D::Below>>());
  } else if constexpr (requires { typename D::Below; }) {
    return operations_internal::BelowWritable<typename D::Below>(self.below);
  } else {
    return true;
  }
}

}  // namespace buse

#endif  // BUSE_OPERATIONS_H_

// SPDX-License-Identifier: Apache-2.0
//
// Exported: an open device as all its connections share it, and what each request does to it.

#ifndef BUSE_EXPORTED_H_
#define BUSE_EXPORTED_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "buse/coarse_extents.h"
#include "buse/coarse_residency.h"
#include "buse/device.h"
#include "buse/gate.h"
#include "buse/gather.h"
#include "buse/nbd.h"
#include "buse/operations.h"
#include "buse/request.h"
#include "buse/resize_gate.h"
#include "buse/scatter.h"

namespace buse {

// Its functions take requests that CheckRequest let through, from any thread, and return the device's errors.
template <Device Stack>
struct Exported {
  typename Stack::State& device;
  nbd::Export about;
  // Told of every request that the device failed. Called from any connection's thread, which must not be made to wait.
  std::function<void(const char* command, Range, const absl::Status&)> on_failure = [](const char*, Range,
                                                                                       const absl::Status&) {};
  Gate<Stack::kConcurrency, Stack::kBlockSize> gate = {};
  // Of connections whose clients may resize.
  ResizeGate resize_gate = {};

  // Of each connection: what may wait is left to so many. 0: none.
  size_t workers = 16;
  // Whether reads may be sent from files that are mapped, where there are workers: see LentFiles.
  bool lends_files = false;

  // Whether it is, at all. Not where calls must keep apart: it would be each other that they wait for.
  static constexpr bool kDefers = Waits<Stack>() && Stack::kConcurrency == Concurrency::kParallel;

  // True: it was done, and took no waiting.
  bool TryRead(uint64_t offset, Bytes out) requires kDefers { return buse::TryRead<Stack>(device, offset, out); }
  bool TryWrite(const nbd::Request& request, ConstBytes payload) requires kDefers {
    return !request.has(nbd::kCmdFlagFua) && buse::TryWrite<Stack>(device, request.offset, payload);
  }

  absl::Status Read(uint64_t offset, Bytes out) {
    return gate.Pass({offset, out.size()}, [&] { return Stack::Read(device, offset, out); });
  }

  absl::Status View(Range range, Gather& gather) requires CanView<Stack> {
    return gate.Pass(range, [&] { return Stack::View(device, range, gather); });
  }

  // `payload` is not empty.
  absl::Status Write(uint64_t offset, ConstBytes payload) {
    if constexpr (CanWrite<Stack>) {
      return gate.Pass({offset, payload.size()}, [&] { return Stack::Write(device, offset, payload); });
    }
    return NotOffered();
  }

  // FUA.
  absl::Status WriteThrough(uint64_t offset, ConstBytes payload) {
    if constexpr (CanWrite<Stack>) {
      return gate.Pass({offset, payload.size()}, [&] { return buse::WriteThrough<Stack>(device, offset, payload); });
    }
    return NotOffered();
  }

  // Whether large writes are received into place. Not where calls must keep apart: a slow client would keep the others out.
  static constexpr bool kPlaces = CanPlace<Stack> && Stack::kConcurrency == Concurrency::kParallel;

  absl::Status Place(Range range, Scatter& places) requires CanPlace<Stack> { return Stack::Place(device, range, places); }

  // Completes a write after a Place that said where.
  absl::Status Placed(const nbd::Request& request) {
    if constexpr (kPlaces) return FlushIfAsked(request, Stack::Placed(device, request.range()));
    return NotOffered();
  }

  absl::Status Flush() {
    if constexpr (CanFlush<Stack>) return gate.Pass({}, [&] { return Stack::Flush(device); });
    return NotOffered();
  }

  absl::Status Trim(const nbd::Request& request) {
    if constexpr (CanTrim<Stack>) {
      return gate.Pass(request.range(), [&] { return FlushIfAsked(request, Stack::Trim(device, request.range())); });
    }
    return NotOffered();
  }

  // Zeroes that the stack may have to write as data are refused where that is what the client wants to know, or where it would
  // go on for longer than any compact request could ask for. Trim is quick; of WriteZeroes the type does not tell, since a part
  // of the stack may do without it.
  static nbd::Verdict CheckZeroing(const nbd::Request& request) {
    const bool trims = CanTrim<Stack> && !request.has(nbd::kCmdFlagNoHole);
    if (!trims && request.has(nbd::kCmdFlagFastZero)) return {nbd::kEnotsup, "zeroes may be no faster than data here"};
    if (!trims && !CanWriteZeroes<Stack> && request.length > UINT32_MAX) {
      return {nbd::kEoverflow, "zeroes must be written as data here: ask for less"};
    }
    return {};
  }

  absl::Status WriteZeroes(const nbd::Request& request) {
    if constexpr (CanWrite<Stack>) {
      return gate.Pass(request.range(), [&] {
        const bool keep_space = request.has(nbd::kCmdFlagNoHole);
        return FlushIfAsked(request, keep_space ? buse::WriteZeroes<Stack>(device, request.range())
                                                : buse::Zero<Stack>(device, request.range()));
      });
    }
    return NotOffered();
  }

  absl::Status Cache(const nbd::Request& request) {
    return gate.Pass(request.range(), [&] { return Prefetch<Stack>(device, request.range()); });
  }

  // What the stack knows of the range, from its beginning, as far as `emit` wants it: see CoarseExtents.
  absl::Status Extents(Range range, uint64_t granularity, EmitExtent emit) {
    CoarseExtents coarse(range, granularity, emit);
    while (coarse.WantsMore()) {
      const Range rest = coarse.rest();
      absl::Status status = gate.Pass(
          rest, [&] { return buse::Extents<Stack>(device, rest, [&](const Extent& extent) { return coarse.Add(extent); }); });
      if (!status.ok()) return status;
      // A layer's mistake must not keep the client waiting.
      if (coarse.rest() == rest) coarse.Add({rest, Extent::Kind::kData});
    }
    coarse.Finish();
    return absl::OkStatus();
  }

  // What of the range is in memory, from its beginning, as far as `emit` wants it and no further than is quickly told: see
  // CoarseResidency.
  absl::Status Residency([[maybe_unused]] Range range, [[maybe_unused]] EmitResident emit) {
    if constexpr (CanResidency<Stack>) {
      CoarseResidency coarse(range, about.min_block, emit);
      for (int calls = 0; coarse.WantsMore() && (calls < kMostCalls || coarse.in_unit()); ++calls) {
        const Range rest = coarse.rest();
        absl::Status status = gate.Pass(rest, [&] {
          return Stack::Residency(device, rest, [&](const Resident& resident) { return coarse.Add(resident); });
        });
        if (!status.ok()) return status;
        if (coarse.rest() == rest) coarse.Add({rest});  // a layer's mistake must not keep the client waiting
      }
      coarse.Finish();
      return absl::OkStatus();
    }
    return NotOffered();
  }

  // While nothing else uses the device.
  absl::Status Resize([[maybe_unused]] uint64_t size) {
    if constexpr (CanResize<Stack>) {
      absl::Status status = Stack::Resize(device, size);
      about.StoreSize(Stack::Size(device));
      return status;
    }
    return NotOffered();
  }

 private:
  // Of Residency for one answer: a server that looks further keeps others waiting.
  static constexpr int kMostCalls = 16;

  // For what the announced flags rule out.
  static absl::Status NotOffered() { return absl::UnimplementedError("the device has no such operation"); }

  absl::Status FlushIfAsked(const nbd::Request& request, absl::Status status) {
    if constexpr (CanFlush<Stack>) {
      if (status.ok() && request.has(nbd::kCmdFlagFua)) return Stack::Flush(device);
    }
    return status;
  }
};

}  // namespace buse

#endif  // BUSE_EXPORTED_H_

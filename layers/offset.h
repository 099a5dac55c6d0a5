// SPDX-License-Identifier: Apache-2.0
//
// Offset: a part of the device below, as a device of its own. The header to copy when writing a layer that remaps.
//
// Family: remap.
// Guarantees: nothing outside the part is read or changed. What a power cut leaves is old or new by sectors of the device
// below: choose `start` as a multiple of them.
// Concurrency: that of the device below.
// Cost: one addition per request.
// Failure: that of the device below. Open refuses a part that does not lie inside it or is not aligned to its blocks.
// Resize is absent: the part is a window whose place was chosen with respect to what lies around it.
//
//   using Stack = buse::Offset<buse::Memory>;
//   Stack::Config config{.start = 1 << 20, .length = 16 << 20, .below = {.size = 64 << 20}};

#ifndef LAYERS_OFFSET_H_
#define LAYERS_OFFSET_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "buse/description.h"
#include "buse/device.h"

namespace buse {

template <Device B>
struct Offset {
  using Below = B;

  struct Config {
    uint64_t start = 0;
    uint64_t length = 0;  // 0: to the end
    typename Below::Config below;
  };

  struct State {
    typename Below::State below;
    uint64_t start = 0;
    uint64_t length = 0;
  };

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;
  static constexpr bool kMayPark = true;

  static constexpr Description<Config, 2> Describe() {
    return {"offset",
            "shows a part of the device below",
            Family::kRemap,
            {{{.field = &Config::start, .name = "start", .help = "where the part begins", .unit = Unit::kBytes},
              {.field = &Config::length, .name = "length", .help = "its length, 0 for all to the end", .unit = Unit::kBytes}}}};
  }

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = Below::Open(config.below, self.below); !status.ok()) return status;
    const uint64_t size = Below::Size(self.below);
    if (config.start > size || config.length > size - config.start) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "offset: start %d and length %d do not lie inside the %d bytes of the device below: make them smaller", config.start,
          config.length, size));
    }
    if (config.start % kBlockSize != 0 || config.length % kBlockSize != 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("offset: start %d and length %d must be multiples of the block size, which is %d", config.start,
                          config.length, kBlockSize));
    }
    self.start = config.start;
    self.length = config.length != 0 ? config.length : size - config.start;
    return absl::OkStatus();
  }

  static uint64_t Size(const State& self) { return self.length; }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    return Below::Read(self.below, self.start + offset, out);
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    return Below::Write(self.below, self.start + offset, in);
  }

  static absl::Status Flush(State& self) requires CanFlush<Below> { return Below::Flush(self.below); }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<Below> {
    return Below::WriteThrough(self.below, self.start + offset, in);
  }

  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> {
    return Below::Trim(self.below, Translate(self, range));
  }

  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    return Below::WriteZeroes(self.below, Translate(self, range));
  }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) requires CanExtents<Below> {
    return Below::Extents(self.below, Translate(self, range), [&](const Extent& extent) {
      return emit({{extent.range.offset - self.start, extent.range.length}, extent.kind});
    });
  }

  static absl::Status Residency(State& self, Range range, EmitResident emit) requires CanResidency<Below> {
    return Below::Residency(self.below, Translate(self, range), [&](const Resident& resident) {
      return emit({{resident.range.offset - self.start, resident.range.length}, resident.cached, resident.dirty});
    });
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    return Below::Prefetch(self.below, Translate(self, range));
  }

  static absl::Status View(State& self, Range range, Gather& gather) requires CanView<Below> {
    return Below::View(self.below, Translate(self, range), gather);
  }

  static bool TryRead(State& self, uint64_t offset, Bytes out) requires CanTryRead<Below> {
    return Below::TryRead(self.below, self.start + offset, out);
  }

  static bool TryWrite(State& self, uint64_t offset, ConstBytes in) requires CanTryWrite<Below> {
    return Below::TryWrite(self.below, self.start + offset, in);
  }

  static absl::Status Place(State& self, Range range, Scatter& scatter) requires CanPlace<Below> {
    return Below::Place(self.below, Translate(self, range), scatter);
  }

  static absl::Status Placed(State& self, Range range) requires CanPlaced<Below> {
    return Below::Placed(self.below, Translate(self, range));
  }

  static std::optional<FileRange> Backing(State& self, Range range) requires CanBacking<Below> {
    return Below::Backing(self.below, Translate(self, range));
  }

 private:
  static Range Translate(const State& self, Range range) { return {self.start + range.offset, range.length}; }
};

}  // namespace buse

#endif  // LAYERS_OFFSET_H_

// SPDX-License-Identifier: Apache-2.0
//
// Null: reads as zeroes and discards writes, for measuring what is above it.
//
// Family: leaf. Breaks the contract's promise that a Read sees what was written, and keeps the rest.
// Concurrency: kParallel.
// Cost: none but the zeroes read.
// Failure: none.
//
//   using Stack = buse::Null;
//   Stack::Config config{.size = 64 << 20};

#ifndef LAYERS_NULL_H_
#define LAYERS_NULL_H_

#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/gather.h"

namespace buse {

struct Null {
  struct Config {
    uint64_t size = 0;
  };

  struct State {
    uint64_t size = 0;
  };

  static constexpr uint64_t kBlockSize = 1;
  static constexpr Concurrency kConcurrency = Concurrency::kParallel;
  static constexpr bool kWaits = false;
  static constexpr uint64_t kMaxSize = uint64_t{1} << 62;

  static constexpr Description<Config, 1> Describe() {
    return {"null",
            "reads as zeroes and discards writes",
            Family::kLeaf,
            {{{.field = &Config::size,
               .name = "size",
               .help = "size of the disk",
               .unit = Unit::kBytes,
               .positional = true,
               .required = true,
               .min = 1,
               .max = kMaxSize}}}};
  }

  static absl::Status Open(const Config& config, State& self) {
    if (config.size == 0 || config.size > kMaxSize) {
      return absl::InvalidArgumentError(
          absl::StrFormat("a null disk of %d bytes is not possible; choose a size from 1 to %d bytes", config.size, kMaxSize));
    }
    self.size = config.size;
    return absl::OkStatus();
  }

  static uint64_t Size(const State& self) { return self.size; }

  static absl::Status Read(State&, uint64_t, Bytes out) {
    std::memset(out.data(), 0, out.size());
    return absl::OkStatus();
  }

  static absl::Status Write(State&, uint64_t, ConstBytes) { return absl::OkStatus(); }

  static absl::Status Flush(State&) { return absl::OkStatus(); }

  // Offered so that a layer over several devices keeps theirs.
  static absl::Status WriteThrough(State&, uint64_t, ConstBytes) { return absl::OkStatus(); }

  static absl::Status Trim(State&, Range) { return absl::OkStatus(); }

  static absl::Status WriteZeroes(State&, Range) { return absl::OkStatus(); }

  static absl::Status Extents(State&, Range range, EmitExtent emit) {
    emit({range, Extent::Kind::kHole});
    return absl::OkStatus();
  }

  static absl::Status View(State&, Range range, Gather& gather) {
    gather.AppendZeroes(range.length);
    return absl::OkStatus();
  }
};

}  // namespace buse

#endif  // LAYERS_NULL_H_

// SPDX-License-Identifier: Apache-2.0
//
// Concat: several devices as one, each after the other. Their types may differ.
//
// Family: remap.
// Guarantees: bytes lie in the branches in the order of the type, without gaps. A branch counts with its whole blocks of this
// layer's kBlockSize, the least common multiple of theirs: bytes at its end that fill no such block are never touched.
// Passes on: every permission that all branches have, and WriteThrough, WriteZeroes and Prefetch where one has them: for the
// others they do what their absence means. A request that crosses a border becomes one call for each branch, in order. Backing
// is there where the range lies in one branch. Extents are cut at borders, and where a branch with smaller blocks has extents
// that end within a block of this layer, that block counts as data. Resize is absent: no size says which branch is to change.
// Concurrency: the least of the branches.
// Cost: a comparison per branch and request; no memory but 8 bytes per branch.
// Failure: that of the branches. A request that crosses a border ends with the first error; Flush and Placed reach all branches
// and return the first error. Open refuses branches that are larger together than 64 bits can count. A branch that is lost
// takes its part of the device with it. Nothing on the media says which branches belong together, nor in which order.
//
//   using Stack = buse::Concat<buse::Memory, buse::FileBacked>;
//   Stack::Config config{.below = {{.size = 64 << 20}, {.path = "disk.img"}}};

#ifndef LAYERS_CONCAT_H_
#define LAYERS_CONCAT_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/operations.h"

namespace buse {

template <Device... B>
struct Concat {
  static_assert(sizeof...(B) > 0, "buse: Concat needs at least one device");

  using Below = std::tuple<B...>;

  struct Config {
    std::tuple<typename B::Config...> below;
  };

  struct State {
    std::tuple<typename B::State...> below;
    std::array<uint64_t, sizeof...(B)> ends = {};  // where the branch ends, in this device
  };

  static constexpr uint64_t kBlockSize = [] {
    uint64_t block_size = 1;
    ((block_size = std::lcm(block_size, uint64_t{B::kBlockSize})), ...);
    return block_size;
  }();
  static constexpr Concurrency kConcurrency = std::min({B::kConcurrency...});
  static constexpr bool kMayPark = true;

  static constexpr Description<Config> Describe() { return {"concat", "joins devices, one after another", Family::kRemap}; }

  static absl::Status Open(const Config& config, State& self) {
    uint64_t end = 0;
    return ForEach([&](auto branch) { return OpenBranch<branch>(config, self, end); });
  }

  static uint64_t Size(const State& self) { return self.ends.back(); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    return Split(self, {offset, out.size()}, [&](auto branch, Range there, uint64_t done) {
      return At<branch>::Read(std::get<branch>(self.below), there.offset, out.subspan(done, there.length));
    });
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires(CanWrite<B>&&...) {
    return Split(self, {offset, in.size()}, [&](auto branch, Range there, uint64_t done) {
      return At<branch>::Write(std::get<branch>(self.below), there.offset, in.subspan(done, there.length));
    });
  }

  static absl::Status Flush(State& self) requires(CanFlush<B>&&...) {
    absl::Status first;
    ForEach([&](auto branch) {
      first.Update(At<branch>::Flush(std::get<branch>(self.below)));
      return absl::OkStatus();
    }).IgnoreError();
    return first;
  }

  static absl::Status WriteThrough(State& self, uint64_t offset,
                                   ConstBytes in) requires((CanWrite<B> && ...) && (CanWriteThrough<B> || ...)) {
    return Split(self, {offset, in.size()}, [&](auto branch, Range there, uint64_t done) {
      return buse::WriteThrough<At<branch>>(std::get<branch>(self.below), there.offset, in.subspan(done, there.length));
    });
  }

  static absl::Status Trim(State& self, Range range) requires(CanTrim<B>&&...) {
    return Split(self, range,
                 [&](auto branch, Range there, uint64_t) { return At<branch>::Trim(std::get<branch>(self.below), there); });
  }

  static absl::Status WriteZeroes(State& self, Range range) requires((CanWrite<B> && ...) && (CanWriteZeroes<B> || ...)) {
    return Split(self, range, [&](auto branch, Range there, uint64_t) {
      return buse::WriteZeroes<At<branch>>(std::get<branch>(self.below), there);
    });
  }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) requires(CanExtents<B>&&...) {
    bool more = true;
    uint64_t next = range.offset;
    const auto pass_on = [&](uint64_t end, Extent::Kind kind) {
      if (!more || end <= next) return;
      more = emit({{next, end - next}, kind});
      next = end;
    };
    return Split(self, range, [&](auto branch, Range there, uint64_t done) {
      // What follows a prefix that a branch cut short would leave a gap.
      if (!more || next != range.offset + done) return absl::OkStatus();
      return At<branch>::Extents(std::get<branch>(self.below), there, [&](const Extent& extent) {
        const uint64_t end = range.offset + done + (extent.range.end() - there.offset);
        const uint64_t whole = end / kBlockSize * kBlockSize;
        pass_on(whole, extent.kind);
        // A block that a branch with smaller blocks has in parts counts as data.
        if (whole < end) pass_on(whole + kBlockSize, Extent::Kind::kData);
        return more;
      });
    });
  }

  // A prefix, which ends where the first branch ends.
  static absl::Status Residency(State& self, Range range, EmitResident emit) requires(CanResidency<B>&&...) {
    return Split(self, range, [&](auto branch, Range there, uint64_t done) {
      if (done > 0) return absl::OkStatus();
      return At<branch>::Residency(std::get<branch>(self.below), there, [&](const Resident& resident) {
        const uint64_t at = range.offset + (resident.range.offset - there.offset);
        return emit({{at, resident.range.length}, resident.cached, resident.dirty});
      });
    });
  }

  static absl::Status Prefetch(State& self, Range range) requires(CanPrefetch<B> || ...) {
    return Split(self, range, [&](auto branch, Range there, uint64_t) {
      return buse::Prefetch<At<branch>>(std::get<branch>(self.below), there);
    });
  }

  static absl::Status View(State& self, Range range, Gather& gather) requires(CanView<B>&&...) {
    return Split(self, range, [&](auto branch, Range there, uint64_t) {
      return At<branch>::View(std::get<branch>(self.below), there, gather);
    });
  }

  static bool TryRead(State& self, uint64_t offset, Bytes out) requires(CanTryRead<B>&&...) {
    return TrySplit(self, {offset, out.size()}, [&](auto branch, Range there, uint64_t done) {
      return At<branch>::TryRead(std::get<branch>(self.below), there.offset, out.subspan(done, there.length));
    });
  }

  static bool TryWrite(State& self, uint64_t offset, ConstBytes in) requires(CanTryWrite<B>&&...) {
    return TrySplit(self, {offset, in.size()}, [&](auto branch, Range there, uint64_t done) {
      return At<branch>::TryWrite(std::get<branch>(self.below), there.offset, in.subspan(done, there.length));
    });
  }

  static absl::Status Place(State& self, Range range, Scatter& scatter) requires(CanPlace<B>&&...) {
    return Split(self, range, [&](auto branch, Range there, uint64_t) {
      return At<branch>::Place(std::get<branch>(self.below), there, scatter);
    });
  }

  static absl::Status Placed(State& self, Range range) requires(CanPlaced<B>&&...) {
    absl::Status first;
    Split(self, range, [&](auto branch, Range there, uint64_t) {
      first.Update(At<branch>::Placed(std::get<branch>(self.below), there));
      return absl::OkStatus();
    }).IgnoreError();
    return first;
  }

  static std::optional<FileRange> Backing(State& self, Range range) requires(CanBacking<B>&&...) {
    std::optional<FileRange> backing;
    Split(self, range, [&](auto branch, Range there, uint64_t) {
      if (there.length == range.length) backing = At<branch>::Backing(std::get<branch>(self.below), there);
      return absl::OkStatus();
    }).IgnoreError();
    return backing;
  }

 private:
  template <size_t kBranch>
  using At = std::tuple_element_t<kBranch, Below>;

  // Calls `use` with each index, as a constant, up to the first error.
  template <class Use>
  static absl::Status ForEach(Use use) {
    return [&]<size_t... kBranch>(std::index_sequence<kBranch...>) {
      absl::Status status;
      (void)((status = use(std::integral_constant<size_t, kBranch>())).ok() && ...);
      return status;
    }
    (std::index_sequence_for<B...>());
  }

  template <size_t kBranch>
  static absl::Status OpenBranch(const Config& config, State& self, uint64_t& end) {
    auto& below = std::get<kBranch>(self.below);
    if (absl::Status status = At<kBranch>::Open(std::get<kBranch>(config.below), below); !status.ok()) return status;
    const uint64_t size = At<kBranch>::Size(below) / kBlockSize * kBlockSize;
    if (size > UINT64_MAX - end) {
      return absl::InvalidArgumentError(
          absl::StrFormat("concat: device %d has %d bytes, but after the %d bytes of those before it there is room for %d "
                          "only: make it smaller",
                          kBranch + 1, size, end, UINT64_MAX - end));
    }
    end += size;
    self.ends[kBranch] = end;
    return absl::OkStatus();
  }

  // Calls `use(branch, there, done)` for each branch that has bytes of the range, in order, up to the first error: `there` is
  // the part in the addresses of the branch, `done` how many bytes of the range lie before it.
  template <class Use>
  static absl::Status Split(const State& self, Range range, Use use) {
    return ForEach([&](auto branch) {
      uint64_t start = 0;
      if constexpr (branch > 0) start = self.ends[branch - 1];
      const uint64_t begin = std::max(range.offset, start);
      const uint64_t end = std::min(range.end(), self.ends[branch]);
      if (begin >= end) return absl::OkStatus();
      return use(branch, Range{begin - start, end - begin}, begin - range.offset);
    });
  }

  // The same up to the first that is false.
  template <class Use>
  static bool TrySplit(const State& self, Range range, Use use) {
    return Split(self, range,
                 [&](auto branch, Range there, uint64_t done) {
                   return use(branch, there, done) ? absl::OkStatus() : absl::CancelledError();
                 })
        .ok();
  }
};

}  // namespace buse

#endif  // LAYERS_CONCAT_H_

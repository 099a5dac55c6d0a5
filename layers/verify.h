// SPDX-License-Identifier: Apache-2.0
//
// Verify: two devices that must hold the same bytes, compared whenever they are read.
//
// Family: transform, since what it reads it may refuse.
// Guarantees: what Read returns, both devices hold. Write, WriteThrough, Flush, Trim and WriteZeroes go to both, to the first
// one first, and to the second one even where the first one fails; the first error is returned.
// Passes on: what both devices have of WriteThrough, Trim, WriteZeroes and Prefetch. View and Backing would let bytes pass that
// were not compared, and Extents would let a client skip them; a Resize that fails on one device would leave two sizes.
// Concurrency: the lesser of the two, and at most kDisjoint: a read beside a write that it overlaps may see the new bytes on
// one device and the old ones on the other.
// Cost: everything twice, one device after the other; the second read goes through 4 KiB on the stack, so that it becomes
// many of at most 4 KiB each.
// Failure: that of the devices below, and kDataLoss where they differ, naming the first byte. A change that failed on one
// device only leaves the two different in its range: reading there fails until it is written again. Open refuses devices that
// differ in size.
//
//   using Stack = buse::Verify<buse::FileBacked, buse::Memory>;
//   Stack::Config config{.below = {{.path = "disk.img"}, {.size = 64 << 20}}};

#ifndef LAYERS_VERIFY_H_
#define LAYERS_VERIFY_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <tuple>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "buse/description.h"
#include "buse/device.h"

namespace buse {

template <Device A, Device B>
struct Verify {
  using Below = std::tuple<A, B>;

  struct Config {
    std::tuple<typename A::Config, typename B::Config> below;
  };

  struct State {
    std::tuple<typename A::State, typename B::State> below;
  };

  static constexpr uint64_t kBlockSize = std::lcm(A::kBlockSize, B::kBlockSize);
  static constexpr Concurrency kConcurrency = std::min({A::kConcurrency, B::kConcurrency, Concurrency::kDisjoint});

  static_assert(kBlockSize <= 4096,
                "buse: Verify keeps one block on the stack, so that the least common multiple of the block sizes below must be "
                "at most 4096");

  static constexpr Description<Config> Describe() {
    return {"verify", "reads from two devices and fails where they differ", Family::kTransform};
  }

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = A::Open(std::get<0>(config.below), First(self)); !status.ok()) return status;
    if (absl::Status status = B::Open(std::get<1>(config.below), Second(self)); !status.ok()) return status;
    const uint64_t first = A::Size(First(self));
    const uint64_t second = B::Size(Second(self));
    if (first == second) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrFormat(
        "verify: the first device has %d bytes and the second one %d: give two of the same size", first, second));
  }

  static uint64_t Size(const State& self) { return A::Size(std::get<0>(self.below)); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    if (absl::Status status = A::Read(First(self), offset, out); !status.ok()) return status;
    std::array<std::byte, 4096 / kBlockSize * kBlockSize> scratch;
    for (size_t at = 0; at < out.size(); at += scratch.size()) {
      const Bytes first = out.subspan(at, std::min(scratch.size(), out.size() - at));
      const Bytes second(scratch.data(), first.size());
      if (absl::Status status = B::Read(Second(self), offset + at, second); !status.ok()) return status;
      const auto [a, b] = std::mismatch(first.begin(), first.end(), second.begin());
      if (a == first.end()) continue;
      return absl::DataLossError(absl::StrFormat("verify: byte %d is 0x%02x on the first device and 0x%02x on the second one",
                                                 offset + at + (a - first.begin()), std::to_integer<unsigned>(*a),
                                                 std::to_integer<unsigned>(*b)));
    }
    return absl::OkStatus();
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires(CanWrite<A>&& CanWrite<B>) {
    return Both(A::Write(First(self), offset, in), [&] { return B::Write(Second(self), offset, in); });
  }

  static absl::Status Flush(State& self) requires(CanFlush<A>&& CanFlush<B>) {
    return Both(A::Flush(First(self)), [&] { return B::Flush(Second(self)); });
  }

  static absl::Status WriteThrough(State& self, uint64_t offset,
                                   ConstBytes in) requires(CanWriteThrough<A>&& CanWriteThrough<B>) {
    return Both(A::WriteThrough(First(self), offset, in), [&] { return B::WriteThrough(Second(self), offset, in); });
  }

  static absl::Status Trim(State& self, Range range) requires(CanTrim<A>&& CanTrim<B>) {
    return Both(A::Trim(First(self), range), [&] { return B::Trim(Second(self), range); });
  }

  static absl::Status WriteZeroes(State& self, Range range) requires(CanWriteZeroes<A>&& CanWriteZeroes<B>) {
    return Both(A::WriteZeroes(First(self), range), [&] { return B::WriteZeroes(Second(self), range); });
  }

  static absl::Status Prefetch(State& self, Range range) requires(CanPrefetch<A>&& CanPrefetch<B>) {
    return Both(A::Prefetch(First(self), range), [&] { return B::Prefetch(Second(self), range); });
  }

 private:
  static auto& First(State& self) { return std::get<0>(self.below); }
  static auto& Second(State& self) { return std::get<1>(self.below); }

  template <class Next>
  static absl::Status Both(absl::Status first, Next next) {
    absl::Status second = next();
    return first.ok() ? second : first;
  }
};

}  // namespace buse

#endif  // LAYERS_VERIFY_H_

// SPDX-License-Identifier: Apache-2.0
//
// Stripe: devices of one type side by side (RAID 0): chunk 0 lies on the first leg, chunk 1 on the second, and so on in turn.
//
// Family: remap.
// Guarantees: the size is the number of legs times the smallest leg, rounded down to whole chunks; what lies behind that on a
// larger leg is never touched. All arithmetic has 64 bits.
// Passes on: every operation the legs have, but for Resize: it would cut or extend the legs one by one, and where one fails,
// those before it would be cut already. Trim, WriteZeroes and Prefetch reach each leg they concern with one call, for a leg's
// share of a range is contiguous there. Extents are merged over chunks. Backing is there where the range lies in one chunk.
// Concurrency: that of the legs.
// Cost: a Read, Write, WriteThrough or View makes one call per chunk: one span of memory holds each leg's chunks with gaps
// between, and a call takes no list of spans. So a chunk should be as large as requests are. Extents asks a leg again only
// where it has passed what the leg said last. Memory: none.
// Failure: that of the legs. A request ends with the first error; Flush and Placed reach all legs and return the first
// error. Open
// refuses a leg smaller than a chunk, and legs that are larger together than 64 bits can count. A leg that is lost takes the
// device with it. Nothing on the media says which legs belong together, in which order, or how large the chunks are.
//
//   using Stack = buse::Stripe<2, buse::FileBacked>;
//   Stack::Config config{.below = {{.path = "left.img"}, {.path = "right.img"}}};

#ifndef LAYERS_STRIPE_H_
#define LAYERS_STRIPE_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "buse/description.h"
#include "buse/device.h"
#include "layers/repeat_tuple.h"

namespace buse {

template <size_t kLegs, Device B, uint64_t kChunk = 65536>
struct Stripe {
  static_assert(kLegs >= 2, "buse: Stripe needs at least two legs");
  static_assert(kChunk > 0 && (kChunk & (kChunk - 1)) == 0 && kChunk <= uint64_t{1} << 30,
                "buse: the chunk of a Stripe is a power of two, up to 1 GiB");
  static_assert(kChunk % B::kBlockSize == 0, "buse: the chunk of a Stripe is a multiple of the legs' kBlockSize");

  using Below = RepeatTuple<B, kLegs>;

  struct Config {
    RepeatTuple<typename B::Config, kLegs> below;
  };

  struct State {
    std::array<typename B::State, kLegs> below;  // an array, since requests choose the leg by its number
    uint64_t size = 0;
  };

  static constexpr uint64_t kBlockSize = B::kBlockSize;
  static constexpr Concurrency kConcurrency = B::kConcurrency;
  static constexpr bool kMayPark = true;

  static constexpr Description<Config> Describe() {
    return {"stripe", "spreads chunks over several devices in turn", Family::kRemap};
  }

  // For the layers above: where their bytes lie depends on the chunk.
  static std::string FormatName() { return absl::StrFormat("stripe(%d)", kChunk); }

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = OpenLegs(config, self, std::make_index_sequence<kLegs>()); !status.ok()) return status;
    uint64_t rows = UINT64_MAX;
    for (size_t leg = 0; leg < kLegs; ++leg) {
      const uint64_t size = B::Size(self.below[leg]);
      if (size < kChunk) {
        return absl::InvalidArgumentError(
            absl::StrFormat("stripe: leg %d has %d bytes, less than one chunk of %d: make it larger", leg + 1, size, kChunk));
      }
      rows = std::min(rows, size / kChunk);
    }
    // With room for one more row, so that no address wraps.
    if (rows >= kMaxRows) {
      return absl::InvalidArgumentError(
          absl::StrFormat("stripe: the smallest leg has %d chunks of %d bytes, and %d times that is more than 64 bits can "
                          "count: make it smaller than %d bytes",
                          rows, kChunk, kLegs, kMaxRows * kChunk));
    }
    self.size = rows * kRow;
    return absl::OkStatus();
  }

  static uint64_t Size(const State& self) { return self.size; }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    return ForEachChunk(self, {offset, out.size()}, [&](typename B::State& leg, Range there, uint64_t done) {
      return B::Read(leg, there.offset, out.subspan(done, there.length));
    });
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<B> {
    return ForEachChunk(self, {offset, in.size()}, [&](typename B::State& leg, Range there, uint64_t done) {
      return B::Write(leg, there.offset, in.subspan(done, there.length));
    });
  }

  static absl::Status Flush(State& self) requires CanFlush<B> {
    absl::Status first;
    for (typename B::State& leg : self.below) first.Update(B::Flush(leg));
    return first;
  }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<B> {
    return ForEachChunk(self, {offset, in.size()}, [&](typename B::State& leg, Range there, uint64_t done) {
      return B::WriteThrough(leg, there.offset, in.subspan(done, there.length));
    });
  }

  static absl::Status Trim(State& self, Range range) requires CanTrim<B> {
    return ForEachLeg(self, range, [](typename B::State& leg, Range there) { return B::Trim(leg, there); });
  }

  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<B> {
    return ForEachLeg(self, range, [](typename B::State& leg, Range there) { return B::WriteZeroes(leg, there); });
  }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) requires CanExtents<B> {
    std::array<LegExtent, kLegs> known = {};
    Extent merged = {{range.offset, 0}};
    while (merged.range.end() < range.end()) {
      const uint64_t at = merged.range.end();
      absl::Status status = Look(self, {at, range.end() - at}, known);
      if (!status.ok()) return status;
      const Extent::Kind kind = known[LegOf(at)].kind;
      if (merged.range.length > 0 && kind != merged.kind) {
        if (!emit(merged)) return absl::OkStatus();
        merged = {{at, 0}};
      }
      merged.kind = kind;
      // Up to where a leg has something else, or has not said.
      uint64_t end = range.end();
      for (size_t leg = 0; leg < kLegs; ++leg) {
        const uint64_t here = LegOffset(leg, at);
        const uint64_t same = known[leg].kind == kind ? std::max(known[leg].end, here) : here;
        end = std::min(end, DeviceOffset(leg, same));
      }
      merged.range.length = end - merged.range.offset;
    }
    emit(merged);
    return absl::OkStatus();
  }

  // A prefix, which ends where the first chunk ends.
  static absl::Status Residency(State& self, Range range, EmitResident emit) requires CanResidency<B> {
    const size_t leg = LegOf(range.offset);
    const Range there = {LegOffset(leg, range.offset), std::min(range.length, kChunk - range.offset % kChunk)};
    return B::Residency(self.below[leg], there, [&](const Resident& resident) {
      return emit({{DeviceOffset(leg, resident.range.offset), resident.range.length}, resident.cached, resident.dirty});
    });
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<B> {
    return ForEachLeg(self, range, [](typename B::State& leg, Range there) { return B::Prefetch(leg, there); });
  }

  static absl::Status View(State& self, Range range, Gather& gather) requires CanView<B> {
    return ForEachChunk(self, range,
                        [&](typename B::State& leg, Range there, uint64_t) { return B::View(leg, there, gather); });
  }

  static bool TryRead(State& self, uint64_t offset, Bytes out) requires CanTryRead<B> {
    return TryEachChunk(self, {offset, out.size()}, [&](typename B::State& leg, Range there, uint64_t done) {
      return B::TryRead(leg, there.offset, out.subspan(done, there.length));
    });
  }

  static bool TryWrite(State& self, uint64_t offset, ConstBytes in) requires CanTryWrite<B> {
    return TryEachChunk(self, {offset, in.size()}, [&](typename B::State& leg, Range there, uint64_t done) {
      return B::TryWrite(leg, there.offset, in.subspan(done, there.length));
    });
  }

  static absl::Status Place(State& self, Range range, Scatter& scatter) requires CanPlace<B> {
    return ForEachChunk(self, range,
                        [&](typename B::State& leg, Range there, uint64_t) { return B::Place(leg, there, scatter); });
  }

  static absl::Status Placed(State& self, Range range) requires CanPlaced<B> {
    absl::Status first;
    ForEachLeg(self, range, [&](typename B::State& leg, Range there) {
      first.Update(B::Placed(leg, there));
      return absl::OkStatus();
    }).IgnoreError();
    return first;
  }

  static std::optional<FileRange> Backing(State& self, Range range) requires CanBacking<B> {
    if (range.length > kChunk - range.offset % kChunk) return std::nullopt;
    const size_t leg = LegOf(range.offset);
    return B::Backing(self.below[leg], {LegOffset(leg, range.offset), range.length});
  }

 private:
  static constexpr uint64_t kRow = kLegs * kChunk;
  static constexpr uint64_t kMaxRows = UINT64_MAX / kRow;

  // What a leg said last: up to `end`, in its addresses, it is all `kind`.
  struct LegExtent {
    uint64_t end = 0;
    Extent::Kind kind = Extent::Kind::kData;
  };

  static size_t LegOf(uint64_t offset) { return offset / kChunk % kLegs; }

  // How many bytes of the leg lie before `offset`. For the leg that `offset` is on, that is where.
  static uint64_t LegOffset(size_t leg, uint64_t offset) {
    const uint64_t in_row = offset % kRow;
    const uint64_t before = leg * kChunk;
    return offset / kRow * kChunk + (in_row > before ? std::min(in_row - before, kChunk) : 0);
  }

  // The inverse: where byte `there` of the leg is.
  static uint64_t DeviceOffset(size_t leg, uint64_t there) { return there / kChunk * kRow + leg * kChunk + there % kChunk; }

  template <size_t... kLeg>
  static absl::Status OpenLegs(const Config& config, State& self, std::index_sequence<kLeg...>) {
    absl::Status status;
    (void)((status = B::Open(std::get<kLeg>(config.below), self.below[kLeg])).ok() && ...);
    return status;
  }

  // Calls `use(leg, there, done)` for each chunk that has bytes of the range, in order, up to the first error: `there` is the
  // part in the addresses of the leg, `done` how many bytes of the range lie before it.
  template <class Use>
  static absl::Status ForEachChunk(State& self, Range range, Use use) {
    for (uint64_t done = 0; done < range.length;) {
      const uint64_t at = range.offset + done;
      const uint64_t length = std::min(range.length - done, kChunk - at % kChunk);
      const size_t leg = LegOf(at);
      if (absl::Status status = use(self.below[leg], Range{LegOffset(leg, at), length}, done); !status.ok()) return status;
      done += length;
    }
    return absl::OkStatus();
  }

  // The same up to the first that is false.
  template <class Use>
  static bool TryEachChunk(State& self, Range range, Use use) {
    return ForEachChunk(self, range,
                        [&](typename B::State& leg, Range there, uint64_t done) {
                          return use(leg, there, done) ? absl::OkStatus() : absl::CancelledError();
                        })
        .ok();
  }

  static Range Share(size_t leg, Range range) {
    const uint64_t begin = LegOffset(leg, range.offset);
    return {begin, LegOffset(leg, range.end()) - begin};
  }

  // Calls `use(leg, there)` for each leg that has bytes of the range, up to the first error.
  template <class Use>
  static absl::Status ForEachLeg(State& self, Range range, Use use) {
    for (size_t leg = 0; leg < kLegs; ++leg) {
      const Range there = Share(leg, range);
      if (there.length == 0) continue;
      if (absl::Status status = use(self.below[leg], there); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // Asks those legs that have not said yet what they have at the beginning of their share of the range.
  static absl::Status Look(State& self, Range range, std::array<LegExtent, kLegs>& known) {
    for (size_t leg = 0; leg < kLegs; ++leg) {
      const Range there = Share(leg, range);
      if (there.length == 0 || known[leg].end > there.offset) continue;
      absl::Status status = B::Extents(self.below[leg], there, [&](const Extent& extent) {
        known[leg] = {extent.range.end(), extent.kind};
        return false;
      });
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
};

}  // namespace buse

#endif  // LAYERS_STRIPE_H_

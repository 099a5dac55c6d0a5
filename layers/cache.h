// SPDX-License-Identifier: Apache-2.0
//
// Cache: keeps pages of the device below in memory. What is used again is read from there, and writes are acknowledged there
// and written below later, in order and in large pieces.
//
// Family: transform.
// Guarantees.
//   Reads return what was last written, from wherever it is. Errors from below are not cached.
//   Flush writes below what was dirty when it began, in ascending order, adjacent bytes with one call of up to a mebibyte (or a
//   64th of the size, but no less than 64 KiB), and then flushes below: so a power cut loses at most what was written after the
//   last Flush. WriteThrough goes below at once, and what is dirty elsewhere stays. Before a part of a dirty sector is written
//   through or cleared below, the sector is written there as it was, so that a power cut leaves no mixture of old and new.
//   At no time are more than `dirty` bytes of pages dirty: a Write that finds so many writes some of them back itself, going
//   through them in ascending order again and again. Nothing is written back otherwise: there is no thread of its own.
//   A sector (512 bytes, or the block size below if that is more) that a Write covers is not read first. Where the block size
//   below is less, a Write of a part of a sector reads its page.
//   With `write-through`, nothing is ever dirty: a Write goes below first and then into the cache.
//   Requests that read on where an earlier one ended read ahead, up to `read-ahead` bytes with the same call (no more than are
//   written with one), and tell the device below to prefetch as much again. Errors of what was not asked for are nobody's.
//   Which page goes is decided by S3-FIFO (layers/s3_fifo.h has the hit rates), in which a scan does not push out what is used
//   again. Dirty and lent pages stay; where these are all there are, requests pass by the cache.
//   Residency tells what is cached and what of that is dirty, by sectors, of at most 256 MiB with one call.
// Passes on: Trim and WriteZeroes, which forget what is cached; Extents, with what is dirty as data. It has View, Prefetch and,
// over any device that can be written, WriteThrough of its own. Backing is absent, as what is dirty is not in the file; Resize
// is.
// Concurrency: that of the device below, which gets no two calls at once that concern the same page. Hits lock one of up to 64
// shards, for the copy of a page. Every call below holds its pages in a RangeMutex, as else what was read before a write could
// come into the cache after it; who needs one of these pages from below waits.
// Cost: memory for `size` bytes of pages, 1.5 to 2 % of that and up to a mebibyte for what is known about them, and buffers of
// an eighth of the size but no less than 512 KiB and no more than 8 MiB: all allocated in Open, and taken from the system when
// first used. A hit costs 0.1 µs of CPU for each 4 KiB (bench/cache_benchmark.cc) and, but for View, the copying: nearly
// nothing where the bytes are in the CPU's cache, 0.4 µs where they are not. A miss reads whole pages, so that a small random
// read costs 4 KiB, and copies them once or, where it reads ahead, twice.
// Failure: that of the device below. What cannot be written back stays dirty. The error comes back from the Flush that met it,
// which goes on with the rest, or from the Write that had to make room, and the next one tries again. A read of whole pages
// that fails is repeated with exactly the bytes that were asked for. What is dirty when the process ends is lost.
//
//   using Stack = buse::Cache<buse::FileBacked>;
//   Stack::Config config{.size = 256 << 20, .below = {.path = "disk.img"}};

#ifndef LAYERS_CACHE_H_
#define LAYERS_CACHE_H_

#include <bit>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/operations.h"
#include "layers/defect.h"
#include "layers/pager.h"

namespace buse {

template <Device B>
struct Cache {
  using Below = B;

  static constexpr uint64_t kPage = Pager::kPage;

  static_assert(std::has_single_bit(uint64_t{Below::kBlockSize}) && Below::kBlockSize <= kPage,
                "buse: Cache keeps pages of 4096 bytes, so that kBlockSize below must be a power of two up to 4096");

  struct Config {
    uint64_t size = 64 << 20;
    bool write_through = false;
    uint64_t dirty = 0;
    uint64_t read_ahead = 128 << 10;
    typename Below::Config below;
  };

  struct State {
    typename Below::State below;
    Pager pager;
    bool write_through = false;
  };

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;

  static constexpr uint64_t kMinSize = 4 * kPage;
  static constexpr uint64_t kMaxSize = uint64_t{8} << 40;

  static bool HoldsWrites(const Config& config) { return !config.write_through; }

  static constexpr Description<Config, 4> Describe() {
    return {"cache",
            "keeps pages in memory, and writes them below when it is flushed or has too many",
            Family::kTransform,
            {{{.field = &Config::size,
               .name = "size",
               .help = "bytes of pages in memory",
               .unit = Unit::kBytes,
               .min = kMinSize,
               .max = kMaxSize},
              {.field = &Config::write_through, .name = "write-through", .help = "write below at once"},
              {.field = &Config::dirty,
               .name = "dirty",
               .help = "the most bytes that are not yet written below, 0 for half of the size",
               .unit = Unit::kBytes},
              {.field = &Config::read_ahead,
               .name = "read-ahead",
               .help = "the most bytes to read beyond sequential requests, 0 for none",
               .unit = Unit::kBytes}}}};
  }

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = Below::Open(config.below, self.below); !status.ok()) return status;
    if (config.size < kMinSize || config.size > kMaxSize) {
      return absl::InvalidArgumentError(
          absl::StrFormat("cache: a size of %d bytes is not possible: take %d to %d", config.size, kMinSize, kMaxSize));
    }
    const uint64_t dirty = config.dirty != 0 ? config.dirty : config.size / 2;
    if (dirty < kPage || dirty > config.size) {
      return absl::InvalidArgumentError(
          absl::StrFormat("cache: %d dirty bytes are not possible in a cache of %d: take %d to %d, or 0 for half of it", dirty,
                          config.size, kPage, config.size));
    }
    self.write_through = config.write_through;
    return self.pager.Open(Below::Size(self.below), kBlockSize,
                           {.size = config.size, .dirty = config.write_through ? 0 : dirty, .read_ahead = config.read_ahead});
  }

  static uint64_t Size(const State& self) { return Below::Size(self.below); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    return self.pager.Read(offset, out, {Reading(self), Prefetching(self)});
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    if (self.write_through) return self.pager.WriteBelow(offset, in, Writing(self), Writing(self));
    return self.pager.Write(offset, in, {Reading(self), Prefetching(self)}, Writing(self));
  }

  static absl::Status Flush(State& self) requires CanFlush<Below> {
    absl::Status status;
    if constexpr (CanWrite<Below>) status = self.pager.WriteBackAll(Writing(self));
    if (!BUSE_DEFECT("cache-no-flush-below")) status.Update(Below::Flush(self.below));
    return status;
  }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    if (BUSE_DEFECT("cache-write-through-early")) return Write(self, offset, in);
    const auto put = [&](uint64_t at, ConstBytes bytes) { return buse::WriteThrough<Below>(self.below, at, bytes); };
    return self.pager.WriteBelow(offset, in, put, Writing(self));
  }

  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> {
    return self.pager.Clear(
        range, [&] { return Below::Trim(self.below, range); }, Writing(self));
  }

  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    return self.pager.Clear(
        range, [&] { return Below::WriteZeroes(self.below, range); }, Writing(self));
  }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) requires CanExtents<Below> {
    return self.pager.Held(range, [&] {
      return Below::Extents(self.below, range, [&](const Extent& extent) { return self.pager.EmitWithDirty(extent, emit); });
    });
  }

  static absl::Status Residency(State& self, Range range, EmitResident emit) {
    self.pager.Residency(range, emit);
    return absl::OkStatus();
  }

  static absl::Status Prefetch(State& self, Range range) {
    return self.pager.Prefetch(range, {Reading(self), Prefetching(self)});
  }

  // What is cached, and what finds room there.
  static bool TryRead(State& self, uint64_t offset, Bytes out) { return self.pager.TryRead(offset, out); }
  static bool TryWrite(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    return !self.write_through && self.pager.TryWrite(offset, in);
  }

  static absl::Status View(State& self, Range range, Gather& gather) {
    self.pager.View(range, gather, {Reading(self), Prefetching(self)});
    return absl::OkStatus();
  }

 private:
  static auto Reading(State& self) {
    return [&self](uint64_t offset, Bytes out) { return Below::Read(self.below, offset, out); };
  }
  static auto Prefetching(State& self) {
    return [&self](Range range) { return buse::Prefetch<Below>(self.below, range); };
  }
  static auto Writing(State& self) requires CanWrite<Below> {
    return [&self](uint64_t offset, ConstBytes in) { return Below::Write(self.below, offset, in); };
  }
};

}  // namespace buse

#endif  // LAYERS_CACHE_H_

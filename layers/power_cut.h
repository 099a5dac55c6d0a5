// SPDX-License-Identifier: Apache-2.0
//
// PowerCut: gives the device below a volatile write cache, and takes its power away. What survives is everything that was
// flushed and some of the rest, as a disk may choose: for finding out what a layer, a file system or a database above loses.
//
// Family: transform.
// Guarantees: Write, Trim and WriteZeroes stay in memory until Flush, in the order they came; WriteThrough makes its sectors
// durable and leaves what came before elsewhere in the cache. When the power goes, each sector ends up with one of the values
// it had since it was last durable (layers/volatile_cache.h has the model), so any subset of the unflushed changes survives,
// torn at any sectors. The change during which the power goes is one of them. From then on every call fails with
// kUnavailable. The bytes below stay what they are when it is opened again: only this layer's memory is lost.
// Passes on: Prefetch; WriteThrough, Trim and WriteZeroes where there are such below. View and Extents are absent, since what
// is held back is not below yet; Resize is, since no model says when the size of a medium becomes durable.
// Concurrency: kSerial.
// Cost: allocates a copy of what is written, up to `cache` bytes; beyond them the oldest is written below, as a disk may do at
// any time. Every call searches the list of what is held.
// Failure: that of the device below. A change that fails when it is written below stays held, and the next Flush tries again.
//
// Seen from a command line, `cut-after` changes (writes, trims, zeroes, flushes) are well and the next one cuts the power; the
// survivors are drawn from `seed` and written below. A test holds the switch itself:
//
//   using Stack = buse::PowerCut<buse::FileBacked>;
//   Stack::Config config{.cut_after = 1000, .seed = 7, .below = {.path = "disk.img"}};
//
//   buse::Power power;
//   Stack::Config config{.power = &power, .below = {.path = "disk.img"}};
//   ... Stack::Crash(state, [&](uint64_t n) { return random() % n; });

#ifndef LAYERS_POWER_CUT_H_
#define LAYERS_POWER_CUT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/operations.h"
#include "layers/splitmix.h"
#include "layers/volatile_cache.h"

namespace buse {

// The power of one device or, if they share it, of several.
struct Power {
  bool on = true;
  uint64_t changes = 0;          // that began: Write, WriteThrough, Trim, WriteZeroes, Flush
  uint64_t cut_at = UINT64_MAX;  // the power goes during the change of this number, from 0
};

template <Device B>
struct PowerCut {
  using Below = B;

  struct Config {
    uint64_t sector = 512;
    uint64_t cache = 64 << 20;
    uint64_t cut_after = 0;
    uint64_t seed = 0;
    // Of a test, which decides what survives: by Crash, or from `held`. Absent: cut_after and seed decide.
    Power* power = nullptr;
    VolatileCache* held = nullptr;  // absent: one of its own
    typename Below::Config below;
  };

  struct State {
    typename Below::State below;
    Power own_power;
    VolatileCache own_held;
    Power* power = nullptr;
    VolatileCache* held = nullptr;
    uint64_t sector = 0;
    uint64_t cache = 0;
    uint64_t seed = 0;
  };

  static bool HoldsWrites(const Config&) { return true; }

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Concurrency::kSerial;

  static constexpr Description<Config, 4> Describe() {
    return {"power-cut",
            "holds writes in memory until they are flushed, and loses some of the others when the power goes",
            Family::kTransform,
            {{{.field = &Config::cut_after, .name = "cut-after", .help = "changes after which the power goes, 0 for never"},
              {.field = &Config::seed, .name = "seed", .help = "decides which of the unflushed changes survive"},
              {.field = &Config::sector,
               .name = "sector",
               .help = "what is written whole or not at all, a power of two",
               .unit = Unit::kBytes,
               .min = 512,
               .max = 65536},
              {.field = &Config::cache,
               .name = "cache",
               .help = "the most that is held, beyond which the oldest is written",
               .unit = Unit::kBytes}}}};
  }

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = Below::Open(config.below, self.below); !status.ok()) return status;
    if (config.sector < 512 || (config.sector & (config.sector - 1)) != 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("power-cut: a sector of %d bytes is too small or no power of two: take 512 or 4096", config.sector));
    }
    if (std::max(config.sector, kBlockSize) % std::min(config.sector, kBlockSize) != 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "power-cut: a sector of %d bytes and blocks of %d below do not divide each other", config.sector, kBlockSize));
    }
    self.sector = config.sector;
    self.cache = config.cache;
    self.seed = config.seed;
    if (config.cut_after != 0) self.own_power.cut_at = config.cut_after;
    self.power = config.power != nullptr ? config.power : &self.own_power;
    self.held = config.held != nullptr ? config.held : &self.own_held;
    self.held->Clear();
    return self.power->on ? absl::OkStatus() : Off();
  }

  static uint64_t Size(const State& self) { return Below::Size(self.below); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    if (!self.power->on) return Off();
    absl::Status status = Below::Read(self.below, offset, out);
    if (status.ok()) self.held->Overlay(offset, out);
    return status;
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    return Hold(self, VolatileCache::Kind::kData, {offset, in.size()}, in);
  }

  static absl::Status Flush(State& self) requires CanFlush<Below> {
    if (!self.power->on) return Off();
    if (CutNow(self)) return Settle(self);
    if (absl::Status status = Destage(self, 0); !status.ok()) return status;
    return Below::Flush(self.below);
  }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<Below> {
    if (!self.power->on) return Off();
    const Range range = {offset, in.size()};
    if (CutNow(self)) {
      self.held->Add(VolatileCache::Kind::kData, range, in);
      return Settle(self);
    }
    // A sector is written as it is, with what earlier changes did to the rest of it.
    const Range sectors = Sectors(self, range);
    absl::Status status = self.held->ForEach(sectors, [&](const VolatileCache::Part& part) { return Put(self, part); });
    if (!status.ok()) return status;
    self.held->Remove(sectors);
    return Below::WriteThrough(self.below, offset, in);
  }

  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> {
    return Hold(self, VolatileCache::Kind::kTrim, range, {});
  }

  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    return Hold(self, VolatileCache::Kind::kZeroes, range, {});
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    return self.power->on ? Below::Prefetch(self.below, range) : Off();
  }

  // Cuts the power if it is on, and writes below what survives: for each sector in doubt, in ascending order,
  // `choose(n)` gives the number, less than n, of its value, 0 for the one on the medium.
  static absl::Status Crash(State& self, absl::FunctionRef<uint64_t(uint64_t)> choose) requires CanWrite<Below> {
    self.power->on = false;
    const auto read = [&](uint64_t offset, Bytes out) { return ReadBelow(self, offset, out); };
    absl::StatusOr<std::vector<VolatileCache::Doubt>> doubts = self.held->Doubts(self.sector, Size(self), read);
    if (!doubts.ok()) return doubts.status();
    for (const VolatileCache::Doubt& doubt : *doubts) {
      const uint64_t chosen = choose(doubt.values.size());
      if (chosen == 0) continue;
      if (absl::Status status = WriteBelow(self, doubt.range, doubt.values[chosen]); !status.ok()) return status;
    }
    self.held->Clear();
    return Below::Flush(self.below);
  }

 private:
  static absl::Status Off() {
    return absl::UnavailableError("power-cut: the power is off: open the device again to see what survived");
  }

  // Counts a change. True: it is the one during which the power goes.
  static bool CutNow(State& self) {
    self.power->on = self.power->changes++ != self.power->cut_at;
    return !self.power->on;
  }

  // Without a test that decides, the seed does.
  static absl::Status Settle(State& self) {
    if (self.power != &self.own_power) return Off();
    SplitMix64 random(self.seed);
    absl::Status status = Crash(self, [&](uint64_t n) { return random() % n; });
    return status.ok() ? Off() : status;
  }

  static absl::Status Hold(State& self, VolatileCache::Kind kind, Range range, ConstBytes in) {
    if (!self.power->on) return Off();
    self.held->Add(kind, range, in);
    return CutNow(self) ? Settle(self) : Destage(self, self.cache);
  }

  // Writes the oldest below until at most `limit` bytes are held.
  static absl::Status Destage(State& self, uint64_t limit) {
    while (self.held->bytes() > limit) {
      const VolatileCache::Change& oldest = self.held->changes().front();
      if (absl::Status status = Put(self, {oldest.kind, oldest.range, oldest.data}); !status.ok()) return status;
      self.held->RemoveOldest();
    }
    return absl::OkStatus();
  }

  static absl::Status Put(State& self, const VolatileCache::Part& part) {
    if (part.kind == VolatileCache::Kind::kData) return Below::Write(self.below, part.range.offset, part.data);
    if constexpr (CanTrim<Below>) {
      if (part.kind == VolatileCache::Kind::kTrim) return Below::Trim(self.below, part.range);
    }
    return buse::WriteZeroes<Below>(self.below, part.range);
  }

  static Range Sectors(const State& self, Range range) {
    const uint64_t begin = range.offset - range.offset % self.sector;
    const uint64_t last = range.end() - 1;
    const uint64_t end = std::min(last - last % self.sector + self.sector, Size(self));
    return {begin, end - begin};
  }

  // The blocks below around a sector, which may be a part of one.
  static Range Blocks(Range range) {
    const uint64_t begin = range.offset - range.offset % kBlockSize;
    const uint64_t last = range.end() - 1;
    return {begin, last - last % kBlockSize + kBlockSize - begin};
  }

  static absl::Status ReadBelow(State& self, uint64_t offset, Bytes out) {
    const Range blocks = Blocks({offset, out.size()});
    std::vector<std::byte> bytes(blocks.length);
    absl::Status status = Below::Read(self.below, blocks.offset, bytes);
    std::memcpy(out.data(), bytes.data() + (offset - blocks.offset), out.size());
    return status;
  }

  static absl::Status WriteBelow(State& self, Range range, ConstBytes in) {
    const Range blocks = Blocks(range);
    std::vector<std::byte> bytes(blocks.length);
    if (absl::Status status = Below::Read(self.below, blocks.offset, bytes); !status.ok()) return status;
    std::memcpy(bytes.data() + (range.offset - blocks.offset), in.data(), in.size());
    return Below::Write(self.below, blocks.offset, bytes);
  }
};

}  // namespace buse

#endif  // LAYERS_POWER_CUT_H_

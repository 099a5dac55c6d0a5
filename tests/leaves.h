// SPDX-License-Identifier: Apache-2.0
//
// The leaves that layers are tested over: Full has every operation of the contract, Writer adds to what is mandatory only Write
// and Flush, Bare has only what is mandatory. All keep their bytes in a vector, record their calls and fail when told.

#ifndef TESTS_LEAVES_H_
#define TESTS_LEAVES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "buse/scatter.h"

namespace buse::testing {

struct Call {
  std::string operation;  // "Read", "Write", ...
  Range range;

  friend bool operator==(const Call&, const Call&) = default;
};

// What a leaf did, and what it shall do. Owned by the test, and outlives the device.
struct Script {
  // Fails call number `fail_at` (from 0; Open does not count) and none if negative.
  int64_t fail_at = -1;
  absl::Status error = absl::InternalError("injected failure");
  // The medium: survives reopening.
  std::vector<std::byte> medium;
  std::vector<Call> calls;
  std::mutex mutex;
  std::mutex bytes;  // guards the medium of a kParallel leaf

  absl::Status Next(std::string operation, Range range) {
    std::lock_guard lock(mutex);
    calls.push_back({std::move(operation), range});
    return static_cast<int64_t>(calls.size()) - 1 == fail_at ? error : absl::OkStatus();
  }
};

// The mandatory part.
template <uint64_t kBlock, Concurrency kRunsTogether>
struct BasicBare {
  struct Config {
    uint64_t size = 65536;
    Script* script = nullptr;  // absent: one of its own
  };
  struct State {
    Script own;
    Script* script = nullptr;
  };

  static constexpr uint64_t kBlockSize = kBlock;
  static constexpr Concurrency kConcurrency = kRunsTogether;
  static constexpr bool kWaits = false;

  static constexpr Description<Config, 1> Describe() {
    return {"leaf", "keeps bytes for a test", Family::kLeaf, {{{.field = &Config::size, .name = "size", .help = "bytes"}}}};
  }
  static absl::Status Open(const Config& config, State& self) {
    self.script = config.script != nullptr ? config.script : &self.own;
    self.script->medium.resize(config.size);
    return absl::OkStatus();
  }
  static uint64_t Size(const State& self) { return self.script->medium.size(); }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) { return Get(self, "Read", offset, out); }

  static absl::Status Get(State& self, const char* operation, uint64_t offset, Bytes out) {
    absl::Status status = self.script->Next(operation, {offset, out.size()});
    [[maybe_unused]] const auto lock = HoldBytes(self);
    if (status.ok()) std::memcpy(out.data(), self.script->medium.data() + offset, out.size());
    return status;
  }

  // Where calls may overlap, their outcome is to be one of a disk's, whole blocks. Where they may not, one that does is the
  // race that ThreadSanitizer is to find.
  static auto HoldBytes(State& self) {
    if constexpr (kConcurrency == Concurrency::kParallel) {
      return std::unique_lock(self.script->bytes);
    } else {
      return nullptr;
    }
  }
};

// The mandatory part of a device that can be written.
template <uint64_t kBlock, Concurrency kRunsTogether>
struct BasicWriter {
  using Base = BasicBare<kBlock, kRunsTogether>;
  using Config = typename Base::Config;
  using State = typename Base::State;

  static constexpr uint64_t kBlockSize = kBlock;
  static constexpr uint64_t kAtomicWrite = 4096;
  static constexpr Concurrency kConcurrency = kRunsTogether;
  static constexpr bool kWaits = false;

  static constexpr auto Describe() { return Base::Describe(); }
  static absl::Status Open(const Config& config, State& self) { return Base::Open(config, self); }
  static uint64_t Size(const State& self) { return Base::Size(self); }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) { return Base::Read(self, offset, out); }
  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) { return Put(self, "Write", offset, in); }
  static absl::Status Flush(State& self) { return self.script->Next("Flush", {}); }

  static absl::Status Put(State& self, const char* operation, uint64_t offset, ConstBytes in) {
    absl::Status status = self.script->Next(operation, {offset, in.size()});
    [[maybe_unused]] const auto lock = Base::HoldBytes(self);
    if (status.ok()) std::memcpy(self.script->medium.data() + offset, in.data(), in.size());
    return status;
  }
};

// Everything.
template <uint64_t kBlock, Concurrency kRunsTogether>
struct BasicFull {
  using Base = BasicWriter<kBlock, kRunsTogether>;
  using Config = typename Base::Config;
  using State = typename Base::State;

  static constexpr uint64_t kBlockSize = kBlock;
  static constexpr Concurrency kConcurrency = kRunsTogether;
  static constexpr bool kWaits = false;
  static constexpr uint64_t kAtomicWrite = 4096;
  // What Backing names: the bytes as if the medium were this file.
  static constexpr int kBackingFd = 4242;

  static constexpr auto Describe() { return Base::Describe(); }
  static absl::Status Open(const Config& config, State& self) { return Base::Open(config, self); }
  static uint64_t Size(const State& self) { return Base::Size(self); }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) { return Base::Read(self, offset, out); }
  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) { return Base::Write(self, offset, in); }
  static absl::Status Flush(State& self) { return Base::Flush(self); }
  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) {
    return Base::Put(self, "WriteThrough", offset, in);
  }
  static absl::Status Trim(State& self, Range range) { return Clear(self, "Trim", range); }
  static absl::Status WriteZeroes(State& self, Range range) { return Clear(self, "WriteZeroes", range); }
  static absl::Status Prefetch(State& self, Range range) { return self.script->Next("Prefetch", range); }
  static absl::Status View(State& self, Range range, Gather& gather) {
    absl::Status status = self.script->Next("View", range);
    if (status.ok()) gather.Append({self.script->medium.data() + range.offset, range.length});
    return status;
  }
  static bool TryRead(State& self, uint64_t offset, Bytes out) { return Base::Base::Get(self, "TryRead", offset, out).ok(); }
  static bool TryWrite(State& self, uint64_t offset, ConstBytes in) { return Base::Put(self, "TryWrite", offset, in).ok(); }
  static absl::Status Place(State& self, Range range, Scatter& scatter) {
    absl::Status status = self.script->Next("Place", range);
    if (status.ok()) scatter.Append({self.script->medium.data() + range.offset, range.length});
    return status;
  }
  static absl::Status Placed(State& self, Range range) { return self.script->Next("Placed", range); }
  static std::optional<FileRange> Backing(State&, Range range) { return FileRange{kBackingFd, range.offset}; }
  static absl::Status Resize(State& self, uint64_t size) {
    absl::Status status = self.script->Next("Resize", {0, size});
    if (status.ok()) self.script->medium.resize(size);
    return status;
  }
  // Runs of zero and of other blocks.
  static absl::Status Extents(State& self, Range range, EmitExtent emit) {
    absl::Status status = self.script->Next("Extents", range);
    if (!status.ok()) return status;
    const auto zero = [&](uint64_t at) {
      const auto* begin = self.script->medium.data() + at;
      return *begin == std::byte{0} && std::memcmp(begin, begin + 1, kBlock - 1) == 0;
    };
    // What `emit` does may take the lock as well.
    const auto extent_at = [&](uint64_t at) -> Extent {
      [[maybe_unused]] const auto lock = Base::Base::HoldBytes(self);
      const bool hole = zero(at);
      uint64_t end = at + kBlock;
      while (end < range.end() && zero(end) == hole) end += kBlock;
      return {{at, end - at}, hole ? Extent::Kind::kHole : Extent::Kind::kData};
    };
    for (uint64_t at = range.offset; at < range.end();) {
      const Extent extent = extent_at(at);
      if (!emit(extent)) break;
      at = extent.range.end();
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status Clear(State& self, const char* operation, Range range) {
    absl::Status status = self.script->Next(operation, range);
    [[maybe_unused]] const auto lock = Base::Base::HoldBytes(self);
    if (status.ok()) std::memset(self.script->medium.data() + range.offset, 0, range.length);
    return status;
  }
};

using Full = BasicFull<1, Concurrency::kParallel>;
using Full512 = BasicFull<512, Concurrency::kParallel>;
using Writer = BasicWriter<1, Concurrency::kParallel>;
using Bare = BasicBare<1, Concurrency::kParallel>;

// What a device offers, as one value: static_assert it for every layer over Full and over Bare.
struct Capabilities {
  bool write = false;
  bool write_through = false;
  bool trim = false;
  bool write_zeroes = false;
  bool extents = false;
  bool prefetch = false;
  bool view = false;
  bool backing = false;
  bool resize = false;
  bool place = false;
  bool try_read = false;
  bool try_write = false;
  bool residency = false;

  friend constexpr bool operator==(const Capabilities&, const Capabilities&) = default;
};

template <Device D>
inline constexpr Capabilities kCapabilities = {
    .write = CanWrite<D>&& CanFlush<D>,
    .write_through = CanWriteThrough<D>,
    .trim = CanTrim<D>,
    .write_zeroes = CanWriteZeroes<D>,
    .extents = CanExtents<D>,
    .prefetch = CanPrefetch<D>,
    .view = CanView<D>,
    .backing = CanBacking<D>,
    .resize = CanResize<D>,
    .place = CanPlace<D>&& CanPlaced<D>,
    .try_read = CanTryRead<D>,
    .try_write = CanTryWrite<D>,
    .residency = CanResidency<D>,
};

inline constexpr Capabilities kEverything = {true, true, true, true, true, true, true, true, true, true, true, true};
inline constexpr Capabilities kEverythingButBacking = {true, true, true, true, true, true, true, false, true, true, true, true};
// Of an observer that must know of every operation once, and before it happens.
inline constexpr Capabilities kEverythingObserved = {true, true,  true, true,  true,  true,
                                                     true, false, true, false, false, false};
// Of one that is only told of what is done.
inline constexpr Capabilities kEverythingTold = {true, true, true, true, true, true, true, false, true, false, true, true};
inline constexpr Capabilities kNothing = {};

static_assert(kCapabilities<Full> == kEverything);
static_assert(kCapabilities<Writer> == Capabilities{.write = true});
static_assert(kCapabilities<Bare> == kNothing);

}  // namespace buse::testing

#endif  // TESTS_LEAVES_H_

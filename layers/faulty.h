// SPDX-License-Identifier: Apache-2.0
//
// Faulty: a bad disk, by plan. For finding out what a layer, a file system or a database above makes of it.
//
// The fault model. Faults befall operations on their way down or bytes on their way up; what is below is never damaged by a
// read, so that a test can compare with the pristine bytes there.
//   error        the operation is not done and fails with kInternal, as EIO does
//   short        a prefix is done, up to a sector's border, and the operation fails in the same way
//   delay        the operation is done later, by the time given
//   flip         one bit of a 512-byte sector reads inverted. Reading again does not heal it: which sector and which bit is a
//                function of the seed, the place and the content. New content is a new draw. Flips that are counted (nth,
//                times) make a sector of that read bad, which it stays while it holds the same.
//   lost         a change is acknowledged and not done; a Flush too, if named
//   misdirected  a change is acknowledged and done at another offset, which the seed decides, and not at its own
//   torn         of a change a prefix of sectors is done, perhaps none, and all of it acknowledged
// At most one of them strikes an operation, the first of the plan; but flips that are not counted belong to the sectors, and
// come with whatever else befalls the read. What is torn or short ends at a multiple of 512 bytes, or of a block below if that
// has more.
//
// Family: transform, since bytes may be wrong.
// Guarantees: without a fault that strikes, that of the device below.
// Passes on: every operation below has, except View, Backing and Extents, by which bytes could be read or taken for granted
// unseen.
// Concurrency: that of the device below; which operation is the Nth is then up to chance.
// Cost: a short critical section per operation. While bits flip, each sector read is hashed, and the sectors at partial edges
// are read whole.
// Failure: that of the device below, and what is asked for.
//
//   using Stack = buse::Faulty<buse::Memory>;
//   Stack::Config config{.faults = "error,op=write,nth=3; flip,in=1000", .seed = 7, .below = {.size = 64 << 20}};
//
// layers/fault_plan.h says what a plan may hold. A test keeps the plan in its hands and changes it as it goes:
//
//   buse::FaultPlan plan;
//   Stack::Config config{.plan = &plan, .below = {.size = 64 << 20}};
//   plan.Add({.kind = buse::Fault::Kind::kLost, .operation = buse::Operation::kWrite, .nth = 1});

#ifndef LAYERS_FAULTY_H_
#define LAYERS_FAULTY_H_

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/description.h"
#include "buse/device.h"
#include "layers/fault_plan.h"
#include "layers/operation.h"

namespace buse {

template <Device B>
struct Faulty {
  using Below = B;

  static_assert(FaultPlan::kSector % Below::kBlockSize == 0 || Below::kBlockSize % FaultPlan::kSector == 0,
                "buse: Faulty needs blocks that 512 bytes consist of, or that consist of 512 bytes");

  struct Config {
    std::string faults;
    uint64_t seed = 0;
    FaultPlan* plan = nullptr;  // borrowed; absent: one of its own. `faults` are added to it.
    typename Below::Config below;
  };

  struct State {
    typename Below::State below;
    FaultPlan own_plan;
    FaultPlan* plan = nullptr;
  };

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;
  static constexpr bool kWaits = true;

  static constexpr Description<Config, 2> Describe() {
    return {"faulty",
            "fails, flips bits, loses, misplaces and tears writes, by plan",
            Family::kTransform,
            {{{.field = &Config::faults,
               .name = "faults",
               .help = "KIND[,op=OPERATION][,at=OFFSET+LENGTH][,nth=N][,times=N][,in=N][,ms=N], more after semicolons; KIND is "
                       "error, short, delay, flip, lost, misdirected or torn"},
              {.field = &Config::seed, .name = "seed", .help = "decides what the plan leaves to chance"}}}};
  }

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = Below::Open(config.below, self.below); !status.ok()) return status;
    self.plan = config.plan != nullptr ? config.plan : &self.own_plan;
    if (config.plan == nullptr || config.seed != 0) self.plan->set_seed(config.seed);
    absl::Status status = self.plan->Parse(config.faults);
    return status.ok() ? status : absl::Status(status.code(), absl::StrCat("faulty: ", status.message()));
  }

  static uint64_t Size(const State& self) { return Below::Size(self.below); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    const Range range = {offset, out.size()};
    const std::optional<FaultPlan::Strike> strike = self.plan->Next(Operation::kRead, range);
    if (strike.has_value()) {
      if (strike->kind == Fault::Kind::kError) return Error(Operation::kRead, range);
      if (strike->kind == Fault::Kind::kDelay) Delay(*strike);
      if (strike->kind == Fault::Kind::kShort) {
        const uint64_t length = Prefix(range, strike->random);
        absl::Status status = length > 0 ? Below::Read(self.below, offset, out.subspan(0, length)) : absl::OkStatus();
        return status.ok() ? Error(Operation::kRead, range) : status;
      }
    }
    if (absl::Status status = Below::Read(self.below, offset, out); !status.ok()) return status;
    if (strike.has_value() && strike->kind == Fault::Kind::kFlip) {
      if (absl::Status status = MakeBad(self, offset, out, strike->random); !status.ok()) return status;
    }
    return self.plan->flips() ? Flip(self, offset, out) : absl::OkStatus();
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    return Change(self, Operation::kWrite, {offset, in.size()},
                  [&](uint64_t at, uint64_t length) { return Below::Write(self.below, at, in.subspan(0, length)); });
  }

  static absl::Status Flush(State& self) requires CanFlush<Below> {
    const std::optional<FaultPlan::Strike> strike = self.plan->Next(Operation::kFlush, {});
    if (strike.has_value()) {
      if (strike->kind == Fault::Kind::kError) return Error(Operation::kFlush, {});
      if (strike->kind == Fault::Kind::kDelay) Delay(*strike);
      if (strike->kind == Fault::Kind::kLost) return absl::OkStatus();
    }
    return Below::Flush(self.below);
  }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<Below> {
    return Change(self, Operation::kWriteThrough, {offset, in.size()},
                  [&](uint64_t at, uint64_t length) { return Below::WriteThrough(self.below, at, in.subspan(0, length)); });
  }

  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> {
    return Change(self, Operation::kTrim, range, [&](uint64_t at, uint64_t length) {
      return Below::Trim(self.below, Range{at, length});
    });
  }

  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    return Change(self, Operation::kWriteZeroes, range, [&](uint64_t at, uint64_t length) {
      return Below::WriteZeroes(self.below, Range{at, length});
    });
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    return Simple(self, Operation::kPrefetch, range, [&] { return Below::Prefetch(self.below, range); });
  }

  static absl::Status Resize(State& self, uint64_t size) requires CanResize<Below> {
    return Simple(self, Operation::kResize, {0, size}, [&] { return Below::Resize(self.below, size); });
  }

 private:
  static constexpr uint64_t kTear = std::max<uint64_t>(FaultPlan::kSector, kBlockSize);

  static absl::Status Error(Operation operation, Range range) {
    return absl::InternalError(
        absl::StrCat("faulty: ", ToString(operation), " ", range.offset, "+", range.length, " failed as planned"));
  }

  static void Delay(const FaultPlan::Strike& strike) {
    std::this_thread::sleep_for(std::chrono::milliseconds(strike.milliseconds));
  }

  // The length of a prefix that ends at a sector's border inside the range, or is empty.
  static uint64_t Prefix(Range range, uint64_t random) {
    const uint64_t borders = (range.end() - 1) / kTear - range.offset / kTear;
    const uint64_t chosen = random % (borders + 1);
    return chosen == 0 ? 0 : (range.offset / kTear + chosen) * kTear - range.offset;
  }

  // Another place for as many bytes. The place itself if there is none.
  static uint64_t Elsewhere(const State& self, Range range, uint64_t random) {
    const uint64_t others = (Size(self) - range.length) / kBlockSize;
    if (others == 0) return range.offset;
    const uint64_t place = random % others * kBlockSize;
    return place < range.offset ? place : place + kBlockSize;
  }

  // `put(offset, length)` does the first `length` bytes of the change, at `offset`.
  template <class Put>
  static absl::Status Change(State& self, Operation operation, Range range, Put put) {
    const std::optional<FaultPlan::Strike> strike = self.plan->Next(operation, range);
    if (!strike.has_value()) return put(range.offset, range.length);
    const uint64_t prefix = Prefix(range, strike->random);
    switch (strike->kind) {
      case Fault::Kind::kError:
        return Error(operation, range);
      case Fault::Kind::kShort: {
        absl::Status status = prefix > 0 ? put(range.offset, prefix) : absl::OkStatus();
        return status.ok() ? Error(operation, range) : status;
      }
      case Fault::Kind::kTorn:
        return prefix > 0 ? put(range.offset, prefix) : absl::OkStatus();
      case Fault::Kind::kLost:
        return absl::OkStatus();
      case Fault::Kind::kMisdirected: {
        const uint64_t place = Elsewhere(self, range, strike->random);
        return place != range.offset ? put(place, range.length) : absl::OkStatus();
      }
      case Fault::Kind::kDelay:
        Delay(*strike);
        break;
      case Fault::Kind::kFlip:
        break;
    }
    return put(range.offset, range.length);
  }

  template <class Next>
  static absl::Status Simple(State& self, Operation operation, Range range, Next next) {
    const std::optional<FaultPlan::Strike> strike = self.plan->Next(operation, range);
    if (strike.has_value()) {
      if (strike->kind == Fault::Kind::kError) return Error(operation, range);
      Delay(*strike);
    }
    return next();
  }

  using Scratch = std::array<std::byte, FaultPlan::kSector>;

  // The whole sector, as it is below: in `out`, which was read from `offset`, or read into `scratch` where `out` has only a
  // part of it.
  static absl::Status Pristine(State& self, uint64_t number, uint64_t offset, Bytes out, Scratch& scratch, Bytes& sector) {
    const uint64_t begin = number * FaultPlan::kSector;
    const uint64_t length = std::min<uint64_t>(FaultPlan::kSector, Size(self) - begin);
    if (begin >= offset && begin + length <= offset + out.size()) {
      sector = out.subspan(begin - offset, length);
      return absl::OkStatus();
    }
    sector = Bytes(scratch).subspan(0, length);
    return Below::Read(self.below, begin, sector);
  }

  // Makes one sector of a read a bad one.
  static absl::Status MakeBad(State& self, uint64_t offset, Bytes out, uint64_t random) {
    const uint64_t first = offset / FaultPlan::kSector;
    const uint64_t last = (offset + out.size() - 1) / FaultPlan::kSector;
    const uint64_t number = first + random % (last - first + 1);
    Scratch scratch;
    Bytes sector;
    absl::Status status = Pristine(self, number, offset, out, scratch, sector);
    if (status.ok()) self.plan->MakeBad(number, sector);
    return status;
  }

  // Flips what reads inverted of the bytes that were read from `offset`.
  static absl::Status Flip(State& self, uint64_t offset, Bytes out) {
    const uint64_t last = (offset + out.size() - 1) / FaultPlan::kSector;
    for (uint64_t number = offset / FaultPlan::kSector; number <= last; ++number) {
      Scratch scratch;
      Bytes sector;
      if (absl::Status status = Pristine(self, number, offset, out, scratch, sector); !status.ok()) return status;
      self.plan->Flip(number, sector);
      if (sector.data() != scratch.data()) continue;
      const uint64_t sector_begin = number * FaultPlan::kSector;
      const uint64_t begin = std::max(sector_begin, offset);
      const uint64_t end = std::min(sector_begin + sector.size(), offset + out.size());
      std::memcpy(out.data() + (begin - offset), sector.data() + (begin - sector_begin), end - begin);
    }
    return absl::OkStatus();
  }
};

}  // namespace buse

#endif  // LAYERS_FAULTY_H_

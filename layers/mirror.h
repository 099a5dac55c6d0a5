// SPDX-License-Identifier: Apache-2.0
//
// Mirror: the same bytes on several devices, its legs, so that all but one of them may fail (RAID 1). The legs may be of
// different types. What one leg cannot read it gets back from another: a mirror of checksums repairs itself.
//
// Family: transform, since the legs hold more than the data, and what one says may be wrong.
// Guarantees: a change that was acknowledged has reached every leg in sync, and every other leg is durably recorded as failed: it
// is not read until it has everything again. After an unclean stop legs may differ in the regions that were being written: what
// is read there is first made the same on all legs, durably, so that it stays what it is.
// On the medium: layers/mirror_format.h. Open refuses legs of another set, order or number. It also refuses to go without a leg
// that is missing, or stale since it failed or was replaced, unless `degraded`: then the others serve, a stale leg gets every
// change, and Rebuild brings it up to date. Given only a stale leg and `degraded`, it is a stale mirror; when the others come
// back, it is refused.
// Passes on: WriteThrough, Trim and WriteZeroes where all legs have them, to all; Prefetch to the leg that would be read. View and
// Backing would let bytes pass that another leg could not replace, Extents differ, and Resize would leave some legs cut.
// Concurrency: the least of the legs. Ranges are locked while they are changed, and while they are read against copying; these
// locks and that of the metadata are held across calls below.
// Cost: a change goes to one leg after the other. The first one to a region makes the region's bit durable on each leg before, a
// write of 4096 bytes; `idle-flushes` flushes after the last one the bit is cleared by a write that nothing waits for. More of
// them cost fewer writes, and leave more to resynchronise. Memory: 16 bytes per region and 128 KiB.
// Failure: a leg that fails a change or a Flush is recorded as failed on the others before that is acknowledged. One that fails a
// read is written what another leg has, and read again; if that fails, it is given up. Where all legs in sync fail, the error is
// passed on and none is given up. There is no thread: Rebuild and Scrub do a bounded piece of work for each call, and so does
// Flush, `flush-step` bytes of Rebuild; layers/maintain.h has one.
//
//   using Stack = buse::Mirror<buse::FileBacked, buse::FileBacked>;
//   Stack::Config config{.below = {{.path = "left.img"}, {.path = "right.img"}}};

#ifndef LAYERS_MIRROR_H_
#define LAYERS_MIRROR_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "buse/operations.h"
#include "buse/range_mutex.h"
#include "layers/defect.h"
#include "layers/leg_media.h"
#include "layers/legs_status.h"
#include "layers/mirror_format.h"
#include "layers/mirror_legs.h"
#include "layers/mirror_links.h"
#include "layers/mirror_media.h"
#include "layers/mirror_metadata.h"
#include "layers/mirror_set.h"
#include "layers/superblock.h"

namespace buse {

template <Device... Legs>
struct Mirror {
  static constexpr size_t kLegs = sizeof...(Legs);
  static_assert(kLegs >= 2 && kLegs <= MirrorHead::kMostLegs, "buse: Mirror needs 2 to 16 legs");

  using Below = std::tuple<Legs...>;

  struct Config {
    uint64_t region_size = 0;  // a Format's; 0: LayOutMirror's default
    bool degraded = false;
    uint64_t idle_flushes = 8;
    uint64_t flush_step = 1 << 20;
    std::string replace_leg;  // a number, from 0
    std::tuple<typename Legs::Config...> below;
  };

  struct State {
    std::tuple<typename Legs::State...> below;
    std::array<absl::optional<Superblock>, kLegs> superblocks;  // absent: the leg is missing
    MirrorSet set;
  };

  static constexpr uint64_t kBlockSize = [] {
    uint64_t block_size = 1;
    ((block_size = std::lcm(block_size, uint64_t{Legs::kBlockSize})), ...);
    return block_size;
  }();
  static constexpr Concurrency kConcurrency = std::min({Legs::kConcurrency...});
  static_assert(4096 % kBlockSize == 0, "buse: the legs of a Mirror have blocks of at most 4096 bytes, a power of two");

  static constexpr Description<Config, 5> Describe() {
    return {
        "mirror",
        "keeps the same bytes on several devices, and repairs one from another",
        Family::kTransform,
        {{{.field = &Config::degraded, .name = "degraded", .help = "go on where legs are missing, or stale and to be rebuilt"},
          {.field = &Config::region_size,
           .name = "region-size",
           .help = "what one bit stands for, a power of two; without it 1M, or more on large legs",
           .unit = Unit::kBytes,
           .shapes_medium = true},
          {.field = &Config::idle_flushes,
           .name = "idle-flushes",
           .help = "flushes without a write until a region needs no resync any more",
           .min = 1},
          {.field = &Config::flush_step,
           .name = "flush-step",
           .help = "bytes to rebuild with every flush",
           .unit = Unit::kBytes},
          {.field = &Config::replace_leg,
           .name = "replace-leg",
           .help = "number of a leg, from 0, whose medium is empty: to be formatted and rebuilt"}}}};
  }

  static std::string FormatName() { return "mirror"; }

  static absl::Status Format(const Config& config, std::tuple<typename Legs::State...>& below,
                             Progress progress) requires(CanWrite<Legs>&&...) {
    uint64_t smallest = UINT64_MAX;
    VisitMirrorLegs<kLegs>([&](auto leg) { smallest = std::min(smallest, At<leg>::Size(std::get<leg>(below))); });
    absl::StatusOr<MirrorLayout> layout = LayOutMirror(smallest, config.region_size, kBlockSize);
    if (!layout.ok()) return layout.status();
    absl::Status status = ForEachMirrorLeg<kLegs>([&](auto leg) { return EraseSuperblock<At<leg>>(std::get<leg>(below)); });
    if (!status.ok()) return status;
    const Uuid set = NewUuid();
    std::array<Superblock, kLegs> superblocks;
    MirrorHead head = {.event = 1, .legs = kLegs};
    VisitMirrorLegs<kLegs>([&](auto leg) {
      superblocks[leg] = Media::template MakeSuperblock<leg>(*layout, set, std::get<leg>(below));
      head.leg[leg].uuid = superblocks[leg].uuid;
    });
    uint64_t done = 0;
    const auto add = [&](uint64_t bytes) { progress(done += bytes, kLegs * layout->size); };
    return ForEachMirrorLeg<kLegs>(
        [&](auto leg) { return Media::template Format<leg>(*layout, head, superblocks[leg], std::get<leg>(below), add); });
  }

  static absl::Status Open(const Config& config, State& self) {
    const absl::StatusOr<size_t> replaced = ReplacedLeg("mirror", config.replace_leg, kLegs);
    if (!replaced.ok()) return replaced.status();
    std::array<MirrorMetadata::Found, kLegs> found;
    absl::optional<Superblock> first;
    absl::Status status = ForEachMirrorLeg<kLegs>([&](auto leg) {
      absl::Status opened = Media::template Open<leg>(std::get<leg>(config.below), self, first, found[leg]);
      if (opened.ok() || leg != *replaced) return opened;
      found[leg].why = std::string(opened.message());
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    if (!first) return absl::FailedPreconditionError(absl::StrCat("mirror: no leg can be used, the first one: ", found[0].why));
    absl::StatusOr<MirrorLayout> layout = ReadMirrorLayout(*first);
    if (!layout.ok()) return layout.status();
    MirrorSet::Options options = {.degraded = config.degraded || *replaced < kLegs,
                                  .writable = true,
                                  .block_size = kBlockSize,
                                  .idle_flushes = std::max<uint64_t>(config.idle_flushes, 1),
                                  .flush_step = config.flush_step};
    VisitMirrorLegs<kLegs>([&](auto leg) {
      if (found[leg].uuid) options.writable = options.writable && buse::Writable<At<leg>>(std::get<leg>(self.below));
    });
    status = self.set.Open(MirrorLinksOf<Legs...>(self.below).all(), found, *layout, options);
    // One that is a leg of the mirror already was replaced before.
    if (!status.ok() || *replaced == kLegs || self.superblocks[*replaced]) return status;
    return OnLeg(*replaced, [&](auto leg) { return Media::template ReplaceByEmpty<leg>(std::get<leg>(config.below), self); });
  }

  static uint64_t Size(const State& self) { return self.set.layout().size; }

  // Of the legs that are open, all are.
  static bool Writable(const State& self) { return self.set.writable(); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    const Range range = {offset, out.size()};
    LegMask suspect = 0;
    {
      RangeMutex::Guard guard(self.set.ranges(), range, RangeMutex::Mode::kShared);
      if (!self.set.intents().InDoubt(range)) {
        const MirrorLegs::Reading reading(self.set.legs(), range);
        absl::Status status = OnLeg(reading.leg(), [&](auto leg) {
          return At<leg>::Read(std::get<leg>(self.below), self.set.layout().data + offset, out);
        });
        if (status.ok()) return status;
        suspect = Leg(reading.leg());
      }
    }
    const MirrorLinksOf<Legs...> links(self.below);
    return self.set.copier().Read(links.all(), range, out, suspect);
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires(CanWrite<Legs>&&...) {
    return Change(self, {offset, in.size()},
                  [&](auto leg, Range there) { return At<leg>::Write(std::get<leg>(self.below), there.offset, in); });
  }

  static absl::Status Flush(State& self) requires(CanFlush<Legs>&&...) {
    const MirrorLinksOf<Legs...> links(self.below);
    return self.set.Flush(links.all());
  }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires(CanWriteThrough<Legs>&&...) {
    return Change(self, {offset, in.size()},
                  [&](auto leg, Range there) { return At<leg>::WriteThrough(std::get<leg>(self.below), there.offset, in); });
  }

  static absl::Status Trim(State& self, Range range) requires(CanTrim<Legs>&&...) {
    return Change(self, range, [&](auto leg, Range there) {
      if (leg != 0 && BUSE_DEFECT("mirror-trims-one-leg")) return absl::OkStatus();
      return At<leg>::Trim(std::get<leg>(self.below), there);
    });
  }

  static absl::Status WriteZeroes(State& self, Range range) requires(CanWriteZeroes<Legs>&&...) {
    return Change(self, range, [&](auto leg, Range there) { return At<leg>::WriteZeroes(std::get<leg>(self.below), there); });
  }

  static absl::Status Prefetch(State& self, Range range) requires(CanPrefetch<Legs> || ...) {
    const RangeMutex::Guard guard(self.set.ranges(), range, RangeMutex::Mode::kShared);  // no leg is replaced meanwhile
    const MirrorLegs::Reading reading(self.set.legs(), {range.offset, 0});
    return OnLeg(reading.leg(), [&](auto leg) {
      return buse::Prefetch<At<leg>>(std::get<leg>(self.below), {self.set.layout().data + range.offset, range.length});
    });
  }

  // Goes on with legs that are to be rebuilt, and with what may differ after an unclean stop, for about `max_bytes` of each leg, and
  // returns how many are left. An error is of a part that no leg in sync can read; the next call goes on behind it.
  static absl::StatusOr<uint64_t> Rebuild(State& self, uint64_t max_bytes) requires(CanWrite<Legs>&&...) {
    const MirrorLinksOf<Legs...> links(self.below);
    return self.set.copier().Rebuild(links.all(), max_bytes);
  }

  // Goes on comparing the legs in sync, for about `max_bytes`, and returns how many are left of this round, 0 at its end. What one
  // leg cannot read is repaired. Where legs differ that read well, nobody can say which is right: the first one's bytes are taken.
  static absl::StatusOr<uint64_t> Scrub(State& self, uint64_t max_bytes) requires(CanWrite<Legs>&&...) {
    const MirrorLinksOf<Legs...> links(self.below);
    return self.set.copier().Scrub(links.all(), max_bytes);
  }

  // Gives up a leg, which may be in sync. kFailedPrecondition: none in sync would be left.
  static absl::Status Fail(State& self, size_t leg) requires(CanWrite<Legs>&&...) {
    const MirrorLinksOf<Legs...> links(self.below);
    return self.set.metadata().Fail(links.all(), leg);
  }

  // Puts another medium in place of a leg that failed or is missing, while others use the mirror: formats it, with the layers below;
  // what it holds is lost. Then there is Rebuild. kFailedPrecondition: it has not failed. Any other error: it is missing.
  template <size_t kLeg>
  static absl::Status Replace(State& self,
                              const typename std::tuple_element_t<kLeg, Below>::Config& config) requires(CanWrite<Legs>&&...) {
    return self.set.Replace(
        kLeg, [&] { Media::template Close<kLeg>(self); }, [&] { return Media::template OpenReplacement<kLeg>(config, self); });
  }

  static absl::Status Check(State& self, const CheckReport& report) {
    VisitMirrorLegs<kLegs>([&](auto leg) {
      if (!self.superblocks[leg]) return;
      for (const std::string& flaw : SuperblockFlaws<At<leg>>(std::get<leg>(self.below), *self.superblocks[leg])) {
        report.flawed(absl::StrCat("leg ", size_t{leg}, ": ", flaw));
      }
    });
    const MirrorLinksOf<Legs...> links(self.below);
    for (const std::string& flaw : self.set.metadata().Flaws(links.all())) report.flawed(flaw);
    return self.set.copier().Check(links.all(), report);
  }

  // Whether the device below can be called: a leg that is missing is not open.
  static bool IsOpen(const State& self, size_t leg) { return self.superblocks[leg].has_value(); }

  static LegsStatus Status(const State& self) { return self.set.Status(); }

 private:
  using Media = MirrorMedia<Mirror>;
  template <size_t kLeg>
  using At = std::tuple_element_t<kLeg, Below>;

  template <class Use>
  static absl::Status OnLeg(size_t number, Use use) {
    return ForEachMirrorLeg<kLegs>([&](auto leg) { return leg == number ? use(leg) : absl::OkStatus(); });
  }

  // `put(leg, there)` changes the range on one leg.
  template <class Put>
  static absl::Status Change(State& self, Range range, Put put) {
    const MirrorLinksOf<Legs...> links(self.below);
    const RangeMutex::Guard guard(self.set.ranges(), range, RangeMutex::Mode::kExclusive);
    if (absl::Status status = self.set.metadata().BeginChange(links.all(), range); !status.ok()) return status;
    LegErrors errors;
    const LegMask active = self.set.legs().Active();
    const Range there = {self.set.layout().data + range.offset, range.length};
    VisitMirrorLegs<kLegs>([&](auto leg) {
      if (Has(active, leg)) errors.Add(leg, put(leg, there));
    });
    return self.set.metadata().EndChange(links.all(), range, errors);
  }
};

}  // namespace buse

#endif  // LAYERS_MIRROR_H_

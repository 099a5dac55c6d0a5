// SPDX-License-Identifier: Apache-2.0
//
// Parity: the bytes of K devices on K + M of them, its legs, so that any M may fail (RAID 5 with M = 1, RAID 6 with M = 2, and on).
// What a leg cannot read it gets back from others: a parity of checksums repairs itself.
//
// Family: transform, since the legs hold more than the data, and what one says may be wrong.
// Guarantees: what was flushed survives a power cut and the loss of any M legs, in any order, also at once, and what was not flushed
// is, block by block, what it was or what was written: there is no write hole. Blocks have kBlockSize bytes, and the legs must
// write blocks of theirs whole, as disks do. A change is acknowledged by Flush when every leg that is then in sync has it in its log,
// durably, and every other leg is durably recorded as failed: it is not read until it was rebuilt.
//
// On the medium: layers/parity_format.h. Stripes of K chunks of data and M of parity, by Reed-Solomon (parity_code.h), rotate over
// the legs. Open refuses legs of another set, order, number or geometry. It also refuses to go without a leg that is missing, or
// stale since it failed, unless `degraded`: then K legs in sync are enough, a stale leg gets every change, and Rebuild brings it up
// to date. Given only stale legs and `degraded`, it is a stale parity; that needs K <= M, and when the others come back, it is
// refused.
//
// The problem: data and parity lie on different legs, and a power cut may keep either. If a leg is missing then, or rotten in that
// place, what follows for it from the others is garbage, also for blocks that nobody has touched for years. The answer:
//
//   A Write copies its blocks to the stage, in memory, and returns. There are two stages: one is filled while the other is committed.
//   A Flush, or a full stage, commits, in transactions that fit the log. For each stripe that changes, what is not in the stage is
//   read, and the parity computed. Then
//     1. each leg writes what it is going to have, data or parity, and of which stripe, to its own log, in one write;
//     2. all legs are flushed: this also makes the transaction before this one durable in its place;
//     3. a leg that failed is durably recorded as such on the others, in their heads;
//     4. each leg writes its pieces to their places. Nothing is waited for: the log has them. A leg that fails: as in 3.
//   Trim and WriteZeroes are not passed on: they would be writes, each with its log.
//
// Recovery, in Open: layers/parity_recovery.h. That each leg logs only its own pieces is enough, since a leg that is missing needs
// none: the others can all be brought to the same transaction, and what it had follows from them.
//
// Passes on: nothing. WriteThrough is Write and Flush. View and Backing would let bytes pass that others could not replace, Extents
// differ, and Resize would leave some legs cut.
// Concurrency: any calls may run together if those below may; else it is kSerial, since commits happen beside reads. Reads take no
// lock across a call below, but where they must reconstruct: these, commits, and steps of Rebuild and Scrub go one after the
// other, and hold that lock across calls below.
// Cost: space: M of K + M legs, and `log`. A write of one block and a flush: K - 1 reads (of other data, to compute the parity;
// none where the stage has the whole stripe), 1 + M records in the log of two blocks, 1 + M blocks in place, and a flush of
// each leg. What is written in large pieces is written twice, times (K + M) / K. A read costs one; one of a leg that is missing
// K. Memory: `stage`, a log slot and 64 KiB for each leg.
// Failure: what is in the stage is lost when the process ends, up to the last Flush. A leg that fails a write or a flush is given
// up. One that fails a read is written what follows from others, and read again; if that fails, it is given up. Fewer than K
// legs are never all that is left: where so many fail, every call fails from then on, and the log sorts it out when it is opened
// again. Where stripes cannot be read, since more than M legs are damaged in the same place, writes to them stay in the stage and
// Flush fails, until all that is lost there is written. There is no thread: Rebuild and Scrub do a bounded piece of work for each
// call, and so does Flush, `flush-step` bytes of Rebuild.
//
//   using Stack = buse::Parity<4, 2, buse::Checksum<buse::FileBacked>>;
//   Stack::Config config{.below = {{.below = {.path = "a.img"}}, {.below = {.path = "b.img"}}, ...}};

#ifndef LAYERS_PARITY_H_
#define LAYERS_PARITY_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "buse/operations.h"
#include "layers/leg_media.h"
#include "layers/legs_status.h"
#include "layers/parity_code.h"
#include "layers/parity_format.h"
#include "layers/parity_legs.h"
#include "layers/parity_links.h"
#include "layers/parity_media.h"
#include "layers/parity_set.h"
#include "layers/repeat_tuple.h"
#include "layers/superblock.h"

namespace buse {

template <size_t kData, size_t kParity, Device B, uint64_t kChunk = 65536>
struct Parity {
  static constexpr size_t kLegs = kData + kParity;
  static_assert(kData >= 2, "buse: Parity has at least 2 legs of data: with one, use Mirror");
  static_assert(kParity >= 1, "buse: Parity has at least one leg of parity: without, use Stripe");
  static_assert(kLegs <= ParityCode::kMostElements, "buse: Parity has at most 16 legs");
  static_assert(kChunk >= 4096 && (kChunk & (kChunk - 1)) == 0 && kChunk <= uint64_t{1} << 30,
                "buse: the chunk of a Parity is a power of two, from 4096 bytes to 1 GiB");
  static_assert(CanWrite<B>, "buse: the legs of a Parity can be written: it finishes in Open what a power cut interrupted");
  static_assert(4096 % B::kBlockSize == 0, "buse: the legs of a Parity have blocks of at most 4096 bytes, a power of two");

  using Leg = B;
  using Below = RepeatTuple<Leg, kLegs>;

  struct Config {
    uint64_t log = 6 << 20;     // on each leg; for Format: a medium keeps the log it was formatted with
    uint64_t stage = 32 << 20;  // more makes commits of several pieces
    bool degraded = false;
    uint64_t flush_step = 1 << 20;
    std::string replace_leg;  // a number, from 0
    RepeatTuple<typename B::Config, kLegs> below;
  };

  struct State {
    std::array<typename B::State, kLegs> below;                 // an array, since requests choose the leg by its number
    std::array<absl::optional<Superblock>, kLegs> superblocks;  // absent: the leg is missing
    ParitySet set;
  };

  static constexpr uint64_t kBlockSize = std::max<uint64_t>(B::kBlockSize, 512);
  static constexpr Concurrency kConcurrency =
      B::kConcurrency == Concurrency::kParallel ? Concurrency::kParallel : Concurrency::kSerial;
  static constexpr ParityLayout kGeometry = {.data_legs = kData, .parity_legs = kParity, .block = kBlockSize, .chunk = kChunk};

  // In the stage.
  static bool HoldsWrites(const Config&) { return true; }

  static constexpr Description<Config, 5> Describe() {
    return {
        "parity",
        "keeps bytes and their parity on several devices, and makes what some have lost from the others",
        Family::kTransform,
        {{{.field = &Config::log,
           .name = "log",
           .help = "what each leg of a new set has for what is being written",
           .unit = Unit::kBytes,
           .min = ParityLayout::kSlots * ParityLayout::kLeastSlot,
           .max = ParityLayout::kSlots * ParityLayout::kMostSlot,
           .shapes_medium = true},
          {.field = &Config::stage,
           .name = "stage",
           .help = "memory for writes that are not flushed",
           .unit = Unit::kBytes,
           .min = ParitySet::kLeastStage},
          {.field = &Config::degraded, .name = "degraded", .help = "go on where legs are missing, or stale and to be rebuilt"},
          {.field = &Config::flush_step,
           .name = "flush-step",
           .help = "bytes to rebuild with every flush",
           .unit = Unit::kBytes},
          {.field = &Config::replace_leg,
           .name = "replace-leg",
           .help = "number of a leg, from 0, whose medium is empty: to be formatted and rebuilt"}}}};
  }

  static std::string FormatName() { return absl::StrCat("parity(", kData, "+", kParity, ",", kChunk, ")"); }

  static absl::Status Format(const Config& config, std::array<typename B::State, kLegs>& below, Progress progress) {
    uint64_t smallest = UINT64_MAX;
    for (typename B::State& leg : below) smallest = std::min(smallest, B::Size(leg));
    const absl::StatusOr<ParityLayout> layout = LayOutParity(kGeometry, smallest, config.log);
    if (!layout.ok()) return layout.status();
    for (typename B::State& leg : below) {
      if (absl::Status status = EraseSuperblock<B>(leg); !status.ok()) return status;
    }
    const Uuid set = NewUuid();
    std::array<Superblock, kLegs> superblocks;
    ParityHead head = {.event = 1, .legs = kLegs};
    for (size_t leg = 0; leg < kLegs; ++leg) {
      superblocks[leg] = Media::MakeSuperblock(*layout, set, leg, below[leg]);
      head.leg[leg].uuid = superblocks[leg].uuid;
    }
    uint64_t done = 0;
    const auto add = [&](uint64_t bytes) { progress(done += bytes, kLegs * layout->leg_data); };
    for (size_t leg = 0; leg < kLegs; ++leg) {
      absl::Status status = Media::Format(*layout, superblocks[leg], &head, below[leg], add);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  static absl::Status Open(const Config& config, State& self) {
    const absl::StatusOr<size_t> replaced = ReplacedLeg("parity", config.replace_leg, kLegs);
    if (!replaced.ok()) return replaced.status();
    std::array<ParityLegs::Found, kLegs> found;
    absl::optional<Superblock> first;
    absl::optional<ParityLayout> layout;
    absl::Status status = ForEachConfig(config, [&](size_t leg, const typename B::Config& of_leg) {
      if (absl::Status opened = Media::Open(of_leg, self, leg, first, found[leg]); !opened.ok()) {
        if (leg != *replaced) return opened;
        found[leg].why = std::string(opened.message());
      }
      return self.superblocks[leg] ? Media::CheckLayout(self, leg, layout) : absl::OkStatus();
    });
    if (!status.ok()) return status;
    if (!first) return absl::FailedPreconditionError(absl::StrCat("parity: no leg can be used, the first one: ", found[0].why));
    {
      Links links(self.below);
      status = self.set.Open(
          links.all(), found, *layout,
          {.degraded = config.degraded || *replaced < kLegs, .stage = config.stage, .flush_step = config.flush_step});
    }
    // One that is a leg of the set already was replaced before.
    if (!status.ok() || *replaced == kLegs || self.superblocks[*replaced]) return status;
    return ForEachConfig(config, [&](size_t leg, const typename B::Config& of_leg) {
      return leg == *replaced ? Media::ReplaceByEmpty(of_leg, self, leg) : absl::OkStatus();
    });
  }

  static uint64_t Size(const State& self) { return self.set.layout().size(); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    Links links(self.below);
    return self.set.Read(links.all(), offset, out);
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    Links links(self.below);
    return self.set.Write(links.all(), offset, in);
  }

  static absl::Status Flush(State& self) {
    Links links(self.below);
    return self.set.Flush(links.all());
  }

  // Goes on with the legs that are to be rebuilt, for about `max_bytes` of each, and returns how many are left: with 0 all legs in
  // use are in sync. An error is of a stripe that cannot be read; the next call goes on behind it.
  static absl::StatusOr<uint64_t> Rebuild(State& self, uint64_t max_bytes) {
    Links links(self.below);
    return self.set.Rebuild(links.all(), max_bytes);
  }

  // Goes on reading all legs in sync and comparing, for about `max_bytes` of each, and returns how many are left of this round, 0 at
  // its end. What a leg cannot read is repaired. Where all read well and contradict each other, one that is wrong can be found
  // and repaired if K + 2 are in sync; else it is counted and left as it is.
  static absl::StatusOr<uint64_t> Scrub(State& self, uint64_t max_bytes) {
    Links links(self.below);
    return self.set.Scrub(links.all(), max_bytes);
  }

  // Gives up a leg, which may be in sync. kFailedPrecondition: fewer than K would be left.
  static absl::Status Fail(State& self, size_t leg) {
    Links links(self.below);
    return self.set.Fail(links.all(), leg);
  }

  // Puts another medium in the place of a leg that failed or is missing, while others use the parity: formats it, with the layers
  // below; what it holds is destroyed. Rebuild brings it up to date. Changes wait meanwhile. kFailedPrecondition: the leg has
  // not failed. After any other error the leg is missing, and another call may bring another medium.
  static absl::Status Replace(State& self, size_t leg, const typename B::Config& config) {
    return self.set.Replace(leg, [&] { return Media::OpenReplacement(config, self, leg); });
  }

  static absl::Status Check(State& self, const CheckReport& report) {
    for (size_t leg = 0; leg < kLegs; ++leg) {
      if (!self.superblocks[leg]) continue;
      for (const std::string& flaw : SuperblockFlaws<B>(self.below[leg], *self.superblocks[leg])) {
        report.flawed(absl::StrCat("leg ", leg, ": ", flaw));
      }
    }
    Links links(self.below);
    return self.set.Check(links.all(), report);
  }

  // Whether the device below can be called: a leg that is missing is not open.
  static bool IsOpen(const State& self, size_t leg) { return self.superblocks[leg].has_value(); }

  static LegsStatus Status(const State& self) { return self.set.Status(); }

 private:
  using Media = ParityMedia<Parity>;
  using Links = ParityLinksOf<B, kLegs>;

  template <class Use>
  static absl::Status ForEachConfig(const Config& config, Use use) {
    return [&]<size_t... kLeg>(std::index_sequence<kLeg...>) {
      absl::Status status;
      (void)((status = use(kLeg, std::get<kLeg>(config.below))).ok() && ...);
      return status;
    }
    (std::make_index_sequence<kLegs>());
  }
};

}  // namespace buse

#endif  // LAYERS_PARITY_H_

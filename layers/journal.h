// SPDX-License-Identifier: Apache-2.0
//
// Journal: makes every Write of up to kAtomic bytes, and all that was written before it, survive a power cut as a whole or not
// at all: for what lies above and has no log of its own, as databases whose pages are larger than a sector.
//
// Family: transform.
// Guarantees: after a power cut the device is what the first of its Writes made it, up to some Write: none is there in part,
// and none without those before it. All that was flushed is there. A Write of more than kAtomic bytes is several, in ascending
// order; Writes that run beside each other are in some order. The device below must write its blocks whole, of 512 bytes or
// more.
//
// On the medium: layers/journal_record.h.
//
// The problem: a disk may keep any of the sectors of a write, and of the writes since the last flush any. The answer:
//
//   A Write copies its blocks and their sums to the stage, in memory, and returns. There are two stages: one is filled while
//   the other is committed. A Flush, or a full stage, commits all that is staged as one transaction, for all who wait:
//     1. it is written to its slot of the log, as one record;
//     2. the device below is flushed: this also makes the transaction before this one durable in its place;
//     3. it is written to its place. Nothing is waited for: the log has it.
//   There are two slots, in turns: the record that is written over belongs to the transaction before the last, which is durable
//   in its place.
//
// Recovery, in Open: of the two records the newest that is whole, and the one before it, are written to their places again, in
// this order, and flushed. One that is torn was not acknowledged, and nothing of it is in its place. If the device below cannot
// be written, that stays in memory.
//
// Passes on: Prefetch. WriteThrough is Write and Flush; Trim and WriteZeroes are writes. View, Backing, Extents and Resize are
// absent.
// Concurrency: any calls may run together if those below may; else it is kSerial. One commit runs at a time; reads and writes
// take no lock across a call below, but for a Write that finds the stage full while another is committed.
// Cost: space: `log`. Everything is written twice, once behind the other in the log and once in its place; a Flush of one block
// writes two blocks and one, and flushes once. Blocks that are written again before they are committed are written once. A read
// costs nothing more, but that it looks into the stage. Memory: one and a half times `log`; all is allocated in Open, which
// reads two records and writes them.
// Failure: what is in the stage is lost when the process ends, up to the last Flush. What could not be committed stays there,
// where it is read, and the next Flush tries again; a Write that needs its room fails until then. A slot that cannot be read
// fails Open, since it may hold what was flushed. Damage to a record is taken for a torn one; put it over Checksum to know.
//
//   using Stack = buse::Journal<buse::FileBacked, 16384>;
//   Stack::Config config{.log = 64 << 20, .below = {.path = "disk.img"}};
//   buse::FormatStack<Stack>(config, progress);  // once

#ifndef LAYERS_JOURNAL_H_
#define LAYERS_JOURNAL_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "layers/device_io.h"
#include "layers/journal_record.h"
#include "layers/journal_store.h"
#include "layers/superblock.h"

namespace buse {

template <Device B, uint64_t kAtomic = 65536>
struct Journal {
  using Below = B;

  static_assert(CanWrite<Below>, "buse: the device below a Journal can be written");
  static_assert(kAtomic >= 4096 && (kAtomic & (kAtomic - 1)) == 0 && kAtomic <= 32 << 20,
                "buse: what a Journal writes whole is a power of two, from 4096 bytes to 32 MiB");
  static_assert(4096 % Below::kBlockSize == 0, "buse: the device below a Journal has blocks of at most 4096 bytes");

  struct Config {
    uint64_t log = 16 << 20;  // for Format: a medium keeps the log it was formatted with
    typename Below::Config below;
  };

  struct State {
    typename Below::State below;
    JournalStore store;
    Superblock superblock;
  };

  static constexpr uint64_t kBlockSize = std::max<uint64_t>(512, Below::kBlockSize);
  static constexpr uint64_t kAtomicWrite = kAtomic;
  static constexpr Concurrency kConcurrency =
      Below::kConcurrency == Concurrency::kParallel ? Concurrency::kParallel : Concurrency::kSerial;
  static constexpr uint32_t kVersion = 1;

  // In the stage.
  static bool HoldsWrites(const Config&) { return true; }

  static constexpr Description<Config, 1> Describe() {
    return {"journal",
            "makes writes survive a power cut as a whole and in their order",
            Family::kTransform,
            {{{.field = &Config::log,
               .name = "log",
               .help = "what a new medium has for writes on their way; half of it is the most that is in memory",
               .unit = Unit::kBytes,
               .max = uint64_t{1} << 30,
               .shapes_medium = true}}}};
  }

  static std::string FormatName() { return absl::StrFormat("journal(%d)", kBlockSize); }

  static absl::Status Format(const Config& config, typename Below::State& below, Progress progress) {
    Superblock superblock;
    superblock.kind = Describe().name;
    superblock.version = kVersion;
    superblock.uuid = superblock.set_uuid = NewUuid();
    superblock.medium_size = Below::Size(below);
    const absl::StatusOr<JournalGeometry> geometry =
        JournalGeometry::Plan(superblock.medium_size, config.log, kBlockSize, kAtomic, superblock.uuid);
    if (!geometry.ok()) return geometry.status();
    superblock.size = geometry->blocks * kBlockSize;
    superblock.block_size = kBlockSize;
    superblock.fingerprint = Fingerprint<Journal>();
    superblock.fields = {{"slot-bytes", geometry->slot_bytes}};
    if (absl::Status status = EraseSuperblock<Below>(below); !status.ok()) return status;
    DeviceIoOf<Below> io(below);
    if (absl::Status status = JournalStore::Format(io, *geometry); !status.ok()) return status;
    progress(1, 1);
    return WriteSuperblock<Below>(below, superblock);
  }

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = Below::Open(config.below, self.below); !status.ok()) return status;
    SuperblockWanted wanted;
    wanted.kind = Describe().name;
    wanted.oldest_version = wanted.newest_version = kVersion;
    wanted.block_size = kBlockSize;
    wanted.fingerprint = Fingerprint<Journal>();
    const absl::StatusOr<Superblock> superblock = ReadSuperblock<Below>(self.below, wanted);
    if (!superblock.ok()) return superblock.status();
    self.superblock = *superblock;
    const absl::StatusOr<uint64_t> slot_bytes = superblock->Field("slot-bytes");
    if (!slot_bytes.ok()) return slot_bytes.status();
    // Also where it was formatted for smaller writes than these.
    const absl::StatusOr<JournalGeometry> geometry =
        JournalGeometry::Plan(superblock->medium_size, 2 * *slot_bytes, kBlockSize, kAtomic, superblock->uuid);
    if (!geometry.ok()) return geometry.status();
    DeviceIoOf<Below> io(self.below);
    return self.store.Open(io, *geometry, buse::Writable<Below>(self.below));
  }

  static uint64_t Size(const State& self) { return self.store.geometry().blocks * kBlockSize; }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    DeviceIoOf<Below> io(self.below);
    return self.store.Read(io, offset / kBlockSize, out);
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    DeviceIoOf<Below> io(self.below);
    while (!in.empty()) {
      const ConstBytes piece = in.first(std::min<uint64_t>(in.size(), kAtomic));
      if (absl::Status status = self.store.Write(io, offset / kBlockSize, piece); !status.ok()) return status;
      offset += piece.size();
      in = in.subspan(piece.size());
    }
    return absl::OkStatus();
  }

  static absl::Status Flush(State& self) {
    DeviceIoOf<Below> io(self.below);
    return self.store.Flush(io);
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    return Below::Prefetch(self.below, {self.store.geometry().data() + range.offset, range.length});
  }

  // Of the log there is nothing that could be wrong: what is not whole counts as torn.
  static absl::Status Check(State& self, const CheckReport& report) {
    for (const std::string& flaw : SuperblockFlaws<Below>(self.below, self.superblock)) report.flawed(flaw);
    return absl::OkStatus();
  }
};

}  // namespace buse

#endif  // LAYERS_JOURNAL_H_

// SPDX-License-Identifier: Apache-2.0
//
// Checksum: keeps a checksum of every block, apart from it, and reports a block that is not what was written as kDataLoss.
//
// Family: transform.
// Guarantees: a Read returns what was written, or fails; where it fails with kDataLoss, its message names the first wrong block
// and how many there are. A power cut makes no good block look damaged and lets no damaged one pass: after it each block is,
// whole, what it was when it was last flushed, or what was written later. For that the device below must write blocks of kBlock
// bytes whole, as disks do their sectors: more than 512 only where its type says so (atomic_write.h).
//
// The medium. All places are multiples of 4096 but for the end of the data. The superblock (superblock.h) has the version, the
// fingerprint (hash and block size) and, as fields, the other numbers of this picture:
//
//   0            4096     8192                                                            superblock copy
//   | superblock | head 0 | log: slots of 4096 | table: all sums | data, one to one | head 1 | superblock |
//
//   The sum of a block is 0 if it is all zeroes, and else the hash (never 0) of the salt of the medium, the block's number and
//   its bytes. So a medium of zeroes needs no sums to be written, and good bytes in a wrong place, or of another medium, are
//   wrong. The bytes of the log and the heads are described in checksum_log.h.
//
// The problem: a block and its sum lie apart, and a power cut may keep either. The answer: before a block is changed in its
// place, the sum it is going to have is durable in the log. After a power cut a block is good if it has its sum in the table,
// or one that was logged later and may not have been written yet: one of a few values, and never just what happens to be there.
//
//   A Write puts a copy of the blocks and their sums into the stage, in memory, and returns. There are two stages: when one is
//   full, the committer, a thread of this layer, commits its blocks while the other is filled. If that gets full too, writers
//   wait.
//   A commit writes the sums into slots of the log (WriteThrough), then the blocks into their places in ascending order, and
//   then sets the sums in the table, in memory.
//   A Flush waits for the committer, commits the rest itself, flushes below, and writes the head: up to which slot the log is
//   settled, that is, in place and durable. This is not waited for: if an older head survives, recovery only reads more. If it
//   commits no more than 16 pages of 4096 and a quarter of the log, and nothing else waits to be flushed, it writes their
//   content into the log as well, and need not flush below.
//   Trim and WriteZeroes are staged like a Write if they are short (a 16th of the stage), and else logged as a range, durable
//   at once. Below, a Trim is one again, and WriteZeroes is one, or a Write of zeroes if it was staged. Whole pages of the
//   table are zeroed too, when the data is durable.
//   A checkpoint comes when the log is full, or half of the cached table (or of one of its up to 16 parts) is dirty and not all
//   of the table fits there: Flush below; write the changed pages of the table; Flush; write the head, which says where the log
//   now begins (WriteThrough). Only then are slots used again, and the two heads are written in turns.
//
// Recovery, in Open: all valid slots after the checkpoint are looked at; what they say is decided as checksum_recovery.h
// argues: settled sums are taken as they are, content and zeroes are written again, and other blocks are read and keep the
// newest sum that is theirs. Then follows a checkpoint; until it is durable, recovery can start again. A medium that cannot be
// written is not: what recovery finds stays in memory.
//
// What is found: a block of which bits have changed; a write that did not arrive or arrived elsewhere, of a block, of a page of
// the table, or of the log (the head knows how far it went). What is not found:
//   - a block and all that is known of its sum lost together, as when a write is misdirected and hits both, or when somebody
//     puts back an old copy of the whole medium;
//   - a block whose write was lost, if the power goes before the head that settles it is durable, which comes with the next
//     sync;
//   - damage for which the hash is blind: one in 2^32 for Crc32c and 2^64 for Xxh3. With Crc32c blocks that are read together,
//     up to 256 KiB, are compared by one CRC over all of them, and one by one if that does not match: damage to one block is
//     found as it is in a block that is read alone, and of damage to several one in 2^32 passes (crc32c_run.h). No hash here is
//     made against somebody who can write to the medium: there is no key, and who writes the sums as well is believed;
//   - what happens to bytes before they are in the stage.
//
// Passes on: Trim, WriteZeroes, Prefetch, and Extents, in which only that is zero what the table and the device below both say
// is; TryRead, which fails where bytes do not have their sum, as that may be a commit that is under way. TryWrite writes where
// there is room in the stage. WriteThrough is Write and Flush. View, Backing and Resize are absent.
// Concurrency: any calls may run together if those below may; else it is kSerial, since commits happen beside reads, and has no
// committer: a Write that finds the stage full commits it, as it does with `inline-commits`. Reads take no lock across a call
// below, but where a block does not have its sum: it may have been in the middle of a commit, and is read again with commits
// excluded. One commit runs at a time. The committer leaves signals to others and ends with the state: a commit that is under
// way is finished, and no other is begun.
// Cost: space: the sums, 0.8 % with Crc32c and blocks of 512, 0.1 % with 4096, and the log: 48 bytes in it for each 4 KiB
// written, less where they are neighbours (a mebibyte of log for 120 of data), between two checkpoints, so that a large one
// makes these rare and recovery longer. By default a 16th of the medium, 1 to 16 MiB. Memory: `stage`, and 1.5 % of it (with
// Crc32c and blocks of 512) for sums and an index; `table-cache`; 256 KiB. All is allocated in Open, where recovery needs the
// size of the log once more for a while, and up to six times that where what was logged had no neighbours. A write of 4 KiB
// costs one of 4 KiB, 48 bytes in the log, and a page of the table at the next checkpoint, if it was not dirty yet; a small
// flush 4 KiB and its content in the log; a read nothing more if the sums are cached, else 4 KiB for 512 KiB of data.
// Time, beside the same file (bench/checksum_benchmark.cc; figures and limits: docs/benchmarks.md): a read of 256 KiB from the
// page cache keeps 0.76 to 0.81 of the throughput, as the CRC costs a quarter of what the file does, and one for which the disk
// must be asked 0.95 to 1.07. A sequential write with a flush at the end keeps 0.85 to 0.90. It takes up to twice the CPU, as
// it is copied and summed and then written by the committer, beside which the next one goes on where a CPU is free; it waits
// where the log or a checkpoint is slower than the writers. Random writes of 4 KiB are three times as fast as the file's with
// write-back, since they are sorted, and as fast with a flush after each.
// Failure: what is in the stage is lost when the process ends, up to the last Flush. What could not be committed stays there,
// where it is read, and the next Flush tries again. A Write fails where it waits for room in the stage and the device below
// fails; others are taken while there is room. What the committer failed with, when no Write waited, is told by the next Flush,
// or Write that needs room, even if all went well then: below it may have been lost all the same. When sums could not be
// logged, a checkpoint comes before the next ones. Slots that cannot be read in Open are taken for damaged.
//
//   using Stack = buse::Checksum<buse::FileBacked>;  // or Checksum<buse::Journal<buse::FileBacked>, buse::Xxh3, 4096>
//   Stack::Config config{.log = 1 << 20, .stage = 64 << 20, .below = {.path = "disk.img"}};
//   buse::FormatStack<Stack>(config, progress);  // once; the verb `check` reads all data and names what is damaged

#ifndef LAYERS_CHECKSUM_H_
#define LAYERS_CHECKSUM_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/optional.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "buse/operations.h"
#include "layers/atomic_write.h"
#include "layers/checksum_geometry.h"
#include "layers/checksum_hash.h"
#include "layers/checksum_log.h"
#include "layers/checksum_reader.h"
#include "layers/checksum_store.h"
#include "layers/checksum_table.h"
#include "layers/device_io.h"
#include "layers/superblock.h"

namespace buse {

template <Device B, class Hash = Crc32c, uint64_t kBlock = 512>
struct Checksum {
  using Below = B;

  static_assert(kBlock == 512 || kBlock == 1024 || kBlock == 2048 || kBlock == 4096,
                "buse: Checksum has blocks of 512, 1024, 2048 or 4096 bytes");
  static_assert(kBlock % Below::kBlockSize == 0 && 4096 % Below::kBlockSize == 0,
                "buse: the blocks of Checksum consist of whole blocks of the device below: give it a larger kBlock");
  static_assert(kBlock <= AtomicWrite<Below>(),
                "buse: the device below Checksum must write its blocks whole: give it blocks of 512, put a Journal below it, or "
                "say that a disk has larger sectors (layers/atomic_write.h)");

  struct Config {
    uint64_t log = 0;           // for Format: a medium keeps the log it was formatted with; 0: by its size
    uint64_t stage = 32 << 20;  // less stays in a CPU's caches, more makes fewer commits
    uint64_t table_cache = 16 << 20;
    bool inline_commits = false;
    typename Below::Config below;
  };

  struct State {
    typename Below::State below;
    absl::optional<DeviceIoOf<Below>> io;
    ChecksumStore store;
    Superblock superblock;
  };

  static constexpr uint64_t kBlockSize = kBlock;
  static constexpr Concurrency kConcurrency =
      Below::kConcurrency == Concurrency::kParallel ? Concurrency::kParallel : Concurrency::kSerial;
  static constexpr uint32_t kVersion = 1;

  // In the stage.
  static bool HoldsWrites(const Config&) { return true; }

  static constexpr Description<Config, 4> Describe() {
    return {"checksum",
            "stores a checksum of every block apart from it, and reports wrong bytes as errors",
            Family::kTransform,
            {{{.field = &Config::log,
               .name = "log",
               .help = "what a new medium has for the sums of recent writes, 0 for a 16th of it, 1M to 16M",
               .unit = Unit::kBytes,
               .max = 64 << 20,
               .shapes_medium = true},
              {.field = &Config::stage,
               .name = "stage",
               .help = "memory for writes that are not flushed",
               .unit = Unit::kBytes,
               .min = ChecksumStore::kMinStage},
              {.field = &Config::table_cache,
               .name = "table-cache",
               .help = "memory for checksums",
               .unit = Unit::kBytes,
               .min = ChecksumTable::kMinCache},
              {.field = &Config::inline_commits,
               .name = "inline-commits",
               .help = "commit in the thread that fills the stage, and have no other"}}}};
  }

  static std::string FormatName() { return absl::StrFormat("checksum(%s,%d)", Hash::kName, kBlock); }

  static absl::Status Format(const Config& config, typename Below::State& below, Progress progress) requires CanWrite<Below> {
    Superblock superblock;
    superblock.kind = Describe().name;
    superblock.version = kVersion;
    superblock.uuid = superblock.set_uuid = NewUuid();
    superblock.medium_size = Below::Size(below);
    const uint64_t log = config.log != 0 ? config.log : ChecksumGeometry::DefaultLog(superblock.medium_size);
    const absl::StatusOr<ChecksumGeometry> geometry =
        ChecksumGeometry::Plan(superblock.medium_size, log, kBlock, Hash::kBytes, superblock.uuid);
    if (!geometry.ok()) return geometry.status();
    superblock.size = geometry->blocks * kBlock;
    superblock.block_size = kBlock;
    superblock.fingerprint = Fingerprint<Checksum>();
    superblock.fields = geometry->Fields();
    if (absl::Status status = EraseSuperblock<Below>(below); !status.ok()) return status;
    DeviceIoOf<Below> io(below);
    absl::Status status = ChecksumStore::Format(io, *geometry, kHeadBytes, CanTrim<Below>, progress);
    return status.ok() ? WriteSuperblock<Below>(below, superblock) : status;
  }

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = Below::Open(config.below, self.below); !status.ok()) return status;
    if (config.stage < ChecksumStore::kMinStage || config.table_cache < ChecksumTable::kMinCache) {
      return absl::InvalidArgumentError(
          absl::StrFormat("checksum: a stage of %d bytes and a table cache of %d are too small: they need at least %d and %d",
                          config.stage, config.table_cache, ChecksumStore::kMinStage, ChecksumTable::kMinCache));
    }
    SuperblockWanted wanted;
    wanted.kind = Describe().name;
    wanted.oldest_version = wanted.newest_version = kVersion;
    wanted.block_size = kBlock;
    wanted.fingerprint = Fingerprint<Checksum>();
    const absl::StatusOr<Superblock> superblock = ReadSuperblock<Below>(self.below, wanted);
    if (!superblock.ok()) return superblock.status();
    self.superblock = *superblock;
    const absl::StatusOr<ChecksumGeometry> geometry = ChecksumGeometry::From(*superblock, Hash::kBytes);
    if (!geometry.ok()) return geometry.status();
    self.io.emplace(self.below);
    // One call at a time below is also none of the committer's beside others.
    const bool committer = kConcurrency == Concurrency::kParallel && !config.inline_commits;
    return self.store.Open(*self.io, *geometry, SumBlocks<Hash>,
                           {config.stage, config.table_cache, kHeadBytes, buse::Writable<Below>(self.below), committer});
  }

  static uint64_t Size(const State& self) { return self.store.geometry().blocks * kBlock; }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    DeviceIoOf<Below> io(self.below);
    return ChecksumReader(io, self.store, kHashFunctions<Hash>).Read(offset, out);
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    DeviceIoOf<Below> io(self.below);
    return self.store.Write(io, offset / kBlock, in);
  }

  static absl::Status Flush(State& self) requires CanWrite<Below> {
    DeviceIoOf<Below> io(self.below);
    return self.store.Flush(io);
  }

  // Where neither the disk nor a commit must be waited for, and nothing looks damaged.
  static bool TryRead(State& self, uint64_t offset, Bytes out) requires CanTryRead<Below> {
    TryingIoOf<Below> io(self.below);
    return ChecksumReader(io, self.store, kHashFunctions<Hash>).Read(offset, out).ok();
  }

  // Where there is room in the stage.
  static bool TryWrite(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    return self.store.TryWrite(offset / kBlock, in);
  }

  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> {
    DeviceIoOf<Below> io(self.below);
    return self.store.Zero(io, range.offset / kBlock, range.length / kBlock, true);
  }

  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    DeviceIoOf<Below> io(self.below);
    return self.store.Zero(io, range.offset / kBlock, range.length / kBlock, false);
  }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) requires CanExtents<Below> {
    DeviceIoOf<Below> io(self.below);
    Extent extent = {{range.offset, 0}};
    for (int i = 0; i < kMostExtents && extent.range.end() < range.end(); ++i) {
      const uint64_t at = extent.range.end();
      const auto known = self.store.ZeroesFrom(io, at / kBlock, (range.end() - at) / kBlock);
      if (!known.ok()) return known.status();
      if (extent.range.length > 0 && known->kind != extent.kind) {
        if (!emit(extent)) return absl::OkStatus();
        extent.range = {at, 0};
      }
      extent = {{extent.range.offset, extent.range.length + known->count * kBlock}, known->kind};
    }
    emit(extent);
    return absl::OkStatus();
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    return Below::Prefetch(self.below, {self.store.geometry().data + range.offset, range.length});
  }

  static absl::Status Check(State& self, const CheckReport& report) {
    DeviceIoOf<Below> io(self.below);
    if (absl::Status status = self.store.Flush(io); !status.ok()) return status;
    const absl::StatusOr<std::vector<std::string>> flaws = SuperblockFlaws<Below>(self.below, self.superblock);
    if (!flaws.ok()) return flaws.status();
    for (const std::string& flaw : *flaws) report.flawed(flaw);
    self.store.CheckHeads(io, report);
    ChecksumReader(io, self.store, kHashFunctions<Hash>).Check(report);
    return absl::OkStatus();
  }

 private:
  static constexpr uint64_t kHeadBytes = std::max<uint64_t>(ChecksumHead::kBytes, Below::kBlockSize);
  static constexpr int kMostExtents = 64;
};

}  // namespace buse

#endif  // LAYERS_CHECKSUM_H_

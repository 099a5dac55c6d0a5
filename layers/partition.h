// SPDX-License-Identifier: Apache-2.0
//
// Partition: one partition of the device below, which holds an MBR or GPT partition table, by its number.
//
// Family: remap.
// Guarantees: nothing outside the partition is changed; the table is read when the device is opened, and never written.
// Numbers are those of Linux: in a GPT the place of the entry, from 1; in an MBR the entries are 1 to 4, and the logical
// partitions count from 5 in the order of their chain.
// The table: sector 0 decides. Without the signature 55 AA there is none; with an entry of the type EE it is a GPT, else an
// MBR. Of a GPT are checked the header (signature, revision, size, CRC-32, its own place, the sectors for partitions) and the
// entries (number, size, place, CRC-32). Sectors of 512 and of 4096 bytes are told apart by where the GPT lies; an MBR does
// not tell: its sectors have 512 bytes unless `sector_size` says otherwise.
// Concurrency: that of the device below.
// Cost: one addition per request. Open reads each GPT that comes into question, at most 1024 entries of at most 4096 bytes, or
// a chain of at most 1024 sectors, in pieces of at most 4096 bytes or of one block below, and keeps 16 bytes of each entry
// until it returns.
// Failure: that of the device below. Open refuses a table that is damaged, naming the damage, and a partition that does not
// exist, is the extended one, does not lie where the table has room for partitions, overlaps another or the table, or is not
// aligned to the blocks below. Where the GPT at the start is damaged but its backup in the last sector is sound, the message
// says so, and `use_backup` uses it. What is wrong with other partitions is no concern of this one. Resize is absent: the
// table says where the partition ends.
//
//   using Stack = buse::Partition<buse::FileBacked>;
//   Stack::Config config{.partition = 2, .below = {.path = "disk.img"}};
//
// Sources: UEFI Specification 2.10, chapter 5 "GUID Partition Table (GPT) Disk Layout", for both tables. The chain of logical
// partitions has no standard: each sector of it is an MBR whose first two entries are a partition, relative to that sector, and
// the link to the next sector, relative to the extended partition.

#ifndef LAYERS_PARTITION_H_
#define LAYERS_PARTITION_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "buse/description.h"
#include "buse/device.h"
#include "layers/partition_table.h"

namespace buse {

namespace partition_internal {

// Where the partition lies: inside the medium, not empty, in whole sectors.
absl::StatusOr<Range> Find(const Medium& medium, const Wanted& wanted);

}  // namespace partition_internal

template <Device B>
struct Partition {
  using Below = B;

  struct Config {
    uint64_t partition = 0;    // from 1
    uint64_t sector_size = 0;  // 512, 4096, or 0: find out
    bool use_backup = false;
    typename Below::Config below;
  };

  struct State {
    typename Below::State below;
    Range part;
  };

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;
  static constexpr bool kMayPark = true;

  static constexpr Description<Config, 3> Describe() {
    return {"partition",
            "shows one partition of an MBR or GPT disk",
            Family::kRemap,
            {{{.field = &Config::partition,
               .name = "partition",
               .help = "its number; logical partitions count from 5",
               .required = true,
               .min = 1},
              {.field = &Config::sector_size,
               .name = "sector-size",
               .help = "of the partition table, 512 or 4096, or 0 to find out",
               .max = 4096},
              {.field = &Config::use_backup,
               .name = "use-backup",
               .help = "where the GPT is damaged, use its backup at the end of the disk"}}}};
  }

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = Below::Open(config.below, self.below); !status.ok()) return status;
    const auto read = [&](uint64_t offset, Bytes out) { return Below::Read(self.below, offset, out); };
    const absl::StatusOr<Range> part = partition_internal::Find({Below::Size(self.below), kBlockSize, read},
                                                                {config.partition, config.sector_size, config.use_backup});
    if (!part.ok()) return part.status();
    if (part->offset % kBlockSize != 0 || part->length % kBlockSize != 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "partition: partition %d begins at byte %d and has %d bytes, but the device below takes multiples of %d "
          "only: put Align between them",
          config.partition, part->offset, part->length, kBlockSize));
    }
    self.part = *part;
    return absl::OkStatus();
  }

  static uint64_t Size(const State& self) { return self.part.length; }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    return Below::Read(self.below, self.part.offset + offset, out);
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    return Below::Write(self.below, self.part.offset + offset, in);
  }

  static absl::Status Flush(State& self) requires CanFlush<Below> { return Below::Flush(self.below); }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<Below> {
    return Below::WriteThrough(self.below, self.part.offset + offset, in);
  }

  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> {
    return Below::Trim(self.below, Translate(self, range));
  }

  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    return Below::WriteZeroes(self.below, Translate(self, range));
  }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) requires CanExtents<Below> {
    return Below::Extents(self.below, Translate(self, range), [&](const Extent& extent) {
      return emit({{extent.range.offset - self.part.offset, extent.range.length}, extent.kind});
    });
  }

  static absl::Status Residency(State& self, Range range, EmitResident emit) requires CanResidency<Below> {
    return Below::Residency(self.below, Translate(self, range), [&](const Resident& resident) {
      return emit({{resident.range.offset - self.part.offset, resident.range.length}, resident.cached, resident.dirty});
    });
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    return Below::Prefetch(self.below, Translate(self, range));
  }

  static absl::Status View(State& self, Range range, Gather& gather) requires CanView<Below> {
    return Below::View(self.below, Translate(self, range), gather);
  }

  static bool TryRead(State& self, uint64_t offset, Bytes out) requires CanTryRead<Below> {
    return Below::TryRead(self.below, self.part.offset + offset, out);
  }

  static bool TryWrite(State& self, uint64_t offset, ConstBytes in) requires CanTryWrite<Below> {
    return Below::TryWrite(self.below, self.part.offset + offset, in);
  }

  static absl::Status Place(State& self, Range range, Scatter& scatter) requires CanPlace<Below> {
    return Below::Place(self.below, Translate(self, range), scatter);
  }

  static absl::Status Placed(State& self, Range range) requires CanPlaced<Below> {
    return Below::Placed(self.below, Translate(self, range));
  }

  static std::optional<FileRange> Backing(State& self, Range range) requires CanBacking<Below> {
    return Below::Backing(self.below, Translate(self, range));
  }

 private:
  static Range Translate(const State& self, Range range) { return {self.part.offset + range.offset, range.length}; }
};

}  // namespace buse

#endif  // LAYERS_PARTITION_H_

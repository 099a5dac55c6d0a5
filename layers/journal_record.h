// SPDX-License-Identifier: Apache-2.0
//
// A journal's medium: where what lies, and the record of a transaction.
//
//   0            4096                       4096 + 2 slots                        superblock copy
//   | superblock | slot 0 | slot 1          | data, one to one                    | superblock |
//
// The transaction of number n, from 1 on, is in slot n % 2. A record, little-endian:
//
//   offset  bytes
//        0      8  kMagic
//        8     16  the medium's UUID
//       24      8  number of the transaction
//       32      4  runs
//       36      4  blocks
//       40      4  CRC-32C of all that comes before the blocks, these four bytes being zero
//       44      4  zero
//       48     16  for each run: its first block, and how many (8 bytes each)
//        .      4  for each block: its sum (checksum_hash.h, Crc32c), which is bound to its number and to the medium
//        .      .  zeroes up to a multiple of the block size, and then the blocks
//
// A record that is torn anywhere, or has bytes of an older one, is none.

#ifndef LAYERS_JOURNAL_RECORD_H_
#define LAYERS_JOURNAL_RECORD_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"
#include "layers/little_endian.h"
#include "layers/superblock.h"
#include "layers/write_stage.h"

namespace buse {

struct JournalGeometry {
  static constexpr uint64_t kPage = WriteStage::kPage;

  uint64_t slot_bytes = 0;  // a multiple of kPage
  uint64_t blocks = 0;      // of data
  uint64_t block_size = 0;
  Uuid uuid = {};

  uint64_t salt() const;
  uint64_t SlotOf(uint64_t transaction) const { return kPage + transaction % 2 * slot_bytes; }
  uint64_t data() const { return kPage + 2 * slot_bytes; }
  uint64_t OffsetOf(uint64_t block) const { return data() + block * block_size; }
  // What fits into a slot however it is scattered.
  uint64_t PagesOfTransaction() const;

  // For a device below of `medium_size` bytes. kInvalidArgument where it has no room, or `log` none for writes of `atomic`
  // bytes.
  static absl::StatusOr<JournalGeometry> Plan(uint64_t medium_size, uint64_t log, uint64_t block_size, uint64_t atomic,
                                              const Uuid& uuid);
};

// A record in memory that belongs to others: a slot of the geometry, and as long.
class JournalRecord {
 public:
  static constexpr std::array<char, 8> kMagic = {'B', 'U', 'S', 'E', 'J', 'R', 'N', 'L'};

  JournalRecord(const JournalGeometry& geometry, Bytes bytes) : geometry_(geometry), bytes_(bytes) {}

  // Makes it that of what is staged, sorted. Returns its length.
  uint64_t Encode(uint64_t transaction, WriteStage& stage);

  uint64_t number() const { return Get<uint64_t>(kNumberAt); }
  // How long the record is that begins with these bytes, one page or more; 0 if none begins there.
  uint64_t LengthOf(uint64_t transaction) const;
  // Whether it is whole. LengthOf has said so much.
  bool IsSound() const;
  // Calls `use(first, blocks)` with each run of a sound record, until it fails.
  absl::Status ForEachRun(absl::FunctionRef<absl::Status(uint64_t first, ConstBytes blocks)> use) const;

 private:
  static constexpr size_t kUuidAt = 8;
  static constexpr size_t kNumberAt = 24;
  static constexpr size_t kRunsAt = 32;
  static constexpr size_t kBlocksAt = 36;
  static constexpr size_t kSumAt = 40;
  static constexpr size_t kRunAt = 48;
  static constexpr size_t kRunBytes = 16;
  static constexpr size_t kSumBytes = 4;
  friend struct JournalGeometry;

  template <class Number>
  Number Get(size_t at) const {
    return GetLittleEndian<Number>(bytes_.data() + at);
  }
  template <class Number>
  void Put(size_t at, Number value) {
    PutLittleEndian(bytes_.data() + at, value);
  }

  uint64_t runs() const { return Get<uint32_t>(kRunsAt); }
  uint64_t blocks() const { return Get<uint32_t>(kBlocksAt); }
  uint64_t SumsAt() const { return kRunAt + runs() * kRunBytes; }
  // Where the blocks begin.
  uint64_t ContentAt() const;
  uint32_t SumOfHead() const;

  const JournalGeometry& geometry_;
  Bytes bytes_;
};

}  // namespace buse

#endif  // LAYERS_JOURNAL_RECORD_H_

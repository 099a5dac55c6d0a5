// SPDX-License-Identifier: Apache-2.0
//
// ChecksumRecovery: finds out from the log of a medium what its blocks hold and which sums they have. Changes nothing.
//
// For each block, what was logged after the checkpoint is gone through from the newest to the oldest, and then comes its sum in
// the table:
//   - What is settled was in place before the power went. The newest is the block's sum, and the block is not read.
//   - What carries its content (content, or zeroes) is what the block shall hold, to be written once more. Not so where a slot
//     is missing that the head knows of: it may have said that the block has been written since. Then content is but a sum.
//   - What is only a sum is the block's sum if the block has it. If not, older ones are looked at.
//   - A block that has none of these sums is damaged: it keeps the newest, so that reading it fails. That includes older
//     content, which therefore is only written over a block that has one of the sums older than that.
//
// Memory: the log, 48 bytes for each record in it (and each block of content), and 40 for each run of blocks that was found.

#ifndef LAYERS_CHECKSUM_RECOVERY_H_
#define LAYERS_CHECKSUM_RECOVERY_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "buse/device.h"
#include "layers/checksum_geometry.h"
#include "layers/checksum_hash.h"
#include "layers/checksum_log.h"
#include "layers/device_io.h"
#include "layers/mapped_array.h"

namespace buse {

class ChecksumRecovery {
 public:
  // Blocks that were written since the checkpoint: one, or several of which nothing is to be written.
  struct Blocks {
    uint64_t first;
    uint64_t count;
    const std::byte* sums;     // one behind the other; absent: as in the table
    bool redo;                 // the content is to be written
    const std::byte* content;  // zeroes if absent
  };

  // Blocks that shall hold zeroes.
  struct Zeroes {
    uint64_t first;
    uint64_t count;
    bool redo;
  };

  ChecksumRecovery(const ChecksumGeometry& geometry, const ChecksumHead& head, SumFunction sum)
      : geometry_(geometry), head_(head), sum_(sum) {}

  // `table` copies the sum that the table has for a block. Errors are those of `table`; what cannot be read of the log or of
  // the data is taken for damaged.
  absl::Status Run(DeviceIo& io, absl::FunctionRef<absl::Status(uint64_t block, std::byte* sum)> table);

  // The greatest sequence there is, and 0 if nothing was logged since the checkpoint.
  uint64_t last() const { return last_; }
  // Whether every slot is there that the head knows of.
  bool complete() const { return complete_; }
  // Ascending. No block is in a range of zeroes. What they point to lives as long as this.
  const std::vector<Blocks>& blocks() const { return blocks_; }
  const std::vector<Zeroes>& zeroes() const { return zeroes_; }

 private:
  static constexpr size_t kMaxSum = 32;
  using Sum = std::array<std::byte, kMaxSum>;
  static constexpr Sum kZeroSum = {};

  // A record, or one block of a record with content.
  struct Mention {
    uint64_t first;
    uint64_t count;
    uint64_t order;
    const std::byte* sums;     // absent: zeroes
    const std::byte* content;  // of one block; absent: none, or zeroes
    bool settled;
  };

  // Mentions, as the blocks are gone through in ascending order.
  class Sweep {
   public:
    // Sorts them.
    explicit Sweep(std::vector<Mention>& mentions);
    // To the first block from `number` on that is mentioned. False: there is none.
    bool Find(uint64_t& number);
    void MoveTo(uint64_t number);
    const std::vector<const Mention*>& here() const { return here_; }

   private:
    const std::vector<Mention>& mentions_;
    size_t next_ = 0;
    std::vector<const Mention*> here_;
  };

  // Reads blocks in place, more at once the longer they are consecutive.
  class Reader {
   public:
    absl::Status Allocate() { return memory_.Open(kWindow); }
    // Absent where it cannot be read.
    const std::byte* Get(DeviceIo& io, const ChecksumGeometry& geometry, uint64_t block);

   private:
    static constexpr uint64_t kWindow = 65536;
    MappedArray<std::byte> memory_;
    uint64_t first_ = 0;
    uint64_t count_ = 0;
  };

  absl::Status ReadLog(DeviceIo& io);
  Bytes SlotAt(uint64_t index) const { return log_.span().subspan(index * ChecksumGeometry::kPage, ChecksumGeometry::kPage); }
  void Collect();
  void AddRecord(const LogRecord& record, bool settled, const std::byte*& content, const std::byte* content_end);
  void SplitZeroes();
  bool IsZeroSum(const std::byte* sum) const;
  const std::byte* SumOf(const Mention& mention, uint64_t number) const {
    return mention.sums == nullptr ? kZeroSum.data() : mention.sums + (number - mention.first) * geometry_.sum_bytes;
  }
  bool CarriesContent(const Mention& mention, uint64_t number) const {
    return complete_ && (mention.content != nullptr || IsZeroSum(SumOf(mention, number)));
  }
  // Decides about one block from what was logged about it, the newest first.
  absl::Status Decide(DeviceIo& io, uint64_t number, std::span<const Mention* const> newest_first,
                      absl::FunctionRef<absl::Status(uint64_t block, std::byte* sum)> table);
  void Resolve(uint64_t number, const std::byte* sum, const Mention* redo);

  const ChecksumGeometry& geometry_;
  const ChecksumHead head_;
  const SumFunction sum_;
  MappedArray<std::byte> log_;
  Reader reader_;
  uint64_t last_ = 0;
  bool complete_ = true;
  std::vector<Mention> mentions_;  // of sums
  std::vector<Mention> ranges_;    // of zeroes
  std::vector<Blocks> blocks_;
  std::vector<Zeroes> zeroes_;
};

}  // namespace buse

#endif  // LAYERS_CHECKSUM_RECOVERY_H_

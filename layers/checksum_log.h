// SPDX-License-Identifier: Apache-2.0
//
// The log of Checksum and its two heads, as bytes: records of the sums that blocks may come to have. Nothing here does I/O.
//
// All integers are little-endian; every structure carries a CRC-32C that begins with the salt of the medium.
//
//   head, in the first 512 bytes of its place         slot, 4096 bytes
//   offset  bytes                                      offset  bytes
//        0      4  "BUSH"                                   0      4  "BUSL"
//        4      4  CRC of these 512 bytes, this zero        4      4  CRC of these 4096 bytes, this zero
//        8      8  number: the greater one is valid         8      8  sequence; the slot's place is this modulo the slots
//       16      8  checkpoint                              16      4  bytes used
//       24      8  settled                                 20      4  content slots that follow
//       32      8  logged                                  24      .  records
//
//   record: 8 bytes  the first block
//           8 bytes  how many blocks, and in the highest 8 bits the kind:
//             1 sums     the blocks may come to have these sums; the sums follow, padded to 8 bytes
//             2 content  the same, and what the blocks shall hold lies in the content slots, without those of zeroes
//             3 zeroes   the blocks shall hold zeroes; no sums follow
//
// Content slots have sequences of their own and nothing but the blocks of the slot before them, one after the other. The sums
// in that slot say whether they are intact.

#ifndef LAYERS_CHECKSUM_LOG_H_
#define LAYERS_CHECKSUM_LOG_H_

#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/types/optional.h"
#include "buse/device.h"
#include "layers/checksum_geometry.h"

namespace buse {

struct ChecksumHead {
  static constexpr uint64_t kBytes = 512;

  uint64_t number = 0;
  uint64_t checkpoint = 0;  // what was logged up to this sequence is in the table, and durable
  uint64_t settled = 0;     // what was logged up to this sequence is in place, and durable
  uint64_t logged = 0;      // from the checkpoint up to this sequence all slots were written

  // Fills all of `out`, which has at least kBytes.
  void Encode(uint64_t salt, Bytes out) const;
  static absl::optional<ChecksumHead> Decode(uint64_t salt, ConstBytes bytes);
};

struct LogRecord {
  enum class Kind : uint8_t { kSums = 1, kContent = 2, kZeroes = 3 };
  Kind kind;
  uint64_t first;
  uint64_t count;
  const std::byte* sums;  // absent for kZeroes
};

// Fills slots, one after the other.
class LogWriter {
 public:
  static constexpr uint64_t kSlot = ChecksumGeometry::kPage;

  // `slots` has whole slots. The first is to have the sequence `sequence`.
  LogWriter(Bytes slots, const ChecksumGeometry& geometry, uint64_t sequence)
      : slots_(slots), geometry_(geometry), sequence_(sequence) {}

  // Appends to the last record where that is possible. False: no slot is left, and nothing was added. A record of sums is for
  // at most one page of blocks.
  bool Add(const LogRecord& record);

  // To be called with the content of blocks that were added, in their order, when all were and one slot had room for them.
  // Those of zeroes are skipped. False: no slot is left.
  bool AddContent(const LogRecord& record, ConstBytes content);

  uint64_t headers() const { return headers_; }

  // How many slots are complete, content included. Nothing may be added after that.
  uint64_t Finish();

 private:
  std::byte* slot(uint64_t index) { return slots_.data() + index * kSlot; }
  bool NextSlot();
  void Seal();

  const Bytes slots_;
  const ChecksumGeometry& geometry_;
  const uint64_t sequence_;
  uint64_t headers_ = 0;        // slots begun
  uint64_t used_ = 0;           // bytes of the last one
  uint64_t last_record_ = 0;    // where it begins; 0: none in this slot
  uint64_t last_sums_ = 0;      // bytes of sums in it, without padding
  uint64_t content_bytes_ = 0;  // after the last slot
};

// What a slot at place `index` says, if it is valid.
struct LogSlot {
  uint64_t sequence = 0;
  uint64_t content_slots = 0;

  // Calls `use` with each record of a valid slot. No record reaches past the blocks there are.
  static absl::optional<LogSlot> Decode(const ChecksumGeometry& geometry, uint64_t index, ConstBytes slot,
                                        absl::FunctionRef<void(const LogRecord&)> use);
};

}  // namespace buse

#endif  // LAYERS_CHECKSUM_LOG_H_

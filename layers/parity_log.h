// SPDX-License-Identifier: Apache-2.0
//
// ParityLog: one transaction of a parity, in memory, and how it is written: first to a slot of the log on each leg that it
// concerns, each leg its own pieces, and when that is durable, to its place. One thread at a time.
//
// A transaction that has begun to be written in place is in the log of every leg it concerns, durably; and the one before it is in
// place on all, durably, or still in the log. With three slots the last two are never written over.

#ifndef LAYERS_PARITY_LOG_H_
#define LAYERS_PARITY_LOG_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "buse/device.h"
#include "layers/leg_mask.h"
#include "layers/mapped_array.h"
#include "layers/parity_format.h"
#include "layers/parity_legs.h"
#include "layers/parity_links.h"

namespace buse {

class ParityLog {
 public:
  absl::Status Open(const ParityLayout& layout);

  // An empty transaction.
  void Begin(uint64_t id);
  uint64_t id() const { return id_; }
  bool empty() const { return entries_.empty(); }
  // For all blocks of one more page, each with an entry of its own, on all legs.
  bool HasRoom() const;
  // Blocks [first, end) of a page: of each leg in `legs`, what it is going to have there, `pieces[leg]`. Pages ascend.
  void Add(uint64_t page, uint64_t first, uint64_t end, LegMask legs, const std::byte* const* pieces);

  // The legs that have a piece.
  LegMask legs() const { return legs_; }
  // Writes the records of these legs into their slots.
  LegErrors WriteRecords(ParityLinks links, const ParityLegs& legs, LegMask which);
  // Writes the pieces of these legs to their places.
  LegErrors WriteInPlace(ParityLinks links, LegMask which);

 private:
  std::byte* PiecesOf(size_t leg) { return buffers_.data() + leg * buffer_bytes_ + most_header_; }

  ParityLayout layout_;
  uint64_t most_header_ = 0;   // bytes of a record before its pieces
  uint64_t buffer_bytes_ = 0;  // of one leg
  uint64_t id_ = 0;
  LegMask legs_ = 0;
  std::vector<ParityEntry> entries_;
  std::vector<std::vector<uint32_t>> sums_;  // of each leg, for each entry
  std::vector<uint64_t> used_;               // of each leg, bytes of pieces
  MappedArray<std::byte> buffers_;           // of each leg: room for the header, which ends where the pieces begin
};

}  // namespace buse

#endif  // LAYERS_PARITY_LOG_H_

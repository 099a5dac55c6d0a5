// SPDX-License-Identifier: Apache-2.0
//
// ParityRecovery: what Open makes of the logs of a parity's legs. One thread.
//
// Let h be the last transaction of this session of which any leg in sync has a record. Only h may have been cut short, and then none of it is in
// place: it was going to be durable in all logs before. The one before, h-1, was, and may be in place in part; those before that
// are in place on all legs, durably.
//
// A leg whose record of a transaction is lost, or a piece of it, may have anything in that place. It gets what follows from K
// others, as they are when all that is known is in place. That can be done where a record is lost since its leg was still going to
// write it, and where up to M legs are missing or lost theirs later. Where it cannot be done for h, h was cut short, and is
// dropped: nothing of it was promised to anybody. For h-1 it must be possible, or more legs are damaged than parity can replace.
// Where it can be done for h, all legs get their whole records before anything of it is in place: another M may be lost before
// this recovery has ended, and then it must be possible still.

#ifndef LAYERS_PARITY_RECOVERY_H_
#define LAYERS_PARITY_RECOVERY_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "buse/device.h"
#include "layers/leg_mask.h"
#include "layers/parity_code.h"
#include "layers/parity_format.h"
#include "layers/parity_legs.h"
#include "layers/parity_links.h"

namespace buse {

class ParityRecovery {
 public:
  ParityRecovery(const ParityLayout& layout, const ParityCode& code, ParityLegs& legs)
      : layout_(layout), code_(code), legs_(legs) {}

  // Puts in place what must be, durably, and begins a session, in which all that is in the logs is void. kDataLoss: more is damaged than parity can replace.
  absl::Status Run(ParityLinks links);

 private:
  struct Transaction {
    std::vector<ParityEntry> entries;
    LegMask recorded = 0;  // by these legs
    // For each entry, of each leg: its piece, or none.
    std::vector<std::array<const std::byte*, ParityHead::kMostLegs>> pieces;
  };
  // One block of the legs' data: of each leg in `changed` what it is going to have, or none while that is not known.
  struct Block {
    LegMask changed = 0;
    LegMask made = 0;  // of these, the legs whose piece was lost
    std::array<const std::byte*, ParityHead::kMostLegs> content = {};
  };
  using Plan = std::map<uint64_t, Block>;  // by its number

  void ReadRecord(ParityLinks links, size_t leg, uint64_t slot);
  void AddToPlan(const Transaction& transaction, Plan& plan) const;
  bool Complete(ParityLinks links, Plan& plan);
  bool CompleteBlock(ParityLinks links, uint64_t number, Block& block);
  bool Make(ParityLinks links, uint64_t last, Plan& plan);
  LegErrors CompleteRecords(ParityLinks links, uint64_t id, const Plan& plan) const;
  LegErrors Write(ParityLinks links, const Plan& plan) const;

  const ParityLayout& layout_;
  const ParityCode& code_;
  ParityLegs& legs_;
  std::map<uint64_t, Transaction> transactions_;
  bool unread_ = false;  // there may be more of them
  std::list<std::vector<std::byte>> memory_;
};

}  // namespace buse

#endif  // LAYERS_PARITY_RECOVERY_H_

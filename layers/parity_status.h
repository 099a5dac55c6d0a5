// SPDX-License-Identifier: Apache-2.0
//
// ParityStatus: how the legs of a parity are, and how far it is with them.

#ifndef LAYERS_PARITY_STATUS_H_
#define LAYERS_PARITY_STATUS_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "layers/maintenance.h"
#include "layers/parity_format.h"
#include "layers/parity_legs.h"

namespace buse {

struct ParityStatus {
  struct Leg {
    ParityLegs::State state = ParityLegs::State::kFailed;
    uint64_t errors = 0;  // requests
  };
  size_t legs = 0;
  size_t data_legs = 0;
  std::array<Leg, ParityHead::kMostLegs> leg = {};
  uint64_t event = 0;
  uint64_t bytes_to_rebuild = 0;  // of each leg that is rebuilt
  uint64_t bytes_to_scrub = 0;    // of each leg, until this round ends
  uint64_t bytes_of_leg = 0;
  uint64_t repaired = 0;    // bytes that a leg could not read, got from others, and reads now
  uint64_t rebuilt = 0;     // bytes written to legs that are brought up to date
  uint64_t mismatched = 0;  // bytes of stripes that read well and contradict each other, as Scrub found
  uint64_t unreadable = 0;  // bytes that too few legs could read
};

// For Maintain. The line changes when a leg does, and with each tenth of rebuilding.
Maintenance::Status ToMaintenanceStatus(const ParityStatus& status);

}  // namespace buse

#endif  // LAYERS_PARITY_STATUS_H_

// SPDX-License-Identifier: Apache-2.0
//
// LegsStatus: how the legs of a Mirror or a Parity are, and how far it is with them. Counts are since Open.

#ifndef LAYERS_LEGS_STATUS_H_
#define LAYERS_LEGS_STATUS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace buse {

enum class LegState {
  kInSync,      // has everything
  kRebuilding,  // gets every change, and is not read until it has everything
  kFailed,      // not used
};

struct LegsStatus {
  static constexpr size_t kMostLegs = 16;

  struct Leg {
    LegState state = LegState::kFailed;
    uint64_t errors = 0;  // requests
  };
  size_t legs = 0;
  std::array<Leg, kMostLegs> leg = {};
  size_t may_fail = 0;  // so many more, and all data is still there
  std::string stopped;  // not empty: nothing goes on, and why
  uint64_t event = 0;
  uint64_t bytes_of_leg = 0;
  uint64_t bytes_to_rebuild = 0;  // of each leg that is rebuilt
  uint64_t bytes_to_resync = 0;   // in which legs in sync may differ after an unclean stop, of each
  uint64_t bytes_to_scrub = 0;    // of each leg, until this round ends
  uint64_t repaired = 0;          // bytes that a leg could not read, got from others, and reads now
  uint64_t rebuilt = 0;           // bytes written to legs that are brought up to date
  uint64_t mismatched = 0;  // bytes that read well and contradict each other, as Scrub found, and nobody knows who is right
  uint64_t unreadable = 0;  // bytes that too few legs could read

  size_t Count(LegState state) const {
    return std::count_if(leg.begin(), leg.begin() + legs, [state](const Leg& one) { return one.state == state; });
  }
};

}  // namespace buse

#endif  // LAYERS_LEGS_STATUS_H_

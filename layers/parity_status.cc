// SPDX-License-Identifier: Apache-2.0
//
// The status as a line and as JSON.

#include "layers/parity_status.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace buse {
namespace {

const char* Name(ParityLegs::State state) {
  switch (state) {
    case ParityLegs::State::kInSync:
      return "in sync";
    case ParityLegs::State::kRebuilding:
      return "rebuilding";
    case ParityLegs::State::kFailed:
      return "failed";
  }
  return "";
}

std::string Line(const ParityStatus& status, size_t in_sync, bool rebuilds) {
  if (in_sync == status.legs) return absl::StrCat("parity: all ", status.legs, " legs are in sync");
  std::string line = "parity: degraded:";
  for (size_t leg = 0; leg < status.legs; ++leg) {
    if (status.leg[leg].state == ParityLegs::State::kInSync) continue;
    absl::StrAppend(&line, line.back() == ':' ? " leg " : ", leg ", leg, " ", Name(status.leg[leg].state));
  }
  if (rebuilds) {
    const uint64_t done = status.bytes_of_leg - status.bytes_to_rebuild;
    absl::StrAppend(&line, ", ", done / (status.bytes_of_leg / 10 + 1) * 10, " % done");
  }
  return absl::StrCat(line, "; ", in_sync - status.data_legs, " more may fail");
}

}  // namespace

Maintenance::Status ToMaintenanceStatus(const ParityStatus& status) {
  size_t in_sync = 0;
  bool rebuilds = false;
  std::string legs;
  for (size_t leg = 0; leg < status.legs; ++leg) {
    const ParityStatus::Leg& one = status.leg[leg];
    in_sync += one.state == ParityLegs::State::kInSync;
    rebuilds = rebuilds || one.state == ParityLegs::State::kRebuilding;
    absl::StrAppend(&legs, leg == 0 ? "" : ", ", "{\"state\": \"", Name(one.state), "\", \"errors\": ", one.errors, "}");
  }
  const std::string json = absl::StrCat(
      "{\"legs\": [", legs, "], \"may_fail\": ", in_sync - status.data_legs, ", \"event\": ", status.event,
      ", \"bytes_of_leg\": ", status.bytes_of_leg, ", \"bytes_to_rebuild\": ", status.bytes_to_rebuild,
      ", \"bytes_to_scrub\": ", status.bytes_to_scrub, ", \"rebuilt\": ", status.rebuilt, ", \"repaired\": ", status.repaired,
      ", \"mismatched\": ", status.mismatched, ", \"unreadable\": ", status.unreadable, "}");
  return {.line = Line(status, in_sync, rebuilds), .json = json, .rebuilds = rebuilds};
}

}  // namespace buse

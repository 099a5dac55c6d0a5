// SPDX-License-Identifier: Apache-2.0
//
// MaintenanceStatus: what Maintain says of a set of legs: a line for a log, and the JSON of its status file, written and read.

#ifndef LAYERS_MAINTENANCE_STATUS_H_
#define LAYERS_MAINTENANCE_STATUS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "layers/legs_status.h"

namespace buse {

struct MaintenanceStatus {
  std::string layer;               // "parity"
  std::vector<std::string> media;  // what each leg lies on, in the words of the command line
  LegsStatus legs;
  uint64_t rebuild_rate = 0;  // as set: bytes of each leg in a second
  uint64_t scrub_rate = 0;
  absl::optional<uint64_t> seconds_to_rebuild;  // at the speed of late, if there is any
  absl::optional<uint64_t> seconds_to_scrub;    // until this round ends
  bool serving = true;
  uint64_t time = 0;  // of this status, in seconds since 1970
};

// Changes when a leg does, with each tenth of rebuilding, and when bytes are found that are lost.
std::string ToLine(const MaintenanceStatus& status);

// An object on several lines. Bytes of the media's names that are no UTF-8 are replaced.
std::string ToJson(const MaintenanceStatus& status);

// Reads what ToJson wrote, and ignores members that it does not know. kInvalidArgument: it is something else.
absl::StatusOr<MaintenanceStatus> ParseMaintenanceStatus(absl::string_view json);

// The same object, and of the reader's: "health", "advice". On one line where `compact`.
std::string ToJson(const MaintenanceStatus& status, absl::string_view health, const std::vector<std::string>& advice,
                   bool compact);

const char* NameOf(LegState state);

// How much of the rebuilding is done, in percent rounded down; 100 where nothing is to be rebuilt.
uint64_t PercentRebuilt(const LegsStatus& legs);

}  // namespace buse

#endif  // LAYERS_MAINTENANCE_STATUS_H_

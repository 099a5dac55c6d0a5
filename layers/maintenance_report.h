// SPDX-License-Identifier: Apache-2.0
//
// What an administrator is told of a MaintenanceStatus: how it is, a table with a line for each leg, and what to do. Pure functions.

#ifndef LAYERS_MAINTENANCE_REPORT_H_
#define LAYERS_MAINTENANCE_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "layers/maintenance_status.h"

namespace buse {

enum class Health {
  kHealthy,   // all legs are in sync
  kDegraded,  // some are not, and one more may fail
  kInDanger,  // with one more leg data is lost, or some is already
  kUnknown,   // the status is that of a server which ended, was killed, or hangs
};

// After so many seconds without a word a server counts as gone. It writes its status every second.
inline constexpr uint64_t kSilence = 10;

// `now`: seconds since 1970.
Health HealthOf(const MaintenanceStatus& status, uint64_t now);
const char* NameOf(Health health);

// A sentence of what is alarming, and of what to do about it, the worst first; empty where all is well. `program`: the server's.
std::vector<std::string> AdviceOn(const MaintenanceStatus& status, uint64_t now, const std::string& program);

// All of it: a headline, the table, and the advice. `color`: as terminals show it.
std::string Report(const MaintenanceStatus& status, uint64_t now, const std::string& program, bool color);

// In a line, which changes when what it says does.
std::string ReportLine(const MaintenanceStatus& status, uint64_t now);

// "45 s", "12 min", "2 h 5 min", "3 days".
std::string FormatSeconds(uint64_t seconds);

}  // namespace buse

#endif  // LAYERS_MAINTENANCE_REPORT_H_

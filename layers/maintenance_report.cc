// SPDX-License-Identifier: Apache-2.0

#include "layers/maintenance_report.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "buse/size.h"

namespace buse {
namespace {

constexpr size_t kBar = 24;  // columns

std::string Padded(std::string text, size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

// Clocks may be set back.
uint64_t Age(const MaintenanceStatus& status, uint64_t now) { return now > status.time ? now - status.time : 0; }

// Nothing that a terminal would obey.
std::string MediumOf(const MaintenanceStatus& status, size_t leg) { return absl::Utf8SafeCEscape(status.media[leg]); }

std::string LegName(const MaintenanceStatus& status, size_t leg) {
  const std::string medium = MediumOf(status, leg);
  return medium.empty() ? absl::StrCat("leg ", leg) : absl::StrCat("leg ", leg, " (", medium, ")");
}

// "[######......]  52 %, 3 min left"
std::string Progress(uint64_t left, uint64_t total, const absl::optional<uint64_t>& seconds) {
  const uint64_t done = total - std::min(left, total);
  const double part = total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total);
  const size_t filled = static_cast<size_t>(part * kBar);
  return absl::StrCat("[", std::string(filled, '#'), std::string(kBar - filled, '.'), "] ", static_cast<int>(part * 100), " %",
                      seconds ? absl::StrCat(", ", FormatSeconds(*seconds), " left") : "");
}

std::string ScrubLine(const MaintenanceStatus& status) {
  const LegsStatus& legs = status.legs;
  if (status.scrub_rate == 0) return "scrub  off";
  if (legs.bytes_to_rebuild != 0 || legs.bytes_to_resync != 0) return "scrub  waits until all legs are in sync";
  return absl::StrCat("scrub  ", Progress(legs.bytes_to_scrub, legs.bytes_of_leg, status.seconds_to_scrub));
}

std::string Headline(const MaintenanceStatus& status, uint64_t now) {
  const LegsStatus& legs = status.legs;
  const Health health = HealthOf(status, now);
  std::string line = absl::StrCat(status.layer, ": ", NameOf(health));
  if (health == Health::kUnknown) {
    return absl::StrCat(line, ": what follows was so ", FormatSeconds(Age(status, now)), " ago");
  }
  if (!legs.stopped.empty()) return line + ": stopped";
  return absl::StrCat(line, ": ", legs.Count(LegState::kInSync), " of ", legs.legs, " legs are in sync, ",
                      legs.may_fail == 0 ? "none" : absl::StrCat(legs.may_fail), " more may fail");
}

const char* ColorOf(Health health) {
  switch (health) {
    case Health::kHealthy:
      return "\x1b[32m";
    case Health::kDegraded:
      return "\x1b[33m";
    case Health::kInDanger:
    case Health::kUnknown:
      return "\x1b[1;31m";
  }
  return "";
}

}  // namespace

const char* NameOf(Health health) {
  switch (health) {
    case Health::kHealthy:
      return "healthy";
    case Health::kDegraded:
      return "degraded";
    case Health::kInDanger:
      return "in danger";
    case Health::kUnknown:
      return "unknown";
  }
  return "";
}

Health HealthOf(const MaintenanceStatus& status, uint64_t now) {
  const LegsStatus& legs = status.legs;
  if (!status.serving || Age(status, now) > kSilence) return Health::kUnknown;
  if (!legs.stopped.empty() || legs.may_fail == 0 || legs.unreadable != 0 || legs.mismatched != 0) return Health::kInDanger;
  return legs.Count(LegState::kInSync) == legs.legs ? Health::kHealthy : Health::kDegraded;
}

std::vector<std::string> AdviceOn(const MaintenanceStatus& status, uint64_t now, const std::string& program) {
  const LegsStatus& legs = status.legs;
  std::vector<std::string> advice;
  if (!status.serving) {
    advice.push_back(absl::StrCat("It is not served: the server ended ", FormatSeconds(Age(status, now)), " ago. Start it."));
  } else if (Age(status, now) > kSilence) {
    advice.push_back(absl::StrCat("The server has not written its status for ", FormatSeconds(Age(status, now)),
                                  ": it was killed, it waits for a leg that does not answer, or the status cannot be written. "
                                  "See whether it runs, and its messages."));
  }
  if (!legs.stopped.empty()) {
    advice.push_back(absl::StrCat(legs.stopped, ". What was flushed is there: bring the legs back and start it again."));
  }
  if (legs.unreadable != 0) {
    advice.push_back(absl::StrCat(FormatSize(legs.unreadable), " could not be read by enough legs. \"", program,
                                  " check\" with the media, when they are not served, lists where: write these parts anew from "
                                  "a backup."));
  }
  if (legs.mismatched != 0) {
    advice.push_back(absl::StrCat(FormatSize(legs.mismatched),
                                  " read well on all legs and contradict each other: a disk or its connection changed bytes "
                                  "silently. Compare with a backup; checksums below each leg would tell which one is wrong."));
  }
  for (size_t leg = 0; leg < legs.legs; ++leg) {
    const LegsStatus::Leg& one = legs.leg[leg];
    const std::string name = LegName(status, leg);
    if (one.state == LegState::kFailed) {
      advice.push_back(absl::StrCat(name,
                                    " failed or is missing. Put an empty medium of at least the same size in its place, and "
                                    "start ",
                                    program, " with --replace-leg ", leg,
                                    "; if it was only away, give it back with --degraded. With --replace what uses a kernel "
                                    "device goes on."));
    } else if (one.state == LegState::kRebuilding) {
      advice.push_back(status.rebuild_rate == 0
                           ? absl::StrCat(name, " waits to be rebuilt, but for what flushes do of it: give --rebuild-rate.")
                           : absl::StrCat(name, " is being rebuilt: leave the other legs alone until that is done."));
    } else if (one.errors != 0) {
      advice.push_back(absl::StrCat(name, " failed ", one.errors, one.errors == 1 ? " request" : " requests",
                                    ": look at the disk below it, and have a spare at hand."));
    }
  }
  return advice;
}

std::string ReportLine(const MaintenanceStatus& status, uint64_t now) {
  if (HealthOf(status, now) != Health::kUnknown) return ToLine(status);
  return absl::StrCat(status.layer, ": unknown: ", status.serving ? "the server is silent" : "it is not served");
}

std::string Report(const MaintenanceStatus& status, uint64_t now, const std::string& program, bool color) {
  const LegsStatus& legs = status.legs;
  const auto colored = [color](const std::string& text, Health as) {
    return color ? absl::StrCat(ColorOf(as), text, "\x1b[0m") : text;
  };
  std::string out = colored(Headline(status, now), HealthOf(status, now)) + "\n\n";
  size_t width = 6;
  for (size_t leg = 0; leg < legs.legs; ++leg) width = std::max(width, MediumOf(status, leg).size());
  absl::StrAppend(&out, "leg  ", Padded("medium", width), "  state       errors\n");
  for (size_t leg = 0; leg < legs.legs; ++leg) {
    const LegsStatus::Leg& one = legs.leg[leg];
    const std::string errors = absl::StrCat(one.errors);
    std::string state = Padded(NameOf(one.state), 10);
    if (one.state == LegState::kFailed) state = colored(state, Health::kInDanger);
    if (one.state == LegState::kRebuilding) state = colored(state, Health::kDegraded);
    absl::StrAppend(&out, leg < 10 ? "  " : " ", leg, "  ", Padded(MediumOf(status, leg), width), "  ", state, "  ",
                    std::string(errors.size() < 6 ? 6 - errors.size() : 0, ' '), errors, "\n");
  }
  out += "\n";
  if (legs.Count(LegState::kRebuilding) != 0) {
    absl::StrAppend(&out, "rebuild  ", Progress(legs.bytes_to_rebuild, legs.bytes_of_leg, status.seconds_to_rebuild), "\n");
  }
  if (legs.bytes_to_resync != 0) {
    absl::StrAppend(&out, "resync  ", FormatSizeRoughly(legs.bytes_to_resync), " to compare after an unclean stop\n");
  }
  absl::StrAppend(&out, ScrubLine(status), "\n");
  std::string counts;
  const auto count = [&](const char* what, uint64_t bytes) {
    if (bytes != 0) absl::StrAppend(&counts, counts.empty() ? "" : ", ", what, " ", FormatSizeRoughly(bytes));
  };
  count("repaired", legs.repaired);
  count("rebuilt", legs.rebuilt);
  count("unreadable", legs.unreadable);
  count("mismatched", legs.mismatched);
  if (!counts.empty()) absl::StrAppend(&out, "since the start: ", counts, "\n");
  const std::vector<std::string> advice = AdviceOn(status, now, program);
  if (!advice.empty()) out += "\n";
  for (const std::string& sentence : advice) absl::StrAppend(&out, "! ", sentence, "\n");
  return out;
}

std::string FormatSeconds(uint64_t seconds) {
  if (seconds < 60) return absl::StrCat(seconds, " s");
  if (seconds < 3600) return absl::StrCat(seconds / 60, " min");
  if (seconds < 48 * 3600) return absl::StrCat(seconds / 3600, " h ", seconds / 60 % 60, " min");
  return absl::StrCat(seconds / 86400, " days");
}

}  // namespace buse

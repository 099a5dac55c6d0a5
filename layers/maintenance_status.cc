// SPDX-License-Identifier: Apache-2.0
//
// The status as a line and as JSON.

#include "layers/maintenance_status.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace buse {
namespace {

using Json = nlohmann::ordered_json;

constexpr LegState kStates[] = {LegState::kInSync, LegState::kRebuilding, LegState::kFailed};

// Each number of the legs by its name.
template <class Legs, class Use>
void ForEachNumber(Legs& legs, Use use) {
  use("event", legs.event);
  use("bytes_of_leg", legs.bytes_of_leg);
  use("bytes_to_rebuild", legs.bytes_to_rebuild);
  use("bytes_to_resync", legs.bytes_to_resync);
  use("bytes_to_scrub", legs.bytes_to_scrub);
  use("rebuilt", legs.rebuilt);
  use("repaired", legs.repaired);
  use("mismatched", legs.mismatched);
  use("unreadable", legs.unreadable);
}

Json MakeJson(const MaintenanceStatus& status) {
  Json json;
  json["layer"] = status.layer;
  json["serving"] = status.serving;
  json["time"] = status.time;
  json["may_fail"] = status.legs.may_fail;
  json["stopped"] = status.legs.stopped;
  json["legs"] = Json::array();
  for (size_t leg = 0; leg < status.legs.legs; ++leg) {
    const LegsStatus::Leg& one = status.legs.leg[leg];
    const std::string medium = leg < status.media.size() ? status.media[leg] : "";
    json["legs"].push_back({{"medium", medium}, {"state", NameOf(one.state)}, {"errors", one.errors}});
  }
  ForEachNumber(status.legs, [&](const char* name, uint64_t number) { json[name] = number; });
  json["rebuild_rate"] = status.rebuild_rate;
  json["scrub_rate"] = status.scrub_rate;
  const auto seconds = [](const absl::optional<uint64_t>& number) { return number ? Json(*number) : Json(); };
  json["seconds_to_rebuild"] = seconds(status.seconds_to_rebuild);
  json["seconds_to_scrub"] = seconds(status.seconds_to_scrub);
  return json;
}

std::string Dump(const Json& json, bool compact) {
  return json.dump(compact ? -1 : 2, ' ', false, Json::error_handler_t::replace);
}

// What an object holds, each asked for by its name; remembers what was missing.
class Reader {
 public:
  explicit Reader(const Json& object) : object_(object) {}

  void Get(const char* name, uint64_t& value) {
    if (const Json* const found = Find(name, &Json::is_number_unsigned)) value = found->get<uint64_t>();
  }
  void Get(const char* name, bool& value) {
    if (const Json* const found = Find(name, &Json::is_boolean)) value = found->get<bool>();
  }
  void Get(const char* name, std::string& value) {
    if (const Json* const found = Find(name, &Json::is_string)) value = found->get<std::string>();
  }
  // Absent where it is null.
  void Get(const char* name, absl::optional<uint64_t>& value) {
    if (object_.is_object() && object_.contains(name) && object_[name].is_null()) return;
    Get(name, value.emplace());
  }
  const Json* GetArray(const char* name) { return Find(name, &Json::is_array); }

  const std::string& missing() const { return missing_; }

 private:
  const Json* Find(const char* name, bool (Json::*is)() const noexcept) {
    if (object_.is_object() && object_.contains(name) && (object_[name].*is)()) return &object_[name];
    missing_ = name;
    return nullptr;
  }

  const Json& object_;
  std::string missing_;
};

absl::Status NoStatus(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("this is no status that --status writes: ", what));
}

}  // namespace

const char* NameOf(LegState state) {
  switch (state) {
    case LegState::kInSync:
      return "in sync";
    case LegState::kRebuilding:
      return "rebuilding";
    case LegState::kFailed:
      return "failed";
  }
  return "";
}

uint64_t PercentRebuilt(const LegsStatus& legs) {
  if (legs.bytes_of_leg == 0 || legs.bytes_to_rebuild > legs.bytes_of_leg) return 0;
  return static_cast<uint64_t>(100.0 * static_cast<double>(legs.bytes_of_leg - legs.bytes_to_rebuild) /
                               static_cast<double>(legs.bytes_of_leg));
}

std::string ToLine(const MaintenanceStatus& status) {
  const LegsStatus& legs = status.legs;
  if (!legs.stopped.empty()) return legs.stopped;
  std::string line = absl::StrCat(status.layer, ": ");
  if (legs.Count(LegState::kInSync) == legs.legs) {
    absl::StrAppend(&line, "all ", legs.legs, " legs are in sync");
  } else {
    line += "degraded:";
    for (size_t leg = 0; leg < legs.legs; ++leg) {
      if (legs.leg[leg].state == LegState::kInSync) continue;
      absl::StrAppend(&line, line.back() == ':' ? " leg " : ", leg ", leg, " ", NameOf(legs.leg[leg].state));
    }
    if (legs.Count(LegState::kRebuilding) != 0) absl::StrAppend(&line, ", ", PercentRebuilt(legs) / 10 * 10, " % done");
    absl::StrAppend(&line, "; ", legs.may_fail, " more may fail");
  }
  if (legs.bytes_to_resync != 0) line += "; being compared after an unclean stop";
  if (legs.unreadable != 0) line += "; some bytes are unreadable";
  if (legs.mismatched != 0) line += "; some bytes contradict each other";
  return line;
}

std::string ToJson(const MaintenanceStatus& status) { return Dump(MakeJson(status), false); }

std::string ToJson(const MaintenanceStatus& status, absl::string_view health, const std::vector<std::string>& advice,
                   bool compact) {
  Json json = {{"health", std::string(health)}, {"advice", advice}};
  json.update(MakeJson(status));
  return Dump(json, compact);
}

absl::StatusOr<MaintenanceStatus> ParseMaintenanceStatus(absl::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return NoStatus("it is no JSON");
  MaintenanceStatus status;
  Reader reader(json);
  reader.Get("layer", status.layer);
  reader.Get("serving", status.serving);
  reader.Get("time", status.time);
  uint64_t may_fail = 0;
  reader.Get("may_fail", may_fail);
  status.legs.may_fail = may_fail;
  reader.Get("stopped", status.legs.stopped);
  ForEachNumber(status.legs, [&](const char* name, uint64_t& number) { reader.Get(name, number); });
  reader.Get("rebuild_rate", status.rebuild_rate);
  reader.Get("scrub_rate", status.scrub_rate);
  reader.Get("seconds_to_rebuild", status.seconds_to_rebuild);
  reader.Get("seconds_to_scrub", status.seconds_to_scrub);
  const Json* const legs = reader.GetArray("legs");
  if (!reader.missing().empty()) return NoStatus(absl::StrCat("it lacks \"", reader.missing(), "\""));
  if (legs->size() > LegsStatus::kMostLegs) {
    return NoStatus(absl::StrCat(legs->size(), " legs are more than the ", LegsStatus::kMostLegs, " that there can be"));
  }
  for (const Json& one : *legs) {
    Reader of_leg(one);
    std::string state;
    LegsStatus::Leg& leg = status.legs.leg[status.legs.legs++];
    of_leg.Get("medium", status.media.emplace_back());
    of_leg.Get("state", state);
    of_leg.Get("errors", leg.errors);
    bool known = false;
    for (const LegState each : kStates) {
      if (state != NameOf(each)) continue;
      leg.state = each;
      known = true;
    }
    if (!of_leg.missing().empty() || !known) return NoStatus(absl::StrCat("leg ", status.legs.legs - 1, " has no known state"));
  }
  return status;
}

}  // namespace buse

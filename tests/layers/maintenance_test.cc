// SPDX-License-Identifier: Apache-2.0
//
// What is told of a set of legs: the status file is read as it was written, and an administrator learns how it is and what to do.

#include "layers/maintenance.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/maintenance_report.h"
#include "layers/maintenance_status.h"

namespace buse {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr uint64_t kNow = 1'700'000'000;

// Six legs of which two may fail, all well.
MaintenanceStatus Well() {
  MaintenanceStatus status = {.layer = "parity", .rebuild_rate = 64 << 20, .scrub_rate = 1 << 20, .time = kNow};
  status.legs.legs = 6;
  status.legs.may_fail = 2;
  status.legs.bytes_of_leg = status.legs.bytes_to_scrub = uint64_t{10} << 30;
  for (int leg = 0; leg < 6; ++leg) {
    status.legs.leg[leg].state = LegState::kInSync;
    status.media.push_back(std::string("/disks/") + static_cast<char>('a' + leg));
  }
  return status;
}

void Fail(MaintenanceStatus& status, size_t leg) {
  status.legs.leg[leg].state = LegState::kFailed;
  --status.legs.may_fail;
}

std::string Shown(const MaintenanceStatus& status, uint64_t now = kNow) { return Report(status, now, "raid", false); }

TEST(MaintenanceStatusTest, WhatIsWrittenIsRead) {
  MaintenanceStatus status = Well();
  status.legs.leg[2] = {LegState::kRebuilding, 17};
  status.legs.leg[4].state = LegState::kFailed;
  status.legs.may_fail = 0;
  status.legs.stopped = "parity: \"stopped\"\n";
  status.legs.bytes_to_rebuild = UINT64_MAX;  // more than a double holds
  status.legs.mismatched = 5;
  status.seconds_to_scrub = 3600;
  status.serving = false;
  const absl::StatusOr<MaintenanceStatus> read = ParseMaintenanceStatus(ToJson(status));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(ToJson(*read), ToJson(status));
  EXPECT_EQ(read->legs.leg[2].errors, 17u);
  EXPECT_EQ(read->legs.bytes_to_rebuild, UINT64_MAX);
  EXPECT_EQ(read->legs.stopped, status.legs.stopped);
  EXPECT_FALSE(read->seconds_to_rebuild.has_value());
  EXPECT_EQ(read->seconds_to_scrub, 3600u);
  EXPECT_FALSE(read->serving);
}

TEST(MaintenanceStatusTest, ANameThatIsNoUtf8IsReplacedAndDoesNotReachATerminal) {
  MaintenanceStatus status = Well();
  status.media[1] = "b\xff\x1b[31m.img";
  const absl::StatusOr<MaintenanceStatus> read = ParseMaintenanceStatus(ToJson(status));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_THAT(Shown(*read), Not(HasSubstr("\x1b")));
}

TEST(MaintenanceStatusTest, AnythingElseIsRefused) {
  const auto why = [](const std::string& text) { return std::string(ParseMaintenanceStatus(text).status().message()); };
  const std::string good = ToJson(Well());
  EXPECT_THAT(why(""), HasSubstr("it is no JSON"));
  EXPECT_THAT(why(good.substr(0, good.size() / 2)), HasSubstr("it is no JSON"));
  for (const char* other : {"{}", "[]", "7", "null", "\"text\""}) EXPECT_THAT(why(other), HasSubstr("it lacks")) << other;
  const auto with = [&](std::string text, const std::string& from, const std::string& to) {
    return text.replace(text.find(from), from.size(), to);
  };
  EXPECT_THAT(why(with(good, "\"may_fail\": 2", "\"may_fail\": -2")), HasSubstr("it lacks \"may_fail\""));
  EXPECT_THAT(why(with(good, "\"may_fail\": 2", "\"may_fail\": \"2\"")), HasSubstr("it lacks \"may_fail\""));
  EXPECT_THAT(why(with(good, "\"legs\": [", "\"legs\": 3, \"others\": [")), HasSubstr("it lacks \"legs\""));
  EXPECT_THAT(why(with(good, "\"in sync\"", "\"sunk\"")), HasSubstr("leg 0 has no known state"));
  EXPECT_THAT(why(with(good, "\"in sync\"", "{}")), HasSubstr("leg 0 has no known state"));
  std::string many = "\"legs\": [";
  for (int i = 0; i < 20; ++i) many += "{},";
  EXPECT_THAT(why(with(good, "\"legs\": [", many)), HasSubstr("26 legs are more than the 16"));
  // What a later version adds does not hinder.
  EXPECT_TRUE(ParseMaintenanceStatus(with(good, "{", "{\"new\": [1, {}],")).ok());
}

TEST(MaintenanceReportTest, HealthIsWhatTheWorstOfItIs) {
  MaintenanceStatus status = Well();
  EXPECT_EQ(HealthOf(status, kNow), Health::kHealthy);
  EXPECT_EQ(HealthOf(status, kNow + kSilence), Health::kHealthy);
  EXPECT_EQ(HealthOf(status, kNow - 5), Health::kHealthy) << "a clock that was set back";
  EXPECT_EQ(HealthOf(status, kNow + kSilence + 1), Health::kUnknown);
  Fail(status, 3);
  EXPECT_EQ(HealthOf(status, kNow), Health::kDegraded);
  status.legs.leg[3].state = LegState::kRebuilding;
  EXPECT_EQ(HealthOf(status, kNow), Health::kDegraded);
  Fail(status, 0);
  EXPECT_EQ(HealthOf(status, kNow), Health::kInDanger);
  status.serving = false;
  EXPECT_EQ(HealthOf(status, kNow), Health::kUnknown);
  for (const auto number : {&LegsStatus::unreadable, &LegsStatus::mismatched}) {
    MaintenanceStatus lost = Well();
    lost.legs.*number = 512;
    EXPECT_EQ(HealthOf(lost, kNow), Health::kInDanger);
  }
  MaintenanceStatus stopped = Well();
  stopped.legs.stopped = "parity: stopped";
  EXPECT_EQ(HealthOf(stopped, kNow), Health::kInDanger);
}

TEST(MaintenanceReportTest, OneLineForEachLegAndWhatIsDoneWithThem) {
  MaintenanceStatus status = Well();
  Fail(status, 2);
  status.legs.leg[2] = {LegState::kRebuilding, 123456};
  status.legs.bytes_to_rebuild = uint64_t{7} << 30;
  status.legs.repaired = 4096;
  status.seconds_to_rebuild = 7500;
  EXPECT_EQ(Shown(status),
            "parity: degraded: 5 of 6 legs are in sync, 1 more may fail\n"
            "\n"
            "leg  medium    state       errors\n"
            "  0  /disks/a  in sync          0\n"
            "  1  /disks/b  in sync          0\n"
            "  2  /disks/c  rebuilding  123456\n"
            "  3  /disks/d  in sync          0\n"
            "  4  /disks/e  in sync          0\n"
            "  5  /disks/f  in sync          0\n"
            "\n"
            "rebuild  [#######.................] 30 %, 2 h 5 min left\n"
            "scrub  waits until all legs are in sync\n"
            "since the start: repaired 4 KiB\n"
            "\n"
            "! leg 2 (/disks/c) is being rebuilt: leave the other legs alone until that is done.\n");
  EXPECT_THAT(Report(status, kNow, "raid", true), HasSubstr("\x1b[33mrebuilding\x1b[0m"));
  EXPECT_THAT(Shown(Well()), HasSubstr("scrub  [........................] 0 %\n"));
}

TEST(MaintenanceReportTest, AdviceSaysWhatIsAlarmingAndWhatToDo) {
  EXPECT_THAT(AdviceOn(Well(), kNow, "raid"), IsEmpty());
  MaintenanceStatus status = Well();
  Fail(status, 2);
  EXPECT_THAT(AdviceOn(status, kNow, "raid"),
              ElementsAre(HasSubstr("leg 2 (/disks/c) failed or is missing. Put an empty medium of "
                                    "at least the same size in its place, and start raid with "
                                    "--replace-leg 2")));
  status = Well();
  status.legs.leg[1].errors = 1;
  EXPECT_THAT(AdviceOn(status, kNow, "raid"), ElementsAre(HasSubstr("leg 1 (/disks/b) failed 1 request: look at the disk")));
  status.legs.unreadable = 512;
  status.legs.mismatched = 1024;
  EXPECT_THAT(AdviceOn(status, kNow, "raid"),
              ElementsAre(HasSubstr("512 bytes could not be read by enough legs. \"raid check\""),
                          HasSubstr("1 KiB read well on all legs and contradict each other"), HasSubstr("leg 1")));
  status = Well();
  EXPECT_THAT(AdviceOn(status, kNow + 120, "raid"), ElementsAre(HasSubstr("has not written its status for 2 min")));
  status.serving = false;
  EXPECT_THAT(AdviceOn(status, kNow + 120, "raid"), ElementsAre(HasSubstr("the server ended 2 min ago")));
  status = Well();
  status.legs.leg[0].state = LegState::kRebuilding;
  status.rebuild_rate = 0;
  EXPECT_THAT(AdviceOn(status, kNow, "raid"), ElementsAre(HasSubstr("give --rebuild-rate")));
}

TEST(MaintenanceReportTest, TimesAreShort) {
  EXPECT_EQ(FormatSeconds(0), "0 s");
  EXPECT_EQ(FormatSeconds(59), "59 s");
  EXPECT_EQ(FormatSeconds(3599), "59 min");
  EXPECT_EQ(FormatSeconds(3600), "1 h 0 min");
  EXPECT_EQ(FormatSeconds(47 * 3600 + 59 * 60), "47 h 59 min");
  EXPECT_EQ(FormatSeconds(48 * 3600), "2 days");
}

class MaintenanceTest : public ::testing::Test {
 protected:
  MaintenanceTest() {
    char name[] = "/tmp/buse-maintenance.XXXXXX";
    folder_ = mkdtemp(name);
    path_ = folder_ + "/status";
  }
  ~MaintenanceTest() override {
    unlink(path_.c_str());
    rmdir(folder_.c_str());
  }
  MaintenanceStatus Read() const {
    std::ifstream file(path_);
    std::ostringstream text;
    text << file.rdbuf();
    const absl::StatusOr<MaintenanceStatus> status = ParseMaintenanceStatus(text.str());
    EXPECT_TRUE(status.ok()) << status.status();
    return status.ok() ? *status : MaintenanceStatus();
  }

  std::string folder_;
  std::string path_;
};

TEST_F(MaintenanceTest, TheFileIsWrittenEverySecondWithTheTimeThatIsLeft) {
  std::atomic<uint64_t> left = 10 << 20;
  {
    Maintenance maintenance;
    const auto legs = [&] {
      LegsStatus status = Well().legs;
      status.bytes_of_leg = 10 << 20;
      status.bytes_to_scrub = left;
      return status;
    };
    const auto scrub = [&](uint64_t bytes) -> absl::StatusOr<uint64_t> { return left -= bytes; };
    const auto rebuild = [](uint64_t) -> absl::StatusOr<uint64_t> {
      return absl::InternalError("there is nothing to rebuild");
    };
    ASSERT_EQ(maintenance.Start({.rebuild = rebuild, .scrub = scrub, .status = legs},
                                {.scrub_rate = 1 << 20, .status_file = path_, .layer = "parity", .media = Well().media}),
              absl::OkStatus());
    const MaintenanceStatus first = Read();
    EXPECT_TRUE(first.serving);
    EXPECT_EQ(first.seconds_to_scrub, absl::nullopt);
    std::this_thread::sleep_for(std::chrono::milliseconds(3500));
    const MaintenanceStatus later = Read();
    EXPECT_GT(later.time, first.time);
    EXPECT_LT(later.legs.bytes_to_scrub, first.legs.bytes_to_scrub);
    ASSERT_TRUE(later.seconds_to_scrub.has_value());
    // Of some 7 MiB, 1 MiB in a second; slower where the machine is busy.
    EXPECT_GE(*later.seconds_to_scrub, 5u);
    EXPECT_LE(*later.seconds_to_scrub, 60u);
  }
  EXPECT_FALSE(Read().serving);
}

TEST_F(MaintenanceTest, AFileThatCannotBeWrittenIsRefused) {
  Maintenance maintenance;
  const absl::Status status =
      maintenance.Start({.rebuild = nullptr, .scrub = nullptr, .status = [] { return Well().legs; }},
                        {.status_file = folder_ + "/no/such", .layer = "parity", .media = Well().media});
  EXPECT_THAT(std::string(status.message()), HasSubstr("/no/such.next: cannot write the status"));
}

}  // namespace
}  // namespace buse

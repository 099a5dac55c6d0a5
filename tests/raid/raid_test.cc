// SPDX-License-Identifier: Apache-2.0
//
// The program of examples/raid.cc as docs/raid.md has an administrator use it: format, serve, the loss of one file and of two, a
// scribbled file, a replaced leg, and what the status says of all that.

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/console.h"
#include "tests/process.h"

namespace buse {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::Process;
using testing::Result;
using testing::Runfile;
using testing::RunToEnd;
using testing::Shell;

const std::string kRaid = Runfile("examples/raid");

class RaidTest : public ::testing::Test {
 protected:
  RaidTest() {
    char name[] = "/tmp/buse-raid.XXXXXX";
    folder_ = mkdtemp(name);
    uri_ = "nbd+unix:///?socket=" + folder_ + "/s";
    Do("for f in a b c d e f; do truncate -s 8M $f.img; done");
    const Result result = RunToEnd(Command({"format"}, {"--log", "196608", "--log-2", "196608"}));
    EXPECT_EQ(result.exit_code, 0) << result.output;
    Serve();
    Do("head -c $(nbdinfo --size \"$URI\") /dev/urandom > in; nbdcopy --flush in \"$URI\"");
  }
  ~RaidTest() override {
    server_.reset();
    RunToEnd({"rm", "-rf", folder_});
  }

  std::vector<std::string> Command(const std::vector<std::string>& before, const std::vector<std::string>& after) const {
    std::vector<std::string> command = {kRaid};
    command.insert(command.end(), before.begin(), before.end());
    for (const char leg : std::string("abcdef")) command.push_back(folder_ + "/" + leg + ".img");
    command.insert(command.end(), after.begin(), after.end());
    return command;
  }
  void Serve(std::vector<std::string> options = {}) {
    options.insert(options.begin(), {uri_, "--status", folder_ + "/status.json"});
    server_ = std::make_unique<Process>(Command({}, options));
    ASSERT_TRUE(server_->WaitFor("Ctrl-C")) << server_->output();
  }
  void End() {
    server_->Signal(SIGTERM);
    EXPECT_EQ(server_->Wait(), 0) << server_->output();
  }
  std::string RefusalToServe() { return RunToEnd(Command({}, {uri_})).output; }
  // Runs a line of shell in the folder, in which $URI names the server. It must succeed.
  std::string Do(const std::string& line) {
    const Result result = Shell("set -e; cd " + folder_ + "; URI='" + uri_ + "'; " + line);
    EXPECT_EQ(result.exit_code, 0) << line << "\n" << result.output << "\n(a missing program: run tools/setup)";
    return result.output;
  }
  void ExpectRight() { Do("rm -f out; nbdcopy \"$URI\" out; cmp in out"); }
  std::string Status() {
    std::ifstream file(folder_ + "/status.json");
    std::stringstream content;
    content << file.rdbuf();
    return content.str();
  }
  // What the verb says, with these options.
  Result ShowStatus(std::vector<std::string> options = {}) const {
    options.insert(options.begin(), {kRaid, "status", folder_ + "/status.json"});
    return RunToEnd(options);
  }
  bool WaitForStatus(const std::string& text) {
    for (int i = 0; i < 600; ++i) {
      if (Status().find(text) != std::string::npos) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return false;
  }
  void ExpectSound() {
    const Result result = RunToEnd(Command({"check"}, {}));
    EXPECT_EQ(result.exit_code, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr("all sound"));
  }

  std::string folder_, uri_;
  std::unique_ptr<Process> server_;
};

TEST_F(RaidTest, ALostFileIsReplaced) {
  EXPECT_TRUE(WaitForStatus("\"may_fail\": 2")) << Status();
  End();
  ExpectSound();
  const std::string told = Status();
  EXPECT_EQ(RunToEnd(Command({"check"}, {"--status", folder_ + "/status.json", "--scrub-rate", "1M"})).exit_code, 0);
  EXPECT_EQ(Status(), told) << "a check does nothing beside it";
  Do("rm c.img");
  EXPECT_THAT(RefusalToServe(), HasSubstr("leg 2 of 6 is missing"));
  Serve({"--degraded"});
  ExpectRight();
  EXPECT_THAT(Status(), HasSubstr("\"may_fail\": 1"));
  Do("head -c 1M /dev/urandom | dd of=in conv=notrunc bs=1M seek=3 status=none; nbdcopy --flush in \"$URI\"");
  End();
  EXPECT_THAT(RefusalToServe(), HasSubstr("leg 2 of 6 is missing"));
  Do("truncate -s 8M c.img");
  EXPECT_THAT(RefusalToServe(), HasSubstr("degraded"));
  Serve({"--replace-leg", "2"});
  ExpectRight();
  EXPECT_TRUE(WaitForStatus("\"may_fail\": 2")) << Status() << server_->output();
  EXPECT_TRUE(server_->WaitFor("leg 2 rebuilding, 0 % done; 1 more may fail")) << server_->output();
  EXPECT_TRUE(server_->WaitFor("all 6 legs are in sync")) << server_->output();
  End();
  Serve();
  ExpectRight();
  End();
  ExpectSound();
}

TEST_F(RaidTest, TwoFilesLostUnderLoadAndRebuilt) {
  // Their contents go while they are in use.
  Do("(for i in 1 2 3; do nbdcopy --flush in \"$URI\"; done) & sleep 0.2; truncate -s 0 b.img; truncate -s 0 e.img; wait");
  ExpectRight();
  Do("rm b.img e.img");
  ExpectRight();
  End();
  EXPECT_THAT(RefusalToServe(), HasSubstr("leg 1 of 6 is missing"));
  Do("truncate -s 8M b.img");
  Serve({"--replace-leg", "1"});
  ExpectRight();
  EXPECT_TRUE(WaitForStatus("\"may_fail\": 1")) << Status();
  End();
  Do("truncate -s 8M e.img");
  Serve({"--replace-leg", "4"});
  EXPECT_TRUE(WaitForStatus("\"may_fail\": 2")) << Status();
  ExpectRight();
  End();
  ExpectSound();
}

TEST_F(RaidTest, AScribbledFileIsRepairedByScrubbing) {
  End();
  Do("dd if=/dev/urandom of=d.img bs=1M seek=3 count=2 conv=notrunc status=none");
  const Result result = RunToEnd(Command({"check"}, {}));
  EXPECT_NE(result.exit_code, 0);
  // Of the fourth leg, and of nothing that the disk holds.
  EXPECT_THAT(result.output, HasSubstr("checksum-4: damaged: "));
  EXPECT_THAT(result.output, Not(HasSubstr("parity: damaged")));
  Serve({"--scrub-rate", "100M"});
  EXPECT_TRUE(WaitForStatus("\"unreadable\": 0"));
  ExpectRight();
  const auto repaired = [&] { return std::strtoull(Status().c_str() + Status().find("\"repaired\": ") + 12, nullptr, 10); };
  uint64_t before = 0;
  // Until nothing more is found in a round.
  for (int i = 0; i < 100 && (repaired() == 0 || repaired() != before); ++i) {
    before = repaired();
    std::this_thread::sleep_for(std::chrono::seconds(2));
  }
  EXPECT_GT(repaired(), 1u << 20);
  End();
  ExpectSound();
}

TEST_F(RaidTest, TheStatusTellsByItsExitCodeHowItIs) {
  Result shown = ShowStatus();
  EXPECT_EQ(shown.exit_code, 0) << shown.output;
  EXPECT_THAT(shown.output, HasSubstr("parity: healthy: 6 of 6 legs are in sync, 2 more may fail\n"));
  End();
  shown = ShowStatus();
  EXPECT_EQ(shown.exit_code, 1) << shown.output;
  EXPECT_THAT(shown.output, HasSubstr("! It is not served: the server ended"));
  Do("mv c.img away-c");
  Serve({"--degraded"});
  shown = ShowStatus();
  EXPECT_EQ(shown.exit_code, 6) << shown.output;
  EXPECT_THAT(shown.output, HasSubstr("/c.img  failed           0\n"));
  EXPECT_THAT(shown.output, HasSubstr("/c.img) failed or is missing. Put an empty medium"));
  End();
  Do("mv f.img away-f");
  Serve({"--degraded"});
  shown = ShowStatus();
  EXPECT_EQ(shown.exit_code, 7) << shown.output;
  EXPECT_THAT(shown.output, HasSubstr("parity: in danger: 4 of 6 legs are in sync, none more may fail\n"));
  // With a third one data is lost.
  Do("truncate -s 0 a.img; if nbdcopy \"$URI\" out 2>&1; then exit 1; fi");
  Process lines({kRaid, "status", folder_ + "/status.json", "--watch"});
  EXPECT_TRUE(lines.WaitFor("0 more may fail; some bytes are unreadable\n")) << lines.output();
  shown = ShowStatus();
  EXPECT_EQ(shown.exit_code, 7) << shown.output;
  EXPECT_THAT(shown.output, HasSubstr(" could not be read by enough legs. \"raid check\""));
  EXPECT_EQ(RunToEnd({kRaid, "status", folder_ + "/none"}).exit_code, 3);
  EXPECT_EQ(RunToEnd({kRaid, "status", folder_ + "/in"}).exit_code, 1);
  EXPECT_EQ(RunToEnd({kRaid, "status"}).exit_code, 2);
}

TEST_F(RaidTest, AServerThatWasKilledIsNotTakenForAHealthyOne) {
  server_->Signal(SIGKILL);
  server_->Wait();
  EXPECT_EQ(ShowStatus().exit_code, 0) << "it may still write";
  std::this_thread::sleep_for(std::chrono::seconds(12));
  const Result shown = ShowStatus();
  EXPECT_EQ(shown.exit_code, 1) << shown.output;
  EXPECT_THAT(shown.output, HasSubstr("parity: unknown: what follows was so 1"));
  EXPECT_THAT(shown.output, HasSubstr("! The server has not written its status for 1"));
}

TEST_F(RaidTest, TheStatusIsDrawnOnATerminalAndElseALineForEachChange) {
  End();
  Do("rm c.img; truncate -s 8M c.img");
  Process watch({kRaid, "status", folder_ + "/status.json", "--watch"});
  EXPECT_TRUE(watch.WaitFor("parity: unknown: it is not served\n")) << watch.output();
  // script gives it a terminal.
  Process drawn({"script", "-qec", "TERM=xterm " + kRaid + " status " + folder_ + "/status.json --watch", "/dev/null"});
  Serve({"--replace-leg", "2", "--rebuild-rate", "512K"});
  EXPECT_TRUE(watch.WaitFor("parity: degraded: leg 2 rebuilding, ")) << watch.output();
  EXPECT_TRUE(drawn.WaitFor("\x1b[33mrebuilding\x1b[0m")) << drawn.output();
  EXPECT_TRUE(drawn.WaitFor(" s left\x1b[K")) << drawn.output();
  const Result json = Shell(kRaid + " status " + folder_ +
                            "/status.json --json | python3 -c 'import json, sys; "
                            "j = json.load(sys.stdin); print(j[\"health\"], j[\"legs\"][2][\"state\"], len(j[\"advice\"]))'");
  EXPECT_EQ(json.output, "degraded rebuilding 1\n");
  EXPECT_TRUE(watch.WaitFor("parity: all 6 legs are in sync\n")) << watch.output();
  EXPECT_TRUE(drawn.WaitFor("\x1b[H\x1b[32mparity: healthy: 6 of 6 legs are in sync, 2 more may fail\x1b[0m\x1b[K"))
      << drawn.output();
  EXPECT_THAT(watch.output(), Not(HasSubstr("\x1b"))) << "no terminal";
  watch.Signal(SIGINT);
  EXPECT_EQ(watch.Wait(), 0);
  End();
}

TEST(RaidPageTest, WhatItsPageShowsIsWhatHappens) {
  char name[] = "/tmp/buse-raid-page.XXXXXX";
  const std::string folder = mkdtemp(name);
  testing::ExpectSession(testing::SessionOf("docs/raid.md", "tests/raid"), folder, kRaid.substr(0, kRaid.rfind('/')));
  RunToEnd({"rm", "-rf", folder});
}

TEST_F(RaidTest, AnotherMediumThanAnEmptyOneDoesNotReplaceALeg) {
  End();
  Do("rm a.img; head -c 8M /dev/urandom > a.img");
  const Result result = RunToEnd(Command({}, {uri_, "--replace-leg", "0"}));
  EXPECT_NE(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("what is to replace leg 0 holds"));
}

}  // namespace
}  // namespace buse

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

TEST_F(RaidTest, AnotherMediumThanAnEmptyOneDoesNotReplaceALeg) {
  End();
  Do("rm a.img; head -c 8M /dev/urandom > a.img");
  const Result result = RunToEnd(Command({}, {uri_, "--replace-leg", "0"}));
  EXPECT_NE(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("what is to replace leg 0 holds"));
}

}  // namespace
}  // namespace buse

// SPDX-License-Identifier: Apache-2.0
//
// Maintain over a Mirror, as a program with real files: its options and its status are those of a Parity. A lost file is replaced, a
// scribbled one is found by scrubbing, and what was being written when the server was killed is compared.

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/process.h"

namespace buse {
namespace {

using ::testing::HasSubstr;
using testing::Process;
using testing::Result;
using testing::Runfile;
using testing::RunToEnd;
using testing::Shell;

const std::string kMirror = Runfile("tests/raid/mirror_disk");

class MirrorDiskTest : public ::testing::Test {
 protected:
  MirrorDiskTest() {
    char name[] = "/tmp/buse-mirror.XXXXXX";
    folder_ = mkdtemp(name);
    uri_ = "nbd+unix:///?socket=" + folder_ + "/s";
    Do("truncate -s 24M a.img b.img");
    EXPECT_EQ(RunToEnd(Command("format", {})).exit_code, 0);
    Serve();
    Do("head -c $(nbdinfo --size \"$URI\") /dev/urandom > in; nbdcopy --flush in \"$URI\"");
  }
  ~MirrorDiskTest() override {
    server_.reset();
    RunToEnd({"rm", "-rf", folder_});
  }

  std::vector<std::string> Command(const std::string& verb, const std::vector<std::string>& after) const {
    std::vector<std::string> command = {kMirror};
    if (!verb.empty()) command.push_back(verb);
    command.insert(command.end(), {folder_ + "/a.img", folder_ + "/b.img"});
    command.insert(command.end(), after.begin(), after.end());
    return command;
  }
  // What was flushed once is known to be equal.
  void Serve(std::vector<std::string> options = {"--idle-flushes", "1"}) {
    options.insert(options.begin(), {uri_, "--status", folder_ + "/status.json"});
    server_ = std::make_unique<Process>(Command("", options));
    ASSERT_TRUE(server_->WaitFor("Ctrl-C")) << server_->output();
  }
  void End() {
    server_->Signal(SIGTERM);
    EXPECT_EQ(server_->Wait(), 0) << server_->output();
  }
  std::string Do(const std::string& line) {
    const Result result = Shell("set -e; cd " + folder_ + "; URI='" + uri_ + "'; " + line);
    EXPECT_EQ(result.exit_code, 0) << line << "\n" << result.output << "\n(a missing program: run tools/setup)";
    return result.output;
  }
  void ExpectRight() { Do("rm -f out; nbdcopy \"$URI\" out; cmp in out"); }
  Result ShowStatus() const { return RunToEnd({kMirror, "status", folder_ + "/status.json"}); }
  // Until the status has the text.
  bool StatusSays(const std::string& text) const {
    for (int i = 0; i < 600; ++i) {
      if (ShowStatus().output.find(text) != std::string::npos) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return false;
  }
  void ExpectSound() {
    const Result result = RunToEnd(Command("check", {}));
    EXPECT_EQ(result.exit_code, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr("all sound"));
  }

  std::string folder_, uri_;
  std::unique_ptr<Process> server_;
};

TEST_F(MirrorDiskTest, ALostFileIsReplaced) {
  Result shown = ShowStatus();
  EXPECT_EQ(shown.exit_code, 0) << shown.output;
  EXPECT_THAT(shown.output, HasSubstr("mirror: healthy: 2 of 2 legs are in sync, 1 more may fail\n"));
  End();
  ExpectSound();
  Do("mv b.img old; truncate -s 24M b.img");
  Serve({"--replace-leg", "1", "--rebuild-rate", "4M", "--flush-step", "0", "--idle-flushes", "1"});
  shown = ShowStatus();
  EXPECT_EQ(shown.exit_code, 7) << shown.output;
  EXPECT_THAT(shown.output, HasSubstr("mirror: in danger: 1 of 2 legs are in sync, none more may fail\n"));
  EXPECT_THAT(shown.output, HasSubstr("/b.img  rebuilding       0\n"));
  EXPECT_THAT(shown.output, HasSubstr("/b.img) is being rebuilt"));
  ExpectRight();
  Do("head -c 2M /dev/urandom | dd of=in conv=notrunc bs=1M seek=3 status=none; nbdcopy --flush in \"$URI\"");
  EXPECT_TRUE(StatusSays(" s left\n")) << ShowStatus().output << server_->output();
  EXPECT_TRUE(StatusSays("mirror: healthy")) << ShowStatus().output << server_->output();
  EXPECT_TRUE(server_->WaitFor("mirror: degraded: leg 1 rebuilding, 0 % done; 0 more may fail")) << server_->output();
  EXPECT_TRUE(server_->WaitFor("mirror: all 2 legs are in sync")) << server_->output();
  End();
  ExpectSound();
  // The new one alone has everything.
  Do("mv a.img away");
  Serve({"--degraded", "--idle-flushes", "1"});
  ExpectRight();
  End();
  Do("mv away a.img");
  Serve({"--degraded", "--idle-flushes", "1"});
  EXPECT_TRUE(StatusSays("mirror: healthy")) << ShowStatus().output << server_->output();
  End();
  // The old one is not taken for it.
  Do("mv b.img new; mv old b.img");
  EXPECT_THAT(RunToEnd(Command("", {uri_})).output,
              HasSubstr("leg 1 of 2 is stale: it is not the medium that is known to be in sync"));
}

TEST_F(MirrorDiskTest, AScribbledFileIsRepairedByScrubbing) {
  End();
  Do("dd if=/dev/urandom of=b.img bs=1M seek=6 count=4 conv=notrunc status=none");
  EXPECT_NE(RunToEnd(Command("check", {})).exit_code, 0);
  Serve({"--scrub-rate", "8M", "--idle-flushes", "1"});
  EXPECT_TRUE(StatusSays("scrub  [")) << ShowStatus().output;
  EXPECT_TRUE(StatusSays(" s left\n")) << ShowStatus().output;
  EXPECT_TRUE(StatusSays("since the start: repaired 4 MiB\n")) << ShowStatus().output;
  ExpectRight();
  const Result shown = ShowStatus();
  EXPECT_EQ(shown.exit_code, 0) << shown.output;
  EXPECT_THAT(shown.output, HasSubstr("look at the disk below it, and have a spare at hand"));
  End();
  ExpectSound();
}

TEST_F(MirrorDiskTest, WhatWasBeingWrittenWhenTheServerWasKilledIsCompared) {
  End();
  Serve({});
  Do("nbdcopy --flush in \"$URI\"");
  server_->Signal(SIGKILL);
  server_->Wait();
  Serve({"--rebuild-rate", "0", "--flush-step", "0"});
  EXPECT_TRUE(server_->WaitFor("mirror: all 2 legs are in sync; being compared after an unclean stop")) << server_->output();
  const Result shown = ShowStatus();
  EXPECT_EQ(shown.exit_code, 0) << shown.output;
  EXPECT_THAT(shown.output, HasSubstr(" to compare after an unclean stop\n"));
  ExpectRight();
  End();
  Serve();
  EXPECT_TRUE(server_->WaitFor("mirror: all 2 legs are in sync\n")) << server_->output();
  ExpectRight();
  End();
}

}  // namespace
}  // namespace buse

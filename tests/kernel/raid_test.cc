// SPDX-License-Identifier: Apache-2.0
//
// ext4 on examples/raid.cc behind the kernel's own driver: under load one file of six is scribbled over and two are lost, and one
// of these is replaced while the file system stays mounted. Runs where tests/kernel/kernel_test.sh sees to it.

#include <signal.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernel/fixture.h"

namespace buse::testing {
namespace {

using ::testing::HasSubstr;

std::string Raid() { return Program("BUSE_RAID"); }

class RaidKernelTest : public KernelTest {
 protected:
  void SetUp() override {
    KernelTest::SetUp();
    for (const char leg : std::string(kLegs)) Expect("truncate -s 24M " + File(leg));
    std::string files;
    for (const char leg : std::string(kLegs)) files += " " + File(leg);
    Expect(Raid() + " format" + files + " --log 393216");
    server_ = Serve(Command({}), device_);
    Expect("mkfs.ext4 -q -b 4096 " + device_ + " && mkdir " + Mountpoint() + " && mount " + device_ + " " + Mountpoint());
  }

  std::string File(char leg) const { return Path(std::string("leg-") + leg); }
  std::vector<std::string> Command(const std::vector<std::string>& options) const {
    std::vector<std::string> command = {Raid()};
    for (const char leg : std::string(kLegs)) command.push_back(File(leg));
    command.insert(command.end(), {device_, "--status", Path("status.json")});
    command.insert(command.end(), options.begin(), options.end());
    return command;
  }
  bool WaitForStatus(const std::string& text) {
    for (int i = 0; i < 300; ++i) {
      std::ifstream file(Path("status.json"));
      std::stringstream content;
      content << file.rdbuf();
      if (content.str().find(text) != std::string::npos) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return false;
  }
  // Every file's bytes, from the disk.
  void ExpectFilesRight() {
    Expect("sync && echo 3 > /proc/sys/vm/drop_caches && diff -r /usr/include/linux " + Mountpoint() + "/tree && cmp " +
           Path("big") + " " + Mountpoint() + "/big");
  }

  static constexpr const char* kLegs = "abcdef";
};

TEST_F(RaidKernelTest, AFileSystemOutlivesTwoLostFilesAndAScribbledOne) {
  Expect("head -c 12M /dev/urandom > " + Path("big") + " && cp " + Path("big") + " " + Mountpoint() +
         "/big && cp -a /usr/include/linux " + Mountpoint() + "/tree && sync");
  Process load(
      {"bash", "-ec",
       "for i in 1 2 3; do cp -a /usr/include/linux " + Mountpoint() + "/more; cp " + Path("big") + " " + Mountpoint() +
           "/copy; sync; cmp " + Path("big") + " " + Mountpoint() + "/copy; rm -r " + Mountpoint() + "/more; done"},
      Path("load"));
  Expect("dd if=/dev/urandom of=" + File('d') + " bs=1M seek=4 count=2 conv=notrunc status=none");
  ExpectFilesRight();
  EXPECT_EQ(load.Wait(std::chrono::seconds(120)), 0) << load.output();
  EXPECT_TRUE(WaitForStatus("\"unreadable\": 0"));
  Expect("umount " + Mountpoint());
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();

  // What was not read since is still scribbled over: found, and repaired from the others.
  server_ = Serve(Command({"--scrub-rate", "50M"}), device_);
  Expect("mount " + device_ + " " + Mountpoint());
  std::this_thread::sleep_for(std::chrono::seconds(3));
  Expect("truncate -s 0 " + File('b') + " && truncate -s 0 " + File('e'));
  ExpectFilesRight();
  Expect("cp -a /usr/include/linux " + Mountpoint() + "/again && sync && rm " + File('b') + " " + File('e'));
  ExpectFilesRight();

  // Mounted all the time.
  Expect("truncate -s 24M " + File('b'));
  std::unique_ptr<Process> before = std::move(server_);
  server_ = Serve(Command({"--replace", "--replace-leg", "1"}), device_);
  EXPECT_EQ(before->Wait(), kExitOk) << before->output();
  EXPECT_TRUE(WaitForStatus("\"may_fail\": 1")) << server_->output();
  ExpectFilesRight();
  Expect("diff -r /usr/include/linux " + Mountpoint() + "/again && umount " + Mountpoint() + " && e2fsck -fn " + device_);
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
  EXPECT_THAT(server_->output(), HasSubstr("leg 4 failed; 1 more may fail"));
}

}  // namespace
}  // namespace buse::testing

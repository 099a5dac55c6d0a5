// SPDX-License-Identifier: Apache-2.0
//
// ext4 on examples/safedisk.cc behind the kernel's own driver: a verified load, and a file that is damaged while nobody looks.
// Runs where tests/kernel/kernel_test.sh sees to it.

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernel/fixture.h"

namespace buse::testing {
namespace {

using ::testing::HasSubstr;

constexpr int kExitDamaged = 5;

std::string Safedisk() { return Program("BUSE_SAFEDISK"); }

class SafediskKernelTest : public KernelTest {
 protected:
  void SetUp() override {
    KernelTest::SetUp();
    Expect(Safedisk() + " format " + Image() + " --create 80M");
    server_ = Serve({Safedisk(), Image(), device_}, device_);
    Expect("mkfs.ext4 -q -b 4096 " + device_ + " && mkdir " + Mountpoint() + " && mount " + device_ + " " + Mountpoint());
  }

  std::string Image() const { return Path("image"); }

  // The field of the superblock that says where the disk begins in the file.
  uint64_t Data() {
    const std::string said = Shell(Safedisk() + " describe " + Image()).output;
    const size_t at = said.find("\n  data ");
    EXPECT_NE(at, std::string::npos) << said;
    return at == std::string::npos ? 0 : std::stoull(said.substr(at + 8));
  }

  // Where a file's 4096-byte block lies on the device.
  uint64_t BlockOf(const std::string& file, int block) {
    const Result result = Shell("debugfs -R 'bmap /" + file + " " + std::to_string(block) + "' " + device_ + " 2>/dev/null");
    const uint64_t found = std::strtoull(result.output.c_str(), nullptr, 10);
    EXPECT_GT(found, 0u) << result.output;
    return found * 4096;
  }

  void Scribble(uint64_t offset) {
    std::fstream file(Image(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    const int byte = file.get();
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(static_cast<char>(byte ^ 1));
    EXPECT_TRUE(file.good());
  }
};

TEST_F(SafediskKernelTest, AFileSystemUnderVerifiedLoadStaysSound) {
  Expect(
      "cd " + Mountpoint() +
      " && fio --name=verify --filename=file --rw=randrw --rwmixread=30 --bsrange=512-256k --bs_unaligned=0 --blockalign=512 "
      "--ioengine=libaio --iodepth=16 --size=24M --verify=crc32c --verify_fatal=1 --do_verify=1 --fsync=64 && rm file");
  Expect("cp -a /usr/include/linux " + Mountpoint() + "/tree && umount " + Mountpoint() + " && e2fsck -fn " + device_);
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
  Expect(Safedisk() + " check " + Image());
  server_ = Serve({Safedisk(), Image(), device_}, device_);
  Expect("mount " + device_ + " " + Mountpoint() + " && diff -r /usr/include/linux " + Mountpoint() + "/tree");
  Expect("umount " + Mountpoint());
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
}

// It had acknowledged writes that it had only in memory: to go on without them would be to lose them unnoticed.
TEST_F(SafediskKernelTest, AKilledServerIsNotResumed) {
  Expect("cp /bin/bash " + Mountpoint() + "/kept && sync -f " + Mountpoint());
  EXPECT_EQ(server_->End(SIGKILL), 128 + SIGKILL);
  for (const std::string& target : {device_, std::string("/dev/nbd")}) {
    const Result refused = Run({Safedisk(), Image(), target, "--resume"});
    EXPECT_EQ(refused.code, kExitBusy) << refused.output;
    EXPECT_THAT(refused.output, HasSubstr("was in the memory of a server that is gone"));
    EXPECT_THAT(refused.output, HasSubstr("--disconnect " + device_));
  }
  // What it says to do, and what is durable is there.
  Shell("umount " + Mountpoint());
  Expect(Safedisk() + " --disconnect " + device_ + " && " + Safedisk() + " check " + Image());
  server_ = Serve({Safedisk(), Image(), device_, "--resume"}, device_);
  Expect("mount " + device_ + " " + Mountpoint() + " && cmp /bin/bash " + Mountpoint() + "/kept && umount " + Mountpoint());
  Expect("e2fsck -fn " + device_);
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
}

TEST_F(SafediskKernelTest, ScribbledBytesAreErrorsOnJustTheirBlocks) {
  Expect("cp -a /usr/include/linux " + Mountpoint() + "/tree && head -c 4M /dev/urandom > " + Path("victim") + " && cp " +
         Path("victim") + " " + Mountpoint() + "/victim && cp /bin/bash " + Mountpoint() + "/other");
  Expect("umount " + Mountpoint() + " && blockdev --flushbufs " + device_);
  // One byte in each of three sectors: two in one block of the file system, one elsewhere.
  const std::vector<uint64_t> sectors = {BlockOf("victim", 10) + 512, BlockOf("victim", 10) + 3584, BlockOf("other", 7)};
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
  const uint64_t data = Data();
  for (uint64_t sector : sectors) Scribble(data + sector + sector / 512 % 512);

  const Result checked = Shell(Safedisk() + " check " + Image());
  EXPECT_EQ(checked.code, kExitDamaged) << checked.output;
  size_t lines = 0;
  for (size_t at = 0; (at = checked.output.find("checksum: damaged: ", at)) != std::string::npos; ++at) ++lines;
  EXPECT_EQ(lines, sectors.size()) << checked.output;
  for (uint64_t sector : sectors) {
    EXPECT_THAT(checked.output, HasSubstr("checksum: damaged: offset " + std::to_string(sector) + ", length 512: "));
  }

  server_ = Serve({Safedisk(), Image(), device_}, device_);
  {
    // The whole device: of each piece that fails, exactly the damaged sectors do.
    Direct device(device_);
    std::vector<uint64_t> failed;
    std::string found;
    for (uint64_t at = 0; at + kPiece <= device.size(); at += kPiece) {
      if (device.Read(at, found) == 0) continue;
      for (uint64_t sector = at; sector < at + kPiece; sector += 512) {
        const int error = device.Read(sector, found, 512);
        if (error == 0) continue;
        EXPECT_EQ(error, EIO);
        failed.push_back(sector);
      }
    }
    std::vector<uint64_t> expected = sectors;
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(failed, expected);
  }
  Expect("e2fsck -fn " + device_ + " && mount " + device_ + " " + Mountpoint());
  Expect("diff -r /usr/include/linux " + Mountpoint() + "/tree");
  const Result victim = Shell("cmp " + Path("victim") + " " + Mountpoint() + "/victim");
  EXPECT_THAT(victim.output, HasSubstr("Input/output error"));
  // What lies around the one bad block of the file is there.
  Expect("cmp -n 40960 " + Path("victim") + " " + Mountpoint() + "/victim && cmp -i 45056 " + Path("victim") + " " +
         Mountpoint() + "/victim && cmp -n 28672 /bin/bash " + Mountpoint() + "/other && cmp -i 32768 /bin/bash " +
         Mountpoint() + "/other");
  // Written anew, all is well again.
  Expect("dd if=" + Path("victim") + " of=" + Mountpoint() +
         "/victim bs=4096 conv=notrunc,fsync status=none && dd if=/bin/bash of=" + Mountpoint() +
         "/other bs=4096 conv=notrunc,fsync status=none && umount " + Mountpoint());
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
  Expect(Safedisk() + " check " + Image());
}

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// The example programs behind the kernel's own nbd driver: file systems, every way to end, every way to be refused. Runs as
// root where there is an nbd driver; tests/kernel/kernel_test.sh sees to that.

#include <fcntl.h>
#include <linux/nbd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernel/fixture.h"

namespace buse::testing {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

// Each test once through netlink and once through the ioctls.
class AttachedTest : public KernelTest, public ::testing::WithParamInterface<bool> {
 protected:
  std::vector<std::string> WithMode(std::vector<std::string> arguments) const {
    if (GetParam()) arguments.push_back("--ioctl");
    return arguments;
  }

  void StartMemdisk(const std::string& size, const std::vector<std::string>& options = {}) {
    std::vector<std::string> arguments = WithMode({Memdisk(), size, device_});
    arguments.insert(arguments.end(), options.begin(), options.end());
    server_ = Serve(arguments, device_);
  }

  void StartLoopback(const std::string& file) { server_ = Serve(WithMode({Loopback(), file, device_}), device_); }

  // Whatever ended the last server, the next one finds a clean device.
  void ExpectThatItCanBeAttachedAgain() {
    EXPECT_TRUE(WaitUntil([&] { return IsFree(device_); }, seconds(5)));
    StartMemdisk("32M");
    Direct device(device_);
    EXPECT_EQ(device.size(), 32 * kMiB);
    EXPECT_EQ(device.Write(0, 'n'), 0);
    EXPECT_TRUE(device.Holds(0, 'n'));
  }

  void ExpectCleanEnd() {
    EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
    EXPECT_TRUE(IsFree(device_));
  }

  uint64_t MemoryOfServer() {
    uint64_t bytes = 0;
    for (const fs::directory_entry& fd : fs::directory_iterator("/proc/" + std::to_string(server_->pid()) + "/fd")) {
      struct stat info;
      if (fs::read_symlink(fd).string().find("memfd:") == std::string::npos) continue;
      if (::stat(fd.path().c_str(), &info) == 0) bytes += static_cast<uint64_t>(info.st_blocks) * 512;
    }
    return bytes;
  }
};

INSTANTIATE_TEST_SUITE_P(, AttachedTest, ::testing::Bool(),
                         [](const ::testing::TestParamInfo<bool>& info) { return info.param ? "Ioctl" : "Netlink"; });

TEST_P(AttachedTest, ReadsZeroesAtFirst) {
  StartMemdisk("16M");
  Expect("cmp -n 16777216 " + device_ + " /dev/zero");
  ExpectCleanEnd();
}

TEST_P(AttachedTest, TheLastBytesCount) {
  // No multiple of a page, nor of a MiB: nothing may be rounded away.
  const uint64_t size = 12345 * 512;
  StartMemdisk(std::to_string(size));
  Expect("[ $(blockdev --getsize64 " + device_ + ") = " + std::to_string(size) + " ]");
  {
    Direct device(device_);
    EXPECT_EQ(device.size(), size);
    EXPECT_EQ(device.Write(size - 512, 'z', 512), 0);
    EXPECT_TRUE(device.Holds(size - 512, 'z', 512));
    EXPECT_TRUE(device.Holds(size - 1024, '\0', 512));
  }
  ExpectCleanEnd();
}

TEST_P(AttachedTest, PastTheEndFails) {
  StartMemdisk("1M");
  {
    Direct device(device_);
    std::string found;
    EXPECT_EQ(device.Read(kMiB, found), 0);
    EXPECT_EQ(found, "");
    EXPECT_EQ(device.Write(kMiB, 'x'), ENOSPC);
    EXPECT_EQ(device.Read(kMiB - 512, found, 1024), 0);
    EXPECT_EQ(found.size(), 512u);
  }
  ExpectCleanEnd();
}

TEST_P(AttachedTest, AFileSystemKeepsATree) {
  StartMemdisk("128M");
  const std::string tree = "/usr/include/linux";
  Expect("mkfs.ext4 -q " + device_ + " && mkdir " + Mountpoint() + " && mount " + device_ + " " + Mountpoint());
  Expect("cp -a " + tree + " " + Mountpoint() + "/tree && sync -f " + Mountpoint() + " && umount " + Mountpoint());
  Expect("blockdev --flushbufs " + device_ + " && mount " + device_ + " " + Mountpoint());
  Expect("diff -r " + tree + " " + Mountpoint() + "/tree && umount " + Mountpoint());
  Expect("e2fsck -fn " + device_);
  ExpectCleanEnd();
}

TEST_P(AttachedTest, AFileSystemIsWhollyInTheFileAfterwards) {
  const std::string image = Path("image");
  Expect("truncate -s 64M " + image);
  StartLoopback(image);
  Expect("mkfs.ext4 -q " + device_ + " && mkdir " + Mountpoint() + " && mount " + device_ + " " + Mountpoint());
  Expect("cp /bin/bash " + Mountpoint() + "/bash && umount " + Mountpoint());
  ExpectCleanEnd();
  Expect("e2fsck -fn " + image);
  Expect("debugfs -R 'dump /bash " + Path("bash") + "' " + image + " && cmp /bin/bash " + Path("bash"));
}

TEST_P(AttachedTest, WhatThePageCacheHoldsIsWrittenBackAtTheEnd) {
  const std::string image = Path("image");
  Expect("truncate -s 64M " + image);
  StartLoopback(image);
  Expect("head -c 16M /dev/zero | tr '\\0' d | dd of=" + device_ + " bs=1M conv=notrunc iflag=fullblock");
  ExpectCleanEnd();
  Expect("[ $(tr -cd d < " + image + " | wc -c) = 16777216 ]");
}

TEST_P(AttachedTest, DiscardGivesMemoryBack) {
  StartMemdisk("256M");
  Expect("head -c 32M /dev/zero | tr '\\0' d | dd of=" + device_ + " bs=1M oflag=direct iflag=fullblock");
  EXPECT_GE(MemoryOfServer(), 32 * kMiB);
  Expect("blkdiscard " + device_);
  EXPECT_LT(MemoryOfServer(), 1 * kMiB);
  EXPECT_TRUE(Direct(device_).Holds(16 * kMiB, '\0'));
  ExpectCleanEnd();
}

TEST_P(AttachedTest, SignalsEndItCleanly) {
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) {
    StartMemdisk("16M");
    Expect("dd if=/dev/zero of=" + device_ + " bs=1M count=4");
    EXPECT_EQ(server_->End(signal), kExitOk) << strsignal(signal) << server_->output();
    EXPECT_TRUE(IsFree(device_)) << strsignal(signal);
  }
  ExpectThatItCanBeAttachedAgain();
  ExpectCleanEnd();
}

TEST_P(AttachedTest, NbdClientDisconnectsIt) {
  StartMemdisk("16M");
  Expect("nbd-client -d " + device_);
  EXPECT_EQ(server_->Wait(), kExitOk) << server_->output();
  ExpectThatItCanBeAttachedAgain();
  ExpectCleanEnd();
}

TEST_P(AttachedTest, AnotherProcessDisconnectsIt) {
  StartMemdisk("16M");
  const Result result = Run({Memdisk(), "--disconnect", device_});
  EXPECT_EQ(result.code, kExitOk) << result.output;
  EXPECT_THAT(result.output, HasSubstr("is free again"));
  EXPECT_TRUE(IsFree(device_));
  EXPECT_EQ(server_->Wait(), kExitOk) << server_->output();
  ExpectThatItCanBeAttachedAgain();
  ExpectCleanEnd();
}

TEST_P(AttachedTest, WhatAKilledServerLeavesCanBeFreed) {
  StartMemdisk("16M");
  EXPECT_EQ(server_->End(SIGKILL), 128 + SIGKILL);
  const Result result = Run({Memdisk(), "--disconnect", device_});
  EXPECT_EQ(result.code, kExitOk) << result.output;
  const Result again = Run({Memdisk(), "--disconnect", device_});
  EXPECT_EQ(again.code, kExitOk);
  EXPECT_THAT(again.output, HasSubstr("was free already"));
  ExpectThatItCanBeAttachedAgain();
  ExpectCleanEnd();
}

// Through the ioctls the kernel notices by itself, through netlink it keeps what is in flight for a server that may come back.
TEST_P(AttachedTest, IoOfAKilledServerFailsAndDoesNotHang) {
  StartMemdisk("64M");
  const uint64_t before = Completed();
  Process reader(
      {"bash", "-c", "while :; do dd if=" + device_ + " of=/dev/null bs=4k iflag=direct status=none || exit 9; done"},
      Path("reader"));
  EXPECT_TRUE(WaitUntil([&] { return Completed() > before + 100; }, seconds(20)));
  EXPECT_FALSE(reader.HasEnded());
  EXPECT_EQ(server_->End(SIGKILL), 128 + SIGKILL);
  if (GetParam()) {
    EXPECT_EQ(reader.Wait(), 9) << reader.output();
  }
  EXPECT_EQ(Run({Memdisk(), "--disconnect", device_}).code, kExitOk);
  EXPECT_EQ(reader.Wait(), 9) << reader.output();
  ExpectThatItCanBeAttachedAgain();
  ExpectCleanEnd();
}

TEST_P(AttachedTest, AMountedDeviceKeepsWhatWasWrittenAndSaysThatItIsNotFree) {
  const std::string image = Path("image");
  Expect("truncate -s 64M " + image);
  StartLoopback(image);
  Expect("mkfs.ext4 -q " + device_ + " && mkdir " + Mountpoint() + " && mount " + device_ + " " + Mountpoint());
  Expect("cp /bin/bash " + Mountpoint() + "/bash");
  EXPECT_EQ(server_->End(SIGTERM), kExitBusy);
  EXPECT_THAT(server_->output(), HasSubstr("still mounted"));
  Shell("umount " + Mountpoint());
  EXPECT_TRUE(WaitUntil([&] { return IsFree(device_); }, seconds(5)));
  StartLoopback(image);
  Expect("mount " + device_ + " " + Mountpoint() + " && cmp /bin/bash " + Mountpoint() + "/bash && umount " + Mountpoint());
  ExpectCleanEnd();
}

TEST_P(AttachedTest, ThreeTebibytes) {
  StartMemdisk("3T");
  Expect("[ $(blockdev --getsize64 " + device_ + ") = " + std::to_string(3 * kTiB) + " ]");
  {
    Direct device(device_);
    const uint64_t offsets[] = {0, 2 * kTiB, 2 * kTiB + kTiB / 2, 3 * kTiB - kPiece};
    for (size_t i = 0; i < std::size(offsets); ++i) EXPECT_EQ(device.Write(offsets[i], static_cast<char>('a' + i)), 0);
    for (size_t i = 0; i < std::size(offsets); ++i) EXPECT_TRUE(device.Holds(offsets[i], static_cast<char>('a' + i))) << i;
    EXPECT_TRUE(device.Holds(kTiB, '\0'));
  }
  ExpectCleanEnd();
}

TEST_P(AttachedTest, BlocksOf4096Bytes) {
  const uint64_t size = 12345 * 4096;
  StartMemdisk(std::to_string(size), {"--block-size", "4096"});
  Expect("[ $(blockdev --getss " + device_ + ") = 4096 ] && [ $(blockdev --getsize64 " + device_ +
         ") = " + std::to_string(size) + " ]");
  {
    Direct device(device_);
    std::string found;
    EXPECT_EQ(device.Read(512, found, 512), EINVAL);
    EXPECT_EQ(device.Write(size - kPiece, 'e'), 0);
    EXPECT_TRUE(device.Holds(size - kPiece, 'e'));
  }
  Expect("mkfs.ext4 -q " + device_ + " && e2fsck -fn " + device_);
  ExpectCleanEnd();
}

TEST_P(AttachedTest, ASizeThatIsNoMultipleOfTheBlockSizeIsRefused) {
  const Result result = Run(WithMode({Memdisk(), "6320640", device_, "--block-size", "4096"}));
  EXPECT_EQ(result.code, kExitUsage) << result.output;
  EXPECT_THAT(result.output, HasSubstr("6320640"));
  EXPECT_THAT(result.output, HasSubstr("4096"));
  EXPECT_TRUE(IsFree(device_));
}

TEST_P(AttachedTest, TwoDevicesAtOnce) {
  StartMemdisk("16M");
  const std::string other_device = FreeDevice();
  ASSERT_NE(other_device, "");
  std::unique_ptr<Process> other = Serve(WithMode({Memdisk(), "32M", other_device}), other_device);
  {
    Direct one(device_);
    Direct two(other_device);
    EXPECT_EQ(one.Write(kMiB, '1'), 0);
    EXPECT_EQ(two.Write(kMiB, '2'), 0);
    EXPECT_TRUE(one.Holds(kMiB, '1'));
    EXPECT_TRUE(two.Holds(kMiB, '2'));
  }
  ExpectCleanEnd();
  EXPECT_TRUE(Direct(other_device).Holds(kMiB, '2'));
  EXPECT_EQ(other->End(SIGTERM), kExitOk);
}

TEST_P(AttachedTest, ADeviceInUseIsLeftAlone) {
  StartMemdisk("16M");
  EXPECT_EQ(Direct(device_).Write(0, 'k'), 0);
  for (const std::vector<std::string>& mode : {std::vector<std::string>{}, std::vector<std::string>{"--ioctl"}}) {
    std::vector<std::string> arguments = {Memdisk(), "32M", device_};
    arguments.insert(arguments.end(), mode.begin(), mode.end());
    const Result second = Run(arguments);
    EXPECT_EQ(second.code, kExitBusy) << second.output;
    EXPECT_THAT(second.output, HasSubstr("in use"));
  }
  EXPECT_TRUE(Direct(device_).Holds(0, 'k'));
  ExpectCleanEnd();
}

// Each connection has a queue of its own in the kernel, as far as there are CPUs.
TEST_P(AttachedTest, SeveralConnectionsServeOneDevice) {
  StartMemdisk("64M", {"--connections", "4"});
  Expect("head -c 16M /dev/urandom > " + Path("data"));
  Expect(
      "for i in 0 1 2 3; do dd if=" + Path("data") + " of=" + device_ +
      " bs=256k seek=$((64 * i)) oflag=direct conv=notrunc & pids+=\" $!\"; done; for p in $pids; do wait $p || exit 1; done");
  Expect("for i in 0 1 2 3; do cmp -n 16777216 " + Path("data") + " " + device_ +
         " 0 $((16777216 * i)) & pids+=\" $!\"; done; for p in $pids; do wait $p || exit 1; done");
  ExpectCleanEnd();
}

TEST_P(AttachedTest, RandomWritesAreVerified) {
  StartMemdisk("64M", {"--connections", "2"});
  Expect(
      "cd " + folder_ + " && fio --name=verify --filename=" + device_ +
      " --rw=randwrite --bsrange=512-1m --bs_unaligned=0 --blockalign=512 --direct=1 --ioengine=libaio --iodepth=16 --size=32M "
      "--verify=crc32c --verify_fatal=1 --do_verify=1 --fsync=64");
  ExpectCleanEnd();
}

// A C program in BUSE's style, some of whose callbacks fail (tests/c/ramdisk.c).
TEST_F(KernelTest, AFailingCallbackFailsItsRequestAloneAndTheDeviceLivesOn) {
  server_ = Serve({Ramdisk(), device_, "ftd"}, device_);
  {
    Direct device(device_);
    EXPECT_EQ(device.size(), 32 * kMiB);
    std::string found;
    for (uint64_t block : {1, 2, 3}) {
      EXPECT_EQ(device.Read(block * kPiece, found), EIO) << block;
      EXPECT_EQ(device.Read(0, found), 0) << "after block " << block;
    }
    EXPECT_EQ(device.Write(4 * kPiece, 'x'), EIO) << "whatever a server says, the kernel makes it EIO";
    EXPECT_EQ(device.Write(5 * kPiece, 'x'), 0);
    EXPECT_TRUE(device.Holds(5 * kPiece, 'x'));
  }
  Expect("nbd-client -d " + device_);
  EXPECT_EQ(server_->Wait(), kExitOk) << server_->output();
  EXPECT_THAT(server_->output(), HasSubstr("disconnected after"));
  EXPECT_TRUE(WaitUntil([&] { return IsFree(device_); }, seconds(5)));
}

TEST_F(KernelTest, ASlowDeviceGetsAllThatThePageCacheHolds) {
  server_ = Serve({Ramdisk(), device_, "fds"}, device_);
  // Open here too, so that the page cache is not written back when dd closes the device.
  const int fd = ::open(device_.c_str(), O_RDONLY | O_CLOEXEC);
  Expect("dd if=/dev/urandom of=" + device_ + " bs=4k count=1 seek=100 status=none conv=notrunc");
  ::kill(server_->pid(), SIGTERM);
  std::this_thread::sleep_for(seconds(1));
  ::close(fd);
  EXPECT_EQ(server_->Wait(seconds(40)), kExitOk) << server_->output();
  EXPECT_THAT(server_->output(), HasSubstr("signal once more to give it up"));
  // Twice, if the kernel had taken the first for lost.
  EXPECT_THAT(server_->output(), ContainsRegex("disconnected after [12] writes"));
}

TEST_F(KernelTest, ADeviceThatIsTakenAwayIsAFailure) {
  server_ = Serve({Memdisk(), "16M", device_}, device_);
  const int fd = ::open(device_.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(::ioctl(fd, NBD_CLEAR_SOCK), 0);
  ::close(fd);
  EXPECT_EQ(server_->Wait(), kExitFailure);
  EXPECT_THAT(server_->output(), HasSubstr("without disconnecting"));
}

TEST_F(KernelTest, WhatIsNoNbdDeviceIsRefused) {
  const std::string regular = "/dev/shm/buse-kernel-test." + std::to_string(::getpid());
  std::ofstream(regular) << "regular";
  for (const std::string& target : {std::string("/dev/null"), regular}) {
    const Result result = Run({Memdisk(), "16M", target});
    EXPECT_EQ(result.code, kExitNoSuchDevice) << target << ": " << result.output;
    EXPECT_THAT(result.output, HasSubstr(target + " is not an nbd device"));
    EXPECT_EQ(Run({Memdisk(), "--disconnect", target}).code, kExitNoSuchDevice);
  }
  EXPECT_EQ(ReadFile(regular), "regular");
  fs::remove(regular);
}

TEST_F(KernelTest, WhatIsNotThereIsNotFound) {
  const Result result = Run({Memdisk(), "16M", "/dev/nbd999"});
  EXPECT_EQ(result.code, kExitNoSuchDevice);
  EXPECT_THAT(result.output, HasSubstr("/dev/nbd999"));
  EXPECT_EQ(Run({Memdisk(), "--disconnect", "/dev/nbd999"}).code, kExitNoSuchDevice);
}

TEST_F(KernelTest, OnlyRootAttachesAndDisconnects) {
  const std::string as_nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups ";
  for (const std::string& arguments : {" 16M " + device_, " --disconnect " + device_}) {
    const Result result = Shell(as_nobody + Memdisk() + arguments);
    EXPECT_EQ(result.code, kExitFailure) << result.output;
    EXPECT_THAT(result.output, HasSubstr("needs root"));
  }
}

// Not of the kernel's nbd, but of a kernel: this machine's own may have no vsock, and the guest's can loop it back.
class VsockTest : public KernelTest {};

TEST_F(VsockTest, ClientsOfLibnbd) {
  Shell(
      "dir=/usr/lib/uml/modules/$(uname -r)/kernel/net/vmw_vsock; modprobe vsock_loopback || "
      "for name in vsock vmw_vsock_virtio_transport_common vsock_loopback; do busybox insmod $dir/$name.ko; done");
  if (!fs::exists("/sys/module/vsock_loopback")) GTEST_SKIP() << "this kernel has no vsock_loopback";
  Process server({Memdisk(), "16M", "nbd+vsock://:0/disk"}, Path("vsock"));
  ASSERT_TRUE(server.WaitForOutput("Ctrl-C")) << server.output();
  const std::string said = server.output();
  const size_t begin = said.find("nbd+vsock://");
  ASSERT_NE(begin, std::string::npos) << said;
  std::string uri = said.substr(begin, said.find('\n', begin) - begin);
  // 1 is this machine itself.
  uri = "nbd+vsock://1" + uri.substr(uri.rfind(':'));
  Expect("[ $(nbdinfo --size '" + uri + "') = 16777216 ]");
  Expect("nbdinfo --list '" + uri + "' | grep -q 'export=\"disk\"'");
  Expect("cd " + folder_ + " && head -c 16M /dev/urandom > in && nbdcopy --connections=4 in '" + uri + "' && nbdcopy '" + uri +
         "' out && cmp in out");
  const Result none = Shell("nbdinfo '" + uri.substr(0, uri.rfind('/')) + "/none'");
  EXPECT_NE(none.code, 0) << none.output;
  EXPECT_EQ(server.End(SIGTERM), kExitOk) << server.output();
}

}  // namespace
}  // namespace buse::testing

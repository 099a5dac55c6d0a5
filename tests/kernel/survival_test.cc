// SPDX-License-Identifier: Apache-2.0
//
// Kernel devices that outlive their servers: killed, replaced, stopped, resized, again and again, with I/O running that checks
// what it reads. Runs where tests/kernel/kernel_test.sh sees to it. These make it longer:
//   BUSE_TEST_KILLS, BUSE_TEST_REPLACEMENTS   how many there are of each, for each kind of server (default 5)
//   BUSE_TEST_CYCLES                          times that a device is attached and detached (default 50)

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/control.h"
#include "buse/disk.h"
#include "buse/serve.h"
#include "buse/server.h"
#include "buse/takeover.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/file_backed.h"
#include "layers/memory.h"
#include "tests/kernel/fixture.h"

namespace buse::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

int Times(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr ? std::atoi(text) : otherwise;
}

struct Kind {
  const char* name;
  bool file;
  int connections;
};

std::string NameOf(const ::testing::TestParamInfo<Kind>& info) { return info.param.name; }

class SurvivalTest : public KernelTest, public ::testing::WithParamInterface<Kind> {
 protected:
  static constexpr uint64_t kSize = 192 * kMiB;

  void SetUp() override {
    KernelTest::SetUp();
    mark_ = "buse survival test " + std::to_string(::getpid()) + "." + Path("");
    std::ofstream("/dev/kmsg") << mark_ << std::endl;
    Expect("truncate -s " + std::to_string(kSize) + " " + Image());
  }

  // Before the folder goes, and with the server that serves it.
  void TearDown() override {
    load_.reset();
    KernelTest::TearDown();
  }

  std::string Image() const { return Path("image"); }

  // The program, its data and the target.
  std::vector<std::string> Command(const std::vector<std::string>& options = {}) const {
    const bool file = GetParam().file;
    std::vector<std::string> command = {file ? Loopback() : Memdisk(), file ? Image() : std::to_string(kSize), device_,
                                        "--connections", std::to_string(GetParam().connections)};
    command.insert(command.end(), options.begin(), options.end());
    return command;
  }

  void Start(const std::vector<std::string>& options = {}) { server_ = Serve(Command(options), device_); }

  void Mount() {
    Expect("mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 " + device_ + " && mkdir " + Mountpoint() +
           " && mount -o errors=remount-ro " + device_ + " " + Mountpoint());
  }

  // Writes and verifies until EndLoad; `where` is a file or a device.
  void StartLoad(const std::string& where) {
    std::ofstream(Path("load.sh")) << R"(
      fio --name=load --filename="$1" --size=24M --rw=randwrite --bs=4k-64k --ioengine=libaio --direct=1 --iodepth=16 \
        --verify=crc32c --verify_fatal=1 --verify_backlog=256 --fsync=128 --time_based --runtime=3600 --output="$2" &
      trap 'kill -INT $!' TERM
      wait $!
      wait $!
      code=$?
      [ $code = 128 ] || exit $code  # which is the signal's
    )";
    load_ =
        std::make_unique<Process>(std::vector<std::string>{"bash", Path("load.sh"), where, Path("load.out")}, Path("load.log"));
    ExpectProgress();
  }

  void EndLoad() {
    ASSERT_NE(load_, nullptr);
    EXPECT_EQ(load_->End(SIGTERM), kExitOk) << load_->output() << ReadFile(Path("load.out"));
    load_.reset();
  }

  // With the same command line.
  void Replace(const std::vector<std::string>& options = {"--replace"}) {
    std::unique_ptr<Process> before = std::move(server_);
    Start(options);
    EXPECT_EQ(before->Wait(), kExitOk) << before->output();
    EXPECT_THAT(before->output(), Not(HasSubstr("dropped")));
    ExpectProgress();
  }

  // The conversation that a replacement has with the server.
  ControlChannel AskToReplace() const {
    absl::StatusOr<ControlChannel> channel = ControlChannel::Connect(device_.substr(5));
    EXPECT_TRUE(channel.ok()) << channel.status();
    EXPECT_TRUE(channel->Send(kReplaceRequest).ok());
    return *std::move(channel);
  }
  static Estate TakeEstate(ControlChannel& channel) {
    absl::StatusOr<ControlMessage> message = channel.Receive(seconds(20));
    EXPECT_TRUE(message.ok()) << message.status();
    EXPECT_TRUE(ControlChannel::ErrorIn(*message).ok()) << message->text;
    absl::StatusOr<Estate> estate = Estate::From(*std::move(message));
    EXPECT_TRUE(estate.ok()) << estate.status();
    return *std::move(estate);
  }

  // I/O is done, and none has failed.
  void ExpectProgress(int requests = 100) {
    const uint64_t before = Completed();
    EXPECT_TRUE(
        WaitUntil([&] { return Completed() >= before + static_cast<uint64_t>(requests) || load_->HasEnded(); }, seconds(60)))
        << "no I/O";
    EXPECT_FALSE(load_->HasEnded()) << load_->output();
  }

  // The file system has seen no error, and is whole.
  void ExpectSoundFileSystem() {
    Expect("! dmesg | sed '1,\\|" + mark_ + "|d' | grep -iE '(EXT4-fs|JBD2|Buffer I/O|I/O) error.*" + device_.substr(5) + "'");
    Expect("grep -q '" + device_ + " .*rw' /proc/mounts && umount " + Mountpoint() + " && e2fsck -fn " + device_);
  }

  std::unique_ptr<Process> load_;
  std::string mark_;  // in the kernel's log: the test begins
};

INSTANTIATE_TEST_SUITE_P(, SurvivalTest,
                         ::testing::Values(Kind{"File", true, 1}, Kind{"FileOn4Connections", true, 4},
                                           Kind{"Memory", false, 1}),
                         NameOf);

TEST_P(SurvivalTest, KilledServersGoUnnoticed) {
  if (!GetParam().file) GTEST_SKIP() << "what is in memory is lost with it";
  Start({"--request-timeout", "1"});
  Mount();
  StartLoad(Mountpoint() + "/load");
  for (int i = 0; i < Times("BUSE_TEST_KILLS", 5); ++i) {
    ASSERT_EQ(server_->End(SIGKILL), 128 + SIGKILL);
    Start({"--request-timeout", "1", "--resume"});
    ExpectProgress();
  }
  EndLoad();
  ExpectSoundFileSystem();
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
  EXPECT_TRUE(IsFree(device_));
}

TEST_P(SurvivalTest, ReplacedServersGoUnnoticed) {
  Start();
  Mount();
  StartLoad(Mountpoint() + "/load");
  for (int i = 0; i < Times("BUSE_TEST_REPLACEMENTS", 5); ++i) {
    Replace();
  }
  EndLoad();
  ExpectSoundFileSystem();
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
  EXPECT_TRUE(IsFree(device_));
}

// The kernel gives the connections up meanwhile, and sends all that was under way again.
TEST_P(SurvivalTest, AServerThatStopsForLongerThanTheTimeoutGoesOn) {
  Start({"--request-timeout", "1"});
  Mount();
  StartLoad(Mountpoint() + "/load");
  for (int stop = 0; stop < 2; ++stop) {
    ::kill(server_->pid(), SIGSTOP);
    std::this_thread::sleep_for(seconds(3));
    ::kill(server_->pid(), SIGCONT);
    ExpectProgress();
  }
  EXPECT_THAT(server_->output(), HasSubstr("allows 2 s from now on"));
  EndLoad();
  ExpectSoundFileSystem();
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
}

TEST_P(SurvivalTest, AFailedReplacementChangesNothing) {
  Start();
  StartLoad(device_);
  // As many bytes, but not the same ones.
  const std::string other = Path("other");
  Expect("truncate -s " + std::to_string(kSize) + " " + other);
  std::vector<std::string> wrong = {Loopback(), other, device_, "--replace"};
  if (GetParam().file) {
    const Result result = Run(wrong);
    EXPECT_EQ(result.code, kExitUsage) << result.output;
    EXPECT_THAT(result.output, HasSubstr("was attached for \"file " + Image() + "\""));
  } else {
    EXPECT_EQ(Run(wrong).code, kExitUsage);
  }
  ExpectProgress();
  const Result missing = Run({Loopback(), Path("missing"), device_, "--replace"});
  EXPECT_NE(missing.code, kExitOk);
  ExpectProgress();
  EndLoad();
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
}

// As a program that dies while it takes over, wherever it is by then.
TEST_P(SurvivalTest, AReplacementThatDiesHalfwayChangesNothing) {
  Start();
  StartLoad(device_);
  for (const bool listened : {false, true}) {
    {
      ControlChannel channel = AskToReplace();
      if (listened) TakeEstate(channel);
    }
    ExpectProgress();
    EXPECT_FALSE(server_->HasEnded()) << server_->output();
  }
  EXPECT_THAT(server_->output(), HasSubstr("the one to replace it failed"));
  EXPECT_THAT(server_->output(), Not(HasSubstr("dropped")));
  Replace();
  EndLoad();
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
  EXPECT_TRUE(IsFree(device_));
}

// Then it is as if the one after had been killed.
TEST_P(SurvivalTest, AReplacementMayDieAsSoonAsItIsInCharge) {
  if (!GetParam().file) GTEST_SKIP() << "what is in memory is lost with it";
  Start({"--request-timeout", "1"});
  StartLoad(device_);
  {
    ControlChannel channel = AskToReplace();
    const Estate estate = TakeEstate(channel);
    EXPECT_TRUE(channel.Send(kReady).ok());
    const absl::StatusOr<ControlMessage> answer = channel.Receive(seconds(10));
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->text, kGo);
    EXPECT_EQ(server_->Wait(), kExitOk) << server_->output();
  }
  Start({"--request-timeout", "1", "--resume"});
  ExpectProgress();
  EndLoad();
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
}

TEST_P(SurvivalTest, AReplacementThatIsNeverReadyIsGivenUp) {
  Start({"--dead-timeout", "15"});
  StartLoad(device_);
  ControlChannel channel = AskToReplace();
  const Estate estate = TakeEstate(channel);
  const uint64_t before = Completed();
  std::this_thread::sleep_for(seconds(2));
  EXPECT_LE(Completed(), before + 16) << "what had been answered by then, and no more";
  const absl::StatusOr<ControlMessage> answer = channel.Receive(seconds(20));
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_THAT(std::string(ControlChannel::ErrorIn(*answer).message()), HasSubstr("was not ready within 5 s"));
  ExpectProgress();
  EndLoad();
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
}

// A program that was killed may keep its files open for a little longer than its sockets.
TEST_P(SurvivalTest, WhatAReplacementHasOpenIsWaitedFor) {
  if (!GetParam().file) GTEST_SKIP() << "it has no file";
  Start();
  StartLoad(device_);
  {
    absl::StatusOr<Disk<FileBacked>> disk = absl::UnavailableError("not yet");
    {
      ControlChannel channel = AskToReplace();
      const Estate estate = TakeEstate(channel);
      disk = Disk<FileBacked>::Open({.path = Image()});
      ASSERT_TRUE(disk.ok()) << disk.status();
    }
    std::this_thread::sleep_for(seconds(1));
    EXPECT_FALSE(server_->HasEnded()) << server_->output();
  }
  ExpectProgress();
  EndLoad();
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
}

TEST_P(SurvivalTest, OfTwoReplacementsAtOnceOneServesInTheEnd) {
  Start();
  StartLoad(device_);
  for (int i = 0; i < 3; ++i) {
    const std::unique_ptr<Process> before = std::move(server_);
    auto one = std::make_unique<Process>(Command({"--replace"}), Path("one." + std::to_string(i)));
    auto two = std::make_unique<Process>(Command({"--replace"}), Path("two." + std::to_string(i)));
    EXPECT_TRUE(WaitUntil([&] { return one->HasEnded() || two->HasEnded(); }, seconds(40)));
    EXPECT_EQ(before->Wait(), kExitOk) << before->output() << one->output() << two->output();
    ExpectProgress();
    EXPECT_NE(one->HasEnded(), two->HasEnded()) << one->output() << two->output();
    server_ = std::move(one->HasEnded() ? two : one);
  }
  EndLoad();
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
}

TEST_P(SurvivalTest, ASignalDuringAReplacementEndsTheServerThatRuns) {
  Start();
  {
    Direct device(device_);
    EXPECT_EQ(device.Write(kMiB, 's'), 0);
    ControlChannel channel = AskToReplace();
    const Estate estate = TakeEstate(channel);
    ::kill(server_->pid(), SIGTERM);
    const absl::StatusOr<ControlMessage> answer = channel.Receive(seconds(10));
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_THAT(std::string(ControlChannel::ErrorIn(*answer).message()), HasSubstr("a signal"));
    EXPECT_FALSE(channel.Send(kReady).ok() && channel.Receive(seconds(10)).ok());
  }
  EXPECT_EQ(server_->Wait(), kExitOk) << server_->output();
  EXPECT_TRUE(IsFree(device_));
  if (GetParam().file) {
    EXPECT_EQ(Shell("tr -cd s < " + Image() + " | wc -c").output, "4096\n");
  }
}

TEST_P(SurvivalTest, TheSizeChangesUnderLoad) {
  Start();
  StartLoad(device_);
  const std::string program = Command()[0];
  for (uint64_t size : {1200 * kMiB, 100 * kMiB + 512, kSize}) {
    const Result result = Run({program, "resize", device_, std::to_string(size)});
    EXPECT_EQ(result.code, kExitOk) << result.output;
    Expect("[ $(blockdev --getsize64 " + device_ + ") = " + std::to_string(size) + " ]");
    {
      Direct device(device_);
      const uint64_t last = size - 2 * kPiece - size % kPiece;
      EXPECT_TRUE(device.Holds(last, '\0')) << "what was added, or came back, is empty: " << size;
      EXPECT_EQ(device.Write(last, 'e'), 0);
      EXPECT_TRUE(device.Holds(last, 'e'));
      std::string found;
      EXPECT_EQ(device.Read(size, found), 0);
      EXPECT_EQ(found, "");
    }
    ExpectProgress();
    Replace();  // whatever size it was made with
  }
  const Result odd = Run({program, "resize", device_, "1000"});
  EXPECT_EQ(odd.code, kExitUsage);
  EXPECT_THAT(odd.output, HasSubstr("multiple of the device's blocks of 512"));
  EndLoad();
  if (GetParam().file) {
    EXPECT_EQ(fs::file_size(Image()), kSize);
  }
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
}

class TakeoverTest : public KernelTest {};

TEST_F(TakeoverTest, AFreeDeviceIsChosenAndNamed) {
  const std::string other = FreeDevice();
  std::unique_ptr<Process> taken = Serve({Memdisk(), "1M", "/dev/nbd0"}, "/dev/nbd0");
  server_ = std::make_unique<Process>(std::vector<std::string>{Memdisk(), "2M", "/dev/nbd", "-q"}, Path("chosen"));
  ASSERT_TRUE(server_->WaitForOutput("\n"));
  EXPECT_EQ(server_->output(), "/dev/nbd1\n");
  Expect("[ $(blockdev --getsize64 /dev/nbd1) = 2097152 ]");
  EXPECT_EQ(server_->End(SIGTERM), kExitOk);
  EXPECT_EQ(taken->End(SIGTERM), kExitOk);
}

TEST_F(TakeoverTest, WhereAllDevicesAreInUseTheKernelMakesOneMore) {
  // As a program that has a device open takes it for itself.
  Expect("for n in /dev/nbd?*; do [[ $n = *p* ]] || exec {fd}<$n; done; " + Memdisk() + " 2M /dev/nbd -q >" + Path("chosen") +
         " & for i in $(seq 200); do sleep 0.1; [ ! -s " + Path("chosen") + " ] || break; done; device=$(cat " +
         Path("chosen") + "); [ $device = /dev/nbd16 ] && [ $(blockdev --getsize64 $device) = 2097152 ] && kill %1 && wait %1");
}

TEST_F(TakeoverTest, TheSameCommandLineStartsAndResumes) {
  Expect("truncate -s 16M " + Path("image"));
  const std::vector<std::string> command = {Loopback(), Path("image"), device_, "--resume", "--request-timeout", "1"};
  server_ = Serve(command, device_);
  EXPECT_EQ(Direct(device_).Write(kMiB, 'r'), 0);
  const Result second = Run(command);
  EXPECT_EQ(second.code, kExitBusy) << second.output;
  EXPECT_THAT(second.output, HasSubstr("is served by a program that runs"));
  EXPECT_EQ(server_->End(SIGKILL), 128 + SIGKILL);
  server_ = Serve(command, device_);
  EXPECT_TRUE(Direct(device_).Holds(kMiB, 'r'));
  EXPECT_EQ(server_->End(SIGKILL), 128 + SIGKILL);
  // Whichever it was.
  server_ = Serve({Loopback(), Path("image"), "/dev/nbd", "--resume"}, device_);
  EXPECT_TRUE(Direct(device_).Holds(kMiB, 'r'));
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
  EXPECT_TRUE(IsFree(device_));
}

TEST_F(TakeoverTest, AServerThatIsJustEndingIsNotResumedButFollowed) {
  Expect("truncate -s 16M " + Path("image"));
  const std::vector<std::string> command = {Loopback(), Path("image"), device_, "--resume"};
  server_ = Serve(command, device_);
  for (char i = 0; i < 5; ++i) {
    EXPECT_EQ(Direct(device_).Write(kMiB, static_cast<char>('a' + i)), 0);
    const std::unique_ptr<Process> before = std::move(server_);
    ::kill(before->pid(), SIGTERM);
    server_ = Serve(command, device_);
    EXPECT_EQ(before->Wait(), kExitOk) << before->output();
    EXPECT_TRUE(Direct(device_).Holds(kMiB, static_cast<char>('a' + i)));
  }
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
}

TEST_F(TakeoverTest, SomethingElseIsNotResumed) {
  Expect("truncate -s 16M " + Path("image") + " && truncate -s 16M " + Path("other"));
  server_ = Serve({Loopback(), Path("image"), device_}, device_);
  EXPECT_EQ(server_->End(SIGKILL), 128 + SIGKILL);
  const Result other = Run({Loopback(), Path("other"), device_, "--resume"});
  EXPECT_EQ(other.code, kExitUsage) << other.output;
  EXPECT_THAT(other.output, HasSubstr("was attached for \"file " + Path("image") + "\", and not for \"file " + Path("other")));
  Expect("truncate -s 8M " + Path("image"));
  const Result smaller = Run({Loopback(), Path("image"), device_, "--resume"});
  EXPECT_EQ(smaller.code, kExitUsage) << smaller.output;
  EXPECT_THAT(smaller.output, HasSubstr("has 16777216 bytes, but what is to be served in its place has 8388608"));
  EXPECT_EQ(Run({Loopback(), Path("image"), device_, "--replace"}).code, kExitBusy);
  EXPECT_EQ(Run({Loopback(), Path("image"), device_}).code, kExitBusy);
  EXPECT_EQ(Run({Loopback(), Path("image"), "/dev/nbd9", "--replace"}).code, kExitBusy);
  EXPECT_EQ(Run({Loopback(), Path("image"), "nbd://localhost:0/", "--resume"}).code, kExitUsage);
  EXPECT_EQ(Run({Loopback(), "resize", "/dev/nbd9", "4M"}).code, kExitBusy);
}

// What a mounted file system lies on has a name that --create would make anew.
TEST_F(TakeoverTest, NothingIsCreatedInPlaceOfWhatWasServed) {
  const std::string image = Path("image");
  const auto command = [&](const char* how) {
    return std::vector<std::string>{Loopback(), image, "--create", "16M", device_, how};
  };
  server_ = Serve(command("--resume"), device_);
  EXPECT_EQ(Run({Loopback(), "resize", device_, "32M"}).code, kExitOk);
  std::unique_ptr<Process> before = std::move(server_);
  server_ = Serve(command("--replace"), device_);
  EXPECT_EQ(before->Wait(), kExitOk) << before->output();
  Expect("[ $(blockdev --getsize64 " + device_ + ") = 33554432 ]");
  fs::rename(image, Path("moved"));
  EXPECT_EQ(Run(command("--replace")).code, kExitNoSuchDevice);
  EXPECT_FALSE(fs::exists(image));
  // The server that ran does not find it either, so it leaves the device.
  EXPECT_EQ(server_->Wait(seconds(60)), kExitFailure);
  EXPECT_THAT(server_->output(), HasSubstr("give --resume"));
  EXPECT_THAT(server_->output(), HasSubstr("is left without a server"));
  EXPECT_EQ(Run(command("--resume")).code, kExitNoSuchDevice);
  EXPECT_FALSE(fs::exists(image));
  fs::rename(Path("moved"), image);
  server_ = Serve(command("--resume"), device_);
  EXPECT_EQ(Direct(device_).Write(kMiB, 'c'), 0);
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
}

TEST_F(TakeoverTest, WhatWasAttachedByIoctlIsNotReplaced) {
  server_ = Serve({Memdisk(), "16M", device_, "--ioctl"}, device_);
  const Result result = Run({Memdisk(), "16M", device_, "--replace"});
  EXPECT_EQ(result.code, kExitFailure);
  EXPECT_THAT(result.output, HasSubstr("ends with its server"));
  EXPECT_EQ(Direct(device_).Write(kMiB, 'i'), 0);
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
}

TEST_F(TakeoverTest, AMountedFileSystemGrowsWithItsDevice) {
  server_ = Serve({Memdisk(), "32M", device_}, device_);
  Expect("mkfs.ext4 -q " + device_ + " && mkdir " + Mountpoint() + " && mount " + device_ + " " + Mountpoint());
  EXPECT_EQ(Run({Memdisk(), "resize", device_, "64M"}).code, kExitOk);
  Expect("resize2fs " + device_ + " && head -c 40M /dev/urandom > " + Path("data") + " && cp " + Path("data") + " " +
         Mountpoint() + "/data && sync -f " + Mountpoint() + " && umount " + Mountpoint() + " && e2fsck -fn " + device_);
  Expect("mount " + device_ + " " + Mountpoint() + " && cmp " + Path("data") + " " + Mountpoint() + "/data && umount " +
         Mountpoint());
  EXPECT_EQ(server_->End(SIGTERM), kExitOk) << server_->output();
}

TEST_F(TakeoverTest, WhatWasInMemoryIsNotResumed) {
  server_ = Serve({Memdisk(), "16M", device_}, device_);
  EXPECT_EQ(server_->End(SIGKILL), 128 + SIGKILL);
  const Result result = Run({Memdisk(), "16M", device_, "--resume"});
  EXPECT_EQ(result.code, kExitBusy) << result.output;
  EXPECT_THAT(result.output, HasSubstr("was in the memory of a server that is gone"));
}

TEST_F(TakeoverTest, WithoutAnotherServerIoFailsInTheEnd) {
  server_ = Serve({Memdisk(), "16M", device_, "--request-timeout", "1", "--dead-timeout", "2"}, device_);
  const uint64_t before = Completed();
  Process reader({"bash", "-c", "while dd if=" + device_ + " of=/dev/null bs=4k iflag=direct status=none; do :; done; exit 9"},
                 Path("reader"));
  EXPECT_TRUE(WaitUntil([&] { return Completed() > before + 100; }, seconds(20)));
  EXPECT_EQ(server_->End(SIGKILL), 128 + SIGKILL);
  std::this_thread::sleep_for(milliseconds(1000));
  EXPECT_FALSE(reader.HasEnded());
  EXPECT_EQ(reader.Wait(seconds(20)), 9);
}

TEST_F(TakeoverTest, WhatAKilledServerLeftIsFreedAtOnce) {
  server_ = Serve({Memdisk(), "16M", device_}, device_);
  EXPECT_EQ(server_->End(SIGKILL), 128 + SIGKILL);
  const auto start = steady_clock::now();
  EXPECT_EQ(Run({Memdisk(), "--disconnect", device_}).code, kExitOk);
  EXPECT_LT(steady_clock::now() - start, seconds(8));
  EXPECT_TRUE(IsFree(device_));
}

// Within one process, so that what leaks shows in it.
TEST_F(TakeoverTest, AttachingAndDetachingLeaksNothing) {
  fs::remove("/run/buse/nbd0.sock");  // of a server that was killed
  const auto count = [](const char* folder) { return std::distance(fs::directory_iterator(folder), fs::directory_iterator()); };
  const auto resident = [] {
    long pages = 0, resident_pages = 0;
    std::ifstream("/proc/self/statm") >> pages >> resident_pages;
    return resident_pages * 4096;
  };
  const ServingProcess process;
  absl::StatusOr<Disk<Memory>> disk = Disk<Memory>::Open({.size = 16 * kMiB});
  ASSERT_TRUE(disk.ok());
  const auto cycle = [&](bool ioctl) {
    ServeOptions options;
    options.target = "/dev/nbd";
    options.quiet = true;
    options.connections = 2;
    options.ioctl = ioctl;
    std::thread serving([&] { EXPECT_TRUE(ServeDisk("test", *disk, options).ok()); });
    EXPECT_TRUE(WaitUntil([] { return ReadFile("/sys/block/nbd0/size") == "32768\n"; }, seconds(10)));
    EXPECT_TRUE(WaitUntil([] { return fs::exists("/run/buse/nbd0.sock"); }, seconds(10)));
    ::kill(::getpid(), SIGTERM);
    serving.join();
    EXPECT_TRUE(IsFree("/dev/nbd0"));
    EXPECT_FALSE(fs::exists("/run/buse/nbd0.sock"));
  };
  for (int i = 0; i < 5; ++i) cycle(i % 2 != 0);
  const auto files = count("/proc/self/fd"), threads = count("/proc/self/task"), devices = count("/sys/block");
  const long memory = resident();
  const int cycles = Times("BUSE_TEST_CYCLES", 50);
  for (int i = 0; i < cycles && !HasFailure(); ++i) cycle(i % 2 != 0);
  EXPECT_EQ(count("/proc/self/fd"), files);
  EXPECT_EQ(count("/proc/self/task"), threads);
  EXPECT_EQ(count("/sys/block"), devices);
  EXPECT_LT(resident(), memory + 2 * static_cast<long>(kMiB));
  std::cout << cycles << " cycles: " << files << " files, " << threads << " threads, " << resident() - memory
            << " bytes of memory more\n";
}

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// What attaching promises of a kernel device and of the process that serves it: which devices are free, what the kernel is told,
// that requests are served in parallel, and that memory pressure cannot turn them round. Within one process, where that shows
// more. Runs where tests/kernel/kernel_test.sh sees to it.

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "buse/disk.h"
#include "buse/serve.h"
#include "buse/server.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/memory.h"
#include "tests/kernel/fixture.h"
#include "tests/meeting.h"

namespace buse::testing {
namespace {

using ::testing::HasSubstr;

// The kernel's flag of a thread whose memory is not to be freed by I/O; it is no part of the system's headers.
constexpr uint64_t kPfMemallocNoio = 0x00080000;

uint64_t FlagsOf(const std::string& task) {
  std::string stat = ReadFile(task + "/stat");
  std::istringstream fields(stat.substr(stat.rfind(')') + 1));
  std::string word;
  for (int field = 3; field <= 9; ++field) fields >> word;
  return std::stoull(word);
}

std::vector<std::string> TasksOf(const std::string& process) {
  std::vector<std::string> tasks;
  for (const fs::directory_entry& task : fs::directory_iterator("/proc/" + process + "/task")) tasks.push_back(task.path());
  return tasks;
}

// A layer with a thread of its own, as one has that writes back behind its caller's back. Its reads may meet.
std::atomic<pid_t> helper = 0;
std::atomic<bool> helper_ends = false;
std::atomic<Meeting*> meeting = nullptr;

struct Helped {
  using Below = Memory;
  struct Config {
    Memory::Config below;
  };
  struct State {
    ~State() {
      helper_ends = true;
      if (thread.joinable()) thread.join();
    }
    Memory::State below;
    std::thread thread;
  };
  static constexpr uint64_t kBlockSize = Memory::kBlockSize;
  static constexpr Concurrency kConcurrency = Memory::kConcurrency;
  static constexpr Description<Config> Describe() { return {"helped", "has a thread of its own", Family::kObserver}; }
  static absl::Status Open(const Config& config, State& self) {
    helper_ends = false;
    self.thread = std::thread([] {
      helper = static_cast<pid_t>(::syscall(SYS_gettid));
      while (!helper_ends) std::this_thread::sleep_for(milliseconds(10));
    });
    return Memory::Open(config.below, self.below);
  }
  static uint64_t Size(const State& self) { return Memory::Size(self.below); }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    if (Meeting* here = meeting) here->Attend();
    return Memory::Read(self.below, offset, out);
  }
  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) { return Memory::Write(self.below, offset, in); }
  static absl::Status Flush(State& self) { return Memory::Flush(self.below); }
};

class AttachmentTest : public KernelTest {
 protected:
  std::string Sys(const std::string& attribute) const { return ReadFile("/sys/block/" + device_.substr(5) + "/" + attribute); }
};

TEST_F(AttachmentTest, TheKernelIsToldWhatItNeeds) {
  server_ = Serve({Memdisk(), "16M", device_, "--backend", "a name"}, device_);
  const uint64_t hardware = std::stoull(Sys("queue/max_hw_sectors_kb"));
  EXPECT_EQ(std::stoull(Sys("queue/max_sectors_kb")), std::min<uint64_t>(4096, hardware));
  EXPECT_THAT(Sys("queue/scheduler"), HasSubstr("[none]"));  // else each request passes through one more thread
  EXPECT_EQ(Sys("queue/rotational"), "0\n");
  EXPECT_NE(Sys("queue/discard_max_bytes"), "0\n");
  if (fs::exists("/sys/block/" + device_.substr(5) + "/backend")) {
    EXPECT_THAT(Sys("backend"), ::testing::MatchesRegex("buse flags=0x[0-9a-f]+ a name\n"));
  }
  // One request of a MiB, where the kernel's own limit would make it eight.
  Expect("true <" + device_);  // looks for partitions
  const uint64_t before = Completed();
  Expect("dd if=" + device_ + " of=/dev/null bs=1M count=1 iflag=direct status=none");
  EXPECT_EQ(Completed(), before + 1);
  EXPECT_EQ(server_->End(SIGTERM), kExitOk);
}

// A holder, here of the device mapper, is left when its disk is detached under it.
TEST_F(AttachmentTest, ADeviceWithAHolderIsNotFree) {
  Expect(
      "[ -e /sys/module/dm_mod ] || busybox insmod /usr/lib/uml/modules/$(uname -r)/kernel/drivers/md/dm-mod.ko 2>/dev/null || "
      "true");
  if (Shell("dmsetup version").code != 0) GTEST_SKIP() << "no dmsetup, or no device mapper in this kernel";
  server_ = Serve({Memdisk(), "16M", device_}, device_);
  Expect("dmsetup create --noudevsync buse-holder --table '0 2048 linear " + device_ + " 0'");
  EXPECT_EQ(server_->End(SIGTERM), kExitBusy);
  EXPECT_THAT(server_->output(), HasSubstr("still mounted or open"));
  const Result named = Run({Memdisk(), "16M", device_});
  EXPECT_EQ(named.code, kExitBusy) << named.output;
  server_ = std::make_unique<Process>(std::vector<std::string>{Memdisk(), "16M", "/dev/nbd", "-q"}, Path("chosen"));
  ASSERT_TRUE(server_->WaitForOutput("\n"));
  EXPECT_NE(server_->output(), device_ + "\n");
  EXPECT_EQ(server_->End(SIGTERM), kExitOk);
  Expect("dmsetup remove --noudevsync buse-holder");
  server_ = Serve({Memdisk(), "16M", device_}, device_);
  EXPECT_EQ(server_->End(SIGTERM), kExitOk);
}

TEST_F(AttachmentTest, MemoryPressureCannotTurnItsThreadsRound) {
  server_ = Serve({Memdisk(), "16M", device_, "--connections", "3"}, device_);
  const std::string process = std::to_string(server_->pid());
  EXPECT_THAT(ReadFile("/proc/" + process + "/status"), ::testing::ContainsRegex("VmLck:[ \t]*[1-9]"));
  const std::vector<std::string> tasks = TasksOf(process);
  EXPECT_EQ(tasks.size(), 4u);
  for (const std::string& task : tasks) EXPECT_NE(FlagsOf(task) & kPfMemallocNoio, 0u) << task;
  // This test's own threads do not have it, so that it can be told.
  EXPECT_EQ(FlagsOf("/proc/self") & kPfMemallocNoio, 0u);
  EXPECT_EQ(server_->End(SIGTERM), kExitOk);
}

TEST_F(AttachmentTest, NorThoseThatALayerStarts) {
  std::thread program([&] {
    std::vector<std::string> arguments = {"helped", "16M", device_, "--quiet"};
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    EXPECT_EQ(Server<Helped>::Main(static_cast<int>(arguments.size()), argv.data()), kExitOk);
  });
  EXPECT_TRUE(WaitUntil([&] { return Sys("size") == "32768\n"; }, seconds(20)));
  EXPECT_TRUE(WaitUntil([&] { return helper != 0; }, seconds(20)));  // it may not have run yet
  const std::string task = "/proc/self/task/" + std::to_string(helper.load());
  EXPECT_NE(FlagsOf(task) & kPfMemallocNoio, 0u);
  EXPECT_TRUE(WaitUntil([&] { return fs::exists("/run/buse/" + device_.substr(5) + ".sock"); }, seconds(20)));
  ::kill(::getpid(), SIGTERM);
  program.join();
  EXPECT_TRUE(IsFree(device_));
}

// Else the server, and the kernel, would wait for the other in the middle of a request of 256 KiB.
TEST_F(AttachmentTest, ConnectionsHaveRoomForLargeRequests) {
  server_ = Serve({Memdisk(), "16M", device_, "--connections", "3"}, device_);
  const int process = static_cast<int>(::syscall(SYS_pidfd_open, server_->pid(), 0));
  int with_room = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc/" + std::to_string(server_->pid()) + "/fd")) {
    const int fd = static_cast<int>(::syscall(SYS_pidfd_getfd, process, std::stoi(entry.path().filename()), 0));
    int room = 0;
    socklen_t length = sizeof(room);
    if (::getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, &length) == 0 && room >= 1 << 20) ++with_room;
    ::close(fd);
  }
  ::close(process);
  EXPECT_EQ(with_room, 3);
  EXPECT_EQ(server_->End(SIGTERM), kExitOk);
}

TEST_F(AttachmentTest, ItsThreadsMayLookForRequestsBeforeTheySleep) {
  server_ = Serve({Memdisk(), "16M", device_, "--spin", "100000"}, device_);
  const std::string process = "/proc/" + std::to_string(server_->pid());
  const auto sum = [&](const std::string& file, const std::string& name) {
    uint64_t sum = 0;
    for (const std::string& task : TasksOf(process.substr(6))) {
      const std::string text = ReadFile(task + "/" + file);
      sum += std::stoull(text.substr(text.find(name) + name.size()));
    }
    return sum;
  };
  Expect("dd if=/dev/urandom of=/tmp/spun bs=64k count=32 status=none");
  const uint64_t sleeps = sum("status", "\nvoluntary_ctxt_switches:");
  Expect("dd if=/tmp/spun of=" + device_ + " bs=4k oflag=direct status=none");
  EXPECT_LT(sum("status", "\nvoluntary_ctxt_switches:") - sleeps, 200u) << "it slept between the 512 requests";
  Expect("cmp -n 2097152 /tmp/spun " + device_);
  std::this_thread::sleep_for(milliseconds(300));
  const uint64_t run = sum("schedstat", "");
  std::this_thread::sleep_for(seconds(1));
  EXPECT_LT(sum("schedstat", "") - run, 100'000'000u) << "it looks although nobody asks for anything";
  EXPECT_EQ(server_->End(SIGTERM), kExitOk);
}

// The kernel has a queue for each connection, and each CPU one of them.
TEST_F(AttachmentTest, ConnectionsAreServedInParallel) {
  if (std::thread::hardware_concurrency() < 2) GTEST_SKIP() << "one CPU, so one queue";
  absl::StatusOr<Disk<Helped>> disk = Disk<Helped>::Open({.below = {.size = 16 * kMiB}});
  ASSERT_TRUE(disk.ok());
  const ServingProcess process;
  ServeOptions options;
  options.target = device_;
  options.quiet = true;
  options.connections = 2;
  options.request_timeout = 60;
  std::thread serving([&] { EXPECT_TRUE(ServeDisk("test", *disk, options).ok()); });
  EXPECT_TRUE(WaitUntil([&] { return Sys("size") == "32768\n"; }, seconds(20)));
  EXPECT_TRUE(WaitUntil([&] { return fs::exists("/run/buse/" + device_.substr(5) + ".sock"); }, seconds(20)));
  Expect("true <" + device_);  // looks for partitions, which meets nobody
  Meeting here(seconds(20));
  meeting = &here;
  const auto read_on = [&](int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    EXPECT_EQ(::pthread_setaffinity_np(::pthread_self(), sizeof(set), &set), 0);
    std::string found;
    EXPECT_EQ(Direct(device_).Read(static_cast<uint64_t>(cpu) * kMiB, found), 0);
  };
  std::thread first(read_on, 0), second(read_on, 1);
  first.join();
  second.join();
  meeting = nullptr;
  EXPECT_TRUE(here.met()) << "one request waited for the other";
  ::kill(::getpid(), SIGTERM);
  serving.join();
}

}  // namespace
}  // namespace buse::testing

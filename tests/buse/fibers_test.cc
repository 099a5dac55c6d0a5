// SPDX-License-Identifier: Apache-2.0
//
// Fibers: what waits for a file is parked in the connection's own thread, holds up nothing else, and is finished before the
// connection ends, however it ends. Where there is no io_uring, workers do it.

#include "buse/fibers.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "buse/io.h"
#include "buse/operations.h"
#include "gtest/gtest.h"
#include "layers/cache.h"
#include "layers/checksum.h"
#include "layers/file_backed.h"
#include "layers/log.h"
#include "layers/offset.h"
#include "layers/passthrough.h"
#include "layers/retry.h"
#include "layers/stats.h"
#include "layers/stripe.h"
#include "tests/buse/connected.h"
#include "tests/buse/intercept.h"
#include "tests/wire.h"

namespace buse {
namespace {

using testing::Connected;
using testing::Request;
using testing::SimpleReply;

constexpr uint16_t kRead = 0, kWrite = 1, kDisc = 2, kFlush = 3;

static_assert(MayPark<FileBacked>() && MayPark<DirectFileBacked>());
static_assert(MayPark<Stats<Log<Passthrough<Offset<Stripe<2, FileBacked>>>>>>());
static_assert(!MayPark<Checksum<FileBacked>>(), "its locks are held across calls");
static_assert(!MayPark<Passthrough<Cache<FileBacked>>>() && !MayPark<Retry<FileBacked>>());

// A file whose bytes from kSlow on are those that come through a pipe, to be waited for, and the first block is zeroes that take
// no system call.
struct Piped {
  static constexpr uint64_t kSlow = 1 << 20;
  static constexpr uint64_t kAtOnce = 512;

  struct Config {
    int file = -1, pipe = -1;
  };
  struct State {
    int file = -1, pipe = -1;
    std::mutex mutex;
    std::set<std::thread::id> threads;  // that read or write
    std::atomic<int> running = 0;
  };
  static constexpr uint64_t kBlockSize = 1;
  static constexpr Concurrency kConcurrency = Concurrency::kParallel;
  static constexpr bool kMayPark = true;

  static absl::Status Open(const Config& config, State& self) {
    self.file = config.file;
    self.pipe = config.pipe;
    return absl::OkStatus();
  }
  static uint64_t Size(const State&) { return 2 * kSlow; }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    const Running running(self);
    if (offset + out.size() <= kAtOnce) {
      std::fill(out.begin(), out.end(), std::byte{0});
      return absl::OkStatus();
    }
    return offset >= kSlow ? ReadFully(self.pipe, 0, out, "pipe") : ReadFully(self.file, offset, out, "file");
  }
  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    const Running running(self);
    return WriteFully(self.file, offset, in, "file");
  }
  static absl::Status Flush(State&) { return absl::OkStatus(); }

  static void AwaitRunning(State& self, int count) {
    while (self.running != count) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

 private:
  struct Running {
    explicit Running(State& self) : self(self) {
      const std::lock_guard lock(self.mutex);
      self.threads.insert(std::this_thread::get_id());
      ++self.running;
    }
    ~Running() { --self.running; }
    State& self;
  };
};
static_assert(Exported<Piped>::kDefers && MayPark<Piped>());

std::string TemporaryFile(size_t size) {
  std::string path = ::testing::TempDir() + "/fibers.XXXXXX";
  const UniqueFd fd(mkstemp(path.data()));
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  return path;
}

class FibersTest : public ::testing::Test {
 protected:
  FibersTest() : path_(TemporaryFile(Piped::kSlow)), file_(open(path_.c_str(), O_RDWR | O_CLOEXEC)) {
    int fds[2];
    EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
    pipe_.reset(fds[0]);
    feed_.reset(fds[1]);
  }
  ~FibersTest() override { unlink(path_.c_str()); }

  void SetUp() override {
    if (Fibers::Create(1, [](Fibers::Task&) {}) == nullptr) GTEST_SKIP() << "io_uring is not allowed here";
  }

  Piped::Config config() const { return {file_.get(), pipe_.get()}; }
  void Feed(const std::string& bytes) { ASSERT_EQ(write(feed_.get(), bytes.data(), bytes.size()), ssize_t(bytes.size())); }
  static std::string Slow(uint64_t cookie) { return Request(0, kRead, cookie, Piped::kSlow, 4); }

  const std::string path_;
  UniqueFd file_, pipe_, feed_;
};

TEST_F(FibersTest, ASlowReadHoldsUpNothingElse) {
  Connected<Piped> served(config());
  served.Send(Slow(1) + Slow(2));
  Piped::AwaitRunning(served.device, 2);
  const std::pair<std::string, std::string> others[] = {
      {Request(0, kRead, 3, 5000, 4), SimpleReply(0, 3, std::string(4, '\0'))},
      {Request(0, kWrite, 4, 5100, 4) + "data", SimpleReply(0, 4)},
      {Request(0, kFlush, 5, 0, 0), SimpleReply(0, 5)},
      {Request(0, kRead, 6, 5099, 6), SimpleReply(0, 6, std::string("\0data\0", 6))},
  };
  for (const auto& [request, reply] : others) {
    served.Send(request);
    EXPECT_EQ(served.Receive(reply.size()), reply);
  }
  EXPECT_FALSE(served.Readable());
  Feed("onetwo");
  std::set<std::string> slow = {served.Receive(20)};
  EXPECT_FALSE(served.Readable(20)) << "two bytes are missing";
  Feed("!!");
  slow.insert(served.Receive(20));
  ASSERT_EQ(slow.size(), 2u);
  EXPECT_EQ(slow.begin()->substr(16).size() + slow.rbegin()->substr(16).size(), 8u);
  served.client.reset();
  EXPECT_TRUE(served.Join().ok());
  EXPECT_EQ(served.device.threads.size(), 1u) << "all in the connection's own thread";
}

TEST_F(FibersTest, TheEndWaitsForWhatIsUnderWay) {
  for (const bool disconnect : {false, true}) {
    Connected<Piped> served(config());
    served.Send(Slow(1));
    if (disconnect) served.Send(Request(0, kDisc, 4, 0, 0));
    if (!disconnect) shutdown(served.client.get(), SHUT_WR);
    Piped::AwaitRunning(served.device, 1);
    EXPECT_FALSE(served.Readable(20));
    EXPECT_FALSE(served.ended());
    Feed("late");
    EXPECT_EQ(served.ReceiveAll(), SimpleReply(0, 1, "late"));
    EXPECT_TRUE(served.Join().ok());
  }
}

TEST_F(FibersTest, AClientThatGoesAwayLeavesNothingRunning) {
  Connected<Piped> served(config());
  served.Send(Slow(1) + Slow(2));
  Piped::AwaitRunning(served.device, 2);
  served.client.reset();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(served.ended()) << "the device is in use";
  Feed("laterlat");
  served.Join().IgnoreError();
  EXPECT_EQ(served.device.running, 0);
}

// More than there is room for: the rest waits in the socket.
TEST_F(FibersTest, AFloodOfSlowReadsIsAnswered) {
  Connected<Piped> served(config(), 2);
  constexpr uint64_t kFlood = 1000;
  std::string in;
  for (uint64_t i = 0; i < kFlood; ++i) in += Slow(i);
  std::thread client([&] { served.Send(in); });
  Piped::AwaitRunning(served.device, 4);
  std::set<std::string> cookies;
  std::thread feed([&] {
    for (uint64_t i = 0; i < kFlood; ++i) Feed("data");
  });
  for (uint64_t i = 0; i < kFlood; ++i) {
    const std::string reply = served.Receive(20);
    ASSERT_EQ(reply.size(), 20u);
    EXPECT_EQ(reply.substr(4, 4), std::string(4, '\0'));
    cookies.insert(reply.substr(8, 8));
  }
  client.join();
  feed.join();
  EXPECT_EQ(cookies.size(), kFlood) << "each once";
}

TEST_F(FibersTest, WhatIsDoneAtOnceIsAnsweredAlsoWhereItIsAllThereIs) {
  Connected<Piped> served(config(), 2);
  constexpr uint64_t kMany = 1000;
  std::string in;
  for (uint64_t i = 0; i < kMany; ++i) in += Request(0, kRead, i, 0, 4);
  std::thread client([&] { served.Send(in + Request(0, kDisc, kMany, 0, 0)); });
  EXPECT_EQ(served.ReceiveAll().size(), kMany * 20);
  client.join();
  EXPECT_TRUE(served.Join().ok());
  EXPECT_EQ(served.device.threads.size(), 1u);
}

class Stopper : public Supervisor {
 public:
  bool MayWait() override { return !stop; }
  void Arrived() override {}
  std::atomic<bool> stop = false;
};

TEST_F(FibersTest, ASignalStopsBetweenTwoRequestsAndWhatIsParkedIsAnswered) {
  struct sigaction action = {}, before = {};
  action.sa_handler = [](int) {};
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  Stopper stopper;
  Connected<Piped> served(config(), 4, &stopper);
  served.Send(Slow(1));
  Piped::AwaitRunning(served.device, 1);
  pthread_kill(served.thread(), SIGUSR1);  // of no consequence
  EXPECT_FALSE(served.Readable(20));
  Feed("soon");
  EXPECT_EQ(served.Receive(20), SimpleReply(0, 1, "soon"));
  served.Send(Slow(1));
  Piped::AwaitRunning(served.device, 1);
  stopper.stop = true;
  for (int i = 0; i < 5; ++i) {
    pthread_kill(served.thread(), SIGUSR1);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_FALSE(served.ended());
  served.Send(Slow(2));  // for whoever serves it next
  Feed("late");
  EXPECT_EQ(served.ReceiveAll(), SimpleReply(0, 1, "late"));
  EXPECT_EQ(served.Join().code(), absl::StatusCode::kCancelled);
  sigaction(SIGUSR1, &before, nullptr);
}

TEST_F(FibersTest, AnErrorIsAnsweredAndTold) {
  ASSERT_EQ(ftruncate(file_.get(), 4096), 0);
  Connected<Piped> served(config());
  served.Send(Request(0, kRead, 1, 4000, 1000));
  EXPECT_EQ(served.Receive(16), SimpleReply(5, 1)) << "the file ends there";
  served.Send(Request(0, kRead, 2, 600, 1));
  EXPECT_EQ(served.Receive(17), SimpleReply(0, 2, std::string(1, '\0')));
  EXPECT_EQ(served.failures(), std::vector<std::string>{"read"});
}

// Random blocks, of which each request says in its cookie where it is; no two that are under way overlap.
template <class Device>
void ReadsWhatWasWritten(const typename Device::Config& config, uint64_t blocks) {
  constexpr uint64_t kBlock = 4096;
  Connected<Device> served(config, 8);
  std::map<uint64_t, char> written;
  std::mt19937_64 random(1);
  for (int round = 0; round < 60; ++round) {
    std::set<uint64_t> under_way;
    std::string in;
    std::map<std::string, std::string> expected;  // by cookie
    while (under_way.size() < 40) {
      const uint64_t block = random() % blocks;
      if (!under_way.insert(block).second) continue;
      const std::string cookie = testing::Big(8, block);
      if (random() % 2 == 0) {
        const char byte = written[block] = static_cast<char>(random());
        in += Request(0, kWrite, block, block * kBlock, kBlock) + std::string(kBlock, byte);
        expected[cookie] = "";
      } else {
        in += Request(0, kRead, block, block * kBlock, kBlock);
        expected[cookie] = std::string(kBlock, written[block]);
      }
    }
    std::thread client([&] { served.Send(in); });
    for (size_t left = expected.size(); left > 0; --left) {
      const std::string header = served.Receive(16);
      ASSERT_EQ(header.substr(0, 8), SimpleReply(0, 0).substr(0, 8));
      const auto found = expected.find(header.substr(8));
      ASSERT_NE(found, expected.end());
      ASSERT_EQ(served.Receive(found->second.size()), found->second);
      expected.erase(found);
    }
    client.join();
  }
  served.Send(Request(0, kFlush, 7, 0, 0));
  EXPECT_EQ(served.Receive(16), SimpleReply(0, 7));
}

TEST_F(FibersTest, FilesPastThePageCacheKeepWhatWasWritten) {
  DirectFileBacked::State state;
  const DirectFileBacked::Config config = {.path = path_, .direct = true};
  if (!DirectFileBacked::Open(config, state).ok()) GTEST_SKIP() << path_ << " cannot be opened with O_DIRECT";
  state.fd.reset();
  ReadsWhatWasWritten<Stats<DirectFileBacked>>({.below = config}, Piped::kSlow / 4096);
}

TEST_F(FibersTest, WhereIoUringIsForbiddenWorkersDoIt) {
  const auto forbid = [](const testing::SystemCall& call) -> int64_t {
    return call.number == SYS_io_uring_setup ? -EPERM : testing::kProceed;
  };
  const bool intercepted = testing::Intercept({SYS_io_uring_setup}, forbid, [&] {
    EXPECT_EQ(Fibers::Create(1, [](Fibers::Task&) {}), nullptr);
    Connected<Piped> served(config());  // its threads inherit the filter
    const std::thread::id connection = served.thread_id();
    std::string in;
    for (uint64_t i = 0; i < 20; ++i) in += Request(0, kRead, i, 600 + i, 4);
    served.Send(in);
    EXPECT_EQ(served.Receive(20 * 20).size(), 400u);
    served.client.reset();
    EXPECT_TRUE(served.Join().ok());
    EXPECT_GE(served.device.threads.size(), 1u);
    EXPECT_EQ(served.device.threads.count(connection), 0u);
  });
  if (!intercepted) GTEST_SKIP() << "system calls cannot be intercepted here";
}

}  // namespace
}  // namespace buse

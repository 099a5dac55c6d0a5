// SPDX-License-Identifier: Apache-2.0
//
// Log: the lines, one write each, read back through a socket.

#include "layers/log.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "buse/gather.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/operation.h"
#include "tests/leaves.h"

template struct buse::Observer<buse::LogHook, buse::testing::Full>;

namespace buse::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::MatchesRegex;

static_assert(kCapabilities<Log<Full>> == kEverythingTold);
static_assert(kCapabilities<Log<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Log<Bare>> == kNothing);
static_assert(Log<Full512>::kBlockSize == 512);
static_assert(Log<BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);

// A socket pair that keeps packets apart: each read returns what one write wrote.
class Packets {
 public:
  Packets() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds_.data()), 0); }
  ~Packets() {
    if (fds_[1] >= 0) close(fds_[1]);
    close(fds_[0]);
  }
  int in() const { return fds_[1]; }
  // Every write, to the last.
  std::vector<std::string> Take() {
    close(fds_[1]);
    fds_[1] = -1;
    std::vector<std::string> packets;
    char packet[4096];
    for (ssize_t n; (n = read(fds_[0], packet, sizeof(packet))) > 0;) packets.emplace_back(packet, n);
    return packets;
  }

 private:
  std::array<int, 2> fds_ = {-1, -1};
};

TEST(LogTest, EveryOperationGetsItsLineInOneWrite) {
  using Stack = Log<Full>;
  Packets packets;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.fd = packets.in(), .below = {.size = 8192}}, state).ok());
  std::array<std::byte, 512> bytes{};
  Gather gather;
  EXPECT_TRUE(Stack::Read(state, 4096, bytes).ok());
  EXPECT_TRUE(Stack::Write(state, 0, bytes).ok());
  EXPECT_TRUE(Stack::WriteThrough(state, 3, bytes).ok());
  EXPECT_TRUE(Stack::Flush(state).ok());
  EXPECT_TRUE(Stack::Trim(state, {4, 5}).ok());
  EXPECT_TRUE(Stack::WriteZeroes(state, {6, 7}).ok());
  EXPECT_TRUE(Stack::Extents(state, {8, 9}, [](const Extent&) { return true; }).ok());
  EXPECT_TRUE(Stack::Prefetch(state, {10, 11}).ok());
  EXPECT_TRUE(Stack::View(state, {12, 13}, gather).ok());
  EXPECT_TRUE(Stack::Resize(state, 4096).ok());
  EXPECT_THAT(packets.Take(),
              ElementsAre(MatchesRegex("read 4096\\+512 ok [0-9]+us\n"), MatchesRegex("write 0\\+512 ok [0-9]+us\n"),
                          MatchesRegex("write-through 3\\+512 ok [0-9]+us\n"), MatchesRegex("flush ok [0-9]+us\n"),
                          MatchesRegex("trim 4\\+5 ok [0-9]+us\n"), MatchesRegex("write-zeroes 6\\+7 ok [0-9]+us\n"),
                          MatchesRegex("extents 8\\+9 ok [0-9]+us\n"), MatchesRegex("prefetch 10\\+11 ok [0-9]+us\n"),
                          MatchesRegex("view 12\\+13 ok [0-9]+us\n"), MatchesRegex("resize 4096 ok [0-9]+us\n")));
}

TEST(LogTest, AnErrorIsShownAndPassedOn) {
  using Stack = Log<Full>;
  Packets packets;
  Script script;
  script.fail_at = 0;
  script.error = absl::InternalError("pwrite disk.img: Input/output error");
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.fd = packets.in(), .below = {.size = 8192, .script = &script}}, state).ok());
  std::array<std::byte, 512> bytes{};
  EXPECT_EQ(Stack::Write(state, 512, bytes), script.error);
  EXPECT_TRUE(Stack::Write(state, 512, bytes).ok());
  EXPECT_THAT(packets.Take(),
              ElementsAre(MatchesRegex("write 512\\+512 INTERNAL: pwrite disk.img: Input/output error [0-9]+us\n"),
                          MatchesRegex("write 512\\+512 ok [0-9]+us\n")));
}

TEST(LogTest, TheDurationIsInMicroseconds) {
  Packets packets;
  WriteLogLine(packets.in(), {Operation::kFlush}, absl::OkStatus(), std::chrono::milliseconds(3));
  EXPECT_THAT(packets.Take(), ElementsAre("flush ok 3000us\n"));
}

TEST(LogTest, ALongMessageIsCutAndKeepsItsEnd) {
  Packets packets;
  const Request request = {Operation::kWriteThrough, {UINT64_MAX, UINT64_MAX}};
  WriteLogLine(packets.in(), request, absl::InternalError(std::string(5000, 'x')), std::chrono::nanoseconds::max());
  const std::vector<std::string> lines = packets.Take();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_LE(lines[0].size(), 512u);
  EXPECT_THAT(lines[0], MatchesRegex("write-through 18446744073709551615\\+18446744073709551615 INTERNAL: x+ [0-9]+us\n"));
}

TEST(LogTest, AMessageOfSeveralLinesStaysOneLine) {
  Packets packets;
  WriteLogLine(packets.in(), {Operation::kFlush}, absl::InternalError("a\nb\tc"), std::chrono::nanoseconds(0));
  EXPECT_THAT(packets.Take(), ElementsAre("flush INTERNAL: a b c 0us\n"));
}

TEST(LogTest, LinesOfManyThreadsDoNotMix) {
  using Stack = Log<Full>;
  constexpr int kThreads = 4;
  constexpr int kEach = 10;  // all of them fit into the socket
  Packets packets;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.fd = packets.in(), .below = {.size = 8192}}, state).ok());
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      std::array<std::byte, 16> bytes;
      for (int i = 0; i < kEach; ++i) EXPECT_TRUE(Stack::Read(state, 1, bytes).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::vector<std::string> lines = packets.Take();
  EXPECT_THAT(lines, ::testing::Each(MatchesRegex("read 1\\+16 ok [0-9]+us\n")));
  EXPECT_EQ(lines.size(), 40u);
}

TEST(LogTest, ALogThatCannotBeWrittenFailsNoRequest) {
  using Stack = Log<Full>;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.fd = -1, .below = {.size = 8192}}, state).ok());
  EXPECT_TRUE(Stack::Flush(state).ok());
}

}  // namespace
}  // namespace buse::testing

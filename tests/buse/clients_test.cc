// SPDX-License-Identifier: Apache-2.0
//
// Clients that hurt a server, or would: too many, too slow, too large, silent, broken off anywhere, hostile.

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/buse/served.h"
#include "tests/nbd_client.h"
#include "tests/process.h"
#include "tests/wire.h"

namespace buse {
namespace {

using testing::Big;
using testing::ClientOption;
using testing::ExtendedRequest;
using testing::Folder;
using testing::NbdClient;
using testing::Request;
using testing::Runfile;
using testing::Served;
using testing::ServesWell;

constexpr uint16_t kRead = 0, kWrite = 1, kDisc = 2;

TEST(ClientsTest, AClientThatReadsNothingDoesNotKeepItFromEnding) {
  Served served;
  NbdClient client(served.path);
  ASSERT_TRUE(client.Go());
  for (uint64_t i = 0; i < 8; ++i) client.Send(Request(0, kRead, i, 0, 32 << 20));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(served.End(), 0);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
  EXPECT_NE(served.program->output().find("do not read their answers"), std::string::npos) << served.program->output();
}

void ExpectThirdToWait(const std::vector<std::string>& options) {
  Served served(options);
  auto first = std::make_unique<NbdClient>(served.path);
  NbdClient second(served.path);
  ASSERT_TRUE(first->Go());
  ASSERT_TRUE(second.Go());
  NbdClient third(served.path);
  std::atomic<bool> third_went = false;
  std::thread waiting([&] { third_went = third.Go(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_FALSE(third_went);
  first.reset();
  waiting.join();
  EXPECT_TRUE(third_went);
}

TEST(ClientsTest, MoreThanAllowedWaitForTheirTurn) {
  ExpectThirdToWait({"--max-clients", "2"});
  ExpectThirdToWait({"--max-memory", "98M"});
  ExpectThirdToWait({"--max-memory", "6M", "--max-request", "64K"});
}

TEST(ClientsTest, AClientMustEndItsNegotiationInTime) {
  Served served({"--handshake-timeout", "1"});
  const auto start = std::chrono::steady_clock::now();
  NbdClient silent(served.path), dripping(served.path), quick(served.path);
  ASSERT_TRUE(quick.Go());
  // Never silent for long, and never done.
  std::thread drip([&] {
    const std::string bytes = Big(4, 3) + ClientOption(3, "") + ClientOption(3, "") + ClientOption(3, "");
    for (char byte : bytes) {
      dripping.Send(std::string(1, byte));
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  });
  silent.Receive(100);
  EXPECT_TRUE(silent.Closed());
  dripping.Receive(1000);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  drip.join();
  EXPECT_EQ(quick.Do(0, kRead, 0, 512), 0u) << "the limit is for the negotiation alone";
  EXPECT_EQ(served.End(), 0);
}

TEST(ClientsTest, AnIdleClientIsDisconnectedWhereThatIsAskedFor) {
  Served served({"--idle-timeout", "1"});
  NbdClient idle(served.path), half(served.path), deaf(served.path);
  ASSERT_TRUE(idle.Go() && half.Go() && deaf.Go());
  half.Send(Request(0, kWrite, 1, 0, 1000) + "x");
  for (uint64_t i = 0; i < 4; ++i) deaf.Send(Request(0, kRead, i, 0, 32 << 20));
  NbdClient busy(served.path);
  ASSERT_TRUE(busy.Go());
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(2500)) {
    ASSERT_EQ(busy.Do(0, kRead, 0, 512), 0u);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_TRUE(idle.Closed());
  EXPECT_TRUE(half.Closed());
  EXPECT_LT(deaf.Receive(128 << 20).size(), size_t{128} << 20) << "who takes no answers is idle too";
  EXPECT_EQ(served.End(), 0);
}

TEST(ClientsTest, WithoutAnIdleTimeoutSilenceIsNoOffence) {
  Served served({"--handshake-timeout", "1"});
  NbdClient idle(served.path);
  ASSERT_TRUE(idle.Go());
  std::this_thread::sleep_for(std::chrono::milliseconds(2500));
  EXPECT_EQ(idle.Do(0, kRead, 0, 512), 0u);
}

TEST(ClientsTest, TheLargestRequestIsAnOption) {
  Served served({"--max-request", "64K"});
  NbdClient client(served.path);
  ASSERT_TRUE(client.Go());
  EXPECT_EQ(client.Do(0, kRead, 0, 65536), 0u);
  EXPECT_EQ(client.Do(0, kRead, 0, 65537), 22u);
  std::string data(65537, 'x');
  EXPECT_EQ(client.Do(0, kWrite, 0, 65537, &data), 22u);
  EXPECT_EQ(client.Do(0, kRead, 0, 1), 0u);
}

// At every byte of a negotiation and of requests of all kinds. Those of one client do not overlap another's, which is still
// being answered.
TEST(ClientsTest, ConnectionsThatBreakAnywhere) {
  Served served;
  const auto all_of = [](uint64_t client) {
    return Big(4, 3) + ClientOption(8, "") + ClientOption(11, "") +
           ClientOption(10, Big(4, 0) + Big(4, 1) + Big(4, 15) + "base:allocation") + ClientOption(7, Big(4, 0) + Big(2, 0)) +
           ExtendedRequest(32, 1, 1, (2 << 20) + client * 128, 100) + std::string(100, 'x') +
           ExtendedRequest(0, 0, 2, 0, 1 << 20) + ExtendedRequest(0, 7, 3, 0, 1 << 20) + ExtendedRequest(32, 7, 4, 0, 12) +
           Big(8, 4096) + Big(4, 1) + ExtendedRequest(0, 3, 5, 0, 0);
  };
  for (size_t cut = 0; cut <= all_of(0).size(); ++cut) {
    NbdClient client(served.path);
    client.Send(all_of(cut).substr(0, cut));
    if (cut % 3 == 0) client.Receive(18);
    if (cut % 2 == 0) client.CloseSending();
  }
  EXPECT_TRUE(ServesWell(served.path));
  EXPECT_EQ(served.End(), 0) << served.program->output();
}

// Each leaves the server serving others, whatever became of its own connection.
TEST(ClientsTest, HostileClients) {
  const std::string flags = Big(4, 3), go = ClientOption(7, Big(4, 0) + Big(2, 0));
  const std::string option_magic = Big(8, 0x49484156454f5054);
  struct Row {
    const char* name;
    std::string bytes;
    bool closes;  // the server ends the connection by itself
  };
  const Row rows[] = {
      {"nothing at all", "", false},
      {"half the client flags, then silence", flags.substr(0, 2), false},
      {"unknown client flags", Big(4, 0xffffffff), true},
      {"HTTP", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", true},
      {"an option without magic", flags + std::string(16, 'x'), true},
      {"half an option, then silence", flags + go.substr(0, 20), false},
      {"an option that claims 4 GiB, then silence", flags + option_magic + Big(4, 7) + Big(4, 0xffffffff) + "x", false},
      {"an export name that claims 4 GiB", flags + option_magic + Big(4, 1) + Big(4, 0xffffffff) + "x", true},
      {"an unknown export name", flags + ClientOption(1, "none"), true},
      {"a request without magic", flags + go + std::string(28, 'x'), true},
      {"half a request, then silence", flags + go + Request(0, kRead, 1, 0, 1).substr(0, 14), false},
      {"a write that claims 4 GiB, then silence", flags + go + Request(0, kWrite, 1, 0, 0xffffffff) + "x", false},
      {"a write of 32 MiB that ends early", flags + go + Request(0, kWrite, 1, 0, 32 << 20) + std::string(100000, 'x'), false},
      {"disconnect and more", flags + go + Request(0, kDisc, 1, 0, 0) + std::string(1000, 'x'), true},
  };
  Served served;
  uint64_t offset = 0;
  for (const Row& row : rows) {
    NbdClient client(served.path);
    client.Send(row.bytes);
    EXPECT_TRUE(ServesWell(served.path, offset += 64)) << row.name;
    if (row.closes) {
      client.Receive(1 << 20);
      EXPECT_TRUE(client.Closed()) << row.name;
    } else {
      // What is unfinished waits; when the client gives up, so does the server.
      client.CloseSending();
      client.Receive(1 << 20);
      EXPECT_TRUE(client.Closed()) << row.name;
    }
  }
  EXPECT_EQ(served.End(), 0) << served.program->output();
}

TEST(ClientsTest, ClaimsCostNoMemory) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer's own memory is most of what a thread takes";
#endif
  Served served;
  ASSERT_TRUE(ServesWell(served.path));
  const long before = served.PeakMemoryKiB();
  std::vector<std::unique_ptr<NbdClient>> clients;
  for (int i = 0; i < 50; ++i) {
    clients.push_back(std::make_unique<NbdClient>(served.path));
    ASSERT_TRUE(clients.back()->Go());
    clients.back()->Send(Request(0, kWrite, 1, 0, 0xffffffff) + std::string(1 << 20, 'x'));
  }
  ASSERT_TRUE(ServesWell(served.path));
  // 50 MiB were sent and 200 GiB claimed.
  EXPECT_LT(served.PeakMemoryKiB() - before, 32 * 1024);
}

void AllowFiles(rlim_t count) {
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  ASSERT_GE(limit.rlim_max, count);
  limit.rlim_cur = std::max(limit.rlim_cur, count);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

TEST(ClientsTest, AThousandIdleOnesCostLittle) {
  ASSERT_NO_FATAL_FAILURE(AllowFiles(2048));
  Served served({"--max-clients", "1001"});
  ASSERT_TRUE(ServesWell(served.path));
  const long before = served.MemoryKiB();
  std::vector<std::unique_ptr<NbdClient>> idle;
  for (int i = 0; i < 1000; ++i) {
    idle.push_back(std::make_unique<NbdClient>(served.path));
    ASSERT_TRUE(idle.back()->Go()) << i;
  }
  std::string data;
  EXPECT_EQ(idle.front()->Do(0, kRead, 0, 512, &data), 0u);
  EXPECT_TRUE(ServesWell(served.path));
  const long each = (served.MemoryKiB() - before) * 1024 / 1000;
  RecordProperty("bytes_for_each_idle_client", std::to_string(each));
  const long cpu = served.CpuTicks();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  EXPECT_LE(served.CpuTicks() - cpu, 1) << "idle clients take CPU";
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)  // whose own memory is most of what a thread takes
  EXPECT_LT(each, 64 << 10);
#endif
  for (const auto& client : idle) EXPECT_EQ(client->Do(0, kRead, 4096, 512), 0u);
  EXPECT_EQ(served.End(), 0) << served.program->output();
}

// Each asks for 2 GiB and takes nothing. Returns the bytes that one costs.
long CostOfTheDeaf(Served& served, int count) {
  EXPECT_TRUE(ServesWell(served.path));
  const long before = served.MemoryKiB();
  std::vector<std::unique_ptr<NbdClient>> deaf;
  for (int i = 0; i < count; ++i) {
    deaf.push_back(std::make_unique<NbdClient>(served.path));
    EXPECT_TRUE(deaf.back()->Go());
    for (uint64_t cookie = 0; cookie < 64; ++cookie) deaf.back()->Send(Request(0, kRead, cookie, 32 << 20, 32 << 20));
  }
  for (uint64_t i = 1; i <= 100; ++i) EXPECT_TRUE(ServesWell(served.path, i * 64));
  const long each = (served.MemoryKiB() - before) * 1024 / count;
  deaf.clear();
  EXPECT_TRUE(ServesWell(served.path));
  EXPECT_EQ(served.End(), 0) << served.program->output();
  ::testing::Test::RecordProperty("bytes_for_each", std::to_string(each));
  return each;
}

TEST(ClientsTest, ThoseThatNeverReadHoldUpNobodyAndCostALittleOfADiskInMemory) {
  Served served;
  [[maybe_unused]] const long each = CostOfTheDeaf(served, 50);
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
  EXPECT_LT(each, 256 << 10);
#endif
}

TEST(ClientsTest, ThoseThatNeverReadHoldUpNobodyAndCostOneRequestOfAFile) {
  const Folder folder;
  Served served({}, {Runfile("examples/loopback"), folder / "image", "--create", "64M"});
  [[maybe_unused]] const long each = CostOfTheDeaf(served, 10);
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
  EXPECT_LT(each, 33 << 20) << "as --help says";
#endif
}

TEST(ClientsTest, ConnectionsComeAndGoWithoutALeak) {
  Served served;
  const auto count = [&](const std::string& what) {
    return testing::Shell("ls /proc/" + std::to_string(served.program->pid()) + "/" + what + " | wc -l").output;
  };
  // The first client may make the run time start what it needs once.
  ASSERT_TRUE(ServesWell(served.path));
  usleep(500000);
  const std::string fds = count("fd"), tasks = count("task");
  for (uint64_t i = 0; i < 200; ++i) ASSERT_TRUE(ServesWell(served.path, 8192 + i * 64));
  for (int tries = 0; tries < 100 && (count("fd") != fds || count("task") != tasks); ++tries) usleep(20000);
  EXPECT_EQ(count("fd"), fds);
  EXPECT_EQ(count("task"), tasks);
}

}  // namespace
}  // namespace buse

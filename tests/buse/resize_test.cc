// SPDX-License-Identifier: Apache-2.0
//
// RESIZE: what a client may ask for, what becomes of the bytes, and clients that go on meanwhile. No packaged client knows the
// extension, so the tests' own speaks it.

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/buse/byte_server.h"
#include "tests/buse/served.h"
#include "tests/leaves.h"
#include "tests/nbd_client.h"
#include "tests/process.h"
#include "tests/reply_stream.h"
#include "tests/wire.h"

namespace buse {
namespace {

using testing::Big;
using testing::ByteServer;
using testing::ClientOption;
using testing::ExtendedRequest;
using testing::Full;
using testing::Full512;
using testing::NbdClient;
using testing::Request;
using testing::Result;
using testing::Runfile;
using testing::RunToEnd;
using testing::ServedTest;
using testing::SimpleReply;

// Numbers are those of the specification, written out.
constexpr uint16_t kRead = 0, kWrite = 1, kTrim = 4, kResize = 8;
constexpr uint16_t kFua = 1, kPayloadLen = 32, kSendResize = 512;
constexpr uint32_t kEperm = 1, kEio = 5, kEinval = 22, kEnospc = 28;
constexpr uint64_t kKiB = 1 << 10, kMiB = 1 << 20;

const std::string kGo = Big(4, 3) + ClientOption(7, Big(4, 0) + Big(2, 0));

TEST(ResizeTest, TheOffsetIsTheNewSize) {
  ByteServer<Full> server;
  server.about.resize_limit = kMiB;
  const std::string in = Request(0, kResize, 1, 128 * kKiB, 0) + Request(0, kRead, 2, 128 * kKiB - 1, 1) +
                         Request(kFua, kResize, 3, 64, 0) + Request(0, kRead, 4, 0, 64);
  EXPECT_EQ(server.Talk(kGo, in), SimpleReply(0, 1) + SimpleReply(0, 2, std::string(1, '\0')) + SimpleReply(0, 3) +
                                      SimpleReply(0, 4, std::string(64, '\0')));
  EXPECT_EQ(Full::Size(server.device()), 64u);
}

TEST(ResizeTest, InEveryStyleOfReply) {
  ByteServer<Full> server;
  server.about.resize_limit = kMiB;
  const std::string structured = Big(4, 3) + ClientOption(8, "") + kGo.substr(4);
  EXPECT_EQ(server.Talk(structured, Request(0, kResize, 1, 4096, 0)), SimpleReply(0, 1));
  const std::string extended = Big(4, 3) + ClientOption(11, "") + kGo.substr(4);
  EXPECT_EQ(server.Talk(extended, ExtendedRequest(0, kResize, 1, 8192, 0)), testing::ExtendedChunk(1, 0, 1, 8192));
  EXPECT_EQ(Full::Size(server.device()), 8192u);
}

TEST(ResizeTest, BeyondTheNewSizeAndNotTheOldOneIsNoSpace) {
  ByteServer<Full> server;
  server.about.resize_limit = kMiB;
  const uint64_t size = ByteServer<Full>::kSize;
  const std::string in = Request(0, kRead, 1, size - 1, 1) + Request(0, kResize, 2, 4096, 0) + Request(0, kRead, 3, 4096, 1) +
                         Request(0, kTrim, 4, 4000, 200) + Request(0, kWrite, 5, size - 1, 1) + "x" +
                         Request(0, kRead, 6, size, 1) + Request(0, kRead, 7, 4095, 1);
  EXPECT_EQ(server.Talk(kGo, in), SimpleReply(0, 1, std::string(1, '\0')) + SimpleReply(0, 2) + SimpleReply(kEnospc, 3) +
                                      SimpleReply(kEnospc, 4) + SimpleReply(kEnospc, 5) + SimpleReply(kEinval, 6) +
                                      SimpleReply(0, 7, std::string(1, '\0')));
}

TEST(ResizeTest, WhatIsRefusedChangesNothing) {
  struct Row {
    const char* name;
    std::string request;
    uint32_t error;
  };
  const Row rows[] = {
      {"no bytes", Request(0, kResize, 9, 0, 0), kEinval},
      {"half a block", Request(0, kResize, 9, 4096 + 256, 0), kEinval},
      {"with a length", Request(0, kResize, 9, 4096, 512), kEinval},
      {"with another command's flag", Request(2, kResize, 9, 4096, 0), kEinval},
      {"above the limit", Request(0, kResize, 9, kMiB + 512, 0), kEnospc},
      {"far above the limit", Request(0, kResize, 9, ~uint64_t{511}, 0), kEnospc},
  };
  for (const Row& row : rows) {
    ByteServer<Full512> server;
    server.about.resize_limit = kMiB;
    EXPECT_EQ(server.Talk(kGo, row.request), SimpleReply(row.error, 9)) << row.name;
    EXPECT_EQ(server.script.calls.size(), 0u) << row.name;
  }
}

TEST(ResizeTest, WithoutTheAdministratorsWordItIsNotAllowed) {
  ByteServer<Full> server;
  EXPECT_EQ(server.Talk(kGo, Request(0, kResize, 9, 4096, 0)), SimpleReply(kEperm, 9));
  EXPECT_EQ(Full::Size(server.device()), ByteServer<Full>::kSize);
  EXPECT_EQ(server.stream.out.find(Big(2, kSendResize)), std::string::npos);
}

TEST(ResizeTest, WhatTheDeviceFailsIsToldAndItsSizeIsTrue) {
  for (const auto& [code, error] :
       {std::pair{absl::StatusCode::kResourceExhausted, kEnospc}, std::pair{absl::StatusCode::kInternal, kEio},
        std::pair{absl::StatusCode::kInvalidArgument, kEinval}}) {
    ByteServer<Full> server;
    server.about.resize_limit = kMiB;
    server.script.fail_at = 0;
    server.script.error = absl::Status(code, "injected");
    EXPECT_EQ(server.Talk(kGo, Request(0, kResize, 1, 4096, 0) + Request(0, kRead, 2, 4096, 1)),
              SimpleReply(error, 1) + SimpleReply(0, 2, std::string(1, '\0')));
    EXPECT_EQ(server.failures, std::vector<std::string>{"resize to 4096 injected"});
  }
}

TEST(ResizeTest, APayloadIsConsumedAndRefused) {
  ByteServer<Full> server;
  server.about.resize_limit = kMiB;
  const std::string extended = Big(4, 3) + ClientOption(11, "") + kGo.substr(4);
  const std::string out = server.Talk(extended, ExtendedRequest(kPayloadLen, kResize, 1, 4096, 8) + std::string(8, 'x') +
                                                    ExtendedRequest(0, kResize, 2, 4096, 0));
  const testing::ReplyStream stream = testing::SplitReplies(out, true);
  ASSERT_EQ(stream.messages.size(), 2u) << stream.wrong;
  EXPECT_EQ(stream.messages[0].error, kEinval);
  EXPECT_EQ(stream.messages[1].error, 0u);
}

// ---- Whole programs.

class ResizeProgramTest : public ServedTest {
 protected:
  // An example with its arguments.
  void ServeExample(std::vector<std::string> arguments) {
    arguments[0] = Runfile("examples/" + arguments[0]);
    arguments.push_back(uri());
    Serve(arguments);
  }
};

TEST_F(ResizeProgramTest, AFileGrowsAndShrinks) {
  ServeExample({"loopback", path("disk"), "--create", "1M", "--resize-limit", "4M"});
  NbdClient client(path());
  ASSERT_TRUE(client.Go());
  EXPECT_EQ(client.flags & kSendResize, kSendResize);
  EXPECT_EQ(client.Resize(4 * kMiB), 0u);
  std::string data = "new", back;
  EXPECT_EQ(client.Do(0, kWrite, 4 * kMiB - 3, 3, &data), 0u);
  EXPECT_EQ(client.Do(0, kRead, 2 * kMiB, 3, &back), 0u);
  EXPECT_EQ(back, std::string(3, '\0')) << "what was added reads as zeroes";
  NbdClient late(path());
  ASSERT_TRUE(late.Go());
  EXPECT_EQ(late.size, 4 * kMiB) << "who connects now learns it";
  EXPECT_EQ(client.Resize(512 * kKiB), kEperm) << "another client is there";
  EXPECT_EQ(late.Do(0, kRead, 4 * kMiB - 3, 3, &back), 0u);
  EXPECT_EQ(back, "new");
  late.Send(Request(0, 2, 1, 0, 0));
  EXPECT_TRUE(late.Closed());
  uint32_t error = kEperm;  // until the server has seen the other off
  for (int tries = 0; tries < 100 && error == kEperm; ++tries) {
    usleep(10000);
    error = client.Resize(512 * kKiB);
  }
  EXPECT_EQ(error, 0u);
  EXPECT_EQ(client.Do(0, kRead, 512 * kKiB, 1), kEnospc);
  EndServer();
  struct stat about;
  ASSERT_EQ(stat(path("disk").c_str(), &about), 0);
  EXPECT_EQ(about.st_size, 512 << 10);
}

// Others read and write while the size goes up and down again and again, within what is always there.
TEST_F(ResizeProgramTest, WithRequestsUnderWay) {
  ServeExample({"memdisk", "1M", "--resize-limit", "8M"});
  NbdClient resizing(path());
  ASSERT_TRUE(resizing.Go());
  std::atomic<bool> stop = false;
  std::atomic<int> rounds = 0;
  std::vector<std::thread> others;
  for (uint64_t i = 0; i < 3; ++i) {
    others.emplace_back([&, i] {
      NbdClient client(path());
      ASSERT_TRUE(client.Go());
      std::string data(64 * kKiB, static_cast<char>('a' + i)), back;
      while (!stop) {
        ASSERT_EQ(client.Do(0, kWrite, i * 256 * kKiB, data.size(), &data), 0u);
        ASSERT_EQ(client.Do(0, kRead, i * 256 * kKiB, data.size(), &back), 0u);
        ASSERT_EQ(back, data);
        ++rounds;
      }
    });
  }
  for (uint64_t i = 0; i < 100; ++i) ASSERT_EQ(resizing.Resize(kMiB + (i + 1) * 32 * kKiB), 0u) << i;
  const int before = rounds;
  while (rounds < before + 30) usleep(1000);
  stop = true;
  for (std::thread& other : others) other.join();
  std::string back;
  EXPECT_EQ(resizing.Do(0, kRead, kMiB + 100 * 32 * kKiB - 1, 1, &back), 0u);
  EndServer();
}

TEST_F(ResizeProgramTest, TwoAtOnceBothGetThere) {
  ServeExample({"memdisk", "1M", "--resize-limit", "8M"});
  std::vector<std::thread> clients;
  for (uint64_t i = 0; i < 2; ++i) {
    clients.emplace_back([&] {
      NbdClient client(path());
      ASSERT_TRUE(client.Go());
      // Never smaller, whoever comes first.
      for (int tries = 0; tries < 50; ++tries) ASSERT_EQ(client.Resize(4 * kMiB), 0u);
    });
  }
  for (std::thread& client : clients) client.join();
  EndServer();
}

TEST_F(ResizeProgramTest, WhoDoesNotReadHoldsItUpForAWhileAndNobodyForLong) {
  ServeExample({"memdisk", "64M", "--resize-limit", "128M"});
  NbdClient deaf(path()), client(path());
  ASSERT_TRUE(deaf.Go() && client.Go());
  std::string data(32 << 20, 'x');
  ASSERT_EQ(client.Do(0, kWrite, 0, data.size(), &data), 0u);
  deaf.Send(Request(0, kRead, 1, 0, 32 << 20));  // whose answer is lent from the disk
  deaf.Receive(16);
  EXPECT_EQ(client.Resize(128 * kMiB), kEio);
  EXPECT_EQ(client.Do(0, kRead, 64 * kMiB - 1, 1), 0u);
  EXPECT_EQ(deaf.Receive(32 << 20), data);
  EXPECT_EQ(client.Resize(128 * kMiB), 0u);
  EXPECT_EQ(client.Do(0, kRead, 128 * kMiB - 1, 1), 0u);
  EndServer();
  EXPECT_NE(server_->output().find("resize to 134217728+0 failed"), std::string::npos) << server_->output();
}

TEST_F(ResizeProgramTest, OffersItOnlyWhereItIsPossible) {
  ServeExample({"loopback", path("disk"), "--create", "1M"});
  {
    NbdClient client(path());
    ASSERT_TRUE(client.Go());
    EXPECT_EQ(client.flags & kSendResize, 0);
    EXPECT_EQ(client.Resize(2 * kMiB), kEperm);
  }
  EndServer();
  ServeExample({"loopback", path("disk"), "--read-only", "--resize-limit", "4M"});
  {
    NbdClient client(path());
    ASSERT_TRUE(client.Go());
    EXPECT_EQ(client.flags & kSendResize, 0) << "it is read-only";
    EXPECT_EQ(client.Resize(2 * kMiB), kEperm);
  }
  EndServer();
  const Result result = RunToEnd({Runfile("examples/xor"), "1M", "--resize-limit", "4M"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_NE(result.output.find("this stack cannot change its size"), std::string::npos) << result.output;
}

}  // namespace
}  // namespace buse

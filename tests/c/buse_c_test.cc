// SPDX-License-Identifier: Apache-2.0
//
// A C program in BUSE's style, served on a socket.

#include <signal.h>
#include <unistd.h>

#include <string>

#include "gtest/gtest.h"
#include "tests/nbd_client.h"
#include "tests/process.h"

namespace buse {
namespace {

using testing::NbdClient;
using testing::Process;
using testing::Runfile;

constexpr uint16_t kRead = 0, kWrite = 1, kFlush = 3, kTrim = 4, kWriteZeroes = 6;
constexpr uint32_t kEperm = 1, kEio = 5, kEinval = 22, kEnospc = 28;
constexpr uint64_t kBlock = 4096, kBlocks = 8192;

struct Served {
  explicit Served(const std::string& letters)
      : path("/tmp/buse-c-" + std::to_string(getpid()) + letters + ".sock"),
        program({Runfile("tests/c/ramdisk"), "nbd+unix:///?socket=" + path, letters}) {
    EXPECT_TRUE(program.WaitFor("Ctrl-C")) << program.output();
  }
  ~Served() {
    program.Signal(SIGTERM);
    EXPECT_EQ(program.Wait(), 0) << program.output();
  }
  std::string path;
  Process program;
};

TEST(BuseCTest, AnnouncesOnlyWhatThereAreCallbacksFor) {
  const std::pair<const char*, uint16_t> table[] = {
      {"", 0b1'0000'0001}, {"f", 0b1'0000'1101}, {"t", 0b1'0010'0001}, {"ft", 0b1'0010'1101}, {"rft", 0b1'0000'0011}};
  for (const auto& [letters, flags] : table) {
    Served served(letters);
    NbdClient client(served.path);
    ASSERT_TRUE(client.Go());
    EXPECT_EQ(client.flags, flags) << letters;
    EXPECT_EQ(client.size, kBlock * kBlocks);
  }
}

TEST(BuseCTest, KeepsWhatIsWrittenAndEndsCleanly) {
  Served served("ftd");
  NbdClient client(served.path);
  ASSERT_TRUE(client.Go());
  std::string data(kBlock, 'x');
  EXPECT_EQ(client.Do(0, kWrite, 10 * kBlock, kBlock, &data), 0u);
  std::string back;
  EXPECT_EQ(client.Do(0, kRead, 10 * kBlock, kBlock, &back), 0u);
  EXPECT_EQ(back, data);
  EXPECT_EQ(client.Do(0, kFlush, 0, 0), 0u);
  EXPECT_EQ(client.Do(0, kTrim, 10 * kBlock, 1), 0u);
  EXPECT_EQ(client.Do(0, kWriteZeroes, 0, 1), kEinval) << "BUSE has no such operation";
  served.program.Signal(SIGTERM);
  EXPECT_EQ(served.program.Wait(), 0);
  // One flush was asked for, one comes at the end.
  EXPECT_NE(served.program.output().find("disconnected after 1 writes, 2 flushes"), std::string::npos)
      << served.program.output();
}

TEST(BuseCTest, AnErrorFailsThatRequestAloneHoweverItIsSpelled) {
  Served served("b");
  NbdClient client(served.path);
  ASSERT_TRUE(client.Go());
  for (uint64_t block : {1, 2, 3}) {
    EXPECT_EQ(client.Do(0, kRead, block * kBlock, kBlock), kEio) << block;
    EXPECT_EQ(client.Do(0, kRead, 0, kBlock), 0u) << "the device lives on";
  }
  std::string data(kBlock, 'x');
  EXPECT_EQ(client.Do(0, kWrite, 4 * kBlock, kBlock, &data), kEnospc);
  EXPECT_EQ(client.Do(0, kWrite, 5 * kBlock, kBlock, &data), 0u);
  EXPECT_EQ(client.Do(0, kRead, 5 * kBlock + 1, 1), kEinval) << "requests are aligned to blksize";
  EXPECT_EQ(client.Do(0, kFlush, 0, 0), kEinval) << "there is no flush callback, so nothing pretends";
}

TEST(BuseCTest, WithoutWriteItIsReadOnly) {
  Served served("r");
  NbdClient client(served.path);
  ASSERT_TRUE(client.Go());
  std::string data = "x";
  EXPECT_EQ(client.Do(0, kWrite, 0, 1, &data), kEperm);
}

TEST(BuseCTest, AMissingDeviceIsAnExitCode) {
  EXPECT_EQ(testing::RunToEnd({Runfile("tests/c/ramdisk"), "/dev/nbd-none"}).exit_code, 3);
  EXPECT_EQ(testing::RunToEnd({Runfile("tests/c/ramdisk"), "nonsense"}).exit_code, 2);
}

}  // namespace
}  // namespace buse

// SPDX-License-Identifier: Apache-2.0
//
// What a connection sends from files that are mapped: the bytes are those that a read would give, whatever was written, cut off or
// added meanwhile; what the disk or somebody else spoils ends the connection and nothing else.

#include "buse/lent_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <tuple>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/file_backed.h"
#include "layers/offset.h"
#include "layers/stripe.h"
#include "tests/buse/connected.h"
#include "tests/wire.h"

namespace buse {
namespace {

using testing::Connected;
using ::testing::HasSubstr;
using testing::Request;
using testing::SimpleReply;

constexpr uint16_t kRead = 0, kWrite = 1;
constexpr size_t kSize = 4 << 20;

std::atomic<int> reads = 0;

// Tells when a file is read, and not lent.
struct Counted : FileBacked {
  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    ++reads;
    return FileBacked::Read(self, offset, out);
  }
  static bool TryRead(State& self, uint64_t offset, Bytes out) {
    ++reads;
    return FileBacked::TryRead(self, offset, out);
  }
};

class LentFilesTest : public ::testing::Test {
 protected:
  LentFilesTest() {
    reads = 0;
    for (const std::string& path : {path_, path_ + "2"}) {
      std::string bytes(kSize, '\0');
      std::mt19937_64 random(7);
      for (char& byte : bytes) byte = static_cast<char>(random());
      std::ofstream(path) << bytes;
      bytes_ = bytes;
    }
  }
  ~LentFilesTest() override {
    unlink(path_.c_str());
    unlink((path_ + "2").c_str());
  }

  const std::string path_ = ::testing::TempDir() + "lent." + std::to_string(getpid());
  std::string bytes_;
};

TEST_F(LentFilesTest, ReadsAreSentFromTheFileAndSeeEveryWrite) {
  Connected<Counted> served({.path = path_}, 4, nullptr, true);
  std::mt19937_64 random(1);
  for (int round = 0; round < 100; ++round) {
    std::string in, expected;
    for (uint64_t i = 0; i < 20; ++i) {
      const uint64_t length = random() % 4 == 0 ? 100000 : 1 + random() % 9000;
      const uint64_t offset = random() % (kSize - length);
      if (random() % 3 == 0) {
        const std::string data(length, static_cast<char>(random()));
        in += Request(0, kWrite, i, offset, length) + data;
        bytes_.replace(offset, length, data);
        expected = SimpleReply(0, i);
      } else {
        in += Request(0, kRead, i, offset, length);
        expected = SimpleReply(0, i, bytes_.substr(offset, length));
      }
      served.Send(in);
      in.clear();
      ASSERT_TRUE(served.Receive(expected.size()) == expected) << round << ", " << i;
    }
  }
  EXPECT_EQ(reads, 0);
}

TEST_F(LentFilesTest, ManyAtOnceAreEachTheirOwn) {
  Connected<Counted> served({.path = path_}, 4, nullptr, true);
  std::string in, expected;
  for (uint64_t i = 0; i < 500; ++i) {
    in += Request(0, kRead, i, i * 8000, 4096);
    expected += SimpleReply(0, i, bytes_.substr(i * 8000, 4096));
  }
  served.Send(in);
  EXPECT_TRUE(served.Receive(expected.size()) == expected);
  EXPECT_EQ(reads, 0);
}

TEST_F(LentFilesTest, WhoDoesNotAskForItReads) {
  Connected<Counted> served({.path = path_});
  served.Send(Request(0, kRead, 1, 5, 100));
  EXPECT_EQ(served.Receive(116), SimpleReply(0, 1, bytes_.substr(5, 100)));
  EXPECT_EQ(reads, 1);
}

TEST_F(LentFilesTest, ThroughLayersThatMoveAddresses) {
  using Shifted = Offset<Stripe<2, Counted>>;
  Shifted::Config config;
  config.start = 4096;
  std::get<0>(config.below.below).path = path_;
  std::get<1>(config.below.below).path = path_ + "2";
  Connected<Shifted> served(config, 4, nullptr, true);
  std::string in, expected;
  for (uint64_t i = 0; i < 100; ++i) {
    const uint64_t at = 4096 + i * 8192;
    in += Request(0, kRead, i, i * 8192, 4096);
    expected += SimpleReply(0, i, bytes_.substr(at / 131072 * 65536 + at % 65536, 4096));
  }
  served.Send(in);
  EXPECT_TRUE(served.Receive(expected.size()) == expected);
  EXPECT_EQ(reads, 0);
}

TEST_F(LentFilesTest, AFileThatSomebodyCutsOffEndsTheConnectionAndNothingElse) {
  Connected<Counted> served({.path = path_}, 4, nullptr, true);
  served.Send(Request(0, kRead, 1, 0, 4096));
  EXPECT_EQ(served.Receive(4112), SimpleReply(0, 1, bytes_.substr(0, 4096)));
  ASSERT_EQ(truncate(path_.c_str(), 8192), 0);
  served.Send(Request(0, kRead, 2, 1 << 20, 4096));
  EXPECT_LT(served.ReceiveAll().size(), 4112u);
  const absl::Status status = served.Join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("could not be read"));
}

TEST_F(LentFilesTest, AFileThatGrowsIsMappedAnewOnceNothingOfItIsLent) {
  FileBacked::State state;
  ASSERT_TRUE(FileBacked::Open({.path = path_}, state).ok());
  LentFiles files;
  const FileRange whole = *FileBacked::Backing(state, {0, kSize});
  ASSERT_EQ(files.Lend(whole, kSize, true).size(), kSize);
  ASSERT_TRUE(FileBacked::Resize(state, 2 * kSize).ok());
  const FileRange added = *FileBacked::Backing(state, {kSize, kSize});
  EXPECT_TRUE(files.Lend(added, kSize, false).empty());
  const ConstBytes bytes = files.Lend(added, kSize, true);
  ASSERT_EQ(bytes.size(), kSize);
  EXPECT_EQ(bytes[kSize - 1], std::byte{0});
}

TEST_F(LentFilesTest, WhoeverOpensTheFileNextMeetsNoLock) {
  LentFiles files;
  {
    FileBacked::State state;
    ASSERT_TRUE(FileBacked::Open({.path = path_}, state).ok());
    ASSERT_EQ(files.Lend(*FileBacked::Backing(state, {0, 10}), 10, true).size(), 10u);
  }
  FileBacked::State state;
  EXPECT_TRUE(FileBacked::Open({.path = path_}, state).ok());
}

TEST_F(LentFilesTest, WhatCannotBeMappedIsLeftToReads) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  LentFiles files;
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(files.Lend({pipe_ends[0], 0}, 10, true).empty());
  close(pipe_ends[0]);
  close(pipe_ends[1]);
}

}  // namespace
}  // namespace buse

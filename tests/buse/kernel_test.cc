// SPDX-License-Identifier: Apache-2.0
//
// What attaching to the kernel refuses before it reaches for a device. What needs one is in tests/kernel.

#include "buse/kernel.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace buse {
namespace {

using ::testing::HasSubstr;

constexpr uint16_t kHasFlags = 1 << 0;
constexpr uint16_t kCanMultiConn = 1 << 8;

class KernelTest : public ::testing::Test {
 protected:
  ~KernelTest() override {
    for (int end : server_ends_) ::close(end);
  }

  // Correct but for its device, which is none.
  KernelAttachment::Options Options(int connections = 1) {
    KernelAttachment::Options options;
    options.device = "/dev/null";
    options.size = 1 << 20;
    options.transmission_flags = kHasFlags | kCanMultiConn;
    for (int i = 0; i < connections; ++i) {
      int pair[2];
      EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
      options.sockets.push_back(pair[0]);
      server_ends_.push_back(pair[1]);
    }
    return options;
  }

  std::vector<int> server_ends_;
};

void ExpectRefused(const KernelAttachment::Options& options, absl::StatusCode code, const std::string& words) {
  const absl::Status status = KernelAttachment::Attach(options).status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(words));
}

TEST_F(KernelTest, WhatIsNoNbdDeviceIsRefused) {
  const std::string file = ::testing::TempDir() + "/regular_file";
  std::ofstream(file) << "hello";
  for (const std::string& path : {std::string("/dev/null"), file, std::string("/dev")}) {
    for (const absl::Status& status : {CheckKernelDevice(path), DisconnectKernelDevice(path).status(),
                                       KernelAttachment::Attach([&] {
                                         KernelAttachment::Options options = Options();
                                         options.device = path;
                                         return options;
                                       }())
                                           .status()}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << path << ": " << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(path + " is not an nbd device"));
    }
  }
}

TEST_F(KernelTest, WhatIsNotThereIsNotFound) {
  EXPECT_EQ(CheckKernelDevice("/dev/nbd999").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(DisconnectKernelDevice("/dev/nbd999").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(CheckKernelDevice("").code(), absl::StatusCode::kNotFound);
}

TEST_F(KernelTest, ASizeThatWouldBeCutOffIsRefused) {
  KernelAttachment::Options options = Options();
  options.block_size = 4096;
  options.size = (1 << 20) + 512;
  ExpectRefused(options, absl::StatusCode::kInvalidArgument, "1049088 bytes is no multiple of the block size 4096");
}

TEST_F(KernelTest, SizesThatTheKernelCannotCountAreRefused) {
  for (uint64_t size : {uint64_t{0}, uint64_t{1} << 63}) {
    KernelAttachment::Options options = Options();
    options.size = size;
    ExpectRefused(options, absl::StatusCode::kInvalidArgument, "a size of " + std::to_string(size) + " bytes");
  }
  KernelAttachment::Options largest = Options();
  largest.size = (uint64_t{1} << 63) - 512;
  ExpectRefused(largest, absl::StatusCode::kNotFound, "not an nbd device");
}

TEST_F(KernelTest, BlockSizesThatTheKernelDoesNotTakeAreRefused) {
  const uint32_t page = static_cast<uint32_t>(::sysconf(_SC_PAGESIZE));
  for (uint32_t block_size : {uint32_t{0}, uint32_t{1}, uint32_t{256}, uint32_t{1000}, 2 * page}) {
    KernelAttachment::Options options = Options();
    options.block_size = block_size;
    ExpectRefused(options, absl::StatusCode::kInvalidArgument, "a block size of " + std::to_string(block_size) + ":");
  }
  for (uint32_t block_size : {uint32_t{512}, uint32_t{1024}, page}) {
    KernelAttachment::Options options = Options();
    options.block_size = block_size;
    ExpectRefused(options, absl::StatusCode::kNotFound, "not an nbd device");
  }
}

TEST_F(KernelTest, SeveralConnectionsNeedAServerThatCanHaveThem) {
  KernelAttachment::Options options = Options(4);
  options.transmission_flags = kHasFlags;
  ExpectRefused(options, absl::StatusCode::kInvalidArgument, "4 connections need");
  ExpectRefused(Options(4), absl::StatusCode::kNotFound, "not an nbd device");
  ExpectRefused(Options(0), absl::StatusCode::kInvalidArgument, "at least one socket");
}

TEST_F(KernelTest, TheSocketsAreClosedOnFailure) {
  ASSERT_FALSE(KernelAttachment::Attach(Options(2)).ok());
  for (int end : server_ends_) {
    char byte;
    EXPECT_EQ(::recv(end, &byte, 1, MSG_DONTWAIT), 0);
  }
}

}  // namespace
}  // namespace buse

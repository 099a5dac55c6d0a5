// SPDX-License-Identifier: Apache-2.0

#include "buse/io.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/buse/intercept.h"

namespace buse::testing {
namespace {

using ::testing::HasSubstr;

bool IsOpen(int fd) { return fcntl(fd, F_GETFD) >= 0; }

std::vector<std::byte> Pattern(size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(1 + i % 251);
  return bytes;
}

UniqueFd MemoryFile(uint64_t size) {
  UniqueFd fd(memfd_create("io_test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  return fd;
}

TEST(UniqueFdTest, OwnsExactlyOneDescriptor) {
  UniqueFd a = MemoryFile(0);
  const int first = a.get();
  UniqueFd b = std::move(a);
  EXPECT_EQ(b.get(), first);
  EXPECT_TRUE(IsOpen(first));
  UniqueFd c = MemoryFile(0);
  const int second = c.get();
  b = std::move(c);
  EXPECT_FALSE(IsOpen(first));
  EXPECT_EQ(b.get(), second);
  EXPECT_EQ(b.release(), second);
  EXPECT_FALSE(b.valid());
  { UniqueFd d(second); }
  EXPECT_FALSE(IsOpen(second));
}

TEST(IoTest, WhatIsWrittenIsRead) {
  const UniqueFd fd = MemoryFile(10000);
  const std::vector<std::byte> in = Pattern(5000);
  ASSERT_TRUE(WriteFully(fd.get(), 123, in, "file").ok());
  ASSERT_TRUE(WriteFully(fd.get(), 5123, in, "file", RWF_DSYNC).ok());
  ASSERT_TRUE(SyncData(fd.get(), "file").ok());
  std::vector<std::byte> out(5000);
  ASSERT_TRUE(ReadFully(fd.get(), 123, out, "file").ok());
  EXPECT_EQ(out, in);
  ASSERT_TRUE(ReadFully(fd.get(), 5123 - 4877, Bytes(out).first(0), "file").ok());
  ASSERT_TRUE(ReadFully(fd.get(), 5123, Bytes(out).first(4877), "file").ok());
  EXPECT_EQ(std::memcmp(out.data(), in.data(), 4877), 0);
}

TEST(IoTest, TheEndOfTheFileIsAnErrorThatNamesTheOffset) {
  const UniqueFd fd = MemoryFile(1000);
  std::vector<std::byte> out(600);
  const absl::Status status = ReadFully(fd.get(), 500, out, "disk.img");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("disk.img: cannot read 100 bytes at offset 1000"));
}

TEST(IoTest, ErrorsNameTheFileTheRangeAndTheReason) {
  std::vector<std::byte> bytes(512);
  const UniqueFd full(open("/dev/full", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(full.valid());
  absl::Status status = WriteFully(full.get(), 4096, bytes, "disk.img");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("disk.img: cannot write 512 bytes at offset 4096: No space left"));

  const UniqueFd sealed = MemoryFile(8192);
  ASSERT_EQ(fcntl(sealed.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
  EXPECT_EQ(WriteFully(sealed.get(), 0, bytes, "f").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(WriteFully(sealed.get(), 0, bytes, "f", RWF_DSYNC).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(PunchHole(sealed.get(), {0, 4096}, "f").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(ReadFully(sealed.get(), 0, bytes, "f").ok());

  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  const UniqueFd out(pipe_fds[0]);
  const UniqueFd in(pipe_fds[1]);
  EXPECT_EQ(SyncData(in.get(), "pipe").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadFully(out.get(), 0, bytes, "pipe").code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ZeroRange(in.get(), {0, 1}, "pipe").code(), absl::StatusCode::kInternal);
  EXPECT_EQ(NextData(in.get(), 0, "pipe").status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(ReadAhead(in.get(), {1, 2}, "pipe").message()),
              HasSubstr("pipe: cannot read ahead 2 bytes at offset 1"));
}

TEST(IoTest, AHoleIsZeroesAndReleasesItsSpace) {
  const UniqueFd fd = MemoryFile(1 << 20);
  const std::vector<std::byte> in = Pattern(1 << 20);
  ASSERT_TRUE(WriteFully(fd.get(), 0, in, "f").ok());
  EXPECT_EQ(*NextData(fd.get(), 0, "f"), 0u);
  EXPECT_EQ(*NextHole(fd.get(), 0, "f"), 1u << 20);
  struct stat before = {};
  struct stat after = {};
  ASSERT_EQ(fstat(fd.get(), &before), 0);
  ASSERT_TRUE(PunchHole(fd.get(), {65536, 131072}, "f").ok());
  ASSERT_EQ(fstat(fd.get(), &after), 0);
  EXPECT_LT(after.st_blocks, before.st_blocks);
  EXPECT_EQ(after.st_size, before.st_size);
  std::vector<std::byte> out(131072 + 2);
  ASSERT_TRUE(ReadFully(fd.get(), 65535, out, "f").ok());
  EXPECT_EQ(out.front(), in[65535]);
  EXPECT_EQ(out.back(), in[196608]);
  EXPECT_EQ(std::vector(out.begin() + 1, out.end() - 1), std::vector<std::byte>(131072));
  EXPECT_EQ(*NextHole(fd.get(), 0, "f"), 65536u);
  EXPECT_EQ(*NextData(fd.get(), 65536, "f"), 196608u);
  EXPECT_EQ(*NextData(fd.get(), 1 << 20, "f"), UINT64_MAX);
  EXPECT_TRUE(ReadAhead(fd.get(), {0, 65536}, "f").ok());
}

// Does at most `limit` bytes of a transfer. The caller waits in the kernel meanwhile, which a thread sanitizer does not see.
__attribute__((no_sanitize("thread"))) int64_t TransferShort(const SystemCall& call, uint64_t limit) {
  uint64_t memory = call.arguments[1];
  uint64_t size = call.arguments[2];
  if (call.number == SYS_pwritev2) {
    const auto* piece = reinterpret_cast<const iovec*>(memory);
    memory = reinterpret_cast<uint64_t>(piece->iov_base);
    size = piece->iov_len;
  }
  if (size > limit) size = limit;
  const long number = call.number == SYS_pread64 ? SYS_pread64 : SYS_pwrite64;
  return syscall(number, call.arguments[0], memory, size, call.arguments[3]);
}

TEST(IoTest, InterruptedAndShortTransfersGoOn) {
  const UniqueFd fd = MemoryFile(10000);
  const std::vector<std::byte> in = Pattern(10000);
  std::vector<std::byte> out(10000);
  int calls = 0;
  // Every other call is interrupted, and the others do 3000 bytes at most.
  const auto decide = [&](const SystemCall& call) -> int64_t {
    if (++calls % 2 != 0) return -EINTR;
    return call.number == SYS_fallocate ? kProceed : TransferShort(call, 3000);
  };
  absl::Status written;
  absl::Status punched;
  absl::Status written_through;
  absl::Status read;
  if (!Intercept({SYS_pread64, SYS_pwrite64, SYS_pwritev2, SYS_fallocate}, decide, [&] {
        written = WriteFully(fd.get(), 0, in, "f");
        punched = PunchHole(fd.get(), {0, 10000}, "f");
        written_through = WriteFully(fd.get(), 0, in, "f", RWF_DSYNC);
        read = ReadFully(fd.get(), 0, out, "f");
      })) {
    GTEST_SKIP() << "this system does not let a test intercept system calls";
  }
  EXPECT_TRUE(written.ok()) << written;
  EXPECT_TRUE(punched.ok()) << punched;
  EXPECT_TRUE(written_through.ok()) << written_through;
  EXPECT_TRUE(read.ok()) << read;
  EXPECT_EQ(out, in);
  EXPECT_EQ(calls, 2 * (4 + 1 + 4 + 4));
}

TEST(IoTest, AnswersThatCannotBeRetriedAreErrors) {
  const UniqueFd fd = MemoryFile(4096);
  const std::vector<std::byte> in = Pattern(512);
  int syncs = 0;
  absl::Status wrote_nothing;
  absl::Status sync;
  absl::Status no_flag;
  absl::Status no_punch;
  absl::Status no_zero;
  const auto decide = [&](const SystemCall& call) -> int64_t {
    if (call.number == SYS_pwrite64) return 0;
    if (call.number == SYS_fdatasync) return ++syncs, -EINTR;
    return -EOPNOTSUPP;
  };
  if (!Intercept({SYS_pwrite64, SYS_pwritev2, SYS_fdatasync, SYS_fallocate}, decide, [&] {
        wrote_nothing = WriteFully(fd.get(), 0, in, "f");
        sync = SyncData(fd.get(), "f");
        no_flag = WriteFully(fd.get(), 0, in, "f", RWF_DSYNC);
        no_punch = PunchHole(fd.get(), {0, 1}, "f");
        no_zero = ZeroRange(fd.get(), {0, 1}, "f");
      })) {
    GTEST_SKIP() << "this system does not let a test intercept system calls";
  }
  EXPECT_EQ(wrote_nothing.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(sync.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(syncs, 1) << "a sync that was interrupted is not tried again";
  EXPECT_EQ(no_flag.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(no_punch.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(no_zero.code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace buse::testing

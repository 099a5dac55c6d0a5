// SPDX-License-Identifier: Apache-2.0

#include "layers/file_backed.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "buse/disk.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/buse/intercept.h"
#include "tests/leaves.h"

// Every member is compiled, called or not.
template struct buse::BasicFileBacked<1>;
template struct buse::BasicFileBacked<4096>;

namespace buse::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

inline constexpr Capabilities kOfAFile = {.write = true,
                                          .write_through = true,
                                          .trim = true,
                                          .write_zeroes = true,
                                          .extents = true,
                                          .prefetch = true,
                                          .backing = true,
                                          .resize = true,
                                          .try_read = true,
                                          .try_write = true};
static_assert(Waits<FileBacked>());
static_assert(kCapabilities<FileBacked> == kOfAFile);
static_assert(kCapabilities<DirectFileBacked> == kOfAFile);
static_assert(CanSayWritable<FileBacked> && CanSayWritable<DirectFileBacked>);
static_assert(FileBacked::kBlockSize == 1 && DirectFileBacked::kBlockSize == 4096);
static_assert(FileBacked::kConcurrency == Concurrency::kParallel);
static_assert(FileBacked::Describe().options.size() == 3);
static_assert(DirectFileBacked::Describe().options.size() == 4, "the option `direct` needs blocks");

constexpr uint64_t kSize = 1 << 20;

using Bytestring = std::vector<std::byte>;

Bytestring Pattern(size_t size, unsigned seed = 1) {
  Bytestring bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(1 + (i + seed) % 251);
  return bytes;
}

// A name in the test's folder at which there is nothing.
std::string NewPath(const std::string& name) {
  std::string path = std::string(::testing::TempDir()) + "/file_backed_test_" + std::to_string(getpid()) + "_" + name;
  unlink(path.c_str());
  return path;
}

void MakeFile(const std::string& path, const Bytestring& bytes) {
  const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  ASSERT_TRUE(WriteFully(fd.get(), 0, bytes, path).ok());
}

struct stat StatOf(const std::string& path) {
  struct stat found = {};
  EXPECT_EQ(stat(path.c_str(), &found), 0) << path;
  return found;
}

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::string Message(const absl::Status& status) { return std::string(status.message()); }

// A file in memory, which every system supports alike: it has holes but no ZERO_RANGE, and can be sealed against writing.
class MemoryFile {
 public:
  explicit MemoryFile(const Bytestring& bytes) : fd_(memfd_create("memory_file", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
    EXPECT_TRUE(WriteFully(fd_.get(), 0, bytes, "memory file").ok());
  }
  int fd() const { return fd_.get(); }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_.get()); }

 private:
  UniqueFd fd_;
};

template <class D>
Bytestring Contents(typename D::State& self) {
  Bytestring bytes(D::Size(self));
  EXPECT_TRUE(D::Read(self, 0, bytes).ok());
  return bytes;
}

// ---- Opening.

TEST(FileBackedTest, CreatesAFileOfTheSizeAskedFor) {
  const std::string path = NewPath("create");
  {
    FileBacked::State state;
    ASSERT_TRUE(FileBacked::Open({.path = path, .create = kSize}, state).ok());
    EXPECT_EQ(FileBacked::Size(state), kSize);
    EXPECT_TRUE(FileBacked::Writable(state));
    EXPECT_EQ(Contents<FileBacked>(state), Bytestring(kSize));
    ASSERT_TRUE(FileBacked::Write(state, kSize - 3, Pattern(3)).ok());
  }
  EXPECT_EQ(StatOf(path).st_size, static_cast<off_t>(kSize));
  EXPECT_EQ(StatOf(path).st_mode & 07777, 0600u);
  // An existing one of that size is used as it is.
  FileBacked::State state;
  ASSERT_TRUE(FileBacked::Open({.path = path, .create = kSize}, state).ok());
  Bytestring out(3);
  ASSERT_TRUE(FileBacked::Read(state, kSize - 3, out).ok());
  EXPECT_EQ(out, Pattern(3));
}

TEST(FileBackedTest, AMissingFileIsRefusedAndNotCreated) {
  const std::string path = NewPath("missing");
  FileBacked::State state;
  absl::Status status = FileBacked::Open({.path = path}, state);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(status), AllOf(HasSubstr(path), HasSubstr("--create")));

  FileBacked::State read_only;
  status = FileBacked::Open({.path = path, .create = kSize, .read_only = true}, read_only);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(status), AllOf(HasSubstr(path), HasSubstr("--read-only")));
  EXPECT_FALSE(Exists(path));

  FileBacked::State folder;
  status = FileBacked::Open({.path = path + "/disk.img", .create = kSize}, folder);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(status), HasSubstr("no such directory"));
}

TEST(FileBackedTest, AnotherSizeIsRefusedNamingBothAndChangingNothing) {
  const std::string path = NewPath("other_size");
  MakeFile(path, Pattern(5000));
  FileBacked::State state;
  const absl::Status status = FileBacked::Open({.path = path, .create = 8192}, state);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), AllOf(HasSubstr(path), HasSubstr("5000"), HasSubstr("8192")));
  EXPECT_EQ(StatOf(path).st_size, 5000);
}

TEST(FileBackedTest, ASizeThatIsNoMultipleOfTheBlockSizeIsRefusedAndNotCut) {
  const std::string path = NewPath("odd_size");
  DirectFileBacked::State created;
  absl::Status status = DirectFileBacked::Open({.path = path, .create = 5000}, created);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("5000"), HasSubstr("4096")));
  EXPECT_FALSE(Exists(path));

  MakeFile(path, Pattern(5000));
  status = Disk<DirectFileBacked>::Open({.path = path}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("5000"), HasSubstr("4096"), HasSubstr("truncate -s 8192")));
  EXPECT_EQ(StatOf(path).st_size, 5000);
  FileBacked::State bytes;
  ASSERT_TRUE(FileBacked::Open({.path = path}, bytes).ok());
  EXPECT_EQ(FileBacked::Size(bytes), 5000u);
}

TEST(FileBackedTest, WhatIsNoFileAndNoBlockDeviceIsRefusedByName) {
  const std::string pipe = NewPath("pipe");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  // The test's folder is too long for the name of a socket.
  const std::string folder = ::testing::TempDir();
  const UniqueFd folder_fd(open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  const std::string name = "/proc/self/fd/" + std::to_string(folder_fd.get()) + "/s" + std::to_string(getpid());
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  ASSERT_LT(name.size(), sizeof(address.sun_path));
  std::memcpy(address.sun_path, name.c_str(), name.size());
  const UniqueFd socket_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(socket_fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const std::vector<std::pair<std::string, std::string>> kinds = {
      {folder, "directory"}, {pipe, "pipe"}, {"/dev/null", "character device"}, {name, "socket"}};
  for (const auto& [path, kind] : kinds) {
    for (const bool read_only : {false, true}) {
      FileBacked::State state;
      const absl::Status status = FileBacked::Open({.path = path, .read_only = read_only}, state);
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
      EXPECT_THAT(Message(status), AllOf(HasSubstr(path), HasSubstr("is a " + kind)));
    }
  }
  unlink(name.c_str());
}

TEST(FileBackedTest, ASecondWriterIsRefused) {
  const std::string path = NewPath("lock");
  const absl::StatusCode in_use = absl::StatusCode::kAlreadyExists;
  const auto open_again = [&](bool read_only) {
    FileBacked::State other;
    return FileBacked::Open({.path = path, .read_only = read_only}, other);
  };
  {
    FileBacked::State state;
    ASSERT_TRUE(FileBacked::Open({.path = path, .create = kSize}, state).ok());
    const absl::Status status = open_again(false);
    EXPECT_EQ(status.code(), in_use);
    EXPECT_THAT(Message(status), AllOf(HasSubstr(path), HasSubstr("is in use by another process")));
    EXPECT_EQ(open_again(true).code(), in_use);

    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      // What it inherited is the parent's.
      _exit(open_again(false).code() == in_use && open_again(true).code() == in_use ? 0 : 1);
    }
    int exit_status = -1;
    ASSERT_EQ(waitpid(child, &exit_status, 0), child);
    EXPECT_EQ(exit_status, 0) << "another process opened the file";
    EXPECT_TRUE(FileBacked::Write(state, 0, Pattern(10)).ok());
  }
  // Closing unlocks, and readers do not exclude each other.
  FileBacked::State reader;
  ASSERT_TRUE(FileBacked::Open({.path = path, .read_only = true}, reader).ok());
  EXPECT_TRUE(open_again(true).ok());
  EXPECT_EQ(open_again(false).code(), in_use);
}

TEST(FileBackedTest, AFileThatCannotBeWrittenIsRefusedUnlessReadOnly) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write every file";
  const std::string path = NewPath("unwritable");
  MakeFile(path, Pattern(100));
  ASSERT_EQ(chmod(path.c_str(), 0400), 0);
  FileBacked::State state;
  const absl::Status status = FileBacked::Open({.path = path}, state);
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(Message(status), AllOf(HasSubstr(path), HasSubstr("--read-only")));
  FileBacked::State read_only;
  EXPECT_TRUE(FileBacked::Open({.path = path, .read_only = true}, read_only).ok());
}

TEST(FileBackedTest, AReadOnlyDiskReadsAndRefusesToWrite) {
  const std::string path = NewPath("read_only");
  MakeFile(path, Pattern(kSize));
  auto disk = Disk<FileBacked>::Open({.path = path, .read_only = true});
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_FALSE(disk->writable());
  Bytestring bytes(kSize);
  EXPECT_TRUE(disk->Read(0, bytes).ok());
  EXPECT_EQ(bytes, Pattern(kSize));
  EXPECT_TRUE(disk->Flush().ok());
  EXPECT_EQ(disk->Write(0, bytes).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(disk->Trim({0, 1}).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(disk->Write(kSize, Bytes(bytes).first(1)).code(), absl::StatusCode::kPermissionDenied);
  // The file itself would refuse too.
  EXPECT_FALSE(FileBacked::Write(disk->state(), 0, bytes).ok());
  EXPECT_FALSE(FileBacked::WriteThrough(disk->state(), 0, bytes).ok());
  EXPECT_FALSE(FileBacked::Trim(disk->state(), {0, 4096}).ok());
}

TEST(FileBackedTest, ADiskRefusesWhatReachesPastTheEnd) {
  const std::string path = NewPath("past_end");
  auto disk = Disk<FileBacked>::Open({.path = path, .create = 1000});
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ(disk->Write(999, Pattern(2)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(disk->WriteZeroes({1000, 1}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(StatOf(path).st_size, 1000);
}

// ---- Operations, over every kind of file that the block size allows.

enum class Place { kTempDir, kTempDirDirect, kMemory };

// A device over one place.
template <class D, Place kPlace>
struct Over {
  using Device = D;
  static constexpr bool kDirect = kPlace == Place::kTempDirDirect;

  // A file of these bytes, opened.
  explicit Over(const Bytestring& bytes)
      : memory(kPlace == Place::kMemory ? bytes : Bytestring()),
        path(kPlace == Place::kMemory ? memory.path() : NewPath("operations")) {
    if (kPlace != Place::kMemory) MakeFile(path, bytes);
    Reopen();
  }
  void Reopen() {
    state = std::make_unique<typename D::State>();
    typename D::Config config;
    config.path = path;
    if constexpr (kDirect) config.direct = true;
    opened = D::Open(config, *state);
  }

  MemoryFile memory;
  std::string path;
  std::unique_ptr<typename D::State> state;
  absl::Status opened;
};

template <class O>
class FileOperationsTest : public ::testing::Test {};

using Places = ::testing::Types<Over<FileBacked, Place::kTempDir>, Over<FileBacked, Place::kMemory>,
                                Over<BasicFileBacked<512>, Place::kMemory>, Over<DirectFileBacked, Place::kTempDir>,
                                Over<DirectFileBacked, Place::kTempDirDirect>>;
TYPED_TEST_SUITE(FileOperationsTest, Places);

// Skips only where the file system refuses O_DIRECT.
#define OPEN_OR_SKIP(file)                                                                         \
  if (TypeParam::kDirect && !(file).opened.ok()) GTEST_SKIP() << "no O_DIRECT: " << (file).opened; \
  ASSERT_TRUE((file).opened.ok()) << (file).opened

TYPED_TEST(FileOperationsTest, EachChangesItsRangeAndNothingElse) {
  using D = typename TypeParam::Device;
  constexpr uint64_t kLength = 1 << 18;
  Bytestring expected = Pattern(kLength);
  TypeParam file(expected);
  OPEN_OR_SKIP(file);
  const uint64_t b = D::kBlockSize;
  const auto zero = [&](Range range) { std::fill_n(expected.begin() + range.offset, range.length, std::byte{0}); };
  const auto put = [&](uint64_t offset, ConstBytes in) { std::copy(in.begin(), in.end(), expected.begin() + offset); };
  // Around the edges of pages, and with memory that is aligned to nothing.
  for (const uint64_t offset : {uint64_t{0}, 4096 - b, uint64_t{4096}, 8192 + b, uint64_t{131072}, kLength - 8192}) {
    for (const uint64_t length : {b, 2 * b, uint64_t{4096}, uint64_t{8192}}) {
      if (offset % b != 0 || offset + length > kLength) continue;
      for (const size_t shift : {0, 1}) {
        const Bytestring memory = Pattern(length + shift, static_cast<unsigned>(offset + length));
        const ConstBytes in = ConstBytes(memory).subspan(shift);
        ASSERT_TRUE(D::Write(*file.state, offset, in).ok());
        put(offset, in);
        ASSERT_EQ(Contents<D>(*file.state), expected) << "Write " << offset << " " << length;
        Bytestring out(length + shift);
        ASSERT_TRUE(D::Read(*file.state, offset, Bytes(out).subspan(shift)).ok());
        ASSERT_TRUE(std::equal(in.begin(), in.end(), out.begin() + shift));
      }
      const Range range = {offset, length};
      ASSERT_TRUE(D::Trim(*file.state, range).ok());
      zero(range);
      ASSERT_EQ(Contents<D>(*file.state), expected) << "Trim " << offset << " " << length;
      const Bytestring in = Pattern(length, 7);
      const absl::Status through = D::WriteThrough(*file.state, offset, in);
      ASSERT_TRUE(through.ok()) << through;
      put(offset, in);
      ASSERT_EQ(Contents<D>(*file.state), expected) << "WriteThrough " << offset << " " << length;
      ASSERT_TRUE(D::WriteZeroes(*file.state, range).ok());
      zero(range);
      ASSERT_EQ(Contents<D>(*file.state), expected) << "WriteZeroes " << offset << " " << length;
      ASSERT_TRUE(D::Prefetch(*file.state, range).ok());
      ASSERT_TRUE(D::Write(*file.state, offset, in).ok());
      put(offset, in);
    }
  }
  ASSERT_TRUE(D::Flush(*file.state).ok());
  file.Reopen();
  ASSERT_TRUE(file.opened.ok()) << file.opened;
  EXPECT_EQ(Contents<D>(*file.state), expected);
}

TYPED_TEST(FileOperationsTest, TrimReleasesSpaceAndWriteZeroesKeepsIt) {
  using D = typename TypeParam::Device;
  TypeParam file(Pattern(kSize));
  OPEN_OR_SKIP(file);
  ASSERT_TRUE(D::Flush(*file.state).ok());
  const auto blocks = StatOf(file.path).st_blocks;
  ASSERT_TRUE(D::WriteZeroes(*file.state, {0, kSize / 2}).ok());
  ASSERT_TRUE(D::Flush(*file.state).ok());
  EXPECT_GE(StatOf(file.path).st_blocks, blocks);
  if (!PunchHole(file.state->fd.get(), {kSize - 4096, 4096}, "").ok()) GTEST_SKIP() << "this file system has no holes";
  ASSERT_TRUE(D::Trim(*file.state, {0, kSize / 2}).ok());
  EXPECT_LE(StatOf(file.path).st_blocks, blocks - static_cast<blkcnt_t>(kSize / 2 / 512));
  EXPECT_EQ(StatOf(file.path).st_size, static_cast<off_t>(kSize));
}

TYPED_TEST(FileOperationsTest, ExtentsShowTheHoles) {
  using D = typename TypeParam::Device;
  TypeParam file(Pattern(kSize));
  OPEN_OR_SKIP(file);
  if (!PunchHole(file.state->fd.get(), {65536, 65536}, "").ok()) GTEST_SKIP() << "this file system has no holes";
  ASSERT_TRUE(PunchHole(file.state->fd.get(), {kSize - 65536, 65536}, "").ok());
  std::vector<Extent> seen;
  const auto collect = [&](const Extent& extent) { return seen.push_back(extent), true; };
  ASSERT_TRUE(D::Extents(*file.state, {0, kSize}, collect).ok());
  EXPECT_EQ(seen, (std::vector<Extent>{{{0, 65536}, Extent::Kind::kData},
                                       {{65536, 65536}, Extent::Kind::kHole},
                                       {{131072, kSize - 196608}, Extent::Kind::kData},
                                       {{kSize - 65536, 65536}, Extent::Kind::kHole}}));
  // Clipped to the range, from within an extent.
  seen.clear();
  ASSERT_TRUE(D::Extents(*file.state, {61440, 8192}, collect).ok());
  EXPECT_EQ(seen, (std::vector<Extent>{{{61440, 4096}, Extent::Kind::kData}, {{65536, 4096}, Extent::Kind::kHole}}));
  seen.clear();
  ASSERT_TRUE(D::Extents(*file.state, {69632, 4096}, collect).ok());
  EXPECT_EQ(seen, (std::vector<Extent>{{{69632, 4096}, Extent::Kind::kHole}}));
  // The receiver may stop.
  int calls = 0;
  ASSERT_TRUE(D::Extents(*file.state, {0, kSize}, [&](const Extent&) { return ++calls < 2; }).ok());
  EXPECT_EQ(calls, 2);
}

TYPED_TEST(FileOperationsTest, WhatThePageCacheHoldsNeedsNoWaiting) {
  using D = typename TypeParam::Device;
  TypeParam file(Pattern(kSize));
  OPEN_OR_SKIP(file);
  alignas(4096) static std::array<std::byte, 8192> out, in;
  std::fill(in.begin(), in.end(), std::byte{9});
  EXPECT_EQ(D::TryWrite(*file.state, 4096, in), !TypeParam::kDirect) << "what is written directly goes to the medium";
  EXPECT_FALSE(D::TryRead(*file.state, kSize - 4096, out)) << "past the end, as after somebody cut it off";
  ASSERT_TRUE(D::Read(*file.state, 4096, out).ok());
  const std::byte written = TypeParam::kDirect ? Pattern(kSize)[4096] : std::byte{9};
  EXPECT_EQ(out[0], written);
  if (TypeParam::kDirect) {
    EXPECT_FALSE(D::TryRead(*file.state, 4096, out));
    return;
  }
  // Whether a file system tells is up to it; what it hands over is right.
  out = {};
  if (!D::TryRead(*file.state, 4096, out)) GTEST_SKIP() << "this file system does not tell what is in the page cache";
  EXPECT_EQ(out, in);
  ASSERT_TRUE(D::Flush(*file.state).ok());
  ASSERT_EQ(posix_fadvise(file.state->fd.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
  if (D::TryRead(*file.state, 4096, out)) GTEST_SKIP() << "this file system kept it in the page cache";
  ASSERT_TRUE(D::Read(*file.state, 4096, out).ok());
  EXPECT_EQ(out, in);
  EXPECT_TRUE(D::TryRead(*file.state, 4096, out));
}

TYPED_TEST(FileOperationsTest, AFileTruncatedBeneathIsAnErrorThatNamesTheOffset) {
  using D = typename TypeParam::Device;
  TypeParam file(Pattern(kSize));
  OPEN_OR_SKIP(file);
  ASSERT_EQ(truncate(file.path.c_str(), 8192), 0);
  Bytestring out(8192);
  absl::Status status = D::Read(*file.state, 4096, out);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  EXPECT_THAT(Message(status), AllOf(HasSubstr(file.path), HasSubstr("at offset 8192: the file ends there")));
  status = D::Extents(*file.state, {4096, 8192}, [](const Extent&) { return true; });
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  EXPECT_TRUE(D::Read(*file.state, 0, out).ok());
  EXPECT_EQ(out, Pattern(8192));
}

TEST(FileBackedTest, AFileIsCutOffAndExtended) {
  const std::string path = NewPath("resized");
  MakeFile(path, Pattern(kSize));
  DirectFileBacked::State state;
  ASSERT_TRUE(DirectFileBacked::Open({.path = path}, state).ok());
  Bytestring expected = Pattern(kSize);
  for (uint64_t size : {kSize / 2, 3 * kSize, uint64_t{4096}, uint64_t{1} << 40, kSize}) {
    ASSERT_TRUE(DirectFileBacked::Resize(state, size).ok()) << size;
    EXPECT_EQ(DirectFileBacked::Size(state), size);
    EXPECT_EQ(static_cast<uint64_t>(StatOf(path).st_size), size);
    expected.resize(std::min(size, 4 * kSize), std::byte{0});
    Bytestring found(expected.size());
    ASSERT_TRUE(DirectFileBacked::Read(state, 0, found).ok());
    EXPECT_EQ(found, expected) << "what was added is empty";
  }
  for (uint64_t size : {uint64_t{0}, kSize + 1, uint64_t{1} << 63}) {
    EXPECT_EQ(DirectFileBacked::Resize(state, size).code(), absl::StatusCode::kInvalidArgument) << size;
    EXPECT_EQ(DirectFileBacked::Size(state), kSize);
  }
  // What others have appended is not what was added.
  ASSERT_TRUE(WriteFully(state.fd.get(), kSize, Pattern(kSize), path).ok());
  ASSERT_TRUE(DirectFileBacked::Resize(state, 2 * kSize).ok());
  Bytestring added(kSize);
  ASSERT_TRUE(DirectFileBacked::Read(state, kSize, added).ok());
  EXPECT_EQ(added, Bytestring(kSize));
}

TYPED_TEST(FileOperationsTest, BackingNamesTheVeryBytes) {
  using D = typename TypeParam::Device;
  const Bytestring bytes = Pattern(kSize);
  TypeParam file(bytes);
  OPEN_OR_SKIP(file);
  const std::optional<FileRange> backing = D::Backing(*file.state, {8192, 4096});
  ASSERT_EQ(backing.has_value(), !TypeParam::kDirect);
  if (!backing) return;
  Bytestring out(4096);
  ASSERT_TRUE(ReadFully(backing->fd, backing->offset, out, "").ok());
  EXPECT_TRUE(std::equal(out.begin(), out.end(), bytes.begin() + 8192));
}

// Fails the system call number N of a row of operations, for each N.
TYPED_TEST(FileOperationsTest, EachFailedSystemCallSurfacesAndTouchesNothingElse) {
  using D = typename TypeParam::Device;
  const Bytestring before = Pattern(65536);
  const Bytestring in = Pattern(4096, 99);
  const std::vector<int> numbers = {SYS_pread64,   SYS_pwrite64,  SYS_pwritev2, SYS_fallocate,
                                    SYS_fdatasync, SYS_fadvise64, SYS_lseek};
  bool fired = true;
  for (int n = 0; fired; ++n) {
    TypeParam file(before);
    OPEN_OR_SKIP(file);
    typename D::State& self = *file.state;
    int calls = 0;
    std::vector<absl::Status> results;
    const auto fail_nth = [&](const SystemCall&) -> int64_t { return calls++ == n ? -EIO : kProceed; };
    if (!Intercept(numbers, fail_nth, [&] {
          Bytestring out(4096);
          results = {D::Write(self, 0, in),        D::WriteThrough(self, 8192, in),
                     D::Trim(self, {16384, 4096}), D::WriteZeroes(self, {24576, 4096}),
                     D::Read(self, 32768, out),    D::Extents(self, {0, 65536}, [](const Extent&) { return true; }),
                     D::Prefetch(self, {0, 4096}), D::Flush(self)};
        })) {
      GTEST_SKIP() << "this system does not let a test intercept system calls";
    }
    fired = n < calls;
    const auto failed = std::find_if_not(results.begin(), results.end(), [](const absl::Status& s) { return s.ok(); });
    ASSERT_EQ(failed != results.end(), fired) << "call " << n;
    Bytestring expected = before;
    std::copy(in.begin(), in.end(), expected.begin());
    std::copy(in.begin(), in.end(), expected.begin() + 8192);
    std::fill_n(expected.begin() + 16384, 4096, std::byte{0});
    std::fill_n(expected.begin() + 24576, 4096, std::byte{0});
    Bytestring after = Contents<D>(self);
    if (fired) {
      EXPECT_EQ(failed->code(), absl::StatusCode::kInternal) << *failed;
      EXPECT_THAT(Message(*failed), HasSubstr(file.path));
      EXPECT_TRUE(std::all_of(failed + 1, results.end(), [](const absl::Status& s) { return s.ok(); })) << "call " << n;
      // The failed change's own range may hold anything.
      const size_t own = (failed - results.begin()) * 8192;
      if (own <= 24576) std::copy_n(after.begin() + own, 4096, expected.begin() + own);
    }
    EXPECT_EQ(after, expected) << "call " << n;
    EXPECT_TRUE(D::Write(self, 0, in).ok());
    EXPECT_TRUE(D::WriteThrough(self, 8192, in).ok());
    EXPECT_EQ(D::Flush(self).ok(), results.back().ok()) << "only a failed flush makes the next one fail";
  }
}

// ---- Durability.

TEST(FileBackedTest, AfterAFailedFlushEveryLaterOneFailsUntilReopened) {
  const std::string path = NewPath("flush");
  auto state_owner = std::make_unique<FileBacked::State>();
  FileBacked::State& state = *state_owner;
  ASSERT_TRUE(FileBacked::Open({.path = path, .create = kSize}, state).ok());
  int syncs = 0;
  absl::Status first;
  if (!Intercept(
          {SYS_fdatasync}, [&](const SystemCall&) -> int64_t { return ++syncs, -EIO; },
          [&] { first = FileBacked::Flush(state); })) {
    GTEST_SKIP() << "this system does not let a test intercept system calls";
  }
  EXPECT_EQ(syncs, 1);
  EXPECT_EQ(first.code(), absl::StatusCode::kInternal);
  // From here on the system would say OK: the data it could not write is no longer marked as unwritten.
  for (int i = 0; i < 3; ++i) {
    const absl::Status status = FileBacked::Flush(state);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(Message(status), AllOf(HasSubstr(path), HasSubstr("earlier flush failed"), HasSubstr("open the file again")));
  }
  EXPECT_TRUE(FileBacked::Write(state, 0, Pattern(10)).ok());
  EXPECT_TRUE(FileBacked::WriteThrough(state, 0, Pattern(10)).ok());
  Bytestring out(10);
  EXPECT_TRUE(FileBacked::Read(state, 0, out).ok());
  state_owner.reset();
  FileBacked::State reopened;
  ASSERT_TRUE(FileBacked::Open({.path = path}, reopened).ok());
  EXPECT_TRUE(FileBacked::Flush(reopened).ok());
}

TEST(FileBackedTest, FlushAndWriteThroughReachTheMedium) {
  const std::string path = NewPath("durable");
  FileBacked::State state;
  ASSERT_TRUE(FileBacked::Open({.path = path, .create = kSize}, state).ok());
  std::vector<std::pair<int, uint64_t>> calls;  // number and descriptor
  bool flags_known = true;
  const auto decide = [&](const SystemCall& call) -> int64_t {
    calls.emplace_back(call.number, call.arguments[0]);
    return call.number == SYS_pwritev2 && !flags_known ? -EOPNOTSUPP : kProceed;
  };
  const std::vector<int> numbers = {SYS_pwrite64, SYS_pwritev2, SYS_fdatasync};
  absl::Status status;
  if (!Intercept(numbers, decide, [&] { status = FileBacked::WriteThrough(state, 5, Pattern(10)); })) {
    GTEST_SKIP() << "this system does not let a test intercept system calls";
  }
  const auto fd = static_cast<uint64_t>(state.fd.get());
  const auto write_through_fd = static_cast<uint64_t>(state.write_through_fd.get());
  using Calls = std::vector<std::pair<int, uint64_t>>;
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(calls, (Calls{{SYS_pwritev2, write_through_fd}}));

  calls.clear();
  Intercept(numbers, decide, [&] { status = FileBacked::Flush(state); });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(calls, (Calls{{SYS_fdatasync, fd}}));

  calls.clear();
  flags_known = false;
  Intercept(numbers, decide, [&] { status = FileBacked::WriteThrough(state, 100, Pattern(10)); });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(calls, (Calls{{SYS_pwritev2, write_through_fd}, {SYS_pwrite64, fd}, {SYS_fdatasync, fd}}));
  Bytestring out(10);
  ASSERT_TRUE(FileBacked::Read(state, 100, out).ok());
  EXPECT_EQ(out, Pattern(10));
}

TEST(FileBackedTest, AFailedWriteThroughLeavesFlushWorking) {
  FileBacked::State state;
  ASSERT_TRUE(FileBacked::Open({.path = NewPath("through"), .create = kSize}, state).ok());
  absl::Status status;
  if (!Intercept(
          {SYS_pwritev2}, [&](const SystemCall&) -> int64_t { return -ENOSPC; },
          [&] { status = FileBacked::WriteThrough(state, 0, Pattern(10)); })) {
    GTEST_SKIP() << "this system does not let a test intercept system calls";
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(FileBacked::Flush(state).ok());
}

TEST(FileBackedTest, OneFlushAtATime) {
  FileBacked::State state;
  ASSERT_TRUE(FileBacked::Open({.path = NewPath("flushes"), .create = kSize}, state).ok());
  // While one flush fails, another one waits, and must not be told that all is well.
  absl::Status first;
  absl::Status second;
  std::thread other;
  const auto fail = [&](const SystemCall&) -> int64_t {
    other = std::thread([&] { second = FileBacked::Flush(state); });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return -EIO;
  };
  if (!Intercept({SYS_fdatasync}, fail, [&] { first = FileBacked::Flush(state); })) {
    GTEST_SKIP() << "this system does not let a test intercept system calls";
  }
  other.join();
  EXPECT_FALSE(first.ok());
  EXPECT_FALSE(second.ok());
}

// ---- What the file system lacks, or has no room for.

TEST(FileBackedTest, WithoutHolesZeroesAreWritten) {
  Bytestring expected = Pattern(kSize);
  const MemoryFile file(expected);
  FileBacked::State state;
  ASSERT_TRUE(FileBacked::Open({.path = file.path()}, state).ok());
  const auto blocks = StatOf(file.path()).st_blocks;
  absl::Status trimmed;
  absl::Status zeroed;
  if (!Intercept(
          {SYS_fallocate}, [](const SystemCall&) -> int64_t { return -EOPNOTSUPP; },
          [&] {
            trimmed = FileBacked::Trim(state, {1000, 200000});
            zeroed = FileBacked::WriteZeroes(state, {300001, 65537});
          })) {
    GTEST_SKIP() << "this system does not let a test intercept system calls";
  }
  EXPECT_TRUE(trimmed.ok()) << trimmed;
  EXPECT_TRUE(zeroed.ok()) << zeroed;
  std::fill_n(expected.begin() + 1000, 200000, std::byte{0});
  std::fill_n(expected.begin() + 300001, 65537, std::byte{0});
  EXPECT_EQ(Contents<FileBacked>(state), expected);
  EXPECT_EQ(StatOf(file.path()).st_blocks, blocks);
}

TEST(FileBackedTest, PartialBlocksAreNotHoles) {
  const MemoryFile file(Pattern(65536));
  FileBacked::State bytes;
  ASSERT_TRUE(FileBacked::Open({.path = file.path(), .read_only = true}, bytes).ok());
  DirectFileBacked::State blocks;
  ASSERT_TRUE(DirectFileBacked::Open({.path = file.path(), .read_only = true}, blocks).ok());
  std::vector<Extent> seen;
  // What SEEK_DATA and SEEK_HOLE would say on a file system of 1 KiB blocks: data in [0, 5 KiB) and from 15 KiB on.
  const auto seek = [](const SystemCall& call) -> int64_t {
    const uint64_t at = call.arguments[1];
    const bool hole = at >= 5120 && at < 15360;
    if (call.arguments[2] == SEEK_DATA) return static_cast<int64_t>(hole ? 15360 : at);
    return static_cast<int64_t>(hole ? at : at < 5120 ? 5120 : 65536);
  };
  const auto collect = [&](const Extent& extent) { return seen.push_back(extent), true; };
  if (!Intercept({SYS_lseek}, seek, [&] { EXPECT_TRUE(DirectFileBacked::Extents(blocks, {0, 65536}, collect).ok()); })) {
    GTEST_SKIP() << "this system does not let a test intercept system calls";
  }
  EXPECT_EQ(seen,
            (std::vector<Extent>{
                {{0, 8192}, Extent::Kind::kData}, {{8192, 4096}, Extent::Kind::kHole}, {{12288, 53248}, Extent::Kind::kData}}));
  seen.clear();
  Intercept({SYS_lseek}, seek, [&] { EXPECT_TRUE(FileBacked::Extents(bytes, {0, 65536}, collect).ok()); });
  EXPECT_EQ(seen, (std::vector<Extent>{{{0, 5120}, Extent::Kind::kData},
                                       {{5120, 10240}, Extent::Kind::kHole},
                                       {{15360, 50176}, Extent::Kind::kData}}));
}

TEST(FileBackedTest, AHolePunchedDuringExtentsDoesNotStopThem) {
  const MemoryFile file(Pattern(65536));
  FileBacked::State state;
  ASSERT_TRUE(FileBacked::Open({.path = file.path()}, state).ok());
  // Data when asked for data, and a hole right there when asked for a hole.
  uint64_t end = 0;
  if (!Intercept(
          {SYS_lseek}, [](const SystemCall& call) { return static_cast<int64_t>(call.arguments[1]); },
          [&] {
            EXPECT_TRUE(FileBacked::Extents(state, {100, 3}, [&](const Extent& extent) {
                          EXPECT_GT(extent.range.length, 0u);
                          end = extent.range.end();
                          return true;
                        }).ok());
          })) {
    GTEST_SKIP() << "this system does not let a test intercept system calls";
  }
  EXPECT_EQ(end, 103u);
}

TEST(FileBackedTest, ASealedFileFailsEachChangeAndStaysReadable) {
  const MemoryFile file(Pattern(kSize));
  FileBacked::State state;
  ASSERT_TRUE(FileBacked::Open({.path = file.path()}, state).ok());
  ASSERT_EQ(fcntl(file.fd(), F_ADD_SEALS, F_SEAL_WRITE), 0);
  EXPECT_EQ(FileBacked::Write(state, 0, Pattern(10)).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(FileBacked::WriteThrough(state, 0, Pattern(10)).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(FileBacked::Trim(state, {0, 4096}).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(FileBacked::WriteZeroes(state, {0, 4096}).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(Contents<FileBacked>(state), Pattern(kSize));
  EXPECT_TRUE(FileBacked::Flush(state).ok());
}

// Files of this process end at `limit`, for as long as the object lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(uint64_t limit) : old_handler_(signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit now = {limit, old_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &now), 0);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_ = {};
  void (*old_handler_)(int);
};

TEST(FileBackedTest, NoSpaceIsAnErrorAndLaterCallsWork) {
  const uint64_t limit = 4 << 20;
  const std::string path = NewPath("no_space");
  FileBacked::State state;
  ASSERT_TRUE(FileBacked::Open({.path = path, .create = 2 * limit}, state).ok());
  const std::string too_large = NewPath("too_large");
  {
    const FileSizeLimit limited(limit);
    // The first half still fits.
    absl::Status status = FileBacked::Write(state, limit - 100, Pattern(200));
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(Message(status), HasSubstr("cannot write 100 bytes at offset 4194304"));
    EXPECT_EQ(FileBacked::WriteThrough(state, limit, Pattern(1)).code(), absl::StatusCode::kResourceExhausted);
    EXPECT_TRUE(FileBacked::Write(state, 0, Pattern(10)).ok());

    FileBacked::State other;
    status = FileBacked::Open({.path = too_large, .create = 2 * limit}, other);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(Message(status), HasSubstr("cannot create a file of 8388608 bytes"));
    EXPECT_FALSE(Exists(too_large)) << "half a file is not left behind";
  }
  EXPECT_TRUE(FileBacked::Write(state, limit, Pattern(10)).ok());
  EXPECT_TRUE(FileBacked::Flush(state).ok());
  FileBacked::State other;
  EXPECT_EQ(FileBacked::Open({.path = too_large, .create = UINT64_MAX}, other).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Exists(too_large));
}

TEST(FileBackedTest, DirectIsRefusedWhereBlocksAreTooSmall) {
  const std::string path = NewPath("direct_small");
  MakeFile(path, Pattern(8192));
  const UniqueFd probe(open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
  if (!probe.valid()) GTEST_SKIP() << "this file system refuses O_DIRECT: " << std::strerror(errno);
  const absl::Status status = Disk<BasicFileBacked<2>>::Open({.path = path, .direct = true}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), AllOf(HasSubstr(path), HasSubstr("O_DIRECT"), HasSubstr("block size of this device is 2 ")));
  BasicFileBacked<2>::State buffered;
  EXPECT_TRUE(BasicFileBacked<2>::Open({.path = path}, buffered).ok());
}

// ---- A block device, where the test may make one.

// Attaches `path` to a loop device that detaches itself. Returns its path, or nothing.
std::string AttachLoop(const std::string& path, uint32_t sector, UniqueFd& keep) {
  const UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  const int number = control.valid() ? ioctl(control.get(), LOOP_CTL_GET_FREE) : -1;
  if (number < 0) return "";
  const std::string name = "/dev/loop" + std::to_string(number);
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
  keep.reset(open(name.c_str(), O_RDWR | O_CLOEXEC));
  loop_config config = {};
  config.fd = static_cast<uint32_t>(file.get());
  config.block_size = sector;
  config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
  if (!keep.valid() || ioctl(keep.get(), LOOP_CONFIGURE, &config) != 0) return "";
  return name;
}

TEST(FileBackedTest, ABlockDeviceIsClaimedAndKeepsBytes) {
  const std::string path = NewPath("loop");
  Bytestring expected = Pattern(kSize);
  MakeFile(path, expected);
  UniqueFd keep;
  const std::string name = AttachLoop(path, 4096, keep);
  if (name.empty()) GTEST_SKIP() << "this user cannot make a loop device: " << std::strerror(errno);
  const absl::Status refused = Disk<BasicFileBacked<512>>::Open({.path = name, .direct = true}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(refused), AllOf(HasSubstr("4096"), HasSubstr("512")));

  const auto disk = [&](auto device, bool direct) {
    using D = decltype(device);
    typename D::Config config;
    config.path = name;
    if constexpr (D::kBlockSize > 1) config.direct = direct;
    typename D::State state;
    const absl::Status opened = D::Open(config, state);
    ASSERT_TRUE(opened.ok()) << opened;
    EXPECT_EQ(D::Size(state), kSize);
    typename D::State second;
    const absl::Status in_use = D::Open(config, second);
    EXPECT_EQ(in_use.code(), absl::StatusCode::kAlreadyExists) << in_use;
    const uint64_t b = D::kBlockSize;
    const Range trim = {4096 - b, 12288 + b};
    ASSERT_TRUE(D::Trim(state, trim).ok());
    std::fill_n(expected.begin() + trim.offset, trim.length, std::byte{0});
    ASSERT_TRUE(D::WriteZeroes(state, {65536 + b, 4096}).ok());
    std::fill_n(expected.begin() + 65536 + b, 4096, std::byte{0});
    const Bytestring in = Pattern(4096 + b, 3);
    ASSERT_TRUE(D::WriteThrough(state, 32768 + b, in).ok());
    std::copy(in.begin(), in.end(), expected.begin() + 32768 + b);
    EXPECT_EQ(Contents<D>(state), expected);
    ASSERT_TRUE(D::Flush(state).ok());
    std::vector<Extent> seen;
    EXPECT_TRUE(D::Extents(state, {0, kSize}, [&](const Extent& extent) { return seen.push_back(extent), true; }).ok());
    EXPECT_EQ(seen, (std::vector<Extent>{{{0, kSize}, Extent::Kind::kData}}));
  };
  disk(FileBacked{}, false);
  disk(DirectFileBacked{}, false);
  disk(DirectFileBacked{}, true);
  FileBacked::State resized;
  ASSERT_TRUE(FileBacked::Open({.path = name}, resized).ok());
  const absl::Status larger = FileBacked::Resize(resized, kSize + 4096);
  EXPECT_EQ(larger.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(larger), HasSubstr("extend it first"));
  ASSERT_TRUE(FileBacked::Resize(resized, kSize / 2).ok());
  ASSERT_TRUE(FileBacked::Resize(resized, kSize).ok());
  std::fill(expected.begin() + kSize / 2, expected.end(), std::byte{0});
  EXPECT_EQ(Contents<FileBacked>(resized), expected);
  resized.fd.reset();
  resized.write_through_fd.reset();
  FileBacked::State other_size;
  EXPECT_EQ(FileBacked::Open({.path = name, .create = 2 * kSize}, other_size).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace buse::testing

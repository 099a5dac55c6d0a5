// SPDX-License-Identifier: Apache-2.0
//
// Recording: what is written down, byte for byte in the file, and what is replayed from it.

#include "layers/recording.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "buse/gather.h"
#include "gtest/gtest.h"
#include "layers/observer.h"
#include "layers/operation.h"
#include "layers/write_log.h"
#include "tests/buse/intercept.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"
#include "tests/steer.h"

template struct buse::Recording<buse::testing::Full>;
template struct buse::Recording<buse::testing::BasicFull<4096, buse::Concurrency::kParallel>>;

namespace buse::testing {
namespace {

static_assert(kCapabilities<Recording<Full>> == kEverythingObserved);
static_assert(kCapabilities<Recording<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Recording<Bare>> == kNothing);
static_assert(Recording<Full>::kBlockSize == 512);
static_assert(Recording<BasicFull<4096, Concurrency::kParallel>>::kBlockSize == 4096);
static_assert(Recording<BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);
static_assert(std::is_move_constructible_v<WriteLogReader> && !std::is_copy_constructible_v<WriteLogReader>);

using Stack = Recording<Full>;
using Buffer = std::vector<std::byte>;

Buffer Filled(size_t size, int value) { return Buffer(size, static_cast<std::byte>(value)); }

class RecordingTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kSize = 8192;

  RecordingTest() : path_(std::string(::testing::TempDir()) + "/recording-" + std::to_string(getpid())) {
    unlink(path_.c_str());
  }
  ~RecordingTest() override { unlink(path_.c_str()); }

  void Open() {
    ASSERT_TRUE(Stack::Open({.log = path_, .record = &record_, .below = {.size = kSize, .script = &script_}}, state_).ok());
  }

  std::string Log() {
    std::ifstream file(path_, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

  void WriteFile(const std::string& bytes) { std::ofstream(path_, std::ios::binary) << bytes; }

  // The medium after the first `entries` entries.
  Buffer Replayed(uint64_t entries) {
    absl::StatusOr<WriteLogReader> log = WriteLogReader::Open(path_);
    EXPECT_TRUE(log.ok()) << log.status();
    Script script;
    Full::State state;
    EXPECT_TRUE(Full::Open({.size = kSize, .script = &script}, state).ok());
    const absl::Status status = Replay<Full>(*log, entries, state);
    EXPECT_TRUE(status.ok()) << status;
    return script.medium;
  }

  const std::string path_;
  Script script_;
  Record record_;
  Stack::State state_;
};

TEST_F(RecordingTest, EveryOperationArrivesBelowUnchangedAndIsKept) {
  Open();
  Buffer bytes = Filled(512, 1);
  Gather gather;
  EXPECT_EQ(Stack::Size(state_), kSize);
  EXPECT_TRUE(Stack::Write(state_, 512, bytes).ok());
  EXPECT_TRUE(Stack::WriteThrough(state_, 1024, bytes).ok());
  EXPECT_TRUE(Stack::Flush(state_).ok());
  EXPECT_TRUE(Stack::Trim(state_, {0, 512}).ok());
  EXPECT_TRUE(Stack::WriteZeroes(state_, {512, 512}).ok());
  EXPECT_TRUE(Stack::Extents(state_, {0, 512}, [](const Extent&) { return true; }).ok());
  EXPECT_TRUE(Stack::Prefetch(state_, {0, 1024}).ok());
  EXPECT_TRUE(Stack::View(state_, {0, 512}, gather).ok());
  EXPECT_TRUE(Stack::Read(state_, 2048, bytes).ok());
  EXPECT_TRUE(Stack::Resize(state_, 4096).ok());
  EXPECT_EQ(script_.calls, (std::vector<Call>{{"Write", {512, 512}},
                                              {"WriteThrough", {1024, 512}},
                                              {"Flush", {}},
                                              {"Trim", {0, 512}},
                                              {"WriteZeroes", {512, 512}},
                                              {"Extents", {0, 512}},
                                              {"Prefetch", {0, 1024}},
                                              {"View", {0, 512}},
                                              {"Read", {2048, 512}},
                                              {"Resize", {0, 4096}}}));
  const auto kOk = absl::StatusCode::kOk;
  EXPECT_EQ(record_.entries, (std::vector<Record::Entry>{{Operation::kWrite, {512, 512}, Filled(512, 1), kOk},
                                                         {Operation::kWriteThrough, {1024, 512}, Filled(512, 1), kOk},
                                                         {Operation::kFlush, {}, {}, kOk},
                                                         {Operation::kTrim, {0, 512}, {}, kOk},
                                                         {Operation::kWriteZeroes, {512, 512}, {}, kOk},
                                                         {Operation::kExtents, {0, 512}, {}, kOk},
                                                         {Operation::kPrefetch, {0, 1024}, {}, kOk},
                                                         {Operation::kView, {0, 512}, {}, kOk},
                                                         {Operation::kRead, {2048, 512}, {}, kOk},
                                                         {Operation::kResize, {0, 4096}, {}, kOk}}));
}

// Against literals, from the kernel's documentation and source of dm-log-writes.
TEST_F(RecordingTest, TheFileIsALogAsTheKernelMakesIt) {
  Open();
  ASSERT_TRUE(Stack::Write(state_, 1024, Filled(512, 'w')).ok());
  ASSERT_TRUE(Stack::WriteThrough(state_, 512, Filled(1024, 'f')).ok());
  ASSERT_TRUE(Stack::Trim(state_, {2048, 1536}).ok());
  ASSERT_TRUE(Stack::Flush(state_).ok());
  ASSERT_TRUE(Stack::WriteZeroes(state_, {512, 512}).ok());
  ASSERT_TRUE(Stack::Resize(state_, 4096).ok());
  const auto number = [](uint64_t value) {
    std::string text;
    for (int i = 0; i < 8; ++i, value >>= 8) text.push_back(static_cast<char>(value));
    return text;
  };
  const auto sector = [](std::string text) {
    text.resize(512);
    return text;
  };
  const std::string expected = sector(std::string("rhswfsj\0", 8) + number(1) + number(6) + std::string("\0\2\0\0", 4)) +
                               sector(number(2) + number(1) + number(0) + number(0)) + std::string(512, 'w') +
                               sector(number(1) + number(2) + number(2) + number(0)) + std::string(1024, 'f') +
                               sector(number(4) + number(3) + number(4) + number(0)) +  // a discard has no data
                               sector(number(0) + number(0) + number(1) + number(0)) +
                               sector(number(1) + number(1) + number(0) + number(0)) + std::string(512, '\0') +
                               sector(number(0) + number(0) + number(8) + number(11) + "resize 4096");
  EXPECT_TRUE(Log() == expected);
}

// All entries of the log.
std::vector<WriteLogEntry> ReadLog(const std::string& path) {
  absl::StatusOr<WriteLogReader> log = WriteLogReader::Open(path);
  EXPECT_TRUE(log.ok()) << log.status();
  std::vector<WriteLogEntry> entries;
  while (log.ok()) {
    absl::StatusOr<std::optional<WriteLogEntry>> entry = log->Next();
    EXPECT_TRUE(entry.ok()) << entry.status();
    if (!entry.ok() || !entry->has_value()) break;
    entries.push_back(**entry);
  }
  return entries;
}

TEST_F(RecordingTest, AFlushStandsWhereItBeganAndIsOneWhenItHasEnded) {
  using Stack = Recording<Steer<Full>>;
  Stack::State state;
  uint64_t flags_during = 99;
  Steering steering = [&](const Request& request, absl::FunctionRef<absl::Status()> next) {
    if (request.operation == Operation::kFlush) {
      EXPECT_TRUE(Stack::Write(state, 512, Filled(512, 2)).ok());
      flags_during = ReadLog(path_).at(1).flags;
    }
    return next();
  };
  ASSERT_TRUE(
      Stack::Open({.log = path_, .record = &record_, .below = {.steering = &steering, .below = {.size = kSize}}}, state).ok());
  ASSERT_TRUE(Stack::Write(state, 0, Filled(512, 1)).ok());
  ASSERT_TRUE(Stack::Flush(state).ok());
  const std::vector<WriteLogEntry> entries = ReadLog(path_);
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].range.offset, 0u);
  EXPECT_EQ(entries[1].flags, kLogFlush);
  EXPECT_EQ(flags_during, 0u) << "what has not ended is no flush";
  EXPECT_EQ(entries[2].range.offset, 512u);
  // In memory it stands where it ended.
  ASSERT_EQ(record_.entries.size(), 3u);
  EXPECT_EQ(record_.entries[1].range.offset, 512u);
  EXPECT_EQ(record_.entries[2].operation, Operation::kFlush);
}

TEST_F(RecordingTest, ChangesOfEachCallerStandInItsOrder) {
  constexpr int kThreads = 4;
  constexpr int kEach = 100;
  Open();
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        EXPECT_TRUE(Stack::Write(state_, 512 * t, Filled(512, i)).ok());
        if (i % 10 == 0) {
          EXPECT_TRUE(Stack::Flush(state_).ok());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::array<int, kThreads> next{};
  int flushes = 0;
  for (const WriteLogEntry& entry : ReadLog(path_)) {
    flushes += entry.flags == kLogFlush;
    if (entry.range.length == 0) continue;
    EXPECT_EQ(entry.data, Filled(512, next.at(entry.range.offset / 512)++));
  }
  EXPECT_EQ(next, (std::array<int, kThreads>{kEach, kEach, kEach, kEach}));
  EXPECT_EQ(flushes, kThreads * kEach / 10);
  std::array<int, kThreads> kept{};
  for (const Record::Entry& entry : record_.entries) {
    if (entry.operation != Operation::kWrite) continue;
    EXPECT_EQ(entry.in, Filled(512, kept.at(entry.range.offset / 512)++));
  }
  EXPECT_EQ(kept, next);
}

TEST_F(RecordingTest, AfterTheProgramIsKilledTheFileHoldsAllThatWasAcknowledged) {
  int acknowledged[2];
  ASSERT_EQ(pipe(acknowledged), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    Stack::State state;
    if (!Stack::Open({.log = path_, .below = {.size = kSize}}, state).ok()) _exit(1);
    for (int i = 0;; ++i) {
      if (!Stack::Write(state, i % 16 * 512, Filled(512, i)).ok()) _exit(1);
      const char byte = 0;
      if (write(acknowledged[1], &byte, 1) != 1) _exit(1);
    }
  }
  close(acknowledged[1]);
  size_t count = 0;
  char byte;
  while (count < 300 && read(acknowledged[0], &byte, 1) == 1) ++count;
  EXPECT_EQ(kill(child, SIGKILL), 0);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
  while (read(acknowledged[0], &byte, 1) == 1) ++count;
  close(acknowledged[0]);
  const std::vector<WriteLogEntry> entries = ReadLog(path_);
  ASSERT_GE(count, 300u);
  EXPECT_GE(entries.size(), count);
  EXPECT_LE(entries.size(), count + 1) << "one that was on its way";
  for (size_t i = 0; i < entries.size(); ++i) ASSERT_EQ(entries[i].data, Filled(512, static_cast<int>(i)));
}

const std::vector<int> kLogCalls = {SYS_pwrite64, SYS_ftruncate};

TEST_F(RecordingTest, AChangeCostsTwoOrThreeSystemCalls) {
  Open();
  std::vector<int> costs;
  std::atomic<int> calls = 0;  // counted on one thread, read on the other
  const auto count = [&](const SystemCall&) {
    ++calls;
    return kProceed;
  };
  const auto body = [&] {
    const std::vector<std::function<absl::Status()>> changes = {
        [&] { return Stack::Write(state_, 0, Filled(4096, 1)); },
        [&] { return Stack::WriteThrough(state_, 0, Filled(4096, 1)); },
        [&] { return Stack::Flush(state_); },
        [&] {
          return Stack::Trim(state_, {0, 4096});
        },
        [&] {
          return Stack::WriteZeroes(state_, {0, 4096});
        },
        [&] { return Stack::Resize(state_, 4096); },
    };
    for (const auto& change : changes) {
      const int before = calls;
      EXPECT_TRUE(change().ok());
      costs.push_back(calls - before);
    }
  };
  if (!Intercept(kLogCalls, count, body)) GTEST_SKIP() << "the kernel does not let us watch system calls";
  EXPECT_EQ(costs, (std::vector<int>{3, 3, 3, 2, 3, 2}));
}

TEST_F(RecordingTest, WhereTheLogCannotBeWrittenThisChangeAndEveryLaterOneFails) {
  for (int failing = 0;; ++failing) {
    SCOPED_TRACE(failing);
    unlink(path_.c_str());
    Script script;
    Stack::State state;
    ASSERT_TRUE(Stack::Open({.log = path_, .below = {.size = kSize, .script = &script}}, state).ok());
    int calls = 0;
    const auto fail = [&](const SystemCall&) -> int64_t { return calls++ == failing ? -ENOSPC : kProceed; };
    std::vector<absl::Status> results;
    const auto body = [&] {
      results = {Stack::Write(state, 0, Filled(512, 1)),
                 Stack::WriteThrough(state, 512, Filled(512, 2)),
                 Stack::Trim(state, {0, 512}),
                 Stack::WriteZeroes(state, {1024, 512}),
                 Stack::Flush(state),
                 Stack::Write(state, 1536, Filled(512, 3)),
                 Stack::Resize(state, kSize / 2)};
      Buffer out(512);
      EXPECT_TRUE(Stack::Read(state, 0, out).ok()) << "a read changes nothing";
    };
    if (!Intercept(kLogCalls, fail, body)) GTEST_SKIP() << "the kernel does not let us fail system calls";
    const bool failed = calls > failing;
    const auto bad = std::find_if(results.begin(), results.end(), [](const absl::Status& status) { return !status.ok(); });
    EXPECT_EQ(bad != results.end(), failed);
    for (auto status = bad; status != results.end(); ++status) {
      EXPECT_NE(std::string(status->message()).find("the log of writes is incomplete"), std::string::npos) << *status;
    }
    const auto good = static_cast<size_t>(bad - results.begin());
    const std::vector<WriteLogEntry> entries = ReadLog(path_);
    EXPECT_GE(entries.size(), good) << "what was acknowledged is there";
    EXPECT_LE(entries.size(), good + 1) << "and perhaps the entry of a flush that could not be finished";
    if (!failed) break;
  }
}

TEST_F(RecordingTest, EveryPrefixCanBeReplayed) {
  Open();
  std::vector<Buffer> media = {script_.medium};
  const auto did = [&](const absl::Status& status) {
    ASSERT_TRUE(status.ok());
    media.push_back(script_.medium);
  };
  did(Stack::Write(state_, 0, Filled(1024, 1)));
  did(Stack::WriteThrough(state_, 512, Filled(1024, 2)));
  did(Stack::Flush(state_));
  did(Stack::Trim(state_, {0, 512}));
  did(Stack::Write(state_, 7680, Filled(512, 3)));
  did(Stack::WriteZeroes(state_, {1024, 512}));
  did(Stack::Resize(state_, 4096));
  for (size_t n = 0; n < media.size(); ++n) EXPECT_EQ(Replayed(n), media[n]) << n;
  EXPECT_EQ(Replayed(1000), media.back());
}

TEST_F(RecordingTest, ReplayDoesWhatWasDone) {
  Open();
  ASSERT_TRUE(Stack::Write(state_, 0, Filled(512, 1)).ok());
  ASSERT_TRUE(Stack::WriteThrough(state_, 512, Filled(512, 2)).ok());
  ASSERT_TRUE(Stack::Flush(state_).ok());
  ASSERT_TRUE(Stack::Trim(state_, {0, 512}).ok());
  absl::StatusOr<WriteLogReader> log = WriteLogReader::Open(path_);
  ASSERT_TRUE(log.ok());
  EXPECT_EQ(log->entries(), 4u);
  Script script;
  Full::State state;
  ASSERT_TRUE(Full::Open({.size = kSize, .script = &script}, state).ok());
  ASSERT_TRUE(Replay<Full>(*log, 4, state).ok());
  EXPECT_EQ(script.calls,
            (std::vector<Call>{{"Write", {0, 512}}, {"WriteThrough", {512, 512}}, {"Flush", {}}, {"Trim", {0, 512}}}));
}

TEST_F(RecordingTest, WhereTheDeviceHasNoResizeItIsLeftOut) {
  Open();
  ASSERT_TRUE(Stack::Resize(state_, 4096).ok());
  ASSERT_TRUE(Stack::Write(state_, 0, Filled(512, 1)).ok());
  absl::StatusOr<WriteLogReader> log = WriteLogReader::Open(path_);
  ASSERT_TRUE(log.ok());
  Script script;
  Writer::State state;
  ASSERT_TRUE(Writer::Open({.size = kSize, .script = &script}, state).ok());
  ASSERT_TRUE(Replay<Writer>(*log, 2, state).ok());
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Write", {0, 512}}}));
}

TEST_F(RecordingTest, AResizeThatFailsEndsTheReplay) {
  Open();
  ASSERT_TRUE(Stack::Resize(state_, 4096).ok());
  absl::StatusOr<WriteLogReader> log = WriteLogReader::Open(path_);
  ASSERT_TRUE(log.ok());
  Script script;
  script.fail_at = 0;
  Full::State state;
  ASSERT_TRUE(Full::Open({.size = kSize, .script = &script}, state).ok());
  EXPECT_EQ(Replay<Full>(*log, 1, state), script.error);
}

TEST_F(RecordingTest, LargeZeroesAreAHoleInTheLog) {
  constexpr uint64_t kLarge = 20 << 20;
  WriteLogWriter writer;
  ASSERT_TRUE(writer.Open(path_).ok());
  ASSERT_TRUE(writer.Zeroes({512, kLarge}).ok());
  struct stat file;
  ASSERT_EQ(stat(path_.c_str(), &file), 0);
  EXPECT_GT(static_cast<uint64_t>(file.st_size), kLarge);
  EXPECT_LT(file.st_blocks * 512, 1 << 20);
  absl::StatusOr<WriteLogReader> log = WriteLogReader::Open(path_);
  ASSERT_TRUE(log.ok());
  EXPECT_EQ(log->entries(), 2u);
  Range covered = {512, 0};
  while (true) {
    absl::StatusOr<std::optional<WriteLogEntry>> entry = log->Next();
    ASSERT_TRUE(entry.ok());
    if (!entry->has_value()) break;
    EXPECT_EQ((*entry)->range.offset, covered.end());
    EXPECT_EQ((*entry)->flags, 0u);
    covered.length += (*entry)->range.length;
    EXPECT_TRUE(std::all_of((*entry)->data.begin(), (*entry)->data.end(), [](std::byte b) { return b == std::byte{0}; }));
  }
  EXPECT_EQ(covered.length, kLarge);
}

TEST_F(RecordingTest, AFlushThatFailedIsNoneAndAWriteThatFailedIsMissing) {
  Open();
  ASSERT_TRUE(Stack::Write(state_, 0, Filled(512, 1)).ok());
  script_.fail_at = 1;
  EXPECT_FALSE(Stack::Flush(state_).ok());
  script_.fail_at = 2;
  EXPECT_FALSE(Stack::Write(state_, 0, Filled(512, 2)).ok());
  absl::StatusOr<WriteLogReader> log = WriteLogReader::Open(path_);
  ASSERT_TRUE(log.ok());
  ASSERT_EQ(log->entries(), 2u);
  ASSERT_TRUE(log->Next().ok());
  const absl::StatusOr<std::optional<WriteLogEntry>> flush = log->Next();
  ASSERT_TRUE(flush.ok() && flush->has_value());
  EXPECT_EQ((*flush)->flags, 0u);
  EXPECT_EQ((*flush)->range.length, 0u);
  EXPECT_EQ(record_.entries.back().code, absl::StatusCode::kInternal);
}

TEST_F(RecordingTest, ErrorsBelowSurface) {
  const auto configure = [](Script& script) { return Stack::Config{.below = {.size = kSize, .script = &script}}; };
  const Buffer bytes = Filled(512, 1);
  Buffer out(512);
  EXPECT_EQ(FailNth<Stack>(configure, {512, 512}, [&](auto& state) { return Stack::Write(state, 512, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {512, 512}, [&](auto& state) { return Stack::WriteThrough(state, 512, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {512, 512}, [&](auto& state) { return Stack::Trim(state, {512, 512}); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {512, 512}, [&](auto& state) { return Stack::WriteZeroes(state, {512, 512}); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Flush(state); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Read(state, 512, out); }), 1);
}

TEST_F(RecordingTest, AFileThatExistsIsNotOverwritten) {
  WriteFile("precious");
  const absl::Status status = Stack::Open({.log = path_, .below = {.size = kSize}}, state_);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("exists: remove it, or name another file"), std::string::npos);
  EXPECT_EQ(Log(), "precious");
}

TEST_F(RecordingTest, ADeviceThatDoesNotConsistOfSectorsIsRefused) {
  const absl::Status status = Stack::Open({.below = {.size = 1000}}, state_);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()),
            "recording: the 1000 bytes of the device below are no multiple of 512, the sectors of the log: make it larger or "
            "smaller");
}

TEST_F(RecordingTest, AfterTheLogFailedChangesFail) {
  WriteLogWriter writer;
  ASSERT_EQ(writer.Open("/dev/full").code(), absl::StatusCode::kInvalidArgument);  // exists
  // Nothing was opened, so that every write to the log fails.
  EXPECT_FALSE(writer.Write(0, Filled(512, 1), 0).ok());
  const absl::Status later = writer.Discard({0, 512});
  EXPECT_NE(std::string(later.message()).find("the log of writes is incomplete"), std::string::npos) << later;
  EXPECT_FALSE(writer.BeginFlush().ok());
}

// A leaf of bytes says which bytes are zero; in sectors, only whole ones are.
TEST_F(RecordingTest, ExtentsAreRoundedToSectors) {
  Open();
  std::fill(script_.medium.begin(), script_.medium.end(), std::byte{0});
  script_.medium[700] = std::byte{1};
  script_.medium[4095] = std::byte{1};
  std::vector<Extent> extents;
  ASSERT_TRUE(Stack::Extents(state_, {0, kSize}, [&](const Extent& extent) {
                extents.push_back(extent);
                return true;
              }).ok());
  const auto kHole = Extent::Kind::kHole;
  const auto kData = Extent::Kind::kData;
  EXPECT_EQ(extents,
            (std::vector<Extent>{
                {{0, 512}, kHole}, {{512, 512}, kData}, {{1024, 2560}, kHole}, {{3584, 512}, kData}, {{4096, 4096}, kHole}}));
  extents.clear();
  ASSERT_TRUE(Stack::Extents(state_, {0, kSize}, [&](const Extent& extent) {
                extents.push_back(extent);
                return false;
              }).ok());
  EXPECT_EQ(extents, (std::vector<Extent>{{{0, 512}, kHole}}));
}

// ---- Reading logs of others.

std::string Number(uint64_t value) {
  std::string text;
  for (int i = 0; i < 8; ++i, value >>= 8) text.push_back(static_cast<char>(value));
  return text;
}

std::string Sector(std::string text, size_t size = 512) {
  text.resize(size);
  return text;
}

constexpr uint64_t kMagic = 0x006a736677736872;

// The kernel logs in sectors of the device, marks what it is told, and ends with a mark.
TEST_F(RecordingTest, ALogInLargerSectorsIsRead) {
  WriteFile(Sector(Number(kMagic) + Number(1) + Number(3) + Number(4096), 4096) +
            Sector(Number(0) + Number(0) + Number(8) + Number(4) + "mkfs", 4096) +
            Sector(Number(1) + Number(1) + Number(1 | 2 | 16) + Number(0), 4096) + std::string(4096, 'x') +
            Sector(Number(0) + Number(0) + Number(8) + Number(17) + "dm-log-writes-end", 4096));
  absl::StatusOr<WriteLogReader> log = WriteLogReader::Open(path_);
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_EQ((**log->Next()).mark, "mkfs");
  const WriteLogEntry write = **log->Next();
  EXPECT_EQ(write.flags, kLogFlush | kLogFua | kLogMetadata);
  EXPECT_EQ(write.range, (Range{4096, 4096}));
  EXPECT_EQ(write.data, Filled(4096, 'x'));
  EXPECT_EQ((**log->Next()).mark, "dm-log-writes-end");
  EXPECT_FALSE(log->Next()->has_value());
  EXPECT_EQ(Replayed(3)[4096], std::byte{'x'});
  // A request that is a flush and a write flushes first.
  absl::StatusOr<WriteLogReader> again = WriteLogReader::Open(path_);
  ASSERT_TRUE(again.ok());
  Script script;
  Full::State state;
  ASSERT_TRUE(Full::Open({.size = kSize, .script = &script}, state).ok());
  ASSERT_TRUE(Replay<Full>(*again, 3, state).ok());
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Flush", {}}, {"WriteThrough", {4096, 4096}}}));
}

// What is behind the entries that the superblock counts was being written when the program ended.
TEST_F(RecordingTest, WhatIsNotCountedIsNotRead) {
  Open();
  ASSERT_TRUE(Stack::Write(state_, 512, Filled(512, 1)).ok());
  WriteFile(Log() + Sector(Number(0) + Number(1) + Number(0) + Number(0)) + std::string(100, 'x'));
  EXPECT_EQ(ReadLog(path_).size(), 1u);
}

TEST_F(RecordingTest, MoreThanAGibibyteOfDataInOneEntryIsNotAllocated) {
  WriteFile(Sector(Number(kMagic) + Number(1) + Number(1) + Number(512)) +
            Sector(Number(0) + Number((1 << 21) + 1) + Number(0) + Number(0)));
  ASSERT_EQ(truncate(path_.c_str(), off_t{2} << 30), 0);
  absl::StatusOr<WriteLogReader> log = WriteLogReader::Open(path_);
  ASSERT_TRUE(log.ok());
  const absl::Status status = log->Next().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(std::string(status.message()).find("has more than 1 GiB of data"), std::string::npos) << status;
}

TEST_F(RecordingTest, WhatIsNoLogIsRefused) {
  const std::pair<std::string, const char*> kCases[] = {
      {"", "is no log of writes: it begins with 0x0 in place of 0x6a736677736872"},
      {Sector("GIF89a"), "is no log of writes"},
      {Sector(Number(kMagic) + Number(2) + Number(0) + Number(512)), "is a log of version 2; only 1 is known"},
      {Sector(Number(kMagic) + Number(1) + Number(0) + Number(100)), "has sectors of 100 bytes"},
  };
  for (const auto& [bytes, message] : kCases) {
    WriteFile(bytes);
    const absl::Status status = WriteLogReader::Open(path_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(status.message()).find(message), std::string::npos) << status;
  }
}

TEST_F(RecordingTest, ABrokenLogIsDataLoss) {
  const std::string super = Sector(Number(kMagic) + Number(1) + Number(1) + Number(512));
  const std::pair<std::string, const char*> kCases[] = {
      {"", "lies past the end"},
      {Sector(Number(0) + Number(2) + Number(0) + Number(0)) + std::string(512, 'x'), "has data that reaches past the end"},
      {Sector(Number(0) + Number(0) + Number(8) + Number(481)), "has a mark that is too long"},
      {Sector(Number(UINT64_MAX) + Number(1) + Number(0) + Number(0)), "names sectors beyond any device"},
      {Sector(Number(0) + Number(UINT64_MAX) + Number(4) + Number(0)), "names sectors beyond any device"},
  };
  for (const auto& [bytes, message] : kCases) {
    WriteFile(super + bytes);
    absl::StatusOr<WriteLogReader> log = WriteLogReader::Open(path_);
    ASSERT_TRUE(log.ok());
    const absl::Status status = log->Next().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_NE(std::string(status.message()).find(message), std::string::npos) << status;
  }
}

TEST_F(RecordingTest, AnEntryThatDoesNotFitTheDeviceIsNotReplayed) {
  WriteFile(Sector(Number(kMagic) + Number(1) + Number(1) + Number(512)) +
            Sector(Number(16) + Number(1) + Number(0) + Number(0)) + std::string(512, 'x'));
  absl::StatusOr<WriteLogReader> log = WriteLogReader::Open(path_);
  ASSERT_TRUE(log.ok());
  Full::State state;
  ASSERT_TRUE(Full::Open({.size = kSize}, state).ok());
  const absl::Status status = Replay<Full>(*log, 1, state);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("entry 0 concerns 8192+512"), std::string::npos) << status;
}

}  // namespace
}  // namespace buse::testing

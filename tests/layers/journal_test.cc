// SPDX-License-Identifier: Apache-2.0

#include "layers/journal.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "buse/medium.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/atomic_write.h"
#include "layers/contract.h"
#include "layers/file_backed.h"
#include "layers/log.h"
#include "layers/memory.h"
#include "layers/offset.h"
#include "layers/power_cut.h"
#include "layers/splitmix.h"
#include "tests/leaves.h"

template struct buse::Journal<buse::testing::Full, 4096>;

namespace buse {
namespace {

using testing::BasicFull;
using testing::Call;
using testing::Capabilities;
using testing::Full;
using testing::Full512;
using ::testing::HasSubstr;
using testing::kCapabilities;
using testing::Script;
using testing::Writer;

static_assert(kCapabilities<Journal<Full>> == Capabilities{.write = true, .prefetch = true});
static_assert(kCapabilities<Journal<Writer>> == Capabilities{.write = true});
static_assert(Journal<Full>::kBlockSize == 512 && Journal<BasicFull<4096, Concurrency::kParallel>>::kBlockSize == 4096);
static_assert(Journal<Full>::kConcurrency == Concurrency::kParallel);
static_assert(Journal<BasicFull<1, Concurrency::kDisjoint>>::kConcurrency == Concurrency::kSerial);

static_assert(AtomicWrite<Memory>() == 512 && AtomicWrite<Journal<Memory>>() == 65536);
static_assert(AtomicWrite<Log<Contract<Journal<Memory, 8192>>>>() == 8192);
static_assert(AtomicWrite<Offset<Journal<Memory>>>() == 512, "what is shifted is no longer aligned");

// Over a medium that outlives it, and every call below is seen.
struct Opened {
  using Stack = Journal<Full, 4096>;

  explicit Opened(uint64_t size = 65536, uint64_t log = 24576)
      : config{.log = log, .below = {.size = size, .script = &script}} {
    script.medium.resize(size);
    const absl::Status status = FormatStack<Stack>(config, [](uint64_t, uint64_t) {});
    EXPECT_TRUE(status.ok()) << status;
    Reopen();
  }
  void Reopen() {
    state = std::make_unique<Stack::State>();
    const absl::Status status = Stack::Open(config, *state);
    EXPECT_TRUE(status.ok()) << status;
    script.calls.clear();
  }
  absl::Status Write(uint64_t offset, uint64_t length, char fill) {
    return Stack::Write(*state, offset, std::vector<std::byte>(length, static_cast<std::byte>(fill)));
  }
  absl::Status Flush() { return Stack::Flush(*state); }
  // The bytes as text, where one of each block says all.
  std::string Blocks(uint64_t offset, uint64_t length) {
    std::vector<std::byte> bytes(length);
    const absl::Status status = Stack::Read(*state, offset, bytes);
    EXPECT_TRUE(status.ok()) << status;
    std::string text;
    for (uint64_t at = 0; at < length; at += 512) {
      EXPECT_TRUE(std::all_of(&bytes[at], &bytes[at] + 512, [&](std::byte b) { return b == bytes[at]; })) << at;
      text.push_back(bytes[at] == std::byte{0} ? '.' : static_cast<char>(bytes[at]));
    }
    return text;
  }
  std::string Operations() {
    std::string text;
    for (const Call& call : script.calls) text += call.operation + std::string(" ");
    script.calls.clear();
    return text;
  }

  Script script;
  Stack::Config config;
  std::unique_ptr<Stack::State> state;
};

TEST(JournalTest, WritesStayInMemoryUntilTheyAreFlushedAndThenGoToTheLogFirst) {
  Opened disk;
  ASSERT_TRUE(disk.Write(512, 1024, 'a').ok());
  ASSERT_TRUE(disk.Write(1024, 512, 'b').ok());
  EXPECT_EQ(disk.Operations(), "");
  EXPECT_EQ(disk.Blocks(0, 2048), ".ab.");
  disk.script.calls.clear();
  ASSERT_TRUE(disk.Flush().ok());
  ASSERT_EQ(disk.script.calls.size(), 3u);
  EXPECT_EQ(disk.script.calls[0].range.offset, 4096u + 12288) << "slot 1";
  EXPECT_EQ(disk.script.calls[0].range.length, 512u + 1024) << "a head and two blocks: what was written twice is one";
  EXPECT_EQ(disk.script.calls[2].range.offset, 4096u + 24576 + 512);
  EXPECT_EQ(disk.Operations(), "Write Flush Write ");
  ASSERT_TRUE(disk.Flush().ok());
  EXPECT_EQ(disk.Operations(), "") << "nothing is new";
  disk.Reopen();
  EXPECT_EQ(disk.Blocks(0, 2048), ".ab.");
}

TEST(JournalTest, WhatIsNotFlushedIsLostWithTheProcess) {
  Opened disk;
  ASSERT_TRUE(disk.Write(0, 512, 'a').ok());
  ASSERT_TRUE(disk.Flush().ok());
  ASSERT_TRUE(disk.Write(0, 512, 'b').ok());
  disk.Reopen();
  EXPECT_EQ(disk.Blocks(0, 512), "a");
}

TEST(JournalTest, AFullStageIsCommittedByWhoeverNeedsRoom) {
  Opened disk;
  for (char fill = 'a'; fill < 'g'; ++fill) ASSERT_TRUE(disk.Write(4096 * (fill - 'a'), 4096, fill).ok());
  EXPECT_NE(disk.Operations(), "");
  EXPECT_EQ(disk.Blocks(0, 6 * 4096), std::string(8, 'a') + std::string(8, 'b') + std::string(8, 'c') + std::string(8, 'd') +
                                          std::string(8, 'e') + std::string(8, 'f'));
}

TEST(JournalTest, WhatFailsIsTriedAgainByTheNextFlush) {
  for (int failing = 0; failing < 3; ++failing) {
    Opened disk;
    ASSERT_TRUE(disk.Write(0, 512, 'a').ok());
    ASSERT_TRUE(disk.Flush().ok());
    ASSERT_TRUE(disk.Write(0, 512, 'b').ok());
    ASSERT_TRUE(disk.Write(4096, 512, 'c').ok());
    disk.script.calls.clear();
    disk.script.fail_at = failing;
    disk.script.error = absl::UnavailableError("not now");
    EXPECT_TRUE(absl::IsUnavailable(disk.Flush())) << failing;
    EXPECT_EQ(disk.Blocks(0, 512) + disk.Blocks(4096, 512), "bc");
    disk.script.fail_at = -1;
    disk.script.calls.clear();
    ASSERT_TRUE(disk.Flush().ok());
    if (failing == 1) {
      // A disk may have dropped what it failed to flush: also the transaction before.
      EXPECT_EQ(disk.Operations(), "Read Write Write Flush Write Write ");
    }
    EXPECT_EQ(disk.Blocks(0, 512) + disk.Blocks(4096, 512), "bc");
    disk.Reopen();
    EXPECT_EQ(disk.Blocks(0, 512) + disk.Blocks(4096, 512), "bc");
  }
}

TEST(JournalTest, AWriteThatNeedsRoomWhichCannotBeMadeFailsAndChangesNothing) {
  Opened disk;
  ASSERT_TRUE(disk.Write(0, 4096, 'a').ok());
  ASSERT_TRUE(disk.Write(4096, 4096, 'a').ok());
  disk.script.calls.clear();
  disk.script.fail_at = 0;
  disk.script.error = absl::UnavailableError("not now");
  EXPECT_TRUE(absl::IsUnavailable(disk.Write(4096, 8192, 'b')));
  EXPECT_EQ(disk.Blocks(0, 12288), std::string(16, 'a') + std::string(8, '.'));
}

// Whatever the first byte is that is wrong.
TEST(JournalTest, ARecordThatIsDamagedAnywhereIsNone) {
  Opened disk;
  ASSERT_TRUE(disk.Write(0, 512, 'a').ok());
  ASSERT_TRUE(disk.Flush().ok());
  const uint64_t slot = 4096 + 12288, place = 4096 + 24576;
  const std::vector<std::byte> before = disk.script.medium;
  for (uint64_t at = 0; at < 1024; ++at) {
    disk.script.medium = before;
    // As if it had not come so far.
    std::memset(&disk.script.medium[place], 0, 512);
    disk.Reopen();
    ASSERT_EQ(disk.Blocks(0, 512), "a") << "by the log";
    std::memset(&disk.script.medium[place], 0, 512);
    disk.script.medium[slot + at] ^= std::byte{1};
    disk.Reopen();
    ASSERT_EQ(disk.Blocks(0, 512), ".") << "byte " << at;
  }
}

TEST(JournalTest, ASlotThatCannotBeReadFailsOpen) {
  Opened disk;
  disk.script.fail_at = 1;  // after the superblock
  disk.script.error = absl::DataLossError("a bad sector");
  EXPECT_TRUE(absl::IsDataLoss(Opened::Stack::Open(disk.config, *std::make_unique<Opened::Stack::State>())));
}

TEST(JournalTest, WhatHasNoRoomIsRefused) {
  Script script;
  script.medium.resize(65536);
  const auto refusal = [&](uint64_t size, uint64_t log) {
    script.medium.assign(size, std::byte{0});
    const Journal<Full, 8192>::Config config{.log = log, .below = {.size = size, .script = &script}};
    const absl::Status status = FormatStack<Journal<Full, 8192>>(config, [](uint64_t, uint64_t) {});
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refusal(1 << 20, 16384), HasSubstr("a log of 16384 bytes is too small for writes of 8192: it needs at least"));
  EXPECT_THAT(refusal(65536, 65536), HasSubstr("make the medium larger, or the log smaller"));
}

class Image {
 public:
  Image() {
    char name[] = "/tmp/buse-journal.XXXXXX";
    close(mkstemp(name));
    path_ = name;
    EXPECT_EQ(truncate(name, 131072), 0);
  }
  ~Image() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(JournalTest, OnAReadOnlyFileTheLogIsReadIntoMemory) {
  const Image image;
  using Stack = Journal<FileBacked, 4096>;
  const Stack::Config config{.log = 24576, .below = {.path = image.path()}};
  ASSERT_TRUE(FormatStack<Stack>(config, [](uint64_t, uint64_t) {}).ok());
  {
    auto state = std::make_unique<Stack::State>();
    ASSERT_TRUE(Stack::Open(config, *state).ok());
    ASSERT_TRUE(Stack::Write(*state, 512, std::vector<std::byte>(512, std::byte{7})).ok());
    ASSERT_TRUE(Stack::Flush(*state).ok());
  }
  std::fstream(image.path()).seekp(4096 + 24576 + 512).write(std::string(512, 'x').data(), 512);  // not in its place
  const Stack::Config read_only{.below = {.path = image.path(), .read_only = true}};
  auto state = std::make_unique<Stack::State>();
  ASSERT_TRUE(Stack::Open(read_only, *state).ok());
  std::vector<std::byte> bytes(512);
  ASSERT_TRUE(Stack::Read(*state, 512, bytes).ok());
  EXPECT_EQ(bytes, std::vector<std::byte>(512, std::byte{7}));
}

// After a power cut it is what the first of its writes made it: none in part, none without those before it.
TEST(JournalTest, WhatSurvivesIsTheBeginningOfWhatWasWritten) {
  using Stack = Journal<PowerCut<FileBacked>, 8192>;
  const Image image;
  const uint64_t seeds = std::getenv("BUSE_TEST_SEEDS") != nullptr ? std::stoull(std::getenv("BUSE_TEST_SEEDS")) * 100 : 300;
  uint64_t partly = 0;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    SplitMix64 random(seed);
    Stack::Config config{.log = 49152, .below = {.seed = seed, .below = {.path = image.path()}}};
    ASSERT_EQ(truncate(image.path().c_str(), 0), 0);
    ASSERT_EQ(truncate(image.path().c_str(), 131072), 0);
    ASSERT_TRUE(FormatStack<Stack>(config, [](uint64_t, uint64_t) {}).ok());
    config.below.cut_after = 1 + random() % 40;
    auto state = std::make_unique<Stack::State>();
    std::vector<std::vector<std::byte>> states;
    uint64_t flushed = 0;
    if (Stack::Open(config, *state).ok()) {
      states.emplace_back(Stack::Size(*state));
      for (bool on = true; on;) {
        if (random() % 4 == 0) {
          on = Stack::Flush(*state).ok();
          if (on) flushed = states.size() - 1;
          continue;
        }
        const uint64_t length = (1 + random() % 16) * 512;
        const uint64_t offset = random() % ((states[0].size() - length) / 512 + 1) * 512;
        const std::vector<std::byte> bytes(length, static_cast<std::byte>(states.size()));
        // One that fails may have come through, as all others.
        on = Stack::Write(*state, offset, bytes).ok();
        states.push_back(states.back());
        std::copy(bytes.begin(), bytes.end(), states.back().begin() + static_cast<ptrdiff_t>(offset));
      }
    }
    config.below.cut_after = 0;
    state = std::make_unique<Stack::State>();
    ASSERT_TRUE(Stack::Open(config, *state).ok()) << "seed " << seed;
    std::vector<std::byte> found(Stack::Size(*state));
    ASSERT_TRUE(Stack::Read(*state, 0, found).ok());
    if (states.empty()) continue;
    const auto match = std::find(states.begin() + static_cast<ptrdiff_t>(flushed), states.end(), found);
    ASSERT_NE(match, states.end()) << "seed " << seed;
    partly += match != states.end() - 1 && match != states.begin();
  }
  EXPECT_GT(partly, seeds / 10) << "the cuts are too tame";
}

TEST(JournalTest, FlushesOfManyThreadsAreCommittedTogether) {
  using Stack = Journal<Full, 4096>;
  Script script;
  script.medium.resize(1 << 20);
  const Stack::Config config{.log = 1 << 18, .below = {.size = 1 << 20, .script = &script}};
  ASSERT_TRUE(FormatStack<Stack>(config, [](uint64_t, uint64_t) {}).ok());
  auto state = std::make_unique<Stack::State>();
  ASSERT_TRUE(Stack::Open(config, *state).ok());
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      std::vector<std::byte> bytes(4096), back(4096);
      for (uint64_t i = 0; i < 200; ++i) {
        std::fill(bytes.begin(), bytes.end(), static_cast<std::byte>(i + thread));
        const uint64_t offset = (thread * 16 + i % 16) * 4096;
        ASSERT_TRUE(Stack::Write(*state, offset, bytes).ok());
        ASSERT_TRUE(Stack::Flush(*state).ok());
        ASSERT_TRUE(Stack::Read(*state, offset, back).ok());
        ASSERT_EQ(back, bytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace buse

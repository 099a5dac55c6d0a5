// SPDX-License-Identifier: Apache-2.0
//
// What Checksum writes to its medium and in what order, what it reads of it, and what cannot be found on it.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/checksum.h"
#include "layers/observer.h"
#include "layers/operation.h"
#include "tests/layers/checksum_rig.h"
#include "tests/leaves.h"
#include "tests/steer.h"

namespace buse::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

using Stack = Checksum<Full>;

// ---- What reaches the medium, and when.

TEST(ChecksumMediumTest, AWriteIsOnlyStaged) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(8192, 1)).ok());
  EXPECT_TRUE(rig.Holds(0, Pattern(8192, 1)));
  EXPECT_TRUE(rig.script().calls.empty());
}

TEST(ChecksumMediumTest, AFlushOfLittleSyncsOnce) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(4096, 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  // The head is not waited for: it only says how far the log goes, in case a slot is lost.
  EXPECT_THAT(rig.Changes(), ElementsAre("WriteThrough log", "Write data", "Write head"));
  EXPECT_EQ(rig.script().calls[0].range.length, 8192u) << "the sums, and the content";
}

TEST(ChecksumMediumTest, AFlushOfMoreSyncsTwice) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(32768, 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  EXPECT_THAT(rig.Changes(), ElementsAre("WriteThrough log", "Write data", "Flush", "Write head"));
  EXPECT_EQ(rig.script().calls[0].range.length, 4096u) << "the sums";
}

TEST(ChecksumMediumTest, AFlushOfNothingDoesNothing) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(32768, 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  rig.script().calls.clear();
  ASSERT_TRUE(rig.Flush().ok());
  EXPECT_TRUE(rig.script().calls.empty());
}

TEST(ChecksumMediumTest, NeighboursAreWrittenTogetherAndInOrder) {
  ChecksumRig<Stack> rig({.log = 65536, .stage = 1 << 20, .below = {.size = 1 << 20}});
  for (uint64_t page : {9, 3, 4, 8, 5, 20, 21, 40}) ASSERT_TRUE(rig.Write(page * 4096, Pattern(4096, page)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  std::vector<Range> writes;
  for (const Call& call : rig.script().calls) {
    if (call.operation == "Write" && call.range.offset >= rig.geometry().data && call.range.offset < rig.geometry().heads[1]) {
      writes.push_back({(call.range.offset - rig.geometry().data) / 4096, call.range.length / 4096});
    }
  }
  EXPECT_EQ(writes, (std::vector<Range>{{3, 3}, {8, 2}, {20, 2}, {40, 1}}));
}

TEST(ChecksumMediumTest, AFullLogLeadsToACheckpoint) {
  ChecksumRig<Stack> rig({.log = 16384, .stage = 65536, .table_cache = 8192, .below = {.size = 1 << 20}});
  std::vector<std::byte> expected(rig.size());
  uint64_t flushes = 0;
  // Two slots each: four are three flushes, as nothing is written across the end.
  for (uint64_t i = 0; rig.Calls("Write", {rig.geometry().table, 4096}) == 0; ++i, ++flushes) {
    ASSERT_LT(i, 10u);
    const std::vector<std::byte> bytes = Pattern(512, i);
    ASSERT_TRUE(rig.Write(i * 512, bytes).ok());
    ASSERT_TRUE(rig.Flush().ok());
    std::copy(bytes.begin(), bytes.end(), expected.begin() + i * 512);
  }
  EXPECT_GE(flushes, 3u);
  const std::vector<std::string> changes = rig.Changes();
  const auto table = std::find(changes.begin(), changes.end(), "Write table");
  EXPECT_THAT(std::vector<std::string>(table - 1, table + 3),
              ElementsAre("Flush", "Write table", "Flush", "WriteThrough head"));
  EXPECT_TRUE(rig.Holds(0, expected));
  rig.Open();
  EXPECT_TRUE(rig.Holds(0, expected));
}

TEST(ChecksumMediumTest, GoesRoundTheLogManyTimes) {
  ChecksumRig<Stack> rig({.log = 16384, .stage = 16384, .table_cache = 8192, .below = {.size = 1 << 20}});
  std::vector<std::byte> expected(rig.size());
  for (uint64_t i = 0; i < 400; ++i) {
    const uint64_t offset = i * 7919 % (rig.size() / 512 - 8) * 512;
    const std::vector<std::byte> bytes = Pattern(512 * (1 + i % 8), i);
    ASSERT_TRUE(rig.Write(offset, bytes).ok());
    std::copy(bytes.begin(), bytes.end(), expected.begin() + offset);
    if (i % 3 == 0) {
      ASSERT_TRUE(rig.Flush().ok());
    }
    if (i % 50 == 49) {
      ASSERT_TRUE(rig.Flush().ok());
      rig.Open();
    }
  }
  EXPECT_TRUE(rig.Holds(0, expected));
}

TEST(ChecksumMediumTest, ATableLargerThanItsCacheIsRight) {
  // Sixteen pages of sums for 32 bytes each; two are cached.
  using Small = Checksum<Full, Sha256>;
  ChecksumRig<Small> rig({.log = 65536, .stage = 65536, .table_cache = 8192, .below = {.size = 1 << 20}});
  ASSERT_GE(rig.geometry().table_pages(), 12u);
  std::vector<std::byte> expected(rig.size());
  for (uint64_t i = 0; i < 300; ++i) {
    const uint64_t offset = i * 104729 % (rig.size() / 512) * 512;
    const std::vector<std::byte> bytes = Pattern(512, i);
    ASSERT_TRUE(rig.Write(offset, bytes).ok());
    std::copy(bytes.begin(), bytes.end(), expected.begin() + offset);
  }
  ASSERT_TRUE(rig.Flush().ok());
  EXPECT_TRUE(rig.Holds(0, expected));
  rig.Open();
  EXPECT_TRUE(rig.Holds(0, expected));
}

// Up to 16 pages, and a quarter of the log, if nothing else waits to be flushed.
TEST(ChecksumMediumTest, AFlushOfUpToSixteenPagesLogsTheirContent) {
  struct Case {
    uint64_t log;
    uint64_t pages;
  };
  for (const auto& [log, pages] : {Case{1 << 20, 16}, Case{65536, 4}}) {
    ChecksumRig<Stack> rig({.log = log, .stage = 1 << 20, .below = {.size = 4 << 20}});
    ASSERT_TRUE(rig.Write(0, Pattern(pages * 4096, 1)).ok());
    ASSERT_TRUE(rig.Flush().ok());
    EXPECT_THAT(rig.Changes(), ElementsAre("WriteThrough log", "Write data", "Write head"));
    EXPECT_EQ(rig.script().calls[0].range.length, (1 + pages) * 4096);
    rig.script().calls.clear();
    ASSERT_TRUE(rig.Write(0, Pattern((pages + 1) * 4096, 1)).ok());
    ASSERT_TRUE(rig.Flush().ok());
    EXPECT_THAT(rig.Changes(), ElementsAre("WriteThrough log", "Write data", "Flush", "Write head"));
    EXPECT_EQ(rig.script().calls[0].range.length, 4096u);
  }
}

TEST(ChecksumMediumTest, AFlushAfterACommitSyncsTwice) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(32768 + 4096, 1)).ok()) << "a stage, which is committed, and a page";
  EXPECT_THAT(rig.Changes(), ElementsAre("WriteThrough log", "Write data"));
  rig.script().calls.clear();
  ASSERT_TRUE(rig.Flush().ok());
  EXPECT_THAT(rig.Changes(), ElementsAre("WriteThrough log", "Write data", "Flush", "Write head"));
  EXPECT_EQ(rig.script().calls[0].range.length, 4096u) << "the sums alone";
}

TEST(ChecksumMediumTest, HeadsAreWrittenInTurns) {
  ChecksumRig<Stack> rig;
  const auto& heads = rig.geometry().heads;
  for (uint64_t i = 0; i < 4; ++i) {
    ASSERT_TRUE(rig.Write(i * 512, Pattern(512, i)).ok());
    ASSERT_TRUE(rig.Flush().ok());
  }
  std::vector<uint64_t> written;
  for (const Call& call : rig.script().calls) {
    const bool head = call.range.offset == heads[0] || call.range.offset == heads[1];
    if (head && call.operation == "Write") written.push_back(call.range.offset == heads[0] ? 0 : 1);
  }
  ASSERT_EQ(written.size(), 4u);
  EXPECT_THAT(written, ElementsAre(written[0], 1 - written[0], written[0], 1 - written[0]));
}

// Sums of 32 bytes: a page of the table is for 128 blocks.
TEST(ChecksumMediumTest, HalfOfTheCachedTableDirtyLeadsToACheckpointUnlessAllOfItFits) {
  using Wide = Checksum<Full, Sha256>;
  for (uint64_t cache : {4 * 4096, 1 << 20}) {
    ChecksumRig<Wide> rig({.log = 65536, .stage = 65536, .table_cache = cache, .below = {.size = 1 << 20}});
    ASSERT_GE(rig.geometry().table_pages(), 12u);
    for (uint64_t page : {0, 1}) ASSERT_TRUE(rig.Write(page * 128 * 512, Pattern(512, page)).ok());
    ASSERT_TRUE(rig.Flush().ok());
    EXPECT_THAT(rig.Changes(), Not(Contains("Write table")));
    for (uint64_t page = 2; page < 12; ++page) ASSERT_TRUE(rig.Write(page * 128 * 512, Pattern(512, page)).ok());
    ASSERT_TRUE(rig.Flush().ok());
    if (cache == 4 * 4096) {
      EXPECT_THAT(rig.Changes(), Contains("Write table"));
    } else {
      EXPECT_THAT(rig.Changes(), Not(Contains("Write table")));
    }
  }
}

TEST(ChecksumMediumTest, ZeroesOfASixteenthOfTheStageAreStaged) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(Stack::Trim(rig.state(), {0, 4096}).ok());
  ASSERT_TRUE(Stack::WriteZeroes(rig.state(), {8192, 4096}).ok());
  EXPECT_TRUE(rig.script().calls.empty());
  ASSERT_TRUE(Stack::Trim(rig.state(), {16384, 4608}).ok());
  // What is staged comes first.
  EXPECT_THAT(rig.Changes(), ElementsAre("WriteThrough log", "Write data", "Trim data", "WriteThrough log", "Trim data"));
}

TEST(ChecksumMediumTest, ACheckpointComesFirstWhereSumsCouldNotBeLogged) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(4096, 1)).ok());
  rig.script().fail_at = 0;
  ASSERT_FALSE(rig.Flush().ok());
  rig.script().fail_at = -1;
  rig.script().calls.clear();
  ASSERT_TRUE(rig.Flush().ok());
  const std::vector<std::string> changes = rig.Changes();
  ASSERT_GE(changes.size(), 4u);
  EXPECT_THAT(std::vector<std::string>(changes.begin(), changes.begin() + 4),
              ElementsAre("Flush", "Flush", "WriteThrough head", "WriteThrough log"));
  EXPECT_TRUE(rig.Holds(0, Pattern(4096, 1)));
}

// ---- What is read.

TEST(ChecksumMediumTest, AReadAsksForAPageOfSumsFor512KiBOnce) {
  ChecksumRig<Stack> rig({.log = 65536, .stage = 65536, .table_cache = 65536, .below = {.size = 4 << 20}});
  const Range table = {rig.geometry().table, rig.geometry().data - rig.geometry().table};
  ASSERT_TRUE(rig.Read(512 << 10, 512 << 10).ok());
  EXPECT_EQ(rig.Calls("Read", table), 1u);
  rig.script().calls.clear();
  ASSERT_TRUE(rig.Read(512 << 10, 512 << 10).ok());
  EXPECT_EQ(rig.Calls("Read", table), 0u);
  EXPECT_EQ(rig.Calls("Read"), 2u) << "256 KiB at once";
}

// A slot that cannot be read may have said anything of the blocks written since the checkpoint.
TEST(ChecksumMediumTest, SlotsThatCannotBeReadAreTakenForDamaged) {
  using Steered = Checksum<Steer<Full>>;
  Script script;
  Steering steering;
  const Steered::Config config = {.log = 65536,
                                  .stage = 65536,
                                  .inline_commits = true,
                                  .below = {.steering = &steering, .below = {.size = 1 << 20, .script = &script}}};
  ASSERT_TRUE(FormatStack<Steered>(config, IgnoreProgress).ok());
  auto state = std::make_unique<Steered::State>();
  ASSERT_TRUE(Steered::Open(config, *state).ok());
  script.calls.clear();
  for (uint64_t block : {0, 100}) {
    ASSERT_TRUE(Steered::Write(*state, block * 512, Pattern(512, block)).ok());
    ASSERT_TRUE(Steered::Flush(*state).ok());
  }
  const auto last = std::find_if(script.calls.rbegin(), script.calls.rend(),
                                 [](const Call& call) { return call.operation == "WriteThrough"; });
  ASSERT_NE(last, script.calls.rend());
  const Range slot = last->range;
  steering = [&](const Request& request, absl::FunctionRef<absl::Status()> next) {
    const bool bad = request.range.offset < slot.end() && slot.offset < request.range.end();
    return bad && request.operation == Operation::kRead ? absl::UnavailableError("a bad sector") : next();
  };
  state = std::make_unique<Steered::State>();
  ASSERT_TRUE(Steered::Open(config, *state).ok());
  std::vector<std::byte> out(512);
  EXPECT_TRUE(Steered::Read(*state, 0, out).ok());
  EXPECT_EQ(out, Pattern(512, 0));
  EXPECT_TRUE(absl::IsDataLoss(Steered::Read(*state, 100 * 512, out)));
  std::string flaws;
  const auto flawed = [&](absl::string_view what) { flaws.append(what.data(), what.size()); };
  ASSERT_TRUE(Steered::Check(*state, {[](Range, absl::string_view) {}, flawed, IgnoreProgress}).ok());
  EXPECT_THAT(flaws, HasSubstr("a part of the log was lost"));
  EXPECT_THAT(flaws, HasSubstr("cannot be read: a bad sector"));
}

// ---- What is not found: the header says so, and if more is found one day it shall say that.

TEST(ChecksumMediumTest, AnOldBlockWithItsOldSumPasses) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(65536, 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  rig.Open();
  const std::vector<std::byte> before = rig.script().medium;
  ASSERT_TRUE(rig.Write(0, Pattern(65536, 2)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  rig.Open();
  const auto put_back = [&](uint64_t at, uint64_t length) {
    std::copy_n(before.begin() + at, length, rig.script().medium.begin() + at);
  };
  put_back(rig.geometry().data, 512);
  EXPECT_EQ(rig.Read(0, 512).code(), absl::StatusCode::kDataLoss);
  put_back(rig.geometry().table, 4);
  rig.Open();
  EXPECT_TRUE(rig.Holds(0, Pattern(512, 1)));
  EXPECT_TRUE(rig.Holds(512, ConstBytes(Pattern(65536, 2)).subspan(512)));
  rig.script().medium = before;
  rig.Open();
  EXPECT_TRUE(rig.Holds(0, Pattern(65536, 1))) << "the whole medium";
}

TEST(ChecksumMediumTest, ALostWriteIsFoundOnceTheHeadThatSettlesItIsDurable) {
  ChecksumRig<Stack> rig;
  ASSERT_TRUE(rig.Write(0, Pattern(32768, 1)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  rig.Open();
  const std::vector<std::byte> before = rig.script().medium;
  ASSERT_TRUE(rig.Write(0, Pattern(32768, 2)).ok());
  ASSERT_TRUE(rig.Flush().ok());
  std::copy_n(before.begin() + rig.geometry().data, 512, rig.script().medium.begin() + rig.geometry().data);
  const std::vector<std::byte> lost = rig.script().medium;
  rig.Open();
  EXPECT_EQ(rig.Read(0, 512).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(rig.Holds(512, ConstBytes(Pattern(32768, 2)).subspan(512)));
  // The head was only written: the power goes, and it never arrived.
  rig.script().medium = lost;
  for (uint64_t head : rig.geometry().heads) {
    std::copy_n(before.begin() + head, 512, rig.script().medium.begin() + head);
  }
  rig.Open();
  EXPECT_TRUE(rig.Holds(0, Pattern(512, 1))) << "for recovery, it was never written";
  EXPECT_TRUE(rig.Holds(512, ConstBytes(Pattern(32768, 2)).subspan(512)));
}

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// Journal survives power cuts: no page that was written whole is ever found in part, and none is lost that was flushed.

#include "gtest/gtest.h"
#include "layers/checksum.h"
#include "layers/journal.h"
#include "tests/power_cut/explore.h"
#include "tests/power_cut/tiny_journal.h"

namespace buse::testing {
namespace {

TEST(JournalPowerCutTest, OverBytes) {
  using Stack = Journal<CutDisk<>, 4096>;
  ExpectSurvivesPowerCuts<Stack>(TinyJournal<Stack, CutDisk<>>());
}

TEST(JournalPowerCutTest, OverSectorsWithoutShortcutsBelow) {
  using Stack = Journal<CutDisk<512, false>, 4096>;
  PowerCutTest<Stack> test = TinyJournal<Stack, CutDisk<512, false>>();
  test.exhaustive_steps = 1;
  test.thread_exhaustive_steps = 0;
  ExpectSurvivesPowerCuts<Stack>(test);
}

// What Checksum asks for: blocks of eight sectors, written whole.
TEST(JournalPowerCutTest, UnderAChecksumOfPages) {
  using Stack = Checksum<Journal<CutDisk<>, 4096>, Crc32c, 4096>;
  const PowerCutTest<Stack> test = {
      .configure =
          [](Rack& rack) {
            return typename Stack::Config{.log = 16384,
                                          .stage = 16384,
                                          .table_cache = 8192,
                                          .inline_commits = true,
                                          .below = {.log = 24576, .below = rack.Disk<CutDisk<>>(98304, 512)}};
          },
      .format = [](const Stack::Config& config) { return FormatStack<Stack>(config, [](uint64_t, uint64_t) {}); },
      .unit = 4096,
      .steps = {{Operation::kWrite, {0, 4096}}, {Operation::kWriteThrough, {0, 8192}}},
      .exhaustive_steps = 1,
      .random_steps = 0,
      .states_per_cut = 8,
      .thread_exhaustive_steps = 0};
  ExpectSurvivesPowerCuts<Stack>(test);
}

}  // namespace
}  // namespace buse::testing

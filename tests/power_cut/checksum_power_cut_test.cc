// SPDX-License-Identifier: Apache-2.0
//
// Checksum survives power cuts: no block is lost that was flushed, and none that is good looks damaged.

#include "layers/checksum.h"

#include "gtest/gtest.h"
#include "layers/operation.h"
#include "tests/power_cut/explore.h"
#include "tests/power_cut/tiny_checksum.h"

namespace buse::testing {
namespace {

TEST(ChecksumPowerCutTest, OverBytes) {
  using Stack = Checksum<CutDisk<>>;
  ExpectSurvivesPowerCuts<Stack>(TinyChecksum<Stack, CutDisk<>>(49152, 512));
}

TEST(ChecksumPowerCutTest, OverBytesInLongerWorkloads) {
  using Stack = Checksum<CutDisk<>>;
  PowerCutTest<Stack> test = TinyChecksum<Stack, CutDisk<>>(49152, 512);
  test.steps = {{Operation::kWrite, {3584, 1024}},
                {Operation::kFlush},
                {Operation::kWriteThrough, {3584, 512}},
                {Operation::kWriteZeroes, {3072, 2048}}};
  test.exhaustive_steps = 3;
  test.thread_exhaustive_steps = 0;
  ExpectSurvivesPowerCuts<Stack>(test);
}

TEST(ChecksumPowerCutTest, WithACommitter) {
  using Stack = Checksum<CutDisk<>>;
  ExpectSurvivesPowerCuts<Stack>(CommittedChecksum<Stack, CutDisk<>>());
}

TEST(ChecksumPowerCutTest, OverSectors) {
  using Stack = Checksum<CutDisk<512>>;
  PowerCutTest<Stack> test = TinyChecksum<Stack, CutDisk<512>>(49152, 512);
  test.exhaustive_steps = 1;
  test.thread_exhaustive_steps = 0;
  ExpectSurvivesPowerCuts<Stack>(test);
}

TEST(ChecksumPowerCutTest, WithoutShortcutsBelow) {
  using Stack = Checksum<CutDisk<1, false>>;
  PowerCutTest<Stack> test = TinyChecksum<Stack, CutDisk<1, false>>(49152, 512);
  test.exhaustive_steps = 1;
  test.thread_exhaustive_steps = 0;
  ExpectSurvivesPowerCuts<Stack>(test);
}

TEST(ChecksumPowerCutTest, OverPagesThatAreWrittenWhole) {
  using Stack = Checksum<CutDisk<4096>, Crc32c, 4096>;
  PowerCutTest<Stack> test = TinyChecksum<Stack, CutDisk<4096>>(69632, 4096);
  test.thread_exhaustive_steps = 2;
  ExpectSurvivesPowerCuts<Stack>(test);
}

TEST(ChecksumPowerCutTest, WithAnotherHash) {
  using Stack = Checksum<CutDisk<>, Xxh3>;
  PowerCutTest<Stack> test = TinyChecksum<Stack, CutDisk<>>(49152, 512);
  test.exhaustive_steps = 1;
  test.thread_exhaustive_steps = 0;
  ExpectSurvivesPowerCuts<Stack>(test);
}

TEST(ChecksumPowerCutTest, WithZeroesOfWholePagesOfTheTable) {
  using Stack = Checksum<CutDisk<>, Sha256>;
  ExpectSurvivesPowerCuts<Stack>(ZeroedTablePages<Stack, CutDisk<>>());
}

// Two writes change more pages of the table than may be dirty, so that there is a checkpoint in the middle of a commit.
TEST(ChecksumPowerCutTest, WithATableThatIsLargerThanItsCache) {
  using Stack = Checksum<CutDisk<>, Sha256>;
  PowerCutTest<Stack> test = TinyChecksum<Stack, CutDisk<>>(196608, 512);
  test.steps = {{Operation::kWrite, {65024, 1024}}, {Operation::kWriteThrough, {0, 512}}, {Operation::kWrite, {131072, 512}}};
  test.random_steps = 5;
  test.thread_exhaustive_steps = 0;
  ExpectSurvivesPowerCuts<Stack>(test);
}

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// Power-cut tests of Checksum in which everything is as small as can be, so that commits, checkpoints, the log's end and
// recovery happen within few steps.

#ifndef TESTS_POWER_CUT_TINY_CHECKSUM_H_
#define TESTS_POWER_CUT_TINY_CHECKSUM_H_

#include <cstdint>
#include <vector>

#include "buse/medium.h"
#include "layers/operation.h"
#include "tests/power_cut/explore.h"

namespace buse::testing {

// What is committed with its content in the log (parts of one page) and what is not, what is too much for a stage of two pages,
// and zeroes that are staged and those that are not (more than a sixteenth of the stages).
inline std::vector<Step> ChecksumSteps(uint64_t block) {
  const uint64_t page = 4096;
  std::vector<Step> steps = {{Operation::kWrite, {0, block}},
                             {Operation::kWrite, {page - block, 2 * block}},
                             {Operation::kFlush},
                             {Operation::kWriteThrough, {0, 2 * block}},
                             {Operation::kTrim, {0, block}},
                             {Operation::kWrite, {0, 2 * page + block}},
                             {Operation::kTrim, {0, page + block}},
                             {Operation::kWriteZeroes, {block, 4 * block}}};
  return steps;
}

// `Disk` is at the bottom of the stack and has at least 12 pages. Commits come in the calling threads, so that one thread alone
// is deterministic.
template <class Stack, class Disk>
PowerCutTest<Stack> TinyChecksum(uint64_t size, uint64_t sector) {
  return {.configure =
              [=](Rack& rack) {
                return typename Stack::Config{.log = 16384,
                                              .stage = 16384,
                                              .table_cache = 8192,
                                              .inline_commits = true,
                                              .below = rack.Disk<Disk>(size, sector)};
              },
          .format = [](const typename Stack::Config& config) { return FormatStack<Stack>(config, [](uint64_t, uint64_t) {}); },
          .unit = Stack::kBlockSize,
          .steps = ChecksumSteps(Stack::kBlockSize),
          .exhaustive_steps = 2,
          .states_per_cut = 16};
}

// With a committer, which runs where a write fills the stage of two pages: it takes part in the schedules of two threads.
template <class Stack, class Disk>
PowerCutTest<Stack> CommittedChecksum() {
  PowerCutTest<Stack> test = TinyChecksum<Stack, Disk>(49152, 512);
  test.configure = [configure = test.configure](Rack& rack) {
    typename Stack::Config config = configure(rack);
    config.inline_commits = false;
    return config;
  };
  test.thread_steps = {
      {Operation::kWrite, {0, 8704}}, {Operation::kFlush}, {Operation::kRead, {0, 1024}}, {Operation::kTrim, {0, 4608}}};
  test.exhaustive_steps = 0;
  test.random_steps = 0;
  test.thread_exhaustive_steps = 2;
  return test;
}

// Ranges of zeroes that cover whole pages of the table, which are then cleared on the medium at once, and what is written there
// afterwards. The sums have 32 bytes, so that there are two pages of them.
template <class Stack, class Disk>
PowerCutTest<Stack> ZeroedTablePages() {
  PowerCutTest<Stack> test = TinyChecksum<Stack, Disk>(122880, 512);
  test.steps = {{Operation::kTrim, {0, 131 * 512}}, {Operation::kWriteThrough, {4096, 8192}}};
  test.exhaustive_steps = 2;
  test.random_steps = 5;
  test.states_per_cut = 8;
  test.thread_exhaustive_steps = 0;
  return test;
}

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_TINY_CHECKSUM_H_

// SPDX-License-Identifier: Apache-2.0
//
// Power-cut tests of Journal with a log for two pages, so that writes find the stage full within few steps.

#ifndef TESTS_POWER_CUT_TINY_JOURNAL_H_
#define TESTS_POWER_CUT_TINY_JOURNAL_H_

#include "buse/medium.h"
#include "layers/operation.h"
#include "tests/power_cut/explore.h"

namespace buse::testing {

// `Disk` has sectors of 512 bytes and tears there; what the journal writes whole is a page.
template <class Stack, class Disk>
PowerCutTest<Stack> TinyJournal() {
  return {.configure = [](Rack& rack) { return typename Stack::Config{.log = 24576, .below = rack.Disk<Disk>(49152, 512)}; },
          .format = [](const typename Stack::Config& config) { return FormatStack<Stack>(config, [](uint64_t, uint64_t) {}); },
          .unit = Stack::kAtomicWrite,
          .steps = {{Operation::kWrite, {0, 4096}},
                    {Operation::kWrite, {3584, 1024}},
                    {Operation::kFlush},
                    {Operation::kWriteThrough, {4096, 4096}},
                    {Operation::kWrite, {4608, 512}},
                    {Operation::kWrite, {8192, 8192}}},
          .exhaustive_steps = 2,
          .random_steps = 6,
          .states_per_cut = 8};
}

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_TINY_JOURNAL_H_

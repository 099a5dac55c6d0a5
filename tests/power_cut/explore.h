// SPDX-License-Identifier: Apache-2.0
//
// The proof that a stack survives power cuts. Three lines for a stack of your own, over a CutDisk in place of its leaf:
//
//   using Stack = Journal<CutDisk<>>;
//   TEST(JournalTest, SurvivesPowerCuts) {
//     ExpectSurvivesPowerCuts<Stack>({.configure = [](Rack& rack) { return Stack::Config{.below = rack.Disk(16384)}; }});
//   }
//
// A stack of several disks asks the rack for each; the power of all goes at once. A stack with a medium format says how to
// make one with `.format`. CutDisk<4096> has blocks of 4096 bytes (and `rack.Disk<CutDisk<4096>>(size)`); it still tears them
// at sectors of 512 unless told `rack.Disk<CutDisk<4096>>(size, 4096)`. CutDisk<1, false> has no WriteThrough, Trim and
// WriteZeroes. CutDisk<1, true, Concurrency::kDisjoint> takes only calls that do not overlap; of itself a disk takes any.
//
// What is done. Every sequence of one, two and three steps (writes that overlap, one across a sector's border, WriteThrough,
// Trim, WriteZeroes, Flush; or `.steps`) runs on the stack, and the power goes at every moment there is: during each change
// that reaches the disks, so also in the middle of a step, and after the last step. Then every legal state of the disks
// (layers/volatile_cache.h) is made, and the stack opened again on it. Opening it may change the disks, as recovery does; then
// the power also goes during each of these changes, and the stack is opened once more. Where there are more than
// `states_per_cut` states, those are made in which only larger sectors tear, and 32 random ones. Random sequences of up to
// `random_steps` steps follow, one for each seed: BUSE_TEST_SEEDS=N in the environment runs N of them.
//
// A stack that takes several calls at once is then used by threads. Every two threads with together two or three steps (as
// above, and Read; or `.thread_steps`) run by every schedule of at most `preemptions` preemptions: a thread goes on until it
// ends, waits for the other, or is interrupted, which may be where a call arrives at a disk, where it leaves it, and between
// steps. For each seed two or three threads run by random schedules. The power goes after each change of the disks and at the
// return of each Flush and WriteThrough. Locks and conditions of the stack need nothing for this (scheduler.h); a deadlock is a
// failure. Where the stack is kDisjoint, each thread has bytes of its own. Threads that a stack starts in Open take part in the
// schedules, as far as they come to its disks; with them one thread alone is not deterministic, so that `.exhaustive_steps` and
// `.random_steps` should be 0.
//
// What must hold. Open succeeds. Each `unit` of the stack holds, whole, its last durable value or one written after that:
// Flush makes all durable that was written before, WriteThrough its own range; Trim and WriteZeroes write zeroes. What was
// never written is as it was. The stack can be written, flushed and read again. A unit of 512 bytes claims no more than that
// disks write sectors whole; a stack that claims to write larger blocks whole says so with `.unit`, and one whose bytes do not
// lie in sectors like those of the disk can only claim what both divide. With threads (oracle.h): a Flush makes durable what
// had returned when it was called; a write that had not returned may be there or not; of writes that overlap and ran beside
// each other either may be the later. A Read returns what had been written when it was called, but where a write ran beside it.
// When all have ended, what is read stays, also when it is flushed and the power goes.
//
// A failure names the seed, the shortest history that still fails, when the power went, which sectors survived, and what is
// wrong; with threads, what each did in which order. All is deterministic, but for which of two threads that want a lock gets
// it (scheduler.h).

#ifndef TESTS_POWER_CUT_EXPLORE_H_
#define TESTS_POWER_CUT_EXPLORE_H_

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "buse/device.h"
#include "gtest/gtest.h"
#include "tests/power_cut/crash_states.h"
#include "tests/power_cut/rack.h"
#include "tests/power_cut/schedules.h"
#include "tests/power_cut/single_thread.h"
#include "tests/power_cut/workload.h"

namespace buse::testing {

template <Device Stack>
PowerCutReport ExplorePowerCuts(const PowerCutTest<Stack>& test, uint64_t seeds = PowerCutSeeds()) {
  PowerCutReport report;
  auto states = std::make_unique<CrashStates<Stack>>(test, report.in_recovery);
  report.failure = states->Prepare();
  if (report.failure.empty()) report.failure = SingleThreadExplorer<Stack>(test, *states, report).Explore(seeds);
  if constexpr (Stack::kConcurrency != Concurrency::kSerial) {
    if (report.failure.empty()) report.failure = ScheduleExplorer<Stack>(test, *states, report).Explore(seeds);
  }
  if (report.stuck) (void)states.release();  // threads are left that wait in it for ever
  return report;
}

// Fails the current test where the stack does not survive, and prints how much was tried.
template <Device Stack>
void ExpectSurvivesPowerCuts(const PowerCutTest<Stack>& test) {
  const auto start = std::chrono::steady_clock::now();
  const PowerCutReport report = ExplorePowerCuts(test);
  const auto elapsed = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start);
  std::printf("%s; %lld ms\n", ToString(report).c_str(), static_cast<long long>(elapsed.count()));
  EXPECT_TRUE(report.failure.empty()) << report.failure;
}

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_EXPLORE_H_

// SPDX-License-Identifier: Apache-2.0
//
// ScheduleExplorer: workloads of two or three threads, run by one schedule after the other, and the power cut at every moment
// of each. explore.h says more.

#ifndef TESTS_POWER_CUT_SCHEDULES_H_
#define TESTS_POWER_CUT_SCHEDULES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "buse/device.h"
#include "layers/operation.h"
#include "tests/model/choices.h"
#include "tests/power_cut/crash_states.h"
#include "tests/power_cut/exhaustive_choices.h"
#include "tests/power_cut/oracle.h"
#include "tests/power_cut/rack.h"
#include "tests/power_cut/scheduler.h"
#include "tests/power_cut/thread_log.h"
#include "tests/power_cut/workload.h"

namespace buse::testing {

template <Device Stack>
class ScheduleExplorer {
 public:
  // `states` was prepared. After Explore, where it left threads behind, `states` and this must stay where they are for ever.
  ScheduleExplorer(const PowerCutTest<Stack>& test, CrashStates<Stack>& states, PowerCutReport& report)
      : test_(test), states_(states), report_(report) {}

  // Returns what is wrong.
  std::string Explore(uint64_t seeds) {
    if (test_.thread_exhaustive_steps == 0) return "";
    std::string failure = ExploreShort();
    for (uint64_t seed = 1; seed <= seeds && failure.empty(); ++seed) failure = ExploreSeed(seed);
    return failure;
  }

 private:
  using State = typename Stack::State;
  using Workload = std::vector<std::vector<Step>>;  // of each thread
  using Seen = std::unordered_set<uint64_t>;        // moments
  static constexpr uint64_t kSchedules = 2000;      // of one workload
  static constexpr uint64_t kRandomSchedules = 16;

  // Lives as long as the threads, which may be longer than wanted.
  struct Run {
    Run(Rack& rack, Oracle oracle, Seen& seen) : log(rack, std::move(oracle), seen) {}
    State state;
    ThreadLog log;
  };

  static void RunThread(Run& run, size_t thread, const std::vector<Step>& steps) {
    for (size_t i = 0; i < steps.size(); ++i) {
      Scheduler::Point();
      std::vector<std::byte> bytes = ContentOf(steps[i], thread * 100 + i + 1);
      const size_t call = run.log.Begin(thread, i + 1, steps[i], bytes);
      const absl::Status status = Do<Stack>(run.state, steps[i], bytes);
      run.log.End(thread, i + 1, steps[i], call, status, bytes);
    }
  }

  // Runs the workload by one schedule, and judges what is not in `seen`.
  std::string RunOnce(const Workload& workload, Scheduler::Choose choose, Seen& seen, const CrashEffort& effort) {
    Rack& rack = states_.rack();
    const auto run = std::make_shared<Run>(rack, Oracle(states_.initial(), test_.unit), seen);
    const std::vector<pid_t> before = Scheduler::Threads();
    if (std::string failure = states_.Begin(run->state); !failure.empty()) return failure;
    const std::vector<pid_t> after = Scheduler::Threads();
    std::vector<pid_t> of_stack;
    std::set_difference(after.begin(), after.end(), before.begin(), before.end(), std::back_inserter(of_stack));
    std::vector<std::function<void()>> bodies;
    for (size_t thread = 0; thread < workload.size(); ++thread) {
      bodies.push_back([run, thread, steps = workload[thread]] { RunThread(*run, thread, steps); });
    }
    rack.supply().watcher = &run->log;
    // One of the stack waits for work, which is nothing to tell.
    const auto blocked = [run, threads = workload.size()](size_t thread) {
      if (thread < threads) run->log.Blocked(thread);
    };
    Scheduler scheduler(std::move(bodies), std::move(choose), blocked, std::move(of_stack));
    const std::string stuck = scheduler.Run();
    const ThreadLog& log = run->log;
    if (!stuck.empty()) {
      report_.stuck = true;
      return absl::StrCat(Describe(workload, log, log.events()), "\n  then: ", stuck);
    }
    rack.supply().watcher = nullptr;
    if (!log.failure().empty()) return absl::StrCat(Describe(workload, log, log.failed_at()), "\n  then: ", log.failure());
    if (std::string failure = Finish(run->state, run->log.oracle()); !failure.empty()) {
      return absl::StrCat(Describe(workload, log, log.events()), "\n  then: ", failure);
    }
    for (const ThreadLog::Moment& moment : log.moments()) {
      rack.RestoreAll(moment.disks);
      rack.power().on = false;
      ++report_.moments;
      const std::string failure = states_.Judge(moment.oracle, effort, false);
      if (!failure.empty()) {
        return absl::StrCat(Describe(workload, log, moment.events), "\n  the power went after that",
                            "\n  what survived:", states_.DescribeChosen(), "\n  then: ", failure);
      }
    }
    return "";
  }

  // When all threads have ended: what the stack holds is stable, what it should be, and durable once it is flushed.
  std::string Finish(State& state, Oracle& oracle) {
    std::vector<std::byte> first;
    std::vector<std::byte> second;
    const size_t read = oracle.BeginRead({0, states_.initial().size()});
    std::string failure = CrashStates<Stack>::ReadAll(state, first);
    oracle.End(read);
    if (failure.empty()) failure = oracle.CheckRead(read, first);
    if (!failure.empty()) return absl::StrCat("after all had ended: ", failure);
    const size_t flush = oracle.BeginFlush();
    failure = Explain("after all had ended, flush", Stack::Flush(state));
    oracle.End(flush);
    if (failure.empty()) failure = CrashStates<Stack>::ReadAll(state, second);
    if (!failure.empty()) return failure;
    if (first != second) return absl::StrCat("after all had ended, two reads differ", FirstDifference(first, second));
    // Only what was flushed survives.
    states_.rack().power().on = false;
    failure = states_.JudgeState(oracle, false);
    if (failure.empty() && states_.image() != first) {
      failure = absl::StrCat("what was read is not what was flushed", FirstDifference(first, states_.image()));
    }
    return failure.empty() ? "" : absl::StrCat("after all had ended, a flush and a power cut: ", failure);
  }

  static std::string FirstDifference(const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
    return absl::StrCat(", first in byte ", std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
  }

  // ---- Schedules.

  // All with at most so many preemptions, up to a limit.
  std::string RunAll(const Workload& workload, int preemptions, const CrashEffort& effort, uint64_t& schedules) {
    Seen seen;
    ExhaustiveChoices choices(ExhaustiveChoices::Scenario::kNearlyDeterministic);
    uint64_t tried = 0;
    do {
      int left = preemptions;
      const auto choose = [&](uint64_t ways, bool may_stay) -> uint64_t {
        if (!may_stay) return choices.Below(ways);
        const uint64_t choice = left > 0 ? choices.Below(ways) : 0;
        left -= choice != 0;
        return choice;
      };
      ++schedules;
      if (std::string failure = RunOnce(workload, choose, seen, effort); !failure.empty()) return failure;
    } while (choices.Next() && ++tried < kSchedules);
    return "";
  }

  std::string RunRandom(const Workload& workload, Choices& choices, const CrashEffort& effort, uint64_t& schedules) {
    Seen seen;
    for (uint64_t i = 0; i < kRandomSchedules; ++i) {
      const auto choose = [&](uint64_t ways, bool may_stay) -> uint64_t {
        return may_stay && choices.Below(4) != 0 ? 0 : choices.Below(ways);
      };
      ++schedules;
      if (std::string failure = RunOnce(workload, choose, seen, effort); !failure.empty()) return failure;
    }
    return "";
  }

  // Of a workload that failed: its failure with the fewest preemptions.
  std::string Simplest(const Workload& workload, int preemptions) {
    uint64_t uncounted = 0;
    const CrashEffort effort = {64, 32, 1, uncounted, uncounted};
    for (int fewer = 0; fewer <= preemptions && !report_.stuck; ++fewer) {
      std::string failure = RunAll(workload, fewer, effort, uncounted);
      if (!failure.empty()) return failure;
    }
    return "";
  }

  // ---- Workloads.

  // What `thread` may do. Where overlapping calls must not meet, each has bytes of its own.
  std::vector<Step> StepsOf(size_t thread) const {
    if (!test_.thread_steps.empty()) return test_.thread_steps;
    constexpr uint64_t u = kStepUnit<Stack>;
    constexpr uint64_t part = Stack::kBlockSize <= 128 ? 128 / Stack::kBlockSize * Stack::kBlockSize : u;
    if constexpr (Stack::kConcurrency == Concurrency::kDisjoint) {
      const Range own = {thread * part, part};
      return {{Operation::kWrite, own},
              {Operation::kFlush},
              {Operation::kWriteThrough, own},
              {Operation::kTrim, own},
              {Operation::kRead, own}};
    } else {
      std::vector<Step> steps = {{Operation::kWrite, {0, u}}, {Operation::kWrite, {0, 2 * u}},
                                 {Operation::kFlush},         {Operation::kWriteThrough, {0, u}},
                                 {Operation::kTrim, {u, u}},  {Operation::kRead, {0, 2 * u}}};
      if (part < u) steps.push_back({Operation::kWrite, {u - part, part}});
      return steps;
    }
  }

  static bool Writes(const Workload& workload) {
    return std::any_of(workload.begin(), workload.end(), [](const std::vector<Step>& steps) {
      return std::any_of(steps.begin(), steps.end(), [](const Step& step) { return step.Writes(); });
    });
  }

  // Two threads with all short lists of steps, of which the first is the longer.
  std::string ExploreShort() {
    const std::vector<Step> steps[] = {StepsOf(0), StepsOf(1)};
    for (int total = 2; total <= test_.thread_exhaustive_steps; ++total) {
      for (int second = 1; second <= total / 2; ++second) {
        ExhaustiveChoices choices;
        do {
          Workload workload(2);
          for (int i = 0; i < total; ++i) {
            const size_t thread = i < total - second ? 0 : 1;
            workload[thread].push_back(steps[thread][choices.Below(steps[thread].size())]);
          }
          if (!Writes(workload)) continue;
          ++report_.thread_workloads;
          const CrashEffort effort = {64, 8, report_.thread_workloads, report_.thread_states, report_.thread_sampled};
          const std::string failure = RunAll(workload, test_.preemptions, effort, report_.schedules);
          if (failure.empty()) continue;
          std::string simplest = Simplest(workload, test_.preemptions - 1);
          return simplest.empty() ? failure : simplest;
        } while (choices.Next());
      }
    }
    return "";
  }

  Step RandomStep(size_t thread, size_t threads, Choices& choices) const {
    static constexpr Operation kOperations[] = {Operation::kWrite,      Operation::kWrite,        Operation::kRead,
                                                Operation::kFlush,      Operation::kWriteThrough, Operation::kTrim,
                                                Operation::kWriteZeroes};
    const std::vector<Step> steps = StepsOf(thread);
    if (!test_.thread_steps.empty() || choices.Below(3) != 0) return steps[choices.Below(steps.size())];
    Step step = {kOperations[choices.Below(std::size(kOperations))]};
    if (step.operation == Operation::kFlush) return step;
    const uint64_t block = Stack::kBlockSize;
    // Behind what StepsOf names, unless any calls may meet.
    const bool own = Stack::kConcurrency == Concurrency::kDisjoint;
    const uint64_t all = states_.initial().size() / block;
    const uint64_t named = own ? 3 * StepsOf(0)[0].range.length / block : 0;
    const uint64_t blocks = own ? (all - named) / threads : all;
    const uint64_t most = std::min<uint64_t>(blocks, std::max<uint64_t>(3, 3 * 512 / block));
    if (most == 0) return {Operation::kFlush};
    const uint64_t length = 1 + choices.Below(most);
    const uint64_t begin = (own ? named + thread * blocks : 0) + choices.Below(blocks - length + 1);
    step.range = {begin * block, length * block};
    return step;
  }

  std::string ExploreSeed(uint64_t seed) {
    SeededChoices choices(seed);
    Workload workload(choices.Below(3) == 0 ? 3 : 2);
    for (size_t thread = 0; thread < workload.size(); ++thread) {
      workload[thread].resize(1 + choices.Below(4));
      for (Step& step : workload[thread]) step = RandomStep(thread, workload.size(), choices);
    }
    ++report_.thread_workloads;
    const CrashEffort effort = {8, 4, seed, report_.thread_sampled, report_.thread_sampled};
    const std::string failure = RunRandom(workload, choices, effort, report_.random_schedules);
    return failure.empty() ? "" : absl::StrCat("seed ", seed, "\n", Shorten(workload, failure));
  }

  // Leaves out steps as long as some schedule still fails.
  std::string Shorten(Workload workload, std::string failure) {
    for (size_t thread = workload.size(); thread-- > 0;) {
      for (size_t i = workload[thread].size(); i-- > 0 && !report_.stuck;) {
        Workload shorter = workload;
        shorter[thread].erase(shorter[thread].begin() + i);
        if (shorter[thread].empty()) shorter.erase(shorter.begin() + thread);
        std::string still = Simplest(shorter, test_.preemptions);
        if (still.empty()) continue;
        const bool thread_is_gone = shorter.size() < workload.size();
        workload = std::move(shorter);
        failure = std::move(still);
        if (thread_is_gone) break;
      }
    }
    return failure;
  }

  static std::string Describe(const Workload& workload, const ThreadLog& log, size_t events) {
    std::string text = "  threads:";
    for (size_t thread = 0; thread < workload.size(); ++thread) {
      size_t number = 0;
      absl::StrAppend(&text, "\n    ", ThreadLog::ThreadName(thread), ": ",
                      absl::StrJoin(workload[thread], ", ", [&](std::string* out, const Step& step) {
                        absl::StrAppend(out, ++number, ". ", ToString(step));
                      }));
    }
    return absl::StrCat(text, "\n", log.Describe(events));
  }

  const PowerCutTest<Stack>& test_;
  CrashStates<Stack>& states_;
  PowerCutReport& report_;
};

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_SCHEDULES_H_

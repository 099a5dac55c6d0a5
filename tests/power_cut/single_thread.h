// SPDX-License-Identifier: Apache-2.0
//
// SingleThreadExplorer: workloads of one thread, the power cut at every moment of each. explore.h says more.

#ifndef TESTS_POWER_CUT_SINGLE_THREAD_H_
#define TESTS_POWER_CUT_SINGLE_THREAD_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "layers/operation.h"
#include "tests/model/choices.h"
#include "tests/power_cut/crash_states.h"
#include "tests/power_cut/exhaustive_choices.h"
#include "tests/power_cut/oracle.h"
#include "tests/power_cut/rack.h"
#include "tests/power_cut/workload.h"

namespace buse::testing {

template <Device Stack>
class SingleThreadExplorer {
 public:
  // `states` was prepared.
  SingleThreadExplorer(const PowerCutTest<Stack>& test, CrashStates<Stack>& states, PowerCutReport& report)
      : test_(test),
        states_(states),
        report_(report),
        steps_(test.steps.empty() ? DefaultSteps(states.initial().size()) : test.steps) {}

  // Returns what is wrong.
  std::string Explore(uint64_t seeds) {
    std::string failure = ExploreShort();
    for (uint64_t seed = 1; seed <= seeds && failure.empty(); ++seed) failure = ExploreSeed(seed);
    return failure;
  }

 private:
  using Workload = std::vector<Step>;
  static constexpr uint64_t kNever = UINT64_MAX;

  // What a run of a workload left, apart from the disks.
  struct Run {
    Oracle oracle;
    size_t begun = 0;                           // steps
    bool finished = false;                      // all of them, before the power went
    std::vector<uint64_t> changes_before = {};  // each step
    uint64_t changes = 0;
    std::string failure = {};
  };

  // Runs the workload from the beginning, with the power going during the change `cut_at`, or else after the last step.
  Run Execute(const Workload& workload, uint64_t cut_at) {
    Run run{.oracle = Oracle(states_.initial(), test_.unit)};
    Power& power = states_.rack().power();
    auto state = std::make_unique<typename Stack::State>();
    run.failure = states_.Begin(*state);
    if (!run.failure.empty()) return run;
    power.changes = 0;
    power.cut_at = cut_at;
    for (const Step& step : workload) {
      run.changes_before.push_back(power.changes);
      ++run.begun;
      std::vector<std::byte> content = ContentOf(step, run.begun);
      const size_t call =
          step.operation == Operation::kFlush
              ? run.oracle.BeginFlush()
              : run.oracle.BeginWrite(step.range.offset, content, step.operation == Operation::kWriteThrough,
                                      absl::StrCat(step.Zeroes() ? "the zeroes" : "what was written", " in step ", run.begun));
      absl::Status status = Do<Stack>(*state, step, content);
      if (!power.on) break;  // with or without an error: nobody got to see the answer
      if (!status.ok()) {
        run.failure = Explain(absl::StrCat("with the power on, step ", run.begun), status);
        return run;
      }
      run.oracle.End(call);
    }
    run.finished = power.on;
    run.changes = power.changes;
    power.on = false;
    return run;
  }

  // All that may follow when the power goes during change `cut_at` of the workload, or after the last step.
  std::string JudgeCut(const Workload& workload, uint64_t cut_at, const CrashEffort& effort) {
    const Run run = Execute(workload, cut_at);
    if (!run.failure.empty()) return absl::StrCat(Describe(workload, run), "\n  ", run.failure);
    coarse_ = states_.IsCoarse(effort.limit);
    const std::string failure = states_.Judge(run.oracle, effort);
    return failure.empty()
               ? ""
               : absl::StrCat(Describe(workload, run), "\n  what survived:", states_.DescribeChosen(), "\n  then: ", failure);
  }

  static Workload DefaultSteps(uint64_t size) {
    constexpr uint64_t u = kStepUnit<Stack>;
    Workload steps = {{Operation::kWrite, {0, u}},
                      {Operation::kWrite, {0, 2 * u}},
                      {Operation::kFlush},
                      {Operation::kWriteThrough, {0, u}},
                      {Operation::kWrite, {size / u * u - u, u}}};
    if constexpr (CanTrim<Stack>) steps.push_back({Operation::kTrim, {0, 2 * u}});
    if constexpr (CanWriteZeroes<Stack>) steps.push_back({Operation::kWriteZeroes, {u, u}});
    if constexpr (Stack::kBlockSize <= 128) {
      const uint64_t part = 128 / Stack::kBlockSize * Stack::kBlockSize;
      steps.push_back({Operation::kWrite, {u - u % Stack::kBlockSize - part, 2 * part}});
      steps.push_back({Operation::kWriteThrough, {u - u % Stack::kBlockSize - part, 2 * part}});
    }
    return steps;
  }

  // All of up to `exhaustive_steps`. The beginning of each was a workload before, so that only the last step is cut.
  std::string ExploreShort() {
    for (int length = 1; length <= test_.exhaustive_steps; ++length) {
      ExhaustiveChoices choices;
      do {
        Workload workload;
        for (int i = 0; i < length; ++i) workload.push_back(steps_[choices.Below(steps_.size())]);
        ++report_.workloads;
        const Run run = Execute(workload, kNever);
        if (!run.failure.empty()) return absl::StrCat(Describe(workload, run), "\n  ", run.failure);
        for (uint64_t cut = run.changes_before.back(); cut <= run.changes; ++cut) {
          const CrashEffort effort = {test_.states_per_cut, 32, cut, report_.enumerated, report_.sampled};
          const std::string failure = JudgeCut(workload, cut < run.changes ? cut : kNever, effort);
          if (!failure.empty()) return failure;
          ++report_.cuts;
          report_.coarse_cuts += coarse_;
        }
      } while (choices.Next());
    }
    return "";
  }

  Step RandomStep(Choices& choices) const {
    static constexpr Operation kOperations[] = {Operation::kWrite,      Operation::kWrite,        Operation::kWrite,
                                                Operation::kFlush,      Operation::kWriteThrough, Operation::kTrim,
                                                Operation::kWriteZeroes};
    if (choices.Below(3) == 0) return steps_[choices.Below(steps_.size())];
    Step step = {kOperations[choices.Below(std::size(kOperations))]};
    const uint64_t block = Stack::kBlockSize;
    const uint64_t blocks = states_.initial().size() / block;
    const uint64_t most = std::min<uint64_t>(blocks, std::max<uint64_t>(3, 3 * 512 / block));
    const uint64_t length = 1 + choices.Below(most);
    if (step.operation != Operation::kFlush) step.range = {choices.Below(blocks - length + 1) * block, length * block};
    return step;
  }

  std::string ExploreSeed(uint64_t seed) {
    SeededChoices choices(seed);
    const int least = std::min(4, test_.random_steps);
    Workload workload(least + choices.Below(test_.random_steps - least + 1));
    for (Step& step : workload) step = RandomStep(choices);
    ++report_.random_workloads;
    const Run run = Execute(workload, kNever);
    if (!run.failure.empty()) return absl::StrCat("seed ", seed, "\n", Describe(workload, run), "\n  ", run.failure);
    for (int i = 0; i < 4; ++i) {
      const uint64_t cut = choices.Below(run.changes + 1);
      const CrashEffort effort = {16, 16, seed + i, report_.sampled, report_.sampled};
      const std::string failure = JudgeCut(workload, cut < run.changes ? cut : kNever, effort);
      if (!failure.empty()) return absl::StrCat("seed ", seed, "\n", Shorten(workload, failure));
    }
    return "";
  }

  // The failure of the workload, if there is one among all moments and many states.
  std::string JudgeAllCuts(const Workload& workload) {
    const Run run = Execute(workload, kNever);
    for (uint64_t cut = 0; cut <= run.changes; ++cut) {
      uint64_t uncounted = 0;
      const CrashEffort effort = {128, 64, cut, uncounted, uncounted};
      std::string failure = JudgeCut(workload, cut < run.changes ? cut : kNever, effort);
      if (!failure.empty()) return failure;
    }
    return "";
  }

  // Leaves out steps as long as it still fails.
  std::string Shorten(Workload workload, std::string failure) {
    for (size_t i = workload.size(); i-- > 0 && workload.size() > 1;) {
      Workload shorter = workload;
      shorter.erase(shorter.begin() + i);
      std::string still = JudgeAllCuts(shorter);
      if (still.empty()) continue;
      workload = std::move(shorter);
      failure = std::move(still);
      i = std::min(i, workload.size());
    }
    return failure;
  }

  std::string Describe(const Workload& workload, const Run& run) const {
    std::string text = "  history:";
    for (size_t i = 0; i < run.begun; ++i) absl::StrAppend(&text, "\n    ", i + 1, ". ", ToString(workload[i]));
    if (run.finished) return absl::StrCat(text, "\n  the power went after that");
    return absl::StrCat(text, "\n  the power went during step ", run.begun, ", in its change ",
                        run.changes - run.changes_before.back(), " to the disks");
  }

  const PowerCutTest<Stack>& test_;
  CrashStates<Stack>& states_;
  PowerCutReport& report_;
  const Workload steps_;
  bool coarse_ = false;  // the last cut
};

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_SINGLE_THREAD_H_

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
// WriteZeroes.
//
// What is done. Every sequence of one, two and three steps (writes that overlap, one across a sector's border, WriteThrough,
// Trim, WriteZeroes, Flush; or `.steps`) runs on the stack, and the power goes at every moment there is: during each change
// that reaches the disks, so also in the middle of a step, and after the last step. Then every legal state of the disks
// (layers/volatile_cache.h) is made, and the stack opened again on it. Opening it may change the disks, as recovery does; then
// the power also goes during each of these changes, and the stack is opened once more. Where there are more than
// `states_per_cut` states, those are made in which only larger sectors tear, and 32 random ones. Random sequences of up to
// `random_steps` steps follow, one for each seed: BUSE_TEST_SEEDS=N in the environment runs N of them.
//
// What must hold. Open succeeds. Each `unit` of the stack holds, whole, its last durable value or one written after that:
// Flush makes all durable that was written before, WriteThrough its own range; Trim and WriteZeroes write zeroes. What was
// never written is as it was. The stack can be written, flushed and read again. A unit of 512 bytes claims no more than that
// disks write sectors whole; a stack that claims to write larger blocks whole says so with `.unit`, and one whose bytes do not
// lie in sectors like those of the disk can only claim what both divide.
//
// A failure names the seed, the shortest history that still fails, when the power went, which sectors survived, and what is
// wrong. All is deterministic.

#ifndef TESTS_POWER_CUT_EXPLORE_H_
#define TESTS_POWER_CUT_EXPLORE_H_

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "buse/operations.h"
#include "gtest/gtest.h"
#include "layers/operation.h"
#include "layers/splitmix.h"
#include "layers/volatile_cache.h"
#include "tests/model/choices.h"
#include "tests/power_cut/exhaustive_choices.h"
#include "tests/power_cut/oracle.h"
#include "tests/power_cut/rack.h"

namespace buse::testing {

// Write, WriteThrough, Trim, WriteZeroes or Flush. What is written is different in each step.
struct Step {
  Operation operation = Operation::kWrite;
  Range range = {};
};

template <Device Stack>
struct PowerCutTest {
  std::function<typename Stack::Config(Rack&)> configure;
  std::function<absl::Status(const typename Stack::Config&)> format = nullptr;  // absent: the stack opens on empty disks
  uint64_t unit = 512;
  std::vector<Step> steps = {};  // absent: as said above
  int exhaustive_steps = 3;
  int random_steps = 12;
  uint64_t states_per_cut = 256;
};

struct PowerCutReport {
  std::string failure;  // empty: none
  // All short workloads, all moments, and all states or, in coarse cuts, those in which only larger sectors tear.
  uint64_t workloads = 0;
  uint64_t cuts = 0;
  uint64_t coarse_cuts = 0;
  uint64_t enumerated = 0;  // states, each opened and read
  // Random ones: states of coarse cuts, and all that a seed led to.
  uint64_t random_workloads = 0;
  uint64_t sampled = 0;
  // States after a second cut, while the first was recovered from.
  uint64_t in_recovery = 0;
};

inline std::string ToString(const PowerCutReport& report) {
  return absl::StrCat(report.workloads, " short workloads, ", report.cuts, " power cuts (", report.coarse_cuts, " coarse), ",
                      report.enumerated, " states; ", report.random_workloads, " random workloads, ", report.sampled,
                      " random states; ", report.in_recovery, " states in recovery");
}

inline uint64_t PowerCutSeeds() {
  const char* seeds = std::getenv("BUSE_TEST_SEEDS");
  return seeds != nullptr ? std::strtoull(seeds, nullptr, 10) : 50;
}

template <Device Stack>
class PowerCutExplorer {
 public:
  explicit PowerCutExplorer(const PowerCutTest<Stack>& test) : test_(test) {}

  PowerCutReport Explore(uint64_t seeds) {
    std::string failure = Prepare();
    if (failure.empty()) failure = ExploreShort();
    for (uint64_t seed = 1; seed <= seeds && failure.empty(); ++seed) failure = ExploreSeed(seed);
    report_.failure = std::move(failure);
    return report_;
  }

 private:
  using State = typename Stack::State;
  using Doubts = std::vector<VolatileCache::Doubt>;
  using Workload = std::vector<Step>;
  static constexpr uint64_t kNever = UINT64_MAX;

  // How many states are visited, and where they are counted.
  struct Effort {
    uint64_t limit;    // all if there are at most so many
    uint64_t samples;  // otherwise so many random ones besides
    uint64_t seed;
    uint64_t& enumerated;
    uint64_t& sampled;
  };

  // What a run of a workload left, apart from the disks.
  struct Run {
    Oracle oracle;
    size_t begun = 0;                           // steps
    bool finished = false;                      // all of them, before the power went
    std::vector<uint64_t> changes_before = {};  // each step
    uint64_t changes = 0;
    std::string failure = {};
  };

  // ---- The stack, opened and used.

  typename Stack::Config Configure(uint64_t cut_at) {
    rack_.PowerOn(cut_at);
    return test_.configure(rack_);
  }

  static std::string Explain(absl::string_view what, const absl::Status& status) {
    return status.ok() ? "" : absl::StrCat(what, " failed: ", status.ToString());
  }

  static std::string ReadAll(State& state, std::vector<std::byte>& image) {
    image.resize(Stack::Size(state));
    return Explain("reading", Stack::Read(state, 0, image));
  }

  // Bytes that no other step has there.
  static std::vector<std::byte> Pattern(uint64_t step, Range range) {
    std::vector<std::byte> bytes(range.length);
    for (size_t i = 0; i < bytes.size(); i += 8) {
      // 1 in each byte, so that none is zero.
      const uint64_t word = Mix64((step << 40) + range.offset + i + 1) | 0x0101010101010101;
      std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, bytes.size() - i));
    }
    return bytes;
  }

  // Formats the disks and fills the stack, and takes what it then holds as the beginning of every run.
  std::string Prepare() {
    if (test_.format != nullptr) {
      if (absl::Status status = test_.format(Configure(kNever)); !status.ok()) return Explain("format", status);
      rack_.Settle();
    }
    {
      auto state = std::make_unique<State>();
      if (absl::Status status = Stack::Open(Configure(kNever), *state); !status.ok()) return Explain("the first Open", status);
      initial_ = Pattern(0, {0, Stack::Size(*state)});
      if (initial_.size() < 4 * Unit()) return absl::StrCat("the stack is too small: give it ", 4 * Unit(), " bytes or more");
      absl::Status status = Stack::Write(*state, 0, initial_);
      if (status.ok()) status = Stack::Flush(*state);
      if (!status.ok()) return Explain("filling the stack", status);
    }
    rack_.Settle();
    auto state = std::make_unique<State>();
    if (absl::Status status = Stack::Open(Configure(kNever), *state); !status.ok())
      return Explain("Open after a clean end", status);
    std::vector<std::byte> image;
    if (std::string failure = ReadAll(*state, image); !failure.empty()) return failure;
    rack_.Settle();
    start_ = rack_.Save();
    // With a broken Flush some of it is missing: what is there is as good a beginning, and the exploration will tell.
    initial_ = std::move(image);
    if (steps_.empty()) steps_ = test_.steps.empty() ? DefaultSteps() : test_.steps;
    return "";
  }

  absl::Status Do(State& state, const Step& step, ConstBytes content) {
    switch (step.operation) {
      case Operation::kFlush:
        return Stack::Flush(state);
      case Operation::kWriteThrough:
        return buse::WriteThrough<Stack>(state, step.range.offset, content);
      case Operation::kTrim:
        return buse::Zero<Stack>(state, step.range);
      case Operation::kWriteZeroes:
        return buse::WriteZeroes<Stack>(state, step.range);
      default:
        return Stack::Write(state, step.range.offset, content);
    }
  }

  // Runs the workload from the beginning, with the power going during the change `cut_at`, or else after the last step.
  Run Execute(const Workload& workload, uint64_t cut_at) {
    Run run{.oracle = Oracle(initial_, test_.unit)};
    rack_.Restore(start_);
    auto state = std::make_unique<State>();
    if (absl::Status status = Stack::Open(Configure(kNever), *state); !status.ok()) {
      run.failure = Explain("Open after a clean end", status);
      return run;
    }
    rack_.power().changes = 0;
    rack_.power().cut_at = cut_at;
    for (const Step& step : workload) {
      run.changes_before.push_back(rack_.power().changes);
      const bool zeroes = step.operation == Operation::kTrim || step.operation == Operation::kWriteZeroes;
      ++run.begun;
      const std::vector<std::byte> content =
          zeroes ? std::vector<std::byte>(step.range.length) : Pattern(run.begun, step.range);
      if (step.operation != Operation::kFlush) {
        run.oracle.Write(step.range.offset, content,
                         absl::StrCat(zeroes ? "the zeroes" : "what was written", " in step ", run.begun));
      }
      absl::Status status = Do(*state, step, content);
      if (!rack_.power().on) break;  // with or without an error: nobody got to see the answer
      if (!status.ok()) {
        run.failure = Explain(absl::StrCat("with the power on, step ", run.begun), status);
        return run;
      }
      if (step.operation == Operation::kFlush) run.oracle.Flushed();
      if (step.operation == Operation::kWriteThrough) run.oracle.Durable(step.range);
    }
    run.finished = rack_.power().on;
    run.changes = rack_.power().changes;
    rack_.power().on = false;
    return run;
  }

  // ---- States of the disks.

  // In the order of the disks.
  std::vector<Doubts> DoubtsOfAll(uint64_t coarser) {
    std::vector<Doubts> all;
    for (size_t i = 0; i < rack_.size(); ++i) {
      Rack::Slot& slot = rack_.slot(i);
      const auto read = [&](uint64_t offset, Bytes out) {
        std::memcpy(out.data(), slot.platter.data() + offset, out.size());
        return absl::OkStatus();
      };
      all.push_back(*slot.held.Doubts(slot.sector * coarser, slot.platter.size(), read));
    }
    return all;
  }

  // The number of combinations, or a number above `limit`.
  static uint64_t Combinations(const std::vector<Doubts>& all, uint64_t limit) {
    uint64_t n = 1;
    for (const Doubts& doubts : all) {
      for (const VolatileCache::Doubt& doubt : doubts) {
        n *= doubt.values.size();
        if (n > limit) return n;
      }
    }
    return n;
  }

  // One state: writes to the platters what survives.
  void Survive(const std::vector<Doubts>& all, Choices& choices, bool biased) {
    // Mostly the old, mostly the new, or anything.
    const uint64_t bias = biased ? choices.Below(4) : 3;
    chosen_.clear();
    for (size_t i = 0; i < all.size(); ++i) {
      for (const VolatileCache::Doubt& doubt : all[i]) {
        uint64_t chosen = choices.Below(doubt.values.size());
        if (bias < 2 && choices.Below(8) != 0) chosen = bias == 0 ? 0 : doubt.values.size() - 1;
        const std::vector<std::byte>& value = doubt.values[chosen];
        std::memcpy(rack_.slot(i).platter.data() + doubt.range.offset, value.data(), value.size());
        chosen_.push_back({i, doubt.range, chosen, doubt.values.size()});
      }
    }
  }

  std::string DescribeChosen() const {
    std::string text;
    for (const Chosen& c : chosen_) {
      absl::StrAppend(&text, "\n    disk ", c.disk, " bytes ", c.range.offset, "+", c.range.length, ": ");
      if (c.chosen == 0) {
        absl::StrAppend(&text, "what was durable");
      } else {
        absl::StrAppend(&text, "value ", c.chosen, " of the ", c.values - 1, " written since");
      }
    }
    return text.empty() ? "\n    nothing was unflushed" : text;
  }

  // Visits states of the disks as they are now, with the power off, until `visit` fails. Its argument: whether it is the first.
  template <class Visit>
  std::string ForEachState(const Effort& effort, Visit visit) {
    const Rack::Platters crashed = rack_.Save();
    uint64_t coarser = 1;
    const std::vector<Doubts> finest = DoubtsOfAll(1);
    std::vector<Doubts> all = finest;
    while (Combinations(all, effort.limit) > effort.limit && coarser < (1 << 20)) all = DoubtsOfAll(coarser *= 2);
    bool first = true;
    const auto one = [&](const std::vector<Doubts>& doubts, Choices& choices, bool biased, uint64_t& counter) {
      rack_.Restore(crashed);
      Survive(doubts, choices, biased);
      ++counter;
      return visit(std::exchange(first, false));
    };
    std::string failure;
    if (Combinations(all, effort.limit) <= effort.limit) {
      ExhaustiveChoices choices;
      do {
        failure = one(all, choices, false, effort.enumerated);
      } while (failure.empty() && choices.Next());
    }
    if (coarser == 1) return failure;
    SeededChoices choices(effort.seed);
    for (uint64_t i = 0; i < effort.samples && failure.empty(); ++i) failure = one(finest, choices, true, effort.sampled);
    return failure;
  }

  // ---- Judgement.

  // Opens the stack on the disks as they are and looks at what it holds. Leaves the power on.
  std::string Judge(const Oracle& oracle, bool also_use) {
    auto state = std::make_unique<State>();
    if (absl::Status status = Stack::Open(Configure(kNever), *state); !status.ok()) {
      return Explain("Open after the power cut", status);
    }
    std::string failure = ReadAll(*state, image_);
    if (failure.empty()) failure = oracle.Check(image_);
    recovery_changes_ = rack_.power().changes;
    if (!failure.empty() || !also_use) return failure;
    const Range range = {0, Unit()};
    const std::vector<std::byte> content = Pattern(1 << 20, range);
    std::vector<std::byte> read(range.length);
    absl::Status status = Stack::Write(*state, 0, content);
    if (status.ok()) status = Stack::Flush(*state);
    if (status.ok()) status = Stack::Read(*state, 0, read);
    if (!status.ok()) return Explain("using the stack after the power cut", status);
    return read == content ? "" : "a write after the power cut reads back differently";
  }

  // Cuts the power again during each change that opening the stack makes.
  std::string JudgeRecovery(const Oracle& oracle, uint64_t changes) {
    const std::vector<Chosen> first_cut = chosen_;
    for (uint64_t cut = 0; cut < changes; ++cut) {
      rack_.Restore(settled_);
      {
        auto state = std::make_unique<State>();
        Stack::Open(Configure(cut), *state).IgnoreError();
      }
      rack_.power().on = false;
      const Effort effort = {16, 8, cut, report_.in_recovery, report_.in_recovery};
      const std::string failure = ForEachState(effort, [&](bool) { return Judge(oracle, false); });
      if (failure.empty()) continue;
      const std::string second = DescribeChosen();
      chosen_ = first_cut;
      return absl::StrCat("recovered, and the power went again during change ", cut + 1, " of the recovery, leaving", second,
                          "\n  then: ", failure);
    }
    chosen_ = first_cut;
    return "";
  }

  // All that may follow when the power goes during change `cut_at` of the workload, or after the last step.
  std::string JudgeCut(const Workload& workload, uint64_t cut_at, const Effort& effort) {
    const Run run = Execute(workload, cut_at);
    if (!run.failure.empty()) return absl::StrCat(Describe(workload, run), "\n  ", run.failure);
    coarse_ = Combinations(DoubtsOfAll(1), effort.limit) > effort.limit;
    const std::string failure = ForEachState(effort, [&](bool first) {
      settled_ = rack_.Save();
      std::string failure = Judge(run.oracle, first);
      return failure.empty() ? JudgeRecovery(run.oracle, recovery_changes_) : failure;
    });
    return failure.empty()
               ? ""
               : absl::StrCat(Describe(workload, run), "\n  what survived:", DescribeChosen(), "\n  then: ", failure);
  }

  // ---- Workloads.

  static constexpr uint64_t Unit() { return std::max<uint64_t>(Stack::kBlockSize, 512); }

  Workload DefaultSteps() const {
    const uint64_t u = Unit();
    const uint64_t size = initial_.size();
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
          const Effort effort = {test_.states_per_cut, 32, cut, report_.enumerated, report_.sampled};
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
    const uint64_t blocks = initial_.size() / block;
    const uint64_t most = std::min<uint64_t>(blocks, std::max<uint64_t>(3, 3 * 512 / block));
    const uint64_t length = 1 + choices.Below(most);
    if (step.operation != Operation::kFlush) step.range = {choices.Below(blocks - length + 1) * block, length * block};
    return step;
  }

  std::string ExploreSeed(uint64_t seed) {
    SeededChoices choices(seed);
    Workload workload(4 + choices.Below(test_.random_steps - 3));
    for (Step& step : workload) step = RandomStep(choices);
    ++report_.random_workloads;
    const Run run = Execute(workload, kNever);
    if (!run.failure.empty()) return absl::StrCat("seed ", seed, "\n", Describe(workload, run), "\n  ", run.failure);
    for (int i = 0; i < 4; ++i) {
      const uint64_t cut = choices.Below(run.changes + 1);
      const Effort effort = {16, 16, seed + i, report_.sampled, report_.sampled};
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
      const Effort effort = {128, 64, cut, uncounted, uncounted};
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
    for (size_t i = 0; i < run.begun; ++i) {
      absl::StrAppend(&text, "\n    ", i + 1, ". ", ToString(workload[i].operation));
      if (workload[i].operation != Operation::kFlush) {
        absl::StrAppend(&text, " ", workload[i].range.offset, "+", workload[i].range.length);
      }
    }
    if (run.finished) return absl::StrCat(text, "\n  the power went after that");
    return absl::StrCat(text, "\n  the power went during step ", run.begun, ", in its change ",
                        run.changes - run.changes_before.back(), " to the disks");
  }

  struct Chosen {
    size_t disk;
    Range range;
    uint64_t chosen;
    uint64_t values;
  };

  const PowerCutTest<Stack>& test_;
  Rack rack_;
  Rack::Platters start_;
  std::vector<std::byte> initial_;
  Workload steps_;
  PowerCutReport report_;
  std::vector<Chosen> chosen_;     // of the last state
  Rack::Platters settled_;         // of the last state, before it was opened
  std::vector<std::byte> image_;   // of the last state
  bool coarse_ = false;            // the last cut
  uint64_t recovery_changes_ = 0;  // of the last state
};

template <Device Stack>
PowerCutReport ExplorePowerCuts(const PowerCutTest<Stack>& test, uint64_t seeds = PowerCutSeeds()) {
  return PowerCutExplorer<Stack>(test).Explore(seeds);
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

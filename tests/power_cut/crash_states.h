// SPDX-License-Identifier: Apache-2.0
//
// CrashStates: the stack of a power-cut test, what its disks may hold when the power goes, and the judgement on each: the stack
// is opened on it and must hold what the oracle allows.

#ifndef TESTS_POWER_CUT_CRASH_STATES_H_
#define TESTS_POWER_CUT_CRASH_STATES_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "layers/volatile_cache.h"
#include "tests/model/choices.h"
#include "tests/power_cut/exhaustive_choices.h"
#include "tests/power_cut/oracle.h"
#include "tests/power_cut/rack.h"
#include "tests/power_cut/workload.h"

namespace buse::testing {

// How many states are visited, and where they are counted.
struct CrashEffort {
  uint64_t limit;    // all if there are at most so many
  uint64_t samples;  // otherwise so many random ones besides
  uint64_t seed;
  uint64_t& enumerated;
  uint64_t& sampled;
};

inline std::string Explain(absl::string_view what, const absl::Status& status) {
  return status.ok() ? "" : absl::StrCat(what, " failed: ", status.ToString());
}

template <Device Stack>
class CrashStates {
 public:
  using State = typename Stack::State;
  static constexpr uint64_t kNever = UINT64_MAX;

  // Counts the states in recovery in `in_recovery`.
  CrashStates(const PowerCutTest<Stack>& test, uint64_t& in_recovery) : test_(test), in_recovery_(in_recovery) {}

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
      if (initial_.size() < 4 * kUnit) return absl::StrCat("the stack is too small: give it ", 4 * kUnit, " bytes or more");
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
    return "";
  }

  // Opens the stack as it is at the beginning of a run.
  std::string Begin(State& state) {
    rack_.Restore(start_);
    return Explain("Open after a clean end", Stack::Open(Configure(kNever), state));
  }

  static std::string ReadAll(State& state, std::vector<std::byte>& image) {
    image.resize(Stack::Size(state));
    return Explain("reading", Stack::Read(state, 0, image));
  }

  // What may follow now that the power is off, until something is wrong.
  std::string Judge(const Oracle& oracle, const CrashEffort& effort, bool also_in_recovery = true) {
    return ForEachState(effort, [&](bool first) {
      settled_ = rack_.Save();
      std::string failure = JudgeState(oracle, first);
      return failure.empty() && also_in_recovery ? JudgeRecovery(oracle, recovery_changes_) : failure;
    });
  }

  // Opens the stack on the disks as they are and looks at what it holds. Leaves the power on.
  std::string JudgeState(const Oracle& oracle, bool also_use) {
    auto state = std::make_unique<State>();
    if (absl::Status status = Stack::Open(Configure(kNever), *state); !status.ok()) {
      return Explain("Open after the power cut", status);
    }
    std::string failure = ReadAll(*state, image_);
    if (failure.empty()) failure = oracle.Check(image_);
    recovery_changes_ = rack_.power().changes;
    if (!failure.empty() || !also_use) return failure;
    const Range range = {0, kUnit};
    const std::vector<std::byte> content = Pattern(1 << 20, range);
    std::vector<std::byte> read(range.length);
    absl::Status status = Stack::Write(*state, 0, content);
    if (status.ok()) status = Stack::Flush(*state);
    if (status.ok()) status = Stack::Read(*state, 0, read);
    if (!status.ok()) return Explain("using the stack after the power cut", status);
    return read == content ? "" : "a write after the power cut reads back differently";
  }

  // Whether there are more states than `limit`, so that only some are visited.
  bool IsCoarse(uint64_t limit) { return Combinations(DoubtsOfAll(1), limit) > limit; }

  // What survived in the last state.
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

  Rack& rack() { return rack_; }
  const std::vector<std::byte>& initial() const { return initial_; }
  // Read from the last state.
  const std::vector<std::byte>& image() const { return image_; }

 private:
  using Doubts = std::vector<VolatileCache::Doubt>;
  static constexpr uint64_t kUnit = kStepUnit<Stack>;

  struct Chosen {
    size_t disk;
    Range range;
    uint64_t chosen;
    uint64_t values;
  };

  typename Stack::Config Configure(uint64_t cut_at) {
    rack_.PowerOn(cut_at);
    return test_.configure(rack_);
  }

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

  // Visits states of the disks as they are now, with the power off, until `visit` fails. Its argument: whether it is the first.
  template <class Visit>
  std::string ForEachState(const CrashEffort& effort, Visit visit) {
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
      const CrashEffort effort = {16, 8, cut, in_recovery_, in_recovery_};
      const std::string failure = ForEachState(effort, [&](bool) { return JudgeState(oracle, false); });
      if (failure.empty()) continue;
      const std::string second = DescribeChosen();
      chosen_ = first_cut;
      return absl::StrCat("recovered, and the power went again during change ", cut + 1, " of the recovery, leaving", second,
                          "\n  then: ", failure);
    }
    chosen_ = first_cut;
    return "";
  }

  const PowerCutTest<Stack>& test_;
  uint64_t& in_recovery_;
  Rack rack_;
  Rack::Platters start_;
  std::vector<std::byte> initial_;
  std::vector<Chosen> chosen_;
  Rack::Platters settled_;  // the last state, before it was opened
  std::vector<std::byte> image_;
  uint64_t recovery_changes_ = 0;
};

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_CRASH_STATES_H_

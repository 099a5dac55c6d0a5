// SPDX-License-Identifier: Apache-2.0
//
// ExhaustiveChoices: all decisions of a scenario, one combination after the other. The scenario runs again and again, asking
// for the same kind of numbers as from a seed; each time the last decision that can still change does, like an odometer.
//
//   ExhaustiveChoices choices;
//   do {
//     Scenario(choices);  // deterministic but for choices.Below(n)
//   } while (choices.Next());

#ifndef TESTS_POWER_CUT_EXHAUSTIVE_CHOICES_H_
#define TESTS_POWER_CUT_EXHAUSTIVE_CHOICES_H_

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/model/choices.h"

namespace buse::testing {

class ExhaustiveChoices : public Choices {
 public:
  enum class Scenario {
    kDeterministic,        // but for its choices
    kNearlyDeterministic,  // where it takes another way than before, that is gone on from: some ways may be missed
  };

  explicit ExhaustiveChoices(Scenario scenario = Scenario::kDeterministic) : scenario_(scenario) {}

  uint64_t Below(uint64_t n) override {
    if (taken_ < decisions_.size() && decisions_[taken_].n != n) {
      assert(scenario_ == Scenario::kNearlyDeterministic && "the scenario must be deterministic but for its choices");
      decisions_.resize(taken_);
    }
    if (taken_ == decisions_.size()) decisions_.push_back({0, n});
    return decisions_[taken_++].value;
  }

  // Goes on to the next combination. False: there is none.
  bool Next() {
    // What was decided after the point where the scenario took another way.
    decisions_.resize(taken_);
    taken_ = 0;
    while (!decisions_.empty()) {
      if (++decisions_.back().value < decisions_.back().n) return true;
      decisions_.pop_back();
    }
    return false;
  }

 private:
  struct Decision {
    uint64_t value;
    uint64_t n;
  };

  const Scenario scenario_;
  std::vector<Decision> decisions_;
  size_t taken_ = 0;
};

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_EXHAUSTIVE_CHOICES_H_

// SPDX-License-Identifier: Apache-2.0
//
// Where a random test takes its decisions from: a seed, or the bytes of a fuzzer.

#ifndef TESTS_MODEL_CHOICES_H_
#define TESTS_MODEL_CHOICES_H_

#include <cstdint>
#include <random>

namespace buse::testing {

class Choices {
 public:
  virtual ~Choices() = default;
  // A number less than `n`, which is not 0.
  virtual uint64_t Below(uint64_t n) = 0;
};

class SeededChoices : public Choices {
 public:
  explicit SeededChoices(uint64_t seed) : random_(seed) {}
  // Not quite uniform, and the same on every platform.
  uint64_t Below(uint64_t n) override { return random_() % n; }

 private:
  std::mt19937_64 random_;
};

}  // namespace buse::testing

#endif  // TESTS_MODEL_CHOICES_H_

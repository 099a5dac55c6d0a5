// SPDX-License-Identifier: Apache-2.0
//
// The model suite: every stack it is instantiated with must behave like a vector of bytes, from every seed. BUSE_TEST_SEEDS=N
// in the environment runs N seeds in place of the few.

#ifndef TESTS_MODEL_SUITE_H_
#define TESTS_MODEL_SUITE_H_

#include <cstdint>
#include <cstdlib>
#include <string>
#include <type_traits>

#include "gtest/gtest.h"
#include "tests/model/model.h"
#include "tests/model/test_config.h"

namespace buse::testing {

inline uint64_t Seeds() {
  const char* seeds = std::getenv("BUSE_TEST_SEEDS");
  return seeds != nullptr ? std::strtoull(seeds, nullptr, 10) : 3;
}

template <class Stack>
class ModelTest : public ::testing::Test {};
TYPED_TEST_SUITE_P(ModelTest);

TYPED_TEST_P(ModelTest, BehavesLikeAVectorOfBytes) {
  for (uint64_t seed = 1; seed <= Seeds(); ++seed) {
    const std::string failure = RunSeed<TypeParam>(seed, 300);
    ASSERT_TRUE(failure.empty()) << failure;
  }
}

TYPED_TEST_P(ModelTest, ThreadsOnRegionsOfTheirOwnDoNotDisturbEachOther) {
  if constexpr (TypeParam::kConcurrency == Concurrency::kSerial) {
    GTEST_SKIP() << "takes one call at a time";
  } else {
    for (uint64_t seed = 1; seed <= Seeds(); ++seed) {
      const std::string failure = RunThreads<TypeParam>(seed, 100, 3);
      ASSERT_TRUE(failure.empty()) << failure;
    }
  }
}

REGISTER_TYPED_TEST_SUITE_P(ModelTest, BehavesLikeAVectorOfBytes, ThreadsOnRegionsOfTheirOwnDoNotDisturbEachOther);

}  // namespace buse::testing

#endif  // TESTS_MODEL_SUITE_H_

// SPDX-License-Identifier: Apache-2.0
//
// The model of a device is a vector of bytes. Random operations run on both and must give the same, with their offsets near
// edges more often than not. RunModel is deterministic in its choices, so that a failure is found again from its seed.
//
// Each function returns an empty string, or what went wrong.

#ifndef TESTS_MODEL_MODEL_H_
#define TESTS_MODEL_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "buse/device.h"
#include "tests/model/choices.h"
#include "tests/model/subject.h"

namespace buse::testing {

// Opens a new subject, runs random operations on it, and compares all its contents; where they persist, also after opening it
// again. `log`, if given, takes a word for each operation.
std::string RunModel(Subject& subject, Choices& choices, uint64_t operations, std::vector<std::string>* log);

using MakeSubject = std::unique_ptr<Subject> (*)();

// RunModel from a seed. A failure is reported with a number of operations of which one less would not fail.
std::string RunSeed(MakeSubject make, uint64_t seed, uint64_t operations);

// Threads on regions of their own, whose borders are where the contract permits them: not for kSerial.
std::string RunThreads(Subject& subject, uint64_t seed, uint64_t operations, uint64_t threads);

template <Device Stack>
std::string RunModel(Choices& choices, uint64_t operations) {
  SubjectOf<Stack> subject;
  return RunModel(subject, choices, operations, nullptr);
}

template <Device Stack>
std::string RunSeed(uint64_t seed, uint64_t operations) {
  return RunSeed([]() -> std::unique_ptr<Subject> { return std::make_unique<SubjectOf<Stack>>(); }, seed, operations);
}

template <Device Stack>
std::string RunThreads(uint64_t seed, uint64_t operations, uint64_t threads) {
  static_assert(Stack::kConcurrency != Concurrency::kSerial);
  SubjectOf<Stack> subject;
  return RunThreads(subject, seed, operations, threads);
}

}  // namespace buse::testing

#endif  // TESTS_MODEL_MODEL_H_

// SPDX-License-Identifier: Apache-2.0
//
// What a power-cut test is told, and what it reports: explore.h says what it does.

#ifndef TESTS_POWER_CUT_WORKLOAD_H_
#define TESTS_POWER_CUT_WORKLOAD_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "buse/operations.h"
#include "layers/operation.h"
#include "layers/splitmix.h"
#include "tests/power_cut/rack.h"

namespace buse::testing {

// Write, WriteThrough, Trim, WriteZeroes or Flush, and, of threads, Read. What is written is different in each step.
struct Step {
  Operation operation = Operation::kWrite;
  Range range = {};

  bool Zeroes() const { return operation == Operation::kTrim || operation == Operation::kWriteZeroes; }
  bool Writes() const { return operation != Operation::kFlush && operation != Operation::kRead; }
};

inline std::string ToString(const Step& step) {
  std::string text = ToString(step.operation);
  if (step.operation != Operation::kFlush) absl::StrAppend(&text, " ", step.range.offset, "+", step.range.length);
  return text;
}

// ThreadSanitizer makes threads ten times slower.
#if defined(__SANITIZE_THREAD__)
inline constexpr int kThreadExhaustiveSteps = 2;
#else
inline constexpr int kThreadExhaustiveSteps = 3;
#endif

template <Device Stack>
struct PowerCutTest {
  std::function<typename Stack::Config(Rack&)> configure;
  std::function<absl::Status(const typename Stack::Config&)> format = nullptr;  // absent: the stack opens on empty disks
  uint64_t unit = 512;
  std::vector<Step> steps = {};  // of one thread; absent: as explore.h says
  int exhaustive_steps = 3;
  int random_steps = 12;
  uint64_t states_per_cut = 256;
  std::vector<Step> thread_steps = {};                   // of each of several threads; absent: as explore.h says
  int thread_exhaustive_steps = kThreadExhaustiveSteps;  // of all threads together; 0: no threads, not by seed either
  int preemptions = 2;
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
  // Workloads of several threads, the schedules they ran by, and the different moments at which the power went.
  uint64_t thread_workloads = 0;
  uint64_t schedules = 0;
  uint64_t random_schedules = 0;
  uint64_t moments = 0;
  uint64_t thread_states = 0;
  uint64_t thread_sampled = 0;
  bool stuck = false;  // threads are left over that will never end
};

inline std::string ToString(const PowerCutReport& report) {
  std::string text = absl::StrCat(report.workloads, " short workloads, ", report.cuts, " power cuts (", report.coarse_cuts,
                                  " coarse), ", report.enumerated, " states; ", report.random_workloads, " random workloads, ",
                                  report.sampled, " random states; ", report.in_recovery, " states in recovery");
  if (report.thread_workloads > 0) {
    absl::StrAppend(&text, "; threads: ", report.thread_workloads, " workloads, ", report.schedules, " schedules and ",
                    report.random_schedules, " random ones, ", report.moments, " power cuts, ", report.thread_states,
                    " states and ", report.thread_sampled, " random ones");
  }
  return text;
}

inline uint64_t PowerCutSeeds() {
  const char* seeds = std::getenv("BUSE_TEST_SEEDS");
  return seeds != nullptr ? std::strtoull(seeds, nullptr, 10) : 50;
}

// Bytes that no other step has there.
inline std::vector<std::byte> Pattern(uint64_t step, Range range) {
  std::vector<std::byte> bytes(range.length);
  for (size_t i = 0; i < bytes.size(); i += 8) {
    // 1 in each byte, so that none is zero.
    const uint64_t word = Mix64((step << 40) + range.offset + i + 1) | 0x0101010101010101;
    std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, bytes.size() - i));
  }
  return bytes;
}

// What a step writes, if it is the `number`th.
inline std::vector<std::byte> ContentOf(const Step& step, uint64_t number) {
  return step.Zeroes() ? std::vector<std::byte>(step.range.length) : Pattern(number, step.range);
}

// `in` is what it writes, or where it reads to.
template <Device Stack>
absl::Status Do(typename Stack::State& state, const Step& step, std::vector<std::byte>& in) {
  switch (step.operation) {
    case Operation::kFlush:
      return Stack::Flush(state);
    case Operation::kWriteThrough:
      return buse::WriteThrough<Stack>(state, step.range.offset, in);
    case Operation::kTrim:
      return buse::Zero<Stack>(state, step.range);
    case Operation::kWriteZeroes:
      return buse::WriteZeroes<Stack>(state, step.range);
    case Operation::kRead:
      return Stack::Read(state, step.range.offset, in);
    default:
      return Stack::Write(state, step.range.offset, in);
  }
}

// The smallest part of a stack that a step of a test writes whole.
template <Device Stack>
inline constexpr uint64_t kStepUnit = std::max<uint64_t>(Stack::kBlockSize, 512);

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_WORKLOAD_H_

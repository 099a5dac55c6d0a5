// SPDX-License-Identifier: Apache-2.0
//
// What was measured, and what can honestly be said of it.

#ifndef BENCH_RESULTS_H_
#define BENCH_RESULTS_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "bench/contestant.h"
#include "bench/subjects.h"

namespace buse::bench {

// Fewer runs than this make no ratio.
inline constexpr int kRunsForRatios = 5;

// Of several values: the one in the middle, and how far apart they are.
struct Spread {
  double median = 0;
  double min = 0;
  double max = 0;
};
// `values` is not empty.
Spread SpreadOf(std::vector<double> values);

// One subject in one row. samples[i] is of run i; those that failed are absent.
struct Result {
  const Subject* subject;
  std::map<int, Sample> samples;
  std::string failure = {};  // the last one

  // Absent where no sample has it.
  absl::optional<Spread> Of(const std::string& metric) const;
};

struct Row {
  std::string name;  // GROUP/TASK
  const Group* group;
  Task task;
  std::vector<Result> results;

  // Of this metric, `a` over `b`: the median of the ratios of single runs, in which both met the same moods of the machine.
  // Absent where fewer than kRunsForRatios runs have both.
  static absl::optional<Spread> Ratio(const Result& a, const Result& b, const std::string& metric);

  // What a subject of ours is held against in this row: the floor, the fastest peer, the first of ours, references.
  std::vector<const Result*> MarksFor(const Result& ours) const;
};

struct Measured {
  const Group* group;
  const Subject* subject;
  std::string version;  // "" where it is not installed
};

// Everything about one run of the benchmark.
struct Report {
  std::string date;  // when it began, UTC
  std::vector<std::string> command;
  int runs = 0;
  bool quick = false;
  std::string placement;
  Settings settings;
  std::vector<std::pair<std::string, std::string>> machine;
  std::vector<Measured> subjects;
  std::vector<std::pair<std::string, std::string>> missing;  // subjects that were not measured, and why
  std::vector<Row> rows;

  std::string ToJson() const;
  // A table for people.
  std::string ToText() const;
};

}  // namespace buse::bench

#endif  // BENCH_RESULTS_H_

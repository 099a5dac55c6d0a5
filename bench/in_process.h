// SPDX-License-Identifier: Apache-2.0
//
// Stacks over files without any server, called by threads of the benchmark: what a layer costs, and what it sends below.

#ifndef BENCH_IN_PROCESS_H_
#define BENCH_IN_PROCESS_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/contestant.h"
#include "bench/subjects.h"

namespace buse::bench {

// The stacks there are. Each has Stats above its files, which count what arrives there.
std::vector<Subject> InProcessSubjects();

// Opens the stack of a subject of Medium::kInProcess over files of its own, and writes its device in full.
//
// A measurement has one thread for each connection, and a depth of 1. Its time ends when a last Flush is done. A write with the
// flush that is to follow it is one request. CPU is that of the whole process.
absl::StatusOr<std::unique_ptr<Contestant>> OpenStack(const Subject& subject, const Settings& settings);

}  // namespace buse::bench

#endif  // BENCH_IN_PROCESS_H_

// SPDX-License-Identifier: Apache-2.0
//
// What the machine is, for a reader of figures.

#ifndef BENCH_MACHINE_H_
#define BENCH_MACHINE_H_

#include <string>
#include <utility>
#include <vector>

namespace buse::bench {

// Names and values, in the order to be shown: CPU, kernel, memory, compiler, and what of it makes figures doubtful. `folder` is
// where files lie.
std::vector<std::pair<std::string, std::string>> DescribeMachine(const std::string& folder);

// How many runnable threads there were in the last minute, "1.27".
std::string LoadAverage();

// The part of the time since boot, in ticks, that the hypervisor gave to others, and all of the time.
struct StolenTime {
  double stolen = 0;
  double total = 0;
};
StolenTime ReadStolenTime();

// Whether this program was compiled as one that is to be measured.
constexpr bool Optimized() {
#if defined(__OPTIMIZE__) && defined(NDEBUG)
  return true;
#else
  return false;
#endif
}

}  // namespace buse::bench

#endif  // BENCH_MACHINE_H_

// SPDX-License-Identifier: Apache-2.0
//
// The counters of Stats, and their table.

#include "layers/stats.h"

#include <sched.h>

#include <cmath>

#include "absl/strings/str_format.h"

namespace buse {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// Two digits or more and the largest unit that fits, each `step` times the one before.
template <size_t kUnits>
std::string Short(double value, double step, const std::array<const char*, kUnits>& units) {
  size_t unit = 0;
  while (value >= step && unit + 1 < kUnits) {
    value /= step;
    ++unit;
  }
  const int digits = unit > 0 && value < 9.95 ? 1 : 0;
  return absl::StrFormat("%.*f %s", digits, value, units[unit]);
}

std::string ShortSize(uint64_t bytes) {
  static constexpr std::array<const char*, 7> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  return Short(static_cast<double>(bytes), 1024, kUnits);
}

std::string ShortTime(std::chrono::nanoseconds time) {
  static constexpr std::array<const char*, 4> kUnits = {"ns", "us", "ms", "s"};
  return Short(static_cast<double>(time.count()), 1000, kUnits);
}

bool MovesBytes(Operation operation) { return operation != Operation::kFlush && operation != Operation::kResize; }

}  // namespace

std::chrono::nanoseconds OperationStats::Quantile(double q) const {
  const auto rank = std::max<uint64_t>(1, static_cast<uint64_t>(std::ceil(q * static_cast<double>(count))));
  uint64_t seen = 0;
  for (size_t bucket = 0; bucket + 1 < latencies.size(); ++bucket) {
    seen += latencies[bucket];
    if (seen >= rank) return std::min(max, std::chrono::nanoseconds(LatencyBuckets::Longest(bucket)));
  }
  return max;
}

std::string StatsSnapshot::ToString() const {
  std::string table =
      absl::StrFormat("%-13s %11s %11s %8s %9s %9s %9s\n", "operation", "count", "bytes", "errors", "p50", "p99", "max");
  for (size_t i = 0; i < kOperations; ++i) {
    const OperationStats& row = operations[i];
    if (row.count == 0) continue;
    table += absl::StrFormat("%-13s %11d %11s %8d %9s %9s %9s\n", buse::ToString(static_cast<Operation>(i)), row.count,
                             ShortSize(row.bytes), row.errors, ShortTime(row.Quantile(0.5)), ShortTime(row.Quantile(0.99)),
                             ShortTime(row.max));
  }
  return table;
}

void StatsCounters::Record(const Request& request, bool ok, std::chrono::nanoseconds elapsed) {
  const auto cpu = static_cast<unsigned>(sched_getcpu());  // where that fails, all count in the last shard
  Counters& counters = shards_[cpu % kShards].operations[static_cast<size_t>(request.operation)];
  const auto latency = static_cast<uint64_t>(elapsed.count());
  counters.latencies[LatencyBuckets::Of(latency)].fetch_add(1, kRelaxed);
  if (!ok) {
    counters.errors.fetch_add(1, kRelaxed);
  } else if (MovesBytes(request.operation)) {
    counters.bytes.fetch_add(request.range.length, kRelaxed);
  }
  uint64_t max = counters.max.load(kRelaxed);
  while (latency > max && !counters.max.compare_exchange_weak(max, latency, kRelaxed)) {
  }
}

StatsSnapshot StatsCounters::Snapshot() const {
  StatsSnapshot snapshot;
  for (const Shard& shard : shards_) {
    for (size_t i = 0; i < kOperations; ++i) {
      const Counters& from = shard.operations[i];
      OperationStats& to = snapshot.operations[i];
      to.bytes += from.bytes.load(kRelaxed);
      to.errors += from.errors.load(kRelaxed);
      to.max = std::max(to.max, std::chrono::nanoseconds(from.max.load(kRelaxed)));
      for (size_t bucket = 0; bucket < from.latencies.size(); ++bucket) {
        const uint64_t count = from.latencies[bucket].load(kRelaxed);
        to.latencies[bucket] += count;
        to.count += count;
      }
    }
  }
  return snapshot;
}

}  // namespace buse

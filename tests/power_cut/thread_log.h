// SPDX-License-Identifier: Apache-2.0
//
// ThreadLog: what threads do to a stack and the stack to its disks, in the order in which it happens.

#ifndef TESTS_POWER_CUT_THREAD_LOG_H_
#define TESTS_POWER_CUT_THREAD_LOG_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "layers/operation.h"
#include "layers/volatile_cache.h"
#include "tests/power_cut/cut_disk.h"
#include "tests/power_cut/oracle.h"
#include "tests/power_cut/rack.h"
#include "tests/power_cut/scheduler.h"
#include "tests/power_cut/workload.h"

namespace buse::testing {

// What happens while threads run, written down: calls to the stack and what they do to the disks. Keeps the moments that are
// new to it, each with what the disks and the oracle then were.
class ThreadLog final : public DiskWatcher {
 public:
  struct Moment {
    size_t events;  // before it
    Oracle oracle;
    Rack::Contents disks;
  };

  // `seen` has the moments that are known.
  ThreadLog(Rack& rack, Oracle oracle, std::unordered_set<uint64_t>& seen)
      : rack_(rack), oracle_(std::move(oracle)), seen_(seen) {}

  static std::string ThreadName(size_t thread) { return std::string(1, static_cast<char>('A' + thread)); }

  // Around a step, which is the `number`th of its thread. `bytes`: what it writes, or what it read.
  size_t Begin(size_t thread, size_t number, const Step& step, const std::vector<std::byte>& bytes) {
    std::lock_guard lock(mutex_);
    events_.push_back(absl::StrCat(ThreadName(thread), " begins ", number, ". ", ToString(step)));
    if (step.operation == Operation::kFlush) return oracle_.BeginFlush();
    if (step.operation == Operation::kRead) return oracle_.BeginRead(step.range);
    return oracle_.BeginWrite(
        step.range.offset, bytes, step.operation == Operation::kWriteThrough,
        absl::StrCat(step.Zeroes() ? "the zeroes" : "what was written", " in step ", ThreadName(thread), number));
  }

  void End(size_t thread, size_t number, const Step& step, size_t call, const absl::Status& status,
           const std::vector<std::byte>& bytes) {
    {
      std::lock_guard disks(rack_.supply().mutex);
      std::lock_guard lock(mutex_);
      events_.push_back(absl::StrCat(ThreadName(thread), " ends ", number, "."));
      if (!status.ok())
        Fail(absl::StrCat("with the power on, step ", ThreadName(thread), number, " failed: ", status.ToString()));
      oracle_.End(call);
      if (step.operation == Operation::kRead) Fail(oracle_.CheckRead(call, bytes));
      // Only these make durable what may not have been.
      if (step.operation == Operation::kFlush || step.operation == Operation::kWriteThrough) Keep();
    }
  }

  void Blocked(size_t thread) {
    std::lock_guard lock(mutex_);
    events_.push_back(absl::StrCat(ThreadName(thread), " waits for another thread"));
  }

  void Arrives(const DiskCall&) override { Scheduler::Point(); }
  void Did(const DiskCall& call, bool rubbish) override {
    std::lock_guard lock(mutex_);
    const std::optional<size_t> thread = Scheduler::Self();
    events_.push_back(absl::StrCat(thread.has_value() ? ThreadName(*thread) : "a thread of the stack", "   ", ToString(call),
                                   rubbish ? ", which is rubbish beside a change" : ""));
    if (call.IsChange()) Keep();
  }
  void Leaves(const DiskCall&) override { Scheduler::Point(); }
  void Collided(const DiskCall& first, const DiskCall& second) override {
    std::lock_guard lock(mutex_);
    Fail(absl::StrCat("the disk does not bear these at the same time: ", ToString(first), ", and ", ToString(second)));
  }

  // For when no thread runs.
  Oracle& oracle() { return oracle_; }
  const std::vector<Moment>& moments() const { return moments_; }
  const std::string& failure() const { return failure_; }
  size_t failed_at() const { return failed_at_; }

  std::string Describe(size_t events) const {
    std::string text = "  history:";
    for (size_t i = 0; i < events; ++i) absl::StrAppend(&text, "\n    ", events_[i]);
    return text;
  }
  size_t events() const { return events_.size(); }

 private:
  void Fail(std::string failure) {
    if (!failure_.empty() || failure.empty()) return;
    failure_ = std::move(failure);
    failed_at_ = events_.size();
  }

  void Keep() {
    uint64_t print = std::hash<std::string>()(oracle_.Fingerprint());
    const auto add = [&](ConstBytes bytes) {
      for (size_t i = 0; i < bytes.size(); i += 8) {
        uint64_t word = 0;
        std::memcpy(&word, bytes.data() + i, std::min<size_t>(8, bytes.size() - i));
        print = (print ^ word) * 0x9e3779b97f4a7c15;
        print ^= print >> 32;
      }
    };
    for (size_t i = 0; i < rack_.size(); ++i) {
      add(rack_.slot(i).platter);
      for (const VolatileCache::Change& change : rack_.slot(i).held.changes()) {
        const uint64_t where[] = {change.range.offset, change.range.length};
        add(std::as_bytes(std::span(where)));
        add(change.data);
      }
    }
    if (seen_.insert(print).second) moments_.push_back({events_.size(), oracle_, rack_.SaveAll()});
  }

  Rack& rack_;
  std::mutex mutex_;  // guards all below while threads run
  Oracle oracle_;
  std::unordered_set<uint64_t>& seen_;
  std::vector<std::string> events_;
  std::vector<Moment> moments_;
  std::string failure_;
  size_t failed_at_ = 0;
};

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_THREAD_LOG_H_

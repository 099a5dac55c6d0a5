// SPDX-License-Identifier: Apache-2.0
//
// Meeting: whether two calls run at the same time, told by calls that wait for one another.

#ifndef TESTS_MEETING_H_
#define TESTS_MEETING_H_

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/device.h"
#include "layers/observer.h"

namespace buse::testing {

// For two calls that shall run together, and that shall not: how long one waits for the other.
inline constexpr std::chrono::seconds kUntilItComes(30);
inline constexpr std::chrono::milliseconds kAWhile(30);

class Meeting {
 public:
  explicit Meeting(std::chrono::milliseconds patience) : patience_(patience) {}

  // Waits until two are here, or for the patience.
  void Attend() {
    std::unique_lock lock(mutex_);
    most_ = std::max(most_, ++present_);
    changed_.notify_all();
    changed_.wait_for(lock, patience_, [this] { return most_ == 2; });
    --present_;
  }

  // Makes both calls, each by a thread of its own, and returns whether they met.
  template <class First, class Second>
  bool Between(First first, Second second) {
    std::thread other(second);
    first();
    other.join();
    return met();
  }

  // Whether two calls were here together. Not while there are any.
  bool met() const { return most_ == 2; }

 private:
  const std::chrono::milliseconds patience_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int present_ = 0;
  int most_ = 0;
};

// Has every call attend the meeting.
struct AttendHook {
  template <class BelowConfig>
  struct Config {
    Meeting* meeting = nullptr;
    BelowConfig below;
  };
  struct State {
    Meeting* meeting = nullptr;
  };
  template <class Config>
  static constexpr Description<Config> Describe() {
    return {"attend", "has every call attend a meeting", Family::kObserver};
  }
  template <class Config>
  static absl::Status Open(const Config& config, State& hook) {
    hook.meeting = config.meeting;
    return absl::OkStatus();
  }
  template <class Next>
  static absl::Status Around(State& hook, const Request&, Next&& next) {
    hook.meeting->Attend();
    return next();
  }
};
template <Device B>
using Attend = Observer<AttendHook, B>;

// Whether two calls, `first(state)` and `second(state)`, meet below the outermost layer of a Stack with Attend below it.
template <Device Stack, class First, class Second>
bool MeetBelow(std::chrono::milliseconds patience, First first, Second second) {
  Meeting meeting(patience);
  auto state = std::make_unique<typename Stack::State>();
  typename Stack::Config config;
  config.below.meeting = &meeting;
  if (!Stack::Open(config, *state).ok()) return false;
  return meeting.Between([&] { first(*state); }, [&] { second(*state); });
}

}  // namespace buse::testing

#endif  // TESTS_MEETING_H_

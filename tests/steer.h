// SPDX-License-Identifier: Apache-2.0
//
// Steer: runs a function of the test around every call that reaches the device below: to look, to wait, or to fail.

#ifndef TESTS_STEER_H_
#define TESTS_STEER_H_

#include <condition_variable>
#include <functional>
#include <mutex>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/device.h"
#include "layers/observer.h"

namespace buse::testing {

// Called by every thread that calls; `next` does what was asked for.
using Steering = std::function<absl::Status(const Request& request, absl::FunctionRef<absl::Status()> next)>;

struct SteerHook {
  template <class BelowConfig>
  struct Config {
    const Steering* steering = nullptr;
    BelowConfig below;
  };
  struct State {
    const Steering* steering = nullptr;
  };
  template <class Config>
  static constexpr Description<Config> Describe() {
    return {"steer", "runs a function of a test around every operation", Family::kObserver};
  }
  template <class Config>
  static absl::Status Open(const Config& config, State& hook) {
    hook.steering = config.steering;
    return absl::OkStatus();
  }
  template <class Next>
  static absl::Status Around(State& hook, const Request& request, Next&& next) {
    return hook.steering != nullptr && *hook.steering != nullptr ? (*hook.steering)(request, next) : next();
  }
};
template <Device B>
using Steer = Observer<SteerHook, B>;

// A place where one thread waits until another lets it go on.
class Barrier {
 public:
  // Says that it is here, and waits.
  void Wait() {
    std::unique_lock lock(mutex_);
    reached_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  void AwaitArrival() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return reached_; });
  }
  void Open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool reached_ = false;
  bool open_ = false;
};

}  // namespace buse::testing

#endif  // TESTS_STEER_H_

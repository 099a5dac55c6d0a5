// SPDX-License-Identifier: Apache-2.0

#include "buse/resize_gate.h"

namespace buse {

ResizeGate::Guest::Guest(ResizeGate* gate) : gate_(gate) {
  if (gate_ == nullptr) return;
  std::lock_guard lock(gate_->mutex_);
  ++gate_->guests_;
}

ResizeGate::Guest::~Guest() {
  if (gate_ == nullptr) return;
  std::lock_guard lock(gate_->mutex_);
  --gate_->guests_;
}

ResizeGate::Visit::Visit(ResizeGate* gate) : gate_(gate) {
  if (gate_ != nullptr) gate_->Enter();
}

ResizeGate::Visit::~Visit() {
  if (gate_ != nullptr) gate_->Leave();
}

void ResizeGate::Enter() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !resizing_; });
  ++inside_;
}

void ResizeGate::Leave() {
  std::lock_guard lock(mutex_);
  --inside_;
  if (inside_ == 0) changed_.notify_all();
}

absl::Status ResizeGate::Alone(std::chrono::milliseconds limit, absl::FunctionRef<absl::Status(bool alone)> resize) {
  const auto end = std::chrono::steady_clock::now() + limit;
  absl::Status status = absl::UnavailableError("other clients did not take their answers in time: try again");
  std::unique_lock lock(mutex_);
  --inside_;  // so that of two who want this, each is out of the other's way
  changed_.notify_all();
  if (changed_.wait_until(lock, end, [this] { return !resizing_; })) {
    resizing_ = true;
    const bool out = changed_.wait_until(lock, end, [this] { return inside_ == 0; });
    const bool alone = guests_ <= 1;
    lock.unlock();
    if (out) status = resize(alone);
    lock.lock();
    resizing_ = false;
    changed_.notify_all();
  }
  changed_.wait(lock, [this] { return !resizing_; });
  ++inside_;
  return status;
}

}  // namespace buse

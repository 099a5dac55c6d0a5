// SPDX-License-Identifier: Apache-2.0
//
// ResizeGate: keeps the promise that Resize runs alone, where a client may ask for it while others use the device.

#ifndef BUSE_RESIZE_GATE_H_
#define BUSE_RESIZE_GATE_H_

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace buse {

// One for all connections to a device. A connection is inside but while it waits for its client, when it has no view of the device
// and no call to it. Thread-safe.
class ResizeGate {
 public:
  // A client, from before it is told a size to its end. Without a gate it does nothing.
  class Guest {
   public:
    explicit Guest(ResizeGate* gate);
    Guest(const Guest&) = delete;
    Guest& operator=(const Guest&) = delete;
    ~Guest();

   private:
    ResizeGate* const gate_;
  };

  // A connection, from the beginning of its transmission to the end. Without a gate it does nothing. Used by one thread.
  class Visit {
   public:
    explicit Visit(ResizeGate* gate);
    Visit(const Visit&) = delete;
    Visit& operator=(const Visit&) = delete;
    ~Visit();

   private:
    ResizeGate* const gate_;
  };

  void Enter();
  void Leave();

  // For who is inside: runs `resize` while nobody else is, and those who want to be wait. kUnavailable: some were not out within
  // `limit`. `alone`: there is no other guest at all.
  absl::Status Alone(std::chrono::milliseconds limit, absl::FunctionRef<absl::Status(bool alone)> resize);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  int guests_ = 0;
  int inside_ = 0;
  bool resizing_ = false;  // nobody may enter
};

}  // namespace buse

#endif  // BUSE_RESIZE_GATE_H_

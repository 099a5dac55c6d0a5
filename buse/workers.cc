// SPDX-License-Identifier: Apache-2.0

#include "buse/workers.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "buse/signals.h"

namespace buse {

void Workers::Queue::Push(Task& task) {
  task.next = nullptr;
  *end = &task;
  end = &task.next;
}

Workers::Task* Workers::Queue::Pop() {
  Task* task = first;
  if (task == nullptr) return nullptr;
  first = task->next;
  if (first == nullptr) end = &first;
  return task;
}

Workers::Task* Workers::Queue::PopAll() {
  end = &first;
  return std::exchange(first, nullptr);
}

absl::StatusOr<std::unique_ptr<Workers>> Workers::Create(size_t threads, size_t largest, nbd::Terms::Replies style,
                                                         Perform perform, Send send) {
  absl::StatusOr<Arena> arena = Arena::Create(largest, 2 * threads);
  if (!arena.ok()) return arena.status();
  return std::unique_ptr<Workers>(new Workers(threads, *std::move(arena), style, std::move(perform), std::move(send)));
}

// The tasks are not touched before they are used: most of a task is room for replies with many pieces.
Workers::Workers(size_t threads, Arena arena, nbd::Terms::Replies style, Perform perform, Send send)
    : max_threads_(threads),
      perform_(std::move(perform)),
      send_(std::move(send)),
      tasks_(new Task[2 * threads]),
      task_count_(2 * threads),
      arena_(std::move(arena)) {
  for (size_t i = 0; i < task_count_; ++i) {
    tasks_[i].replies.Speak(style);
    free_.Push(tasks_[i]);
  }
  threads_.reserve(max_threads_);
}

Workers::~Workers() {
  Drain().IgnoreError();
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    ready_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

Workers::Task* Workers::TakeLocked(size_t bytes) {
  if (free_.empty()) return nullptr;
  const Bytes part = arena_.Take(bytes);
  if (part.size() < bytes) return nullptr;
  Task* task = free_.Pop();
  task->bytes = part;
  return task;
}

Workers::Task* Workers::TryTake(size_t bytes) {
  const std::lock_guard lock(mutex_);
  return TakeLocked(bytes);
}

// Where nothing is under way, everything is free: so the wait ends.
Workers::Task& Workers::Take(size_t bytes) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (Task* task = TakeLocked(bytes); task != nullptr) return *task;
    freed_.wait(lock);
  }
}

void Workers::GiveBack(Task& task) {
  const std::lock_guard lock(mutex_);
  arena_.GiveBack(task.bytes);
  free_.Push(task);
}

void Workers::Start(Task& task) {
  std::unique_lock lock(mutex_);
  ++under_way_;
  waiting_.Push(task);
  if (wake_ < idle_) {
    ++wake_;
    ready_.notify_one();
    return;
  }
  if (threads_.size() < max_threads_ && StartThread()) return;
  if (!threads_.empty()) return;
  // The system has no threads left: it is done here.
  waiting_.Pop();
  lock.unlock();
  perform_(task);
  lock.lock();
  Finish(lock, task);
}

// It inherits the connection's thread's PR_SET_IO_FLUSHER, and no signals.
bool Workers::StartThread() {
  const SignalBlock block;
  try {
    threads_.emplace_back([this] { Run(); });
    return true;
  } catch (const std::system_error&) {
    return false;
  }
}

void Workers::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    Task* task = waiting_.Pop();
    if (task != nullptr) {
      lock.unlock();
      perform_(*task);
      lock.lock();
      Finish(lock, *task);
      continue;
    }
    if (ending_) return;
    ++idle_;
    ready_.wait(lock, [this] { return wake_ > 0 || ending_; });
    --idle_;
    if (wake_ > 0) --wake_;
  }
}

void Workers::Answer(std::span<Task* const> tasks) {
  std::unique_lock lock(mutex_);
  under_way_ += tasks.size();
  for (Task* task : tasks) done_.Push(*task);
  if (sending_) return;
  sending_ = true;
  SendDone(lock);
}

void Workers::Finish(std::unique_lock<std::mutex>& lock, Task& task) {
  done_.Push(task);
  if (sending_) return;
  sending_ = true;
  SendDone(lock);
}

// Until nothing is done that was not sent. Called where sending_ was set, which it ends.
void Workers::SendDone(std::unique_lock<std::mutex>& lock) {
  while (!done_.empty()) {
    Task* const first = done_.PopAll();
    const bool broken = !broken_.ok();
    lock.unlock();
    absl::Status status;
    Task* unsent = first;
    while (!broken && status.ok() && unsent != nullptr) status = SendSome(unsent);
    for (Task* task = first; task != nullptr; task = task->next) task->replies.Clear();
    lock.lock();
    broken_.Update(status);
    for (Task* task = first; task != nullptr;) {
      Task* const next = task->next;
      arena_.GiveBack(task->bytes);
      free_.Push(*task);
      --under_way_;
      task = next;
    }
    freed_.notify_one();
  }
  sending_ = false;
  freed_.notify_one();
}

// Sends as many tasks' replies as fit, beginning at `from`, which becomes the next.
absl::Status Workers::SendSome(Task*& from) {
  size_t count = 0;
  for (; from != nullptr; from = from->next) {
    const std::span<iovec> reply = from->replies.gather().pieces();
    if (reply.size() > pieces_.size() - count) break;
    std::copy(reply.begin(), reply.end(), pieces_.begin() + count);
    count += reply.size();
  }
  return send_({pieces_.data(), count});
}

absl::Status Workers::SendBetween(std::span<iovec> pieces) {
  std::unique_lock lock(mutex_);
  freed_.wait(lock, [this] { return !sending_; });
  if (!broken_.ok()) return broken_;
  sending_ = true;
  lock.unlock();
  absl::Status status = send_(pieces);
  lock.lock();
  broken_.Update(status);
  SendDone(lock);
  return broken_;
}

absl::Status Workers::Drain() {
  std::unique_lock lock(mutex_);
  freed_.wait(lock, [this] { return under_way_ == 0 && !sending_; });
  return broken_;
}

}  // namespace buse

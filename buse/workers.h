// SPDX-License-Identifier: Apache-2.0
//
// Workers: the threads of one connection that do what may have to wait, so that its own thread goes on with the rest. They
// answer by themselves, in the order in which they are done.
//
// Of the limits a connection begins with, none grows: so many threads, twice as many requests on their way, and memory for
// their bytes as for one of the largest. What comes beyond that waits in the socket. Threads are started as they are needed.
//
// Whoever finishes a request while nobody sends becomes the sender, and also sends what the others finish meanwhile: so replies
// never wait for a time or a number to come, and under load many share a send.

#ifndef BUSE_WORKERS_H_
#define BUSE_WORKERS_H_

#include <sys/uio.h>

#include <array>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/arena.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "buse/nbd.h"
#include "buse/replies.h"
#include "buse/request.h"

namespace buse {

// But for what it calls, used by one thread, which is that of the connection.
class Workers {
 public:
  // More do not help, and would cost memory.
  static constexpr size_t kMaxThreads = 256;

  // A request on its way.
  struct Task {
    nbd::Request request;
    Bytes bytes;      // what it writes, or room for what it reads
    Replies replies;  // its answer, which may lend `bytes`

   private:
    friend class Workers;
    Task* next = nullptr;
  };

  // Both are called by any thread: `perform` for many tasks at once, of which it leaves the answer in the task's replies;
  // `send` by one at a time, and it may use up the pieces.
  using Perform = std::function<void(Task&)>;
  using Send = std::function<absl::Status(std::span<iovec>)>;

  // `threads`: 1 to kMaxThreads. `largest`: the most bytes of one task, which is what all may have together. `style` is that of
  // the replies. Errors: kUnavailable when the system has no memory left.
  static absl::StatusOr<std::unique_ptr<Workers>> Create(size_t threads, size_t largest, nbd::Terms::Replies style,
                                                         Perform perform, Send send);

  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  // What was started is finished first.
  ~Workers();

  // How many tasks there are.
  size_t task_count() const { return task_count_; }

  // A task with room for so many bytes, at most those of the largest, aligned to a page; null: there is none at the moment. Start
  // it or give it back.
  Task* TryTake(size_t bytes);
  // Waits for one. Nothing else may be taken and not yet started.
  Task& Take(size_t bytes);
  void Start(Task& task);
  void GiveBack(Task& task);

  // Answers tasks that were done elsewhere. Errors of `send` are those of what follows.
  void Answer(std::span<Task* const> tasks);

  // Sends what is the connection's own, between what the workers send. Errors: those of `send`, here or in a worker.
  absl::Status SendBetween(std::span<iovec> pieces);

  // Waits until all that was started is answered. Errors: those of `send`; then what is left is done and not answered.
  absl::Status Drain();

 private:
  struct Queue {
    Task* first = nullptr;
    Task** end = &first;

    Queue() = default;
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;

    bool empty() const { return first == nullptr; }
    void Push(Task& task);
    Task* Pop();
    // The first, with the others behind it.
    Task* PopAll();
  };

  Workers(size_t threads, Arena arena, nbd::Terms::Replies style, Perform perform, Send send);

  bool StartThread();
  void Run();
  void Finish(std::unique_lock<std::mutex>& lock, Task& task);
  void SendDone(std::unique_lock<std::mutex>& lock);
  absl::Status SendSome(Task*& from);
  Task* TakeLocked(size_t bytes);

  const size_t max_threads_;
  const Perform perform_;
  const Send send_;
  std::unique_ptr<Task[]> tasks_;
  const size_t task_count_;
  std::array<iovec, Gather::kMaxPieces> pieces_;  // of whoever sends

  std::mutex mutex_;
  // All below is guarded by mutex_.
  std::condition_variable ready_;  // wake_ or ending_
  std::condition_variable freed_;  // a task, or sending_: for the connection's thread
  Arena arena_;
  Queue free_;
  Queue waiting_;  // to be done
  Queue done_;     // to be sent
  size_t under_way_ = 0;
  size_t idle_ = 0;  // threads that wait for ready_
  size_t wake_ = 0;  // of these, how many were told to go on
  bool sending_ = false;
  bool ending_ = false;
  absl::Status broken_;  // of send
  std::vector<std::thread> threads_;
};

}  // namespace buse

#endif  // BUSE_WORKERS_H_

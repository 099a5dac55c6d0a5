// SPDX-License-Identifier: Apache-2.0
//
// Deferral: what a connection leaves for later, of a stack whose calls may have to wait. What need not wait is answered where
// it is, by the connection's own thread: reads that TryRead does, writes that TryWrite does. Other reads and writes are done by
// fibers in that thread where the stack may be parked and the system has io_uring; all else by workers. Where it was asked for,
// reads of files are sent from the page cache (LentFiles), and may wait in the send. A slow request
// holds up nothing but itself. What is answered is in no order, as NBD has it; a Flush covers what was answered before it was sent.

#ifndef BUSE_DEFERRAL_H_
#define BUSE_DEFERRAL_H_

#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/data_free_command.h"
#include "buse/device.h"
#include "buse/exported.h"
#include "buse/fibers.h"
#include "buse/lent_files.h"
#include "buse/nbd.h"
#include "buse/operations.h"
#include "buse/read_command.h"
#include "buse/request.h"
#include "buse/session.h"
#include "buse/transport.h"
#include "buse/workers.h"

namespace buse {

// What a worker's commands work on: the replies of its task, and room in the task's memory.
template <Device Stack>
class TaskSession {
 public:
  class Stream {
   public:
    explicit Stream(Workers::Task& task) : task_(task) {}

    Replies& replies() { return task_.replies; }
    // One request's replies always fit.
    absl::Status SendReplies() { return absl::OkStatus(); }
    absl::StatusOr<Bytes> TakeRoom(size_t length, size_t) {
      const Bytes room = task_.bytes.subspan(used_, length);
      used_ += length;
      return room;
    }

   private:
    Workers::Task& task_;
    size_t used_ = 0;
  };

  static constexpr size_t kPayloadAlignment = 1;

  Exported<Stack>& exported;
  Stream stream;
};

// Of a stack that is served in place.
template <Device Stack, Transport T>
struct NoDeferral {
  using Session = buse::Session<Stack, T>;

  NoDeferral(Exported<Stack>&, const T&) {}
  T Carry(T transport) { return transport; }
};

// Used by the connection's thread. Must not move.
template <Device Stack, Transport T>
class Deferral {
 public:
  // The connection's transport, on which the workers send too.
  class Carrier : public T {
   public:
    Carrier(T transport, Deferral& deferral) : T(transport), deferral_(&deferral) {}

    absl::Status Send(std::span<iovec> pieces) {
      return deferral_->workers_ != nullptr ? deferral_->workers_->SendBetween(pieces) : T::Send(pieces);
    }

    absl::StatusOr<size_t> Receive(std::span<iovec> pieces) {
      if constexpr (kHasFibers) {
        if (deferral_->fibers_ != nullptr) deferral_->RunFibersUntilReadable(*this);
      }
      return T::Receive(pieces);
    }

   private:
    Deferral* deferral_;
  };
  using Session = buse::Session<Stack, Carrier>;

  Deferral(Exported<Stack>& exported, T transport) : exported_(exported), transport_(transport) {}
  Deferral(const Deferral&) = delete;
  Deferral& operator=(const Deferral&) = delete;

  Carrier Carry(T transport) { return Carrier(transport, *this); }

  // Whether there are to be workers.
  bool on() const { return exported_.workers > 0; }

  template <bool kChunks>
  absl::Status Read(Session& session, const nbd::Request& request) {
    if (!ReadCommand<Stack, Session>::template NeedsDevice<kChunks>(session, request)) return absl::OkStatus();
    // What is a hole may take asking the medium.
    if (!ReadCommand<Stack, Session>::template IsSparse<kChunks>(request)) {
      if constexpr (kLends) {
        if (exported_.lends_files && Lend<kChunks>(session, request)) return absl::OkStatus();
      }
      bool done = false;
      absl::Status status = ReadCommand<Stack, Session>::template TryNow<kChunks>(session, request, done);
      if (!status.ok() || done) return status;
    }
    return Leave(session, request, request.length);
  }

  // A WRITE that was checked and is not empty, of which `have` was received. At the client's end: OK, and the stream has ended.
  template <bool kChunks>
  absl::Status Write(Session& session, const nbd::Request& request, ConstBytes have) {
    const bool whole = have.size() == request.length;
    if (whole && exported_.TryWrite(request, have)) {
      Conclude<kChunks>(session, request, "write", absl::OkStatus());
      return absl::OkStatus();
    }
    absl::StatusOr<Workers::Task*> task = Take(session, request, request.length);
    if (!task.ok()) return task.status();
    if (whole) {
      std::memcpy((*task)->bytes.data(), have.data(), have.size());
    } else {
      session.stream.places().Clear();
      session.stream.places().Append((*task)->bytes);
      absl::Status status = session.stream.ReceivePayload(have);
      const bool none = !status.ok() || session.stream.ended();
      if (none || exported_.TryWrite(request, (*task)->bytes)) {
        if (!none) Conclude<kChunks>(session, request, "write", absl::OkStatus());
        workers_->GiveBack(**task);
        return status;
      }
    }
    Start(**task);
    return absl::OkStatus();
  }

  // A request that is to be done later, with room for so many bytes.
  absl::Status Leave(Session& session, const nbd::Request& request, size_t bytes) {
    absl::StatusOr<Workers::Task*> task = Take(session, request, bytes);
    if (!task.ok()) return task.status();
    Start(**task);
    return absl::OkStatus();
  }

  // Waits until all that was left for later is answered.
  absl::Status Drain() {
    if (workers_ == nullptr) return absl::OkStatus();
    while (FibersOwe()) {
      ProceedWithFibers();
      WaitForFiber();
    }
    return workers_->Drain();
  }

 private:
  static constexpr bool kLends = CanBacking<Stack> && requires { T::kSentByKernel; };
  static constexpr bool kHasFibers = MayPark<Stack>() && requires(const T& transport) { transport.fd(); };

  // Answers a READ from the file in which the bytes lie. False: it must be read.
  template <bool kChunks>
  bool Lend(Session& session, const nbd::Request& request) {
    const std::optional<FileRange> backing = Stack::Backing(exported_.device, request.range());
    if (!backing) return false;
    const ConstBytes bytes = lent_files_.Lend(*backing, request.length, session.stream.replies().empty());
    if (bytes.empty()) return false;
    ReadCommand<Stack, Session>::template AnswerWith<kChunks>(session, request, bytes);
    return true;
  }

  // Starts a task. Nothing is sent here, but for the answer.
  void Start(Workers::Task& task) {
    if constexpr (kHasFibers) {
      const nbd::Request& request = task.request;
      const bool parks = request.type == nbd::kCmdRead || (request.type == nbd::kCmdWrite && !request.has(nbd::kCmdFlagFua));
      if (fibers_ != nullptr && parks) return fibers_->Start(task);
    }
    workers_->Start(task);
  }

  // Whether there are answers still to come from them.
  bool FibersOwe() const { return kHasFibers && fibers_ != nullptr && (fibers_->under_way() > 0 || !fibers_->done().empty()); }

  // One round: what is done is answered.
  void ProceedWithFibers() {
    fibers_->Proceed();
    if (fibers_->done().empty()) return;
    workers_->Answer(fibers_->done());
    fibers_->Forget();
  }

  void WaitForFiber() {
    if (fibers_->under_way() > 0) fibers_->Wait(-1);
  }

  void RunFibersUntilReadable(const Carrier& transport) {
    for (;;) {
      ProceedWithFibers();
      if (fibers_->under_way() == 0 || transport.Stopping()) return;
      if (!fibers_->Wait(transport.fd())) return;
    }
  }

  absl::StatusOr<Workers::Task*> Take(Session& session, const nbd::Request& request, size_t bytes) {
    if (workers_ == nullptr) {
      terms_ = &session.terms;
      auto workers = Workers::Create(
          exported_.workers, session.terms.max_payload, session.terms.replies, [this](Workers::Task& task) { Perform(task); },
          [this](std::span<iovec> pieces) { return transport_.Send(pieces); });
      if (!workers.ok()) return absl::InternalError(workers.status().message());  // an administrator wants to know
      workers_ = *std::move(workers);
      if constexpr (kHasFibers) {
        fibers_ = Fibers::Create(workers_->task_count(), [this](Workers::Task& task) { Perform(task); });
      }
    }
    Workers::Task* task = workers_->TryTake(bytes);
    if (task == nullptr) {
      // Nothing may wait for room that could be answered now.
      if (absl::Status status = session.stream.SendReplies(); !status.ok()) return status;
      while (task == nullptr && FibersOwe()) {
        ProceedWithFibers();
        task = workers_->TryTake(bytes);
        if (task == nullptr) WaitForFiber();
      }
      if (task == nullptr) task = &workers_->Take(bytes);
    }
    task->request = request;
    return task;
  }

  // By a worker.
  void Perform(Workers::Task& task) {
    if (terms_->replies == nbd::Terms::Replies::kSimple) {
      Perform<false>(task);
    } else {
      Perform<true>(task);
    }
  }

  template <bool kChunks>
  void Perform(Workers::Task& task) {
    TaskSession<Stack> session = {exported_, typename TaskSession<Stack>::Stream(task)};
    const nbd::Request& request = task.request;
    if (request.type == nbd::kCmdRead) {
      // The session cannot fail.
      ReadCommand<Stack, TaskSession<Stack>>::template Answer<kChunks>(session, request).IgnoreError();
    } else if (request.type == nbd::kCmdWrite) {
      const bool through = request.has(nbd::kCmdFlagFua);
      Conclude<kChunks>(
          session, request, "write",
          through ? exported_.WriteThrough(request.offset, task.bytes) : exported_.Write(request.offset, task.bytes));
    } else {
      DoWithoutData<kChunks>(session, request);
    }
  }

  Exported<Stack>& exported_;
  T transport_;
  const nbd::Terms* terms_ = nullptr;
  LentFiles lent_files_;
  std::unique_ptr<Workers> workers_;
  std::unique_ptr<Fibers> fibers_;  // null: there are none
};

}  // namespace buse

#endif  // BUSE_DEFERRAL_H_

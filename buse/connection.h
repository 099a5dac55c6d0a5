// SPDX-License-Identifier: Apache-2.0
//
// One client's connection in transmission: the request loop with the whole stack inlined into it. Requests that arrive together are
// parsed from one receive and answered with one send. Source of every rule: doc/proto.md of the NBD project, section
// "Transmission", and for extended headers that of its branch extension-ext-header.

#ifndef BUSE_CONNECTION_H_
#define BUSE_CONNECTION_H_

#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "buse/buffers.h"
#include "buse/device.h"
#include "buse/exported.h"
#include "buse/nbd.h"
#include "buse/negotiation.h"
#include "buse/read_command.h"
#include "buse/request.h"
#include "buse/resize_command.h"
#include "buse/resize_gate.h"
#include "buse/session.h"
#include "buse/status_command.h"
#include "buse/transport.h"

namespace buse {

// Serves one client. Used by one thread; many connections may share one Exported. Allocates nothing in transmission, but for
// the message of what fails. Memory: Buffers, plus about 50 KiB.
template <Device Stack, Transport T>
class Connection {
 public:
  // Without negotiation, as the kernel wants it.
  Connection(Exported<Stack>& exported, T transport, Buffers buffers) : session_(exported, transport, std::move(buffers)) {}

  // On the terms of a negotiation.
  Connection(Exported<Stack>& exported, T transport, Buffers buffers, const Agreement& agreement)
      : session_(exported, transport, std::move(buffers)) {
    session_.terms = agreement.terms;
    session_.stream.Prefill(agreement.early);
    if ((agreement.terms.flags & nbd::kFlagSendResize) == 0) return;
    resize_gate_ = &exported.resize_gate;
    session_.stream.WaitOutside(resize_gate_);
  }

  // Serves requests until the client says that it disconnects, or just closes its side; then all replies have been sent.
  // Errors: kUnavailable when the connection broke, kInvalidArgument when the client broke the protocol, kCancelled when the
  // transport was stopped between two requests: all before are answered, and another Connection may go on with the next.
  absl::Status Transmit() {
    session_.stream.replies().Speak(session_.terms.replies);
    const ResizeGate::Visit visit(resize_gate_);
    return session_.terms.replies == nbd::Terms::Replies::kSimple ? Serve<false>() : Serve<true>();
  }

  // Whether the client said so.
  bool said_disconnect() const { return said_disconnect_; }

 private:
  using ReadCommand = buse::ReadCommand<Stack, T>;
  using StatusCommand = buse::StatusCommand<Stack, T>;

  // kChunks: structured or extended replies were agreed on.
  template <bool kChunks>
  absl::Status Serve() {
    const size_t header = kChunks && session_.extended() ? nbd::kExtendedRequestSize : nbd::kRequestSize;
    for (;;) {
      while (session_.stream.received().size() >= header) {
        if (absl::Status status = TakeRequest<kChunks>(); !status.ok()) return status;
        if (session_.stream.ended()) return session_.stream.SendReplies();
      }
      // Nothing may wait for input that could be answered now.
      if (absl::Status status = session_.stream.SendReplies(); !status.ok()) return status;
      if (absl::Status status = session_.stream.ReceiveRequests(); !status.ok()) return status;
      if (session_.stream.ended()) return absl::OkStatus();
    }
  }

  template <bool kChunks>
  nbd::Request ParseRequest() {
    const std::byte* wire = session_.stream.received().data();
    if (kChunks && session_.extended()) {
      session_.stream.Consume(nbd::kExtendedRequestSize);
      return nbd::Request::ParseExtended(wire);
    }
    session_.stream.Consume(nbd::kRequestSize);
    return nbd::Request::Parse(wire);
  }

  template <bool kChunks>
  absl::Status TakeRequest() {
    if (session_.stream.replies().Full()) {
      if (absl::Status status = session_.stream.SendReplies(); !status.ok()) return status;
    }
    const nbd::Request request = ParseRequest<kChunks>();
    if (request.magic != (kChunks && session_.extended() ? nbd::kExtendedRequestMagic : nbd::kRequestMagic)) {
      return BrokenProtocol("a request without its magic number");
    }
    if (request.type == nbd::kCmdWrite) return TakeWrite<kChunks>(request);
    if (kChunks && session_.extended() && request.has(nbd::kCmdFlagPayloadLen) && request.type != nbd::kCmdDisc) {
      return TakeRequestWithPayload(request);
    }
    if (request.type == nbd::kCmdRead) return ReadCommand::template Take<kChunks>(session_, request);
    return TakeRequestWithoutData<kChunks>(request);
  }

  template <bool kChunks>
  [[gnu::noinline]] absl::Status TakeRequestWithoutData(const nbd::Request& request) {
    if (request.type == nbd::kCmdDisc) {
      said_disconnect_ = true;
      session_.stream.End();
      return absl::OkStatus();
    }
    const nbd::Verdict verdict = Check<kChunks>(session_, request);
    if (verdict.error != nbd::kOk) {
      Refuse<kChunks>(session_, request, verdict);
    } else if (request.type == nbd::kCmdResize) {
      return ResizeCommand<Stack, T>::template Take<kChunks>(session_, request);
    } else if (request.length == 0 && request.type != nbd::kCmdFlush) {
      Conclude<kChunks>(session_, request, "", absl::OkStatus());
    } else if (request.type == nbd::kCmdCache) {
      Conclude<kChunks>(session_, request, "prefetch", session_.exported.Cache(request));
    } else if (kChunks && request.type == nbd::kCmdBlockStatus) {
      return StatusCommand::Take(session_, request);
    } else {
      return TakeSlowRequest<kChunks>(request);
    }
    return absl::OkStatus();
  }

  // What was asked for before is answered all the same.
  [[gnu::noinline]] absl::Status BrokenProtocol(const char* how) {
    if (absl::Status status = session_.stream.SendReplies(); !status.ok()) return status;
    return absl::InvalidArgumentError(how);
  }

  // These may take long: what is finished does not wait for them, and views are given back before bytes are taken away.
  template <bool kChunks>
  absl::Status TakeSlowRequest(const nbd::Request& request) {
    if (absl::Status status = session_.stream.SendReplies(); !status.ok()) return status;
    if (request.type == nbd::kCmdFlush) {
      Conclude<kChunks>(session_, request, "flush", session_.exported.Flush());
    } else if (request.type == nbd::kCmdTrim) {
      Conclude<kChunks>(session_, request, "trim", session_.exported.Trim(request));
    } else if (const nbd::Verdict verdict = Exported<Stack>::CheckZeroing(request); verdict.error != nbd::kOk) {
      Refuse<kChunks>(session_, request, verdict);
    } else {
      Conclude<kChunks>(session_, request, "write zeroes", session_.exported.WriteZeroes(request));
    }
    return absl::OkStatus();
  }

  template <bool kChunks>
  absl::Status TakeWrite(const nbd::Request& request) {
    if (kChunks && session_.extended() && !request.has(nbd::kCmdFlagPayloadLen)) {
      Refuse<kChunks>(session_, request, {nbd::kEinval, "a write without its payload"});
      return absl::OkStatus();
    }
    if (request.length > session_.terms.max_payload) return TakeTooLong<kChunks>(request);
    ConstBytes payload = session_.stream.TakeReceived(request.length);
    if (payload.size() < request.length) {
      absl::Status status = session_.stream.CompletePayload(request.length, payload);
      if (!status.ok() || session_.stream.ended()) return status;
    }
    const nbd::Verdict verdict = Check<kChunks>(session_, request);
    if (verdict.error != nbd::kOk) {
      Refuse<kChunks>(session_, request, verdict);
      return absl::OkStatus();
    }
    if (request.has(nbd::kCmdFlagFua)) {
      if (absl::Status status = session_.stream.SendReplies(); !status.ok()) return status;
    }
    Conclude<kChunks>(session_, request, "write",
                      payload.empty() ? absl::OkStatus() : session_.exported.Write(request, payload));
    return absl::OkStatus();
  }

  // A payload that is larger than was announced.
  template <bool kChunks>
  [[gnu::noinline]] absl::Status TakeTooLong(const nbd::Request& request) {
    if (kChunks && session_.extended()) return BrokenProtocol("a payload that is longer than the largest");
    if (absl::Status status = session_.stream.SkipPayload(request.length); !status.ok() || session_.stream.ended())
      return status;
    const nbd::Error error = (session_.terms.flags & nbd::kFlagReadOnly) != 0 ? nbd::kEperm : nbd::kEinval;
    Refuse<kChunks>(session_, request, {error, "the write is longer than the largest payload"});
    return absl::OkStatus();
  }

  // Of extended headers: the length is that of a payload.
  absl::Status TakeRequestWithPayload(const nbd::Request& request) {
    if (request.length > session_.terms.max_payload) return TakeTooLong<true>(request);
    ConstBytes payload = session_.stream.TakeReceived(request.length);
    if (payload.size() < request.length) {
      absl::Status status = session_.stream.CompletePayload(request.length, payload);
      if (!status.ok() || session_.stream.ended()) return status;
    }
    if (request.type == nbd::kCmdBlockStatus) return StatusCommand::TakeWithPayload(session_, request, payload);
    Refuse<true>(session_, request, {nbd::kEinval, "a payload that this command does not take"});
    return absl::OkStatus();
  }

  Session<Stack, T> session_;
  ResizeGate* resize_gate_ = nullptr;  // where clients may resize
  bool said_disconnect_ = false;
};

}  // namespace buse

#endif  // BUSE_CONNECTION_H_

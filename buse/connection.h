// SPDX-License-Identifier: Apache-2.0
//
// One client's connection in transmission: the request loop with the whole stack inlined into it. Requests that arrive together are
// parsed from one receive and answered with one send. Source of every rule: doc/proto.md of the NBD project, section
// "Transmission", and for extended headers that of its branch extension-ext-header.

#ifndef BUSE_CONNECTION_H_
#define BUSE_CONNECTION_H_

#include <cstddef>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "buse/buffers.h"
#include "buse/data_free_command.h"
#include "buse/deferral.h"
#include "buse/device.h"
#include "buse/exported.h"
#include "buse/nbd.h"
#include "buse/negotiation.h"
#include "buse/read_command.h"
#include "buse/request.h"
#include "buse/resize_command.h"
#include "buse/resize_gate.h"
#include "buse/scatter.h"
#include "buse/session.h"
#include "buse/status_command.h"
#include "buse/transport.h"

namespace buse {

// Serves one client. Used by one thread; many connections may share one Exported. Allocates nothing in transmission, but for
// the message of what fails, and workers when the first is needed. Memory: Buffers, plus about 50 KiB; with workers as much
// again, and about 100 KiB for each, half of which its two fibers take.
template <Device Stack, Transport T>
class Connection {
 public:
  // Without negotiation, as the kernel wants it.
  Connection(Exported<Stack>& exported, T transport, Buffers buffers)
      : deferral_(exported, transport), session_(exported, deferral_.Carry(transport), std::move(buffers)) {}

  // On the terms of a negotiation.
  Connection(Exported<Stack>& exported, T transport, Buffers buffers, const Agreement& agreement)
      : Connection(exported, transport, std::move(buffers)) {
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
    absl::Status status = session_.terms.replies == nbd::Terms::Replies::kSimple ? Serve<false>() : Serve<true>();
    if constexpr (kDefers) status.Update(deferral_.Drain());
    return status;
  }

  // Whether the client said so.
  bool said_disconnect() const { return said_disconnect_; }

 private:
  // Whether this stack's requests may be left to workers.
  static constexpr bool kDefers = Exported<Stack>::kDefers && kFullDuplex<T>;
  using Deferral = std::conditional_t<kDefers, buse::Deferral<Stack, T>, NoDeferral<Stack, T>>;
  using Session = typename Deferral::Session;
  using ReadCommand = buse::ReadCommand<Stack, Session>;
  using StatusCommand = buse::StatusCommand<Session>;

  // kChunks: structured or extended replies were agreed on.
  template <bool kChunks>
  absl::Status Serve() {
    const size_t header = kChunks && session_.extended() ? nbd::kExtendedRequestSize : nbd::kRequestSize;
    session_.stream.ExpectHeadersOf(header);
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
    if (request.type == nbd::kCmdRead) return TakeRead<kChunks>(request);
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
      return ResizeCommand<Session>::template Take<kChunks>(session_, request);
    } else if (request.length == 0 && request.type != nbd::kCmdFlush) {
      Conclude<kChunks>(session_, request, "", absl::OkStatus());
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

  // Most of these may take long: what is finished does not wait for them, and views are given back before bytes are taken away.
  template <bool kChunks>
  absl::Status TakeSlowRequest(const nbd::Request& request) {
    if (request.type == nbd::kCmdWriteZeroes) {
      if (const nbd::Verdict verdict = Exported<Stack>::CheckZeroing(request); verdict.error != nbd::kOk) {
        Refuse<kChunks>(session_, request, verdict);
        return absl::OkStatus();
      }
    }
    if constexpr (kDefers) {
      if (deferral_.on()) return deferral_.Leave(session_, request, 0);
    }
    if (request.type != nbd::kCmdCache) {
      if (absl::Status status = session_.stream.SendReplies(); !status.ok()) return status;
    }
    DoWithoutData<kChunks>(session_, request);
    return absl::OkStatus();
  }

  template <bool kChunks>
  [[gnu::always_inline]] absl::Status TakeRead(const nbd::Request& request) {
    if constexpr (kDefers) {
      if (deferral_.on()) return deferral_.template Read<kChunks>(session_, request);
    }
    return ReadCommand::template Take<kChunks>(session_, request);
  }

  template <bool kChunks>
  absl::Status TakeWrite(const nbd::Request& request) {
    if (kChunks && session_.extended() && !request.has(nbd::kCmdFlagPayloadLen)) {
      Refuse<kChunks>(session_, request, {nbd::kEinval, "a write without its payload"});
      return absl::OkStatus();
    }
    if (request.length > session_.terms.max_payload) return TakeTooLong<kChunks>(request);
    ConstBytes payload = session_.stream.TakeReceived(request.length);
    if constexpr (kDefers) {
      if (deferral_.on() && request.length > 0 && Check<kChunks>(session_, request).error == nbd::kOk) {
        return deferral_.template Write<kChunks>(session_, request, payload);
      }
    }
    if (payload.size() < request.length) {
      bool concluded = false;
      absl::Status status = ReceiveRest<kChunks>(request, payload, concluded);
      if (!status.ok() || concluded || session_.stream.ended()) return status;
    }
    const nbd::Verdict verdict = Check<kChunks>(session_, request);
    if (verdict.error != nbd::kOk) {
      Refuse<kChunks>(session_, request, verdict);
      return absl::OkStatus();
    }
    if (request.has(nbd::kCmdFlagFua)) return WriteThrough<kChunks>(request, payload);
    Conclude<kChunks>(session_, request, "write",
                      payload.empty() ? absl::OkStatus() : session_.exported.Write(request.offset, payload));
    return absl::OkStatus();
  }

  // Apart, so that it adds nothing to the other writes. What is finished does not wait for it.
  template <bool kChunks>
  [[gnu::noinline]] absl::Status WriteThrough(const nbd::Request& request, ConstBytes payload) {
    if (absl::Status status = session_.stream.SendReplies(); !status.ok()) return status;
    Conclude<kChunks>(session_, request, "write",
                      payload.empty() ? absl::OkStatus() : session_.exported.WriteThrough(request.offset, payload));
    return absl::OkStatus();
  }

  // Receives what `payload` lacks: to where it lies on the device, which concludes the write, or to a buffer.
  template <bool kChunks>
  [[gnu::noinline]] absl::Status ReceiveRest(const nbd::Request& request, ConstBytes& payload, bool& concluded) {
    concluded = PlaceFor<kChunks>(request);
    return concluded ? ReceiveInPlace<kChunks>(request, payload) : session_.stream.CompletePayload(request.length, payload);
  }

  // Whether the device says where the bytes of this write lie, which must stay there until they are: not where a client may have
  // it resized meanwhile. A client that goes away in the midst of one leaves a part of it there, to the byte; a short one, such as
  // those of a journal, stays all or nothing, as of a disk.
  template <bool kChunks>
  bool PlaceFor(const nbd::Request& request) {
    if constexpr (Exported<Stack>::kPlaces) {
      Scatter& places = session_.stream.places();
      places.Clear();
      return request.length >= decltype(session_.stream)::kLargePayload && resize_gate_ == nullptr &&
             Check<kChunks>(session_, request).error == nbd::kOk && session_.exported.Place(request.range(), places).ok() &&
             !places.overflowed() && places.bytes() == request.length;
    }
    return false;
  }

  // `have` is what was received of the payload.
  template <bool kChunks>
  absl::Status ReceiveInPlace(const nbd::Request& request, ConstBytes have) {
    absl::Status received = session_.stream.ReceivePayload(have);
    // Whatever has come: what was put there must be known to the device.
    absl::Status status = session_.exported.Placed(request);
    if (!received.ok() || session_.stream.ended()) return received;
    Conclude<kChunks>(session_, request, "write", status);
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

  Deferral deferral_;
  Session session_;
  ResizeGate* resize_gate_ = nullptr;  // where clients may resize
  bool said_disconnect_ = false;
};

}  // namespace buse

#endif  // BUSE_CONNECTION_H_

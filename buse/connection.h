// SPDX-License-Identifier: Apache-2.0
//
// One client's connection: negotiation, then the request loop with the whole stack inlined into it. Requests that arrive
// together are parsed from one receive and answered with one send. Source of every rule: doc/proto.md of the NBD project,
// section "Transmission", and for extended headers that of its branch extension-ext-header.

#ifndef BUSE_CONNECTION_H_
#define BUSE_CONNECTION_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "buse/block_status.h"
#include "buse/buffers.h"
#include "buse/device.h"
#include "buse/exported.h"
#include "buse/gather.h"
#include "buse/handshake.h"
#include "buse/nbd.h"
#include "buse/replies.h"
#include "buse/request.h"
#include "buse/status.h"
#include "buse/stream.h"
#include "buse/transport.h"

namespace buse {

// Serves one client. Used by one thread; many connections may share one Exported. Allocates nothing in transmission, but for
// the message of what fails. Memory: Buffers, plus about 50 KiB.
template <Device Stack, Transport T>
class Connection {
 public:
  Connection(Exported<Stack>& exported, T transport, Buffers buffers)
      : exported_(exported), stream_(transport, std::move(buffers)) {
    terms_.flags = exported.about.flags;
  }

  // Negotiates as a server. True: Transmit comes next. False: the client asked for the end. `before_wait` is called before each
  // wait for the client, and ends the negotiation by an error.
  // Errors: kUnavailable when the connection broke, kInvalidArgument when the client broke the protocol.
  absl::StatusOr<bool> Negotiate(absl::FunctionRef<absl::Status()> before_wait = [] { return absl::OkStatus(); }) {
    Handshake handshake(exported_.about);
    std::string answer = handshake.Greeting();
    for (;;) {
      if (absl::Status status = stream_.SendText(answer); !status.ok()) return status;
      answer.clear();
      if (absl::Status status = before_wait(); !status.ok()) return status;
      if (absl::Status status = stream_.Receive(); !status.ok()) return status;
      if (stream_.ended()) return false;
      size_t consumed = 0;
      const Handshake::Outcome outcome = handshake.Advance(stream_.received(), consumed, answer);
      stream_.Consume(consumed);
      if (outcome == Handshake::Outcome::kMore) continue;
      if (absl::Status status = stream_.SendText(answer); !status.ok()) return status;
      if (outcome == Handshake::Outcome::kTransmit) {
        terms_ = handshake.terms();
        return true;
      }
      if (!handshake.reason().empty()) return absl::InvalidArgumentError(handshake.reason());
      return false;
    }
  }

  // Serves requests until the client says that it disconnects, or just closes its side; then all replies have been sent.
  // Errors: kUnavailable when the connection broke, kInvalidArgument when the client broke the protocol, kCancelled when the
  // transport was stopped between two requests: all before are answered, and another Connection may go on with the next.
  absl::Status Transmit() {
    stream_.replies().Speak(terms_.replies);
    return terms_.replies == nbd::Terms::Replies::kSimple ? Serve<false>() : Serve<true>();
  }

  // Whether the client said so.
  bool said_disconnect() const { return said_disconnect_; }

 private:
  // Payload buffers keep the alignment that a layer doing direct I/O would want of memory.
  static constexpr size_t kPayloadAlignment = Stack::kBlockSize >= 512 ? 4096 : 64;
  // A shorter READ is not worth asking what is a hole, nor is a shorter hole worth a chunk of its own. Measured over a file: asking
  // costs 2 us, as much as reading 16 KiB, and each chunk more the same.
  static constexpr uint64_t kLeastSparseRead = 128 << 10;
  static constexpr uint64_t kLeastHole = 64 << 10;

  // kChunks: structured or extended replies were agreed on.
  template <bool kChunks>
  absl::Status Serve() {
    const size_t header = kChunks && extended() ? nbd::kExtendedRequestSize : nbd::kRequestSize;
    stream_.ExpectHeadersOf(header);
    for (;;) {
      while (stream_.received().size() >= header) {
        if (absl::Status status = TakeRequest<kChunks>(); !status.ok()) return status;
        if (stream_.ended()) return stream_.SendReplies();
      }
      // Nothing may wait for input that could be answered now.
      if (absl::Status status = stream_.SendReplies(); !status.ok()) return status;
      if (absl::Status status = stream_.ReceiveRequests(); !status.ok()) return status;
      if (stream_.ended()) return absl::OkStatus();
    }
  }

  bool extended() const { return terms_.replies == nbd::Terms::Replies::kExtended; }

  template <bool kChunks>
  nbd::Request ParseRequest() {
    const std::byte* wire = stream_.received().data();
    if (kChunks && extended()) {
      stream_.Consume(nbd::kExtendedRequestSize);
      return nbd::Request::ParseExtended(wire);
    }
    stream_.Consume(nbd::kRequestSize);
    return nbd::Request::Parse(wire);
  }

  template <bool kChunks>
  absl::Status TakeRequest() {
    if (stream_.replies().Full()) {
      if (absl::Status status = stream_.SendReplies(); !status.ok()) return status;
    }
    const nbd::Request request = ParseRequest<kChunks>();
    if (request.magic != (kChunks && extended() ? nbd::kExtendedRequestMagic : nbd::kRequestMagic)) {
      return BrokenProtocol("a request without its magic number");
    }
    if (request.type == nbd::kCmdWrite) return TakeWrite<kChunks>(request);
    if (kChunks && extended() && request.has(nbd::kCmdFlagPayloadLen) && request.type != nbd::kCmdDisc) {
      return TakeRequestWithPayload(request);
    }
    if (request.type == nbd::kCmdRead) return TakeRead<kChunks>(request);
    return TakeRequestWithoutData<kChunks>(request);
  }

  template <bool kChunks>
  [[gnu::noinline]] absl::Status TakeRequestWithoutData(const nbd::Request& request) {
    if (request.type == nbd::kCmdDisc) {
      said_disconnect_ = true;
      stream_.End();
      return absl::OkStatus();
    }
    const nbd::Verdict verdict = nbd::CheckRequest<kChunks>(request, exported_.about, terms_);
    if (verdict.error != nbd::kOk) {
      Refuse<kChunks>(request, verdict);
    } else if (request.length == 0 && request.type != nbd::kCmdFlush) {
      Conclude<kChunks>(request, "", absl::OkStatus());
    } else if (request.type == nbd::kCmdCache) {
      Conclude<kChunks>(request, "prefetch", exported_.Cache(request));
    } else if (kChunks && request.type == nbd::kCmdBlockStatus) {
      return TakeBlockStatus(request);
    } else {
      return TakeSlowRequest<kChunks>(request);
    }
    return absl::OkStatus();
  }

  // What was asked for before is answered all the same.
  [[gnu::noinline]] absl::Status BrokenProtocol(const char* how) {
    if (absl::Status status = stream_.SendReplies(); !status.ok()) return status;
    return absl::InvalidArgumentError(how);
  }

  // These may take long: what is finished does not wait for them, and views are given back before bytes are taken away.
  template <bool kChunks>
  absl::Status TakeSlowRequest(const nbd::Request& request) {
    if (absl::Status status = stream_.SendReplies(); !status.ok()) return status;
    if (request.type == nbd::kCmdFlush) {
      Conclude<kChunks>(request, "flush", exported_.Flush());
    } else if (request.type == nbd::kCmdTrim) {
      Conclude<kChunks>(request, "trim", exported_.Trim(request));
    } else if (const nbd::Verdict verdict = Exported<Stack>::CheckZeroing(request); verdict.error != nbd::kOk) {
      Refuse<kChunks>(request, verdict);
    } else {
      Conclude<kChunks>(request, "write zeroes", exported_.WriteZeroes(request));
    }
    return absl::OkStatus();
  }

  template <bool kChunks>
  absl::Status TakeWrite(const nbd::Request& request) {
    if (kChunks && extended() && !request.has(nbd::kCmdFlagPayloadLen)) {
      Refuse<kChunks>(request, {nbd::kEinval, "a write without its payload"});
      return absl::OkStatus();
    }
    if (request.length > terms_.max_payload) return TakeTooLong<kChunks>(request);
    ConstBytes payload = stream_.TakeReceived(request.length);
    if (payload.size() < request.length) {
      bool concluded = false;
      absl::Status status = ReceiveRest<kChunks>(request, payload, concluded);
      if (!status.ok() || concluded || stream_.ended()) return status;
    }
    const nbd::Verdict verdict = nbd::CheckRequest<kChunks>(request, exported_.about, terms_);
    if (verdict.error != nbd::kOk) {
      Refuse<kChunks>(request, verdict);
      return absl::OkStatus();
    }
    if (request.has(nbd::kCmdFlagFua)) {
      if (absl::Status status = stream_.SendReplies(); !status.ok()) return status;
    }
    Conclude<kChunks>(request, "write", payload.empty() ? absl::OkStatus() : exported_.Write(request, payload));
    return absl::OkStatus();
  }

  // Receives what `payload` lacks: to where it lies on the device, which concludes the write, or to a buffer.
  template <bool kChunks>
  [[gnu::noinline]] absl::Status ReceiveRest(const nbd::Request& request, ConstBytes& payload, bool& concluded) {
    concluded = PlaceFor<kChunks>(request);
    return concluded ? ReceiveInPlace<kChunks>(request, payload) : stream_.CompletePayload(request.length, payload);
  }

  // Whether the device says where the bytes of this write lie. A client that goes away in the midst of one leaves a part of it
  // there, to the byte; a short one, such as those of a journal, stays all or nothing, as of a disk.
  template <bool kChunks>
  bool PlaceFor(const nbd::Request& request) {
    if constexpr (Exported<Stack>::kPlaces) {
      Scatter& places = stream_.places();
      places.Clear();
      return request.length >= Stream<T>::kLargePayload && nbd::CheckRequest<kChunks>(request, exported_.about, terms_).error == nbd::kOk &&
             exported_.Place(request.range(), places).ok() && !places.overflowed() && places.bytes() == request.length;
    }
    return false;
  }

  // `have` is what was received of the payload.
  template <bool kChunks>
  absl::Status ReceiveInPlace(const nbd::Request& request, ConstBytes have) {
    absl::Status received = stream_.ReceivePayload(have);
    // Whatever has come: what was put there must be known to the device.
    absl::Status status = exported_.Placed(request);
    if (!received.ok() || stream_.ended()) return received;
    Conclude<kChunks>(request, "write", status);
    return absl::OkStatus();
  }

  // A payload that is larger than was announced.
  template <bool kChunks>
  [[gnu::noinline]] absl::Status TakeTooLong(const nbd::Request& request) {
    if (kChunks && extended()) return BrokenProtocol("a payload that is longer than the largest");
    if (absl::Status status = stream_.SkipPayload(request.length); !status.ok() || stream_.ended()) return status;
    const nbd::Error error = (terms_.flags & nbd::kFlagReadOnly) != 0 ? nbd::kEperm : nbd::kEinval;
    Refuse<kChunks>(request, {error, "the write is longer than the largest payload"});
    return absl::OkStatus();
  }

  // Of extended headers: the length is that of a payload.
  absl::Status TakeRequestWithPayload(const nbd::Request& request) {
    if (request.length > terms_.max_payload) return TakeTooLong<true>(request);
    ConstBytes payload = stream_.TakeReceived(request.length);
    if (payload.size() < request.length) {
      absl::Status status = stream_.CompletePayload(request.length, payload);
      if (!status.ok() || stream_.ended()) return status;
    }
    // The range's length, and the contexts of interest: there is one.
    const bool wanted = request.type == nbd::kCmdBlockStatus && (terms_.flags & nbd::kFlagBlockStatusPayload) != 0 &&
                        payload.size() == 12 && nbd::Load<uint32_t>(payload.data() + 8) == nbd::kBaseAllocationId;
    if (!wanted) {
      Refuse<true>(request, {nbd::kEinval, "a payload that this command does not take"});
      return absl::OkStatus();
    }
    nbd::Request meant = request;
    meant.length = nbd::Load<uint64_t>(payload.data());
    const nbd::Verdict verdict = nbd::CheckRequest<true>(meant, exported_.about, terms_);
    if (verdict.error == nbd::kOk) return TakeBlockStatus(meant);
    Refuse<true>(request, verdict);
    return absl::OkStatus();
  }

  absl::Status TakeBlockStatus(const nbd::Request& request) {
    absl::StatusOr<Bytes> room = stream_.TakeRoom(BlockStatus::kMaxBytes, kPayloadAlignment);
    if (!room.ok()) return room.status();
    BlockStatus descriptors(*room, extended(), request.has(nbd::kCmdFlagReqOne));
    const uint64_t granularity = std::max<uint64_t>(512, exported_.about.min_block);
    absl::Status status =
        exported_.Extents(request.range(), granularity, [&](const Extent& extent) { return descriptors.Add(extent); });
    if (status.ok()) {
      stream_.replies().BlockStatus(request, nbd::kBaseAllocationId, descriptors.bytes());
    } else {
      Conclude<true>(request, "block status", status);
    }
    return absl::OkStatus();
  }

  template <bool kChunks>
  absl::Status TakeRead(const nbd::Request& request) {
    const nbd::Verdict verdict = nbd::CheckRequest<kChunks>(request, exported_.about, terms_);
    if (verdict.error != nbd::kOk) {
      Refuse<kChunks>(request, verdict);
      return absl::OkStatus();
    }
    if (request.length == 0) {
      if constexpr (kChunks) stream_.replies().Nothing(request);
      if constexpr (!kChunks) stream_.replies().Simple(request.cookie, nbd::kOk);
      return absl::OkStatus();
    }
    if constexpr (kChunks && CanExtents<Stack>) {
      if (request.length >= kLeastSparseRead && !request.has(nbd::kCmdFlagDf)) return ReadSparsely(request);
    }
    bool ok = true;
    return Read<kChunks>(request, request.range(), true, ok);
  }

  // Holes are sent as holes.
  absl::Status ReadSparsely(const nbd::Request& request) {
    std::array<Extent, Replies::kMaxChunks> parts;
    size_t count = 0;
    const absl::Status known = exported_.Extents(request.range(), kLeastHole, [&](const Extent& extent) {
      parts[count++] = extent;
      return count < parts.size();
    });
    // What could not be told, or would be one part too many, is read.
    if (!known.ok()) count = 0;
    uint64_t told = count == 0 ? request.offset : parts[count - 1].range.end();
    if (count == parts.size() && told < request.range().end()) told = parts[--count].range.offset;
    if (told < request.range().end()) parts[count++] = {{told, request.range().end() - told}, Extent::Kind::kData};
    bool ok = true;
    for (size_t i = 0; i < count && ok; ++i) {
      const bool last = i + 1 == count;
      if (stream_.replies().gather().room() < 2) {
        if (absl::Status status = stream_.SendReplies(); !status.ok()) return status;
      }
      if (parts[i].kind != Extent::Kind::kData) {
        stream_.replies().Hole(request, parts[i].range, last);
      } else if (absl::Status status = Read<true>(request, parts[i].range, last, ok); !status.ok()) {
        return status;
      }
    }
    return absl::OkStatus();
  }

  // Answers with the bytes of `range`, or ends the reply with an error: then `ok` becomes false.
  template <bool kChunks>
  [[gnu::always_inline]] absl::Status Read(const nbd::Request& request, Range range, bool last, bool& ok) {
    if constexpr (CanView<Stack>) {
      Replies& replies = stream_.replies();
      const Replies::Mark mark = replies.mark();
      Announce<kChunks>(request, range, last);
      const size_t announced = replies.gather().bytes();
      absl::Status status = exported_.View(range, replies.gather());
      const size_t lent = replies.gather().bytes() - announced;
      if (status.ok() && lent == range.length) return status;
      if (status.ok() && !replies.gather().overflowed()) {
        status = absl::InternalError(absl::StrCat("a layer's View lent ", lent, " bytes in place of ", range.length));
      }
      replies.Rewind(mark);
      ok = status.ok();
      if (!ok) {
        FailRead<kChunks>(request, range, status);
        return absl::OkStatus();
      }
      // Too many pieces for what room was left.
      if (status = stream_.SendReplies(); !status.ok()) return status;
    }
    return ReadIntoBuffer<kChunks>(request, range, last, ok);
  }

  template <bool kChunks>
  [[gnu::noinline]] absl::Status ReadIntoBuffer(const nbd::Request& request, Range range, bool last, bool& ok) {
    absl::StatusOr<Bytes> out = stream_.TakeRoom(range.length, kPayloadAlignment);
    if (!out.ok()) return out.status();
    absl::Status status = exported_.Read(range.offset, *out);
    ok = status.ok();
    if (ok) {
      Announce<kChunks>(request, range, last);
      stream_.replies().gather().Append(*out);
    } else {
      FailRead<kChunks>(request, range, status);
    }
    return absl::OkStatus();
  }

  // The header of bytes that were read.
  template <bool kChunks>
  void Announce(const nbd::Request& request, Range range, bool last) {
    if constexpr (kChunks) {
      stream_.replies().Data(request, range, last);
    } else {
      stream_.replies().Simple(request.cookie, nbd::kOk);
    }
  }

  // The error alone: a failed READ carries no payload. Where a part of it failed, the client learns which.
  template <bool kChunks>
  [[gnu::noinline]] void FailRead(const nbd::Request& request, Range range, const absl::Status& status) {
    std::optional<uint64_t> at;
    if (range != request.range()) at = range.offset;
    Fail<kChunks>(request, "read", range, status, at);
  }

  template <bool kChunks>
  void Conclude(const nbd::Request& request, const char* command, const absl::Status& status) {
    if (!status.ok()) {
      Fail<kChunks>(request, command, request.range(), status, {});
    } else if constexpr (kChunks) {
      stream_.replies().Done(request);
    } else {
      stream_.replies().Simple(request.cookie, nbd::kOk);
    }
  }

  template <bool kChunks>
  [[gnu::noinline]] void Fail(const nbd::Request& request, const char* command, Range range, const absl::Status& status,
                              std::optional<uint64_t> at) {
    const uint32_t error = NbdErrorFromStatus(status.code());
    if constexpr (kChunks) {
      stream_.replies().Error(request, error, status.message(), at);
    } else {
      stream_.replies().Simple(request.cookie, error);
    }
    exported_.on_failure(command, range, status);
  }

  // For what never reaches the device.
  template <bool kChunks>
  [[gnu::noinline]] void Refuse(const nbd::Request& request, const nbd::Verdict& verdict) {
    if constexpr (kChunks) {
      stream_.replies().Error(request, verdict.error, verdict.why);
    } else {
      stream_.replies().Simple(request.cookie, verdict.error);
    }
  }

  Exported<Stack>& exported_;
  Stream<T> stream_;
  nbd::Terms terms_;
  bool said_disconnect_ = false;
};

}  // namespace buse

#endif  // BUSE_CONNECTION_H_

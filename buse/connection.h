// SPDX-License-Identifier: Apache-2.0
//
// One client's connection: negotiation, then the request loop with the whole stack inlined into it. Requests that arrive
// together are parsed from one receive and answered with one send. Source of every rule: doc/proto.md of the NBD project,
// section "Transmission".

#ifndef BUSE_CONNECTION_H_
#define BUSE_CONNECTION_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "buse/buffers.h"
#include "buse/device.h"
#include "buse/gate.h"
#include "buse/gather.h"
#include "buse/handshake.h"
#include "buse/nbd.h"
#include "buse/operations.h"
#include "buse/status.h"
#include "buse/transport.h"

namespace buse {

// An open device as all its connections share it.
template <Device Stack>
struct Exported {
  typename Stack::State& device;
  nbd::Export about;
  // Told of every request that the device failed. Called from any connection's thread, which must not be made to wait.
  std::function<void(const char* command, Range, const absl::Status&)> on_failure = [](const char*, Range,
                                                                                       const absl::Status&) {};
  Gate<Stack::kConcurrency, Stack::kBlockSize> gate = {};
};

// Serves one client. Used by one thread; many connections may share one Exported. Allocates nothing in transmission. Memory:
// Buffers, plus about 50 KiB.
template <Device Stack, Transport T>
class Connection {
 public:
  Connection(Exported<Stack>& exported, T transport, Buffers buffers)
      : exported_(exported), transport_(transport), buffers_(std::move(buffers)) {}

  // Negotiates as a server. True: Transmit comes next. False: the client asked for the end.
  // Errors: kUnavailable when the connection broke, kInvalidArgument when the client broke the protocol.
  absl::StatusOr<bool> Negotiate() {
    Handshake handshake(exported_.about);
    std::string answer = handshake.Greeting();
    for (;;) {
      if (absl::Status status = SendText(answer); !status.ok()) return status;
      answer.clear();
      if (absl::Status status = ReceiveMore(); !status.ok()) return status;
      if (done_) return false;
      size_t consumed = 0;
      const Handshake::Outcome outcome = handshake.Advance(received(), consumed, answer);
      begin_ += consumed;
      if (outcome == Handshake::Outcome::kMore) continue;
      if (absl::Status status = SendText(answer); !status.ok()) return status;
      if (outcome == Handshake::Outcome::kTransmit) return true;
      if (!handshake.reason().empty()) return absl::InvalidArgumentError(handshake.reason());
      return false;
    }
  }

  // Serves requests until the client says that it disconnects, or just closes its side; then all replies have been sent.
  // Errors: kUnavailable when the connection broke, kInvalidArgument when the client broke the protocol.
  absl::Status Transmit() {
    for (;;) {
      while (end_ - begin_ >= nbd::kRequestSize) {
        if (absl::Status status = TakeRequest(); !status.ok()) return status;
        if (done_) return SendReplies();
      }
      // Nothing may wait for input that could be answered now.
      if (absl::Status status = SendReplies(); !status.ok()) return status;
      if (absl::Status status = ReceiveMore(); !status.ok()) return status;
      if (done_) return absl::OkStatus();
    }
  }

  // Whether the client said so.
  bool said_disconnect() const { return said_disconnect_; }

 private:
  static constexpr size_t kMaxReplies = 512;
  // A batch is sent when it holds this many bytes, so that the client has work while we go on.
  static constexpr size_t kBatchBytes = 1 << 20;
  // Payload buffers keep the alignment that a layer doing direct I/O would want of memory.
  static constexpr size_t kPayloadAlignment = Stack::kBlockSize >= 512 ? 4096 : 64;

  ConstBytes received() const { return buffers_.receive().subspan(begin_, end_ - begin_); }

  // Keeps what is not yet parsed, and waits for more. At the client's end sets done_.
  absl::Status ReceiveMore() {
    const Bytes buffer = buffers_.receive();
    std::memmove(buffer.data(), buffer.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
    iovec free = {buffer.data() + end_, buffer.size() - end_};
    absl::StatusOr<size_t> n = transport_.Receive({&free, 1});
    if (!n.ok()) return n.status();
    end_ += *n;
    done_ = *n == 0;
    return absl::OkStatus();
  }

  absl::Status SendText(std::string& text) {
    iovec piece = {text.data(), text.size()};
    return transport_.Send({&piece, text.empty() ? size_t{0} : size_t{1}});
  }

  absl::Status SendReplies() {
    if (gather_.empty()) return absl::OkStatus();
    absl::Status status = transport_.Send(gather_.pieces());
    gather_.Release();
    headers_used_ = 0;
    payload_used_ = 0;
    return status;
  }

  absl::Status TakeRequest() {
    if (headers_used_ == kMaxReplies || gather_.room() < 2 || gather_.bytes() >= kBatchBytes) {
      if (absl::Status status = SendReplies(); !status.ok()) return status;
    }
    const auto request = nbd::Request::Parse(received().data());
    if (request.magic != nbd::kRequestMagic) {
      if (absl::Status status = SendReplies(); !status.ok()) return status;
      return absl::InvalidArgumentError("a request without its magic number");
    }
    begin_ += nbd::kRequestSize;
    if (request.type == nbd::kCmdWrite) return TakeWrite(request);
    if (request.type == nbd::kCmdDisc) {
      done_ = said_disconnect_ = true;
      return absl::OkStatus();
    }
    if (const nbd::Error error = nbd::CheckRequest(request, exported_.about); error != nbd::kOk) {
      Reply(request.cookie, error);
    } else if (request.length == 0 && request.type != nbd::kCmdFlush) {
      Reply(request.cookie, nbd::kOk);
    } else if (request.type == nbd::kCmdRead) {
      return Read(request);
    } else if (request.type == nbd::kCmdCache) {
      Conclude(request, "prefetch", Pass(request, [&] { return Prefetch<Stack>(exported_.device, RangeOf(request)); }));
    } else {
      return TakeSlowRequest(request);
    }
    return absl::OkStatus();
  }

  // These may take long: what is finished does not wait for them, and views are given back before bytes are taken away.
  absl::Status TakeSlowRequest(const nbd::Request& request) {
    if (absl::Status status = SendReplies(); !status.ok()) return status;
    if (request.type == nbd::kCmdFlush) {
      Conclude(request, "flush", Pass(request, [&] { return Flush(); }));
    } else if (request.type == nbd::kCmdTrim) {
      Conclude(request, "trim", Pass(request, [&] { return Trim(request); }));
    } else {
      Conclude(request, "write zeroes", Pass(request, [&] { return WriteZeroes(request); }));
    }
    return absl::OkStatus();
  }

  // For what the announced flags rule out.
  static absl::Status NotOffered() { return absl::UnimplementedError("the device has no such operation"); }

  static Range RangeOf(const nbd::Request& request) { return {request.offset, request.length}; }

  template <class Call>
  absl::Status Pass(const nbd::Request& request, Call&& call) {
    return exported_.gate.Pass(RangeOf(request), std::forward<Call>(call));
  }

  absl::Status Flush() {
    if constexpr (CanFlush<Stack>) return Stack::Flush(exported_.device);
    return NotOffered();
  }

  absl::Status FlushIfAsked(const nbd::Request& request, absl::Status status) {
    return status.ok() && (request.flags & nbd::kCmdFlagFua) != 0 ? Flush() : status;
  }

  absl::Status Trim(const nbd::Request& request) {
    if constexpr (CanTrim<Stack>) return FlushIfAsked(request, Stack::Trim(exported_.device, RangeOf(request)));
    return NotOffered();
  }

  absl::Status WriteZeroes(const nbd::Request& request) {
    if constexpr (CanWrite<Stack>) {
      const bool keep_space = (request.flags & nbd::kCmdFlagNoHole) != 0;
      return FlushIfAsked(request, keep_space ? buse::WriteZeroes<Stack>(exported_.device, RangeOf(request))
                                              : buse::Zero<Stack>(exported_.device, RangeOf(request)));
    }
    return NotOffered();
  }

  absl::Status TakeWrite(const nbd::Request& request) {
    if (request.length > nbd::kMaxPayload) {
      if (absl::Status status = SkipPayload(request.length); !status.ok() || done_) return status;
      const nbd::Error error = nbd::CheckRequest(request, exported_.about);
      Reply(request.cookie, error != nbd::kOk ? error : nbd::kEinval);
      return absl::OkStatus();
    }
    ConstBytes payload = received().first(std::min<size_t>(request.length, end_ - begin_));
    begin_ += payload.size();
    if (payload.size() < request.length) {
      if (absl::Status status = ReceivePayload(request.length, payload); !status.ok() || done_) return status;
    }
    if (const nbd::Error error = nbd::CheckRequest(request, exported_.about); error != nbd::kOk) {
      Reply(request.cookie, error);
      return absl::OkStatus();
    }
    const bool durable = (request.flags & nbd::kCmdFlagFua) != 0;
    if (durable) {
      if (absl::Status status = SendReplies(); !status.ok()) return status;
    }
    Conclude(request, "write",
             payload.empty() ? absl::OkStatus() : Pass(request, [&] { return Write(request, payload, durable); }));
    return absl::OkStatus();
  }

  absl::Status Write(const nbd::Request& request, ConstBytes payload, bool durable) {
    if constexpr (CanWrite<Stack>) {
      return durable ? WriteThrough<Stack>(exported_.device, request.offset, payload)
                     : Stack::Write(exported_.device, request.offset, payload);
    }
    return NotOffered();
  }

  // Completes a payload of which `payload` is the beginning, in the payload buffer.
  absl::Status ReceivePayload(size_t length, ConstBytes& payload) {
    if (absl::Status status = SendReplies(); !status.ok()) return status;
    const Bytes whole = buffers_.payload().first(length);
    std::memcpy(whole.data(), payload.data(), payload.size());
    size_t have = payload.size();
    begin_ = end_ = 0;
    while (have < length) {
      const Bytes buffer = buffers_.receive();
      iovec pieces[] = {{whole.data() + have, length - have}, {buffer.data(), buffer.size()}};
      absl::StatusOr<size_t> n = transport_.Receive(pieces);
      if (!n.ok()) return n.status();
      if (*n == 0) return ClosedEarly();
      const size_t of_payload = std::min(*n, length - have);
      have += of_payload;
      end_ = *n - of_payload;
    }
    payload = whole;
    return absl::OkStatus();
  }

  // Drops a payload that is larger than was announced, which keeps the stream in step and costs no memory.
  absl::Status SkipPayload(size_t length) {
    if (absl::Status status = SendReplies(); !status.ok()) return status;
    for (;;) {
      const size_t n = std::min<size_t>(length, end_ - begin_);
      begin_ += n;
      length -= n;
      if (length == 0) return absl::OkStatus();
      if (absl::Status status = ReceiveMore(); !status.ok() || done_) return status;
    }
  }

  // The client vanished inside a request. It was not answered, so nothing is owed.
  absl::Status ClosedEarly() {
    done_ = true;
    return absl::OkStatus();
  }

  absl::Status Read(const nbd::Request& request) {
    if constexpr (CanView<Stack>) {
      const Gather::Mark mark = gather_.mark();
      Reply(request.cookie, nbd::kOk);
      absl::Status status = Pass(request, [&] { return Stack::View(exported_.device, RangeOf(request), gather_); });
      const size_t lent = gather_.bytes() - mark.bytes - nbd::kSimpleReplySize;
      if (status.ok() && lent == request.length) return status;
      if (status.ok() && !gather_.overflowed()) {
        status = absl::InternalError(absl::StrCat("a layer's View lent ", lent, " bytes in place of ", request.length));
      }
      gather_.Rewind(mark);
      --headers_used_;
      if (!status.ok()) {
        Conclude(request, "read", std::move(status));
        return absl::OkStatus();
      }
      // Too many pieces for what room was left.
      if (status = SendReplies(); !status.ok()) return status;
    }
    absl::StatusOr<Bytes> out = TakePayloadBuffer(request.length);
    if (!out.ok()) return out.status();
    absl::Status status = Pass(request, [&] { return Stack::Read(exported_.device, request.offset, *out); });
    const bool ok = status.ok();
    // The error alone: a failed READ carries no payload.
    Conclude(request, "read", std::move(status));
    if (ok) gather_.Append(*out);
    return absl::OkStatus();
  }

  // Room for a read whose bytes stay until the replies are sent.
  absl::StatusOr<Bytes> TakePayloadBuffer(size_t length) {
    const Bytes buffer = buffers_.payload();
    if (length > buffer.size() - payload_used_) {
      if (absl::Status status = SendReplies(); !status.ok()) return status;
    }
    const Bytes out = buffer.subspan(payload_used_, length);
    const size_t end = payload_used_ + length + kPayloadAlignment - 1;
    payload_used_ = std::min(buffer.size(), end - end % kPayloadAlignment);
    return out;
  }

  void Conclude(const nbd::Request& request, const char* command, absl::Status status) {
    Reply(request.cookie, NbdErrorFromStatus(status.code()));
    if (!status.ok()) exported_.on_failure(command, RangeOf(request), status);
  }

  void Reply(uint64_t cookie, uint32_t error) {
    std::byte* header = headers_[headers_used_++].data();
    nbd::Store<uint32_t>(header, nbd::kSimpleReplyMagic);
    nbd::Store<uint32_t>(header + 4, error);
    nbd::Store<uint64_t>(header + 8, cookie);
    gather_.Append({header, nbd::kSimpleReplySize});
  }

  Exported<Stack>& exported_;
  T transport_;
  Buffers buffers_;
  size_t begin_ = 0;  // of what was received and not yet parsed
  size_t end_ = 0;
  size_t payload_used_ = 0;
  size_t headers_used_ = 0;
  bool done_ = false;
  bool said_disconnect_ = false;
  std::array<std::array<std::byte, nbd::kSimpleReplySize>, kMaxReplies> headers_;
  Gather gather_;
};

}  // namespace buse

#endif  // BUSE_CONNECTION_H_

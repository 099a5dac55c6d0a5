// SPDX-License-Identifier: Apache-2.0
//
// Stream: the bytes of one client's connection, both ways, whatever the device. What arrives lies in a buffer until it is
// consumed; what is to be sent is gathered and sent before anything is waited for.

#ifndef BUSE_STREAM_H_
#define BUSE_STREAM_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "buse/buffers.h"
#include "buse/device.h"
#include "buse/nbd.h"
#include "buse/replies.h"
#include "buse/resize_gate.h"
#include "buse/scatter.h"
#include "buse/transport.h"

namespace buse {

// Used by one thread. Errors of all functions: kUnavailable when the connection broke.
template <Transport T>
class Stream {
 public:
  // More than is received together with other requests.
  static constexpr size_t kLargePayload = Buffers::kReceiveSize;
  // Replies are sent once so many bytes of them were read into room here. Measured with a file in the page cache, 4 KiB at depth
  // 32: a quarter more requests than with one send for all 32.
  static constexpr size_t kCopiedBatchBytes = 64 << 10;

  Stream(T transport, Buffers buffers) : transport_(transport), buffers_(std::move(buffers)) {}

  Replies& replies() { return replies_; }

  // From now on, this is outside of the gate while it waits for the client.
  void WaitOutside(ResizeGate* gate) { gate_ = gate; }

  // Whether the client has closed its side, or End was called. Nothing is owed for what was left unfinished.
  bool ended() const { return ended_; }
  void End() { ended_ = true; }

  // How long requests are without their payloads.
  void ExpectHeadersOf(size_t size) { header_size_ = size; }

  // Before anything else: what was received already, at most Buffers::kReceiveSize.
  void Prefill(absl::string_view early) {
    std::memcpy(buffers_.receive().data(), early.data(), early.size());
    end_ = early.size();
  }

  ConstBytes received() const { return {buffers_.receive().data() + begin_, end_ - begin_}; }
  void Consume(size_t n) { begin_ += n; }

  // Keeps what is not consumed, and waits for more, or for the client's end.
  // Out of line, as SendReplies is.
  [[gnu::noinline]] absl::Status Receive() {
    const Bytes buffer = buffers_.receive();
    std::memmove(buffer.data(), buffer.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
    iovec free = {buffer.data() + end_, buffer.size() - end_};
    absl::StatusOr<size_t> n = Wait({&free, 1});
    if (!n.ok()) return n.status();
    end_ += *n;
    ended_ = *n == 0;
    return absl::OkStatus();
  }

  // The same where the next thing to come is a request: if nothing of it has, the transport may be stopped, with kCancelled.
  absl::Status ReceiveRequests() {
    if constexpr (requires { transport_.ExpectRequest(); }) {
      if (begin_ == end_) transport_.ExpectRequest();
    }
    return Receive();
  }

  // Out of line, to keep what happens for every request in one place.
  [[gnu::noinline]] absl::Status SendReplies() {
    if (replies_.empty()) return absl::OkStatus();
    absl::Status status = transport_.Send(replies_.gather().pieces());
    replies_.Clear();
    payload_used_ = 0;
    return status;
  }

  // Consumes up to `length` bytes of what was received.
  ConstBytes TakeReceived(size_t length) {
    const ConstBytes taken(received().data(), std::min(length, end_ - begin_));
    begin_ += taken.size();
    return taken;
  }

  // Completes a payload, no longer than the largest, of which `payload` was received. It stays until the next call of anything
  // here. At the client's end: OK, and ended().
  absl::Status CompletePayload(size_t length, ConstBytes& payload) {
    const Bytes whole = buffers_.payload().first(length);
    places_.Clear();
    places_.Append(whole);
    if (absl::Status status = ReceivePayload(payload); !status.ok()) return status;
    payload = whole;
    return absl::OkStatus();
  }

  // Where the next payload is to lie, for ReceivePayload.
  Scatter& places() { return places_; }

  // Receives a payload to its places, which have room for just it; `have` is what was received of it. At the client's end: OK,
  // and ended(). Then, and after an error, some of the bytes may be in place.
  absl::Status ReceivePayload(ConstBytes have) {
    if (absl::Status status = SendReplies(); !status.ok()) return status;
    // Behind a large payload only the next header, so that the next payload, likely as large, need not be copied.
    const size_t behind = places_.bytes() >= kLargePayload ? header_size_ : SIZE_MAX;
    places_.Fill(have);
    begin_ = end_ = 0;
    while (places_.bytes() > 0) {
      const Bytes buffer = buffers_.receive();
      absl::StatusOr<size_t> n = Wait(places_.PiecesAnd(buffer.first(std::min(behind, buffer.size()))));
      if (!n.ok()) return n.status();
      ended_ = *n == 0;
      if (ended_) return absl::OkStatus();
      const size_t of_payload = std::min(*n, places_.bytes());
      places_.Advance(of_payload);
      end_ = *n - of_payload;
    }
    return absl::OkStatus();
  }

  // Drops a payload of any length, which keeps the stream in step and costs no memory. At the client's end as above.
  absl::Status SkipPayload(size_t length) {
    if (absl::Status status = SendReplies(); !status.ok()) return status;
    for (;;) {
      const size_t n = std::min<size_t>(length, end_ - begin_);
      begin_ += n;
      length -= n;
      if (length == 0) return absl::OkStatus();
      if (absl::Status status = Receive(); !status.ok() || ended_) return status;
    }
  }

  // Room for bytes that stay until the replies are sent. What takes room takes time: the client has work meanwhile.
  absl::StatusOr<Bytes> TakeRoom(size_t length, size_t alignment) {
    const Bytes buffer = buffers_.payload();
    if (length > buffer.size() - payload_used_ || payload_used_ >= kCopiedBatchBytes) {
      if (absl::Status status = SendReplies(); !status.ok()) return status;
    }
    const Bytes out = buffer.subspan(payload_used_, length);
    const size_t end = payload_used_ + length + alignment - 1;
    payload_used_ = std::min(buffer.size(), end - end % alignment);
    return out;
  }

  // The last room that was taken, of which nothing was used.
  void GiveBackRoom(Bytes room) { payload_used_ = static_cast<size_t>(room.data() - buffers_.payload().data()); }

 private:
  // No reply is held back here, so nothing of the device is lent.
  absl::StatusOr<size_t> Wait(std::span<iovec> pieces) {
    return gate_ == nullptr ? transport_.Receive(pieces) : WaitOutsideTheGate(pieces);
  }

  [[gnu::noinline, gnu::cold]] absl::StatusOr<size_t> WaitOutsideTheGate(std::span<iovec> pieces) {
    gate_->Leave();
    absl::StatusOr<size_t> n = transport_.Receive(pieces);
    gate_->Enter();
    return n;
  }

  T transport_;
  ResizeGate* gate_ = nullptr;
  Buffers buffers_;
  size_t begin_ = 0;  // of what was received and not yet consumed
  size_t end_ = 0;
  size_t payload_used_ = 0;
  size_t header_size_ = nbd::kRequestSize;
  bool ended_ = false;
  Scatter places_;
  Replies replies_;
};

}  // namespace buse

#endif  // BUSE_STREAM_H_

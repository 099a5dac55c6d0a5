// SPDX-License-Identifier: Apache-2.0
//
// NBD on the wire as the specification writes it, apart from the server's own code, and a transport over byte strings.

#ifndef TESTS_WIRE_H_
#define TESTS_WIRE_H_

#include <sys/uio.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace buse::testing {

// `bytes` bytes of `value`, the most significant first.
inline std::string Big(int bytes, uint64_t value) {
  std::string out;
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
  return out;
}

inline std::string Request(uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset, uint32_t length) {
  return Big(4, 0x25609513) + Big(2, flags) + Big(2, type) + Big(8, cookie) + Big(8, offset) + Big(4, length);
}

inline std::string SimpleReply(uint32_t error, uint64_t cookie, const std::string& payload = "") {
  return Big(4, 0x67446698) + Big(4, error) + Big(8, cookie) + payload;
}

inline std::string ExtendedRequest(uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset, uint64_t length) {
  return Big(4, 0x21e41c71) + Big(2, flags) + Big(2, type) + Big(8, cookie) + Big(8, offset) + Big(8, length);
}

inline std::string StructuredChunk(uint16_t flags, uint16_t type, uint64_t cookie, const std::string& payload = "") {
  return Big(4, 0x668e33ef) + Big(2, flags) + Big(2, type) + Big(8, cookie) + Big(4, payload.size()) + payload;
}

// `offset` is that of the request.
inline std::string ExtendedChunk(uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset,
                                 const std::string& payload = "") {
  return Big(4, 0x6e8a278c) + Big(2, flags) + Big(2, type) + Big(8, cookie) + Big(8, offset) + Big(8, payload.size()) + payload;
}

inline std::string ClientOption(uint32_t option, const std::string& data) {
  return Big(8, 0x49484156454f5054) + Big(4, option) + Big(4, data.size()) + data;
}

inline std::string OptionReply(uint32_t option, uint32_t type, const std::string& data = "") {
  return Big(8, 0x3e889045565a9) + Big(4, option) + Big(4, type) + Big(4, data.size()) + data;
}

// What travels through a ByteTransport, which only points to it.
struct Bytestream {
  std::string in;           // what the client sends before it closes its side
  size_t chunk = SIZE_MAX;  // the most that one receive takes of it
  std::string out;          // what the server sent
  int sends = 0;
  size_t taken = 0;
};

class ByteTransport {
 public:
  static constexpr bool kFullDuplex = true;  // each way has bytes of its own

  explicit ByteTransport(Bytestream& stream) : stream_(&stream) {}

  absl::StatusOr<size_t> Receive(std::span<iovec> pieces) {
    size_t total = 0;
    for (const iovec& piece : pieces) {
      const size_t n = std::min({piece.iov_len, stream_->in.size() - stream_->taken, stream_->chunk - total});
      std::memcpy(piece.iov_base, stream_->in.data() + stream_->taken, n);
      stream_->taken += n;
      total += n;
    }
    return total;
  }

  absl::Status Send(std::span<iovec> pieces) {
    ++stream_->sends;
    for (const iovec& piece : pieces) stream_->out.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
    return absl::OkStatus();
  }

 private:
  Bytestream* stream_;
};

}  // namespace buse::testing

#endif  // TESTS_WIRE_H_

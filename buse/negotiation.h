// SPDX-License-Identifier: Apache-2.0
//
// A client's negotiation over its transport: who it is that is to be served, before anything of the device is needed.

#ifndef BUSE_NEGOTIATION_H_
#define BUSE_NEGOTIATION_H_

#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"
#include "buse/handshake.h"
#include "buse/nbd.h"
#include "buse/transport.h"

namespace buse {

struct Agreement {
  size_t which = 0;  // of the exports
  nbd::Terms terms;
  std::string early;  // what arrived behind it: requests. At most Handshake::kBufferSize
};

namespace negotiation_internal {

// What the transport does about TLS.
template <Transport T>
nbd::TlsMode TlsModeOf(const T& transport) {
  if constexpr (requires { transport.tls(); }) return transport.tls();
  return nbd::TlsMode::kOff;
}

// From here on all is encrypted; the client has been told. Errors: kInvalidArgument where TLS fails.
template <Transport T>
absl::Status StartTls(T& transport, absl::FunctionRef<absl::Status()> before_wait) {
  if constexpr (requires { transport.StartTls(before_wait); }) return transport.StartTls(before_wait);
  return absl::InternalError("no TLS here");
}

}  // namespace negotiation_internal

// Negotiates as the server of `exports`, which outlive the call. Nothing: the client asked for the end. `before_wait` is called
// before each wait for the client, and ends the negotiation by an error. Memory: Handshake::kBufferSize, and the answers to what
// lies in it.
// Errors: kUnavailable when the connection broke, kInvalidArgument when the client broke the protocol, or TLS with it failed.
template <Transport T>
absl::StatusOr<std::optional<Agreement>> Negotiate(
    T& transport, std::span<const nbd::Export* const> exports,
    absl::FunctionRef<absl::Status()> before_wait = [] { return absl::OkStatus(); }) {
  Handshake handshake(exports, negotiation_internal::TlsModeOf(transport));
  std::vector<std::byte> buffer(Handshake::kBufferSize);
  size_t held = 0;
  std::string answer = handshake.Greeting();
  for (;;) {
    iovec text = {answer.data(), answer.size()};
    if (absl::Status status = transport.Send({&text, answer.empty() ? size_t{0} : size_t{1}}); !status.ok()) return status;
    answer.clear();
    if (absl::Status status = before_wait(); !status.ok()) return status;
    iovec room = {buffer.data() + held, buffer.size() - held};
    const absl::StatusOr<size_t> n = transport.Receive({&room, 1});
    if (!n.ok()) return n.status();
    if (*n == 0) return std::nullopt;
    held += *n;
    size_t consumed = 0;
    const Handshake::Outcome outcome = handshake.Advance({buffer.data(), held}, consumed, answer);
    held -= consumed;
    if (outcome == Handshake::Outcome::kMore) {
      std::memmove(buffer.data(), buffer.data() + consumed, held);
      continue;
    }
    text = {answer.data(), answer.size()};
    if (absl::Status status = transport.Send({&text, answer.empty() ? size_t{0} : size_t{1}}); !status.ok()) return status;
    if (outcome == Handshake::Outcome::kStartTls) {
      // What came before it was answered may come from somebody in between, and must not be taken for what is said under TLS.
      if (held > 0) return absl::InvalidArgumentError("more behind STARTTLS, before it was answered");
      answer.clear();
      if (absl::Status status = negotiation_internal::StartTls(transport, before_wait); !status.ok()) return status;
      handshake.Secured();
      continue;
    }
    if (outcome == Handshake::Outcome::kTransmit) {
      const std::string early(reinterpret_cast<const char*>(buffer.data()) + consumed, held);
      return Agreement{.which = handshake.chosen(), .terms = handshake.terms(), .early = early};
    }
    if (!handshake.reason().empty()) return absl::InvalidArgumentError(handshake.reason());
    return std::nullopt;
  }
}

}  // namespace buse

#endif  // BUSE_NEGOTIATION_H_

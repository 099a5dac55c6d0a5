// SPDX-License-Identifier: Apache-2.0
//
// Negotiation over any bytes, also under TLS, with a server of three exports. The first byte of the input says in what pieces
// they arrive, what is refused, and what the server does about TLS.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "buse/handshake.h"
#include "tests/fuzz/target.h"
#include "tests/wire.h"

namespace buse {
namespace {

using testing::MustBeRight;

// What a reply may be.
enum class Stage {
  kAny,
  kBeforeTls,  // which is required
  kUnderTls,
};

// Whole option replies, each of a known form.
std::string CheckReplies(const std::string& out, Stage stage) {
  size_t at = 0;
  const auto number = [&](size_t from, size_t size) {
    uint64_t value = 0;
    for (size_t i = 0; i < size; ++i) value = value << 8 | static_cast<uint8_t>(out[from + i]);
    return value;
  };
  while (at < out.size()) {
    if (out.size() - at < 20) return "half an option reply";
    if (number(at, 8) != 0x3e889045565a9) return "an option reply without its magic";
    const uint64_t type = number(at + 12, 4), length = number(at + 16, 4);
    if (out.size() - at - 20 < length) return "half the data of an option reply";
    const bool known = (type >= 1 && type <= 4) || (type >= 0x80000001 && type <= 0x8000000a);
    if (!known) return "an unknown type of option reply";
    if (type == 1 && length != 0) return "an ACK with data";
    const uint64_t option = number(at + 8, 4);
    constexpr uint64_t kAbort = 2, kStartTls = 5, kTlsReqd = 0x80000005;
    if (stage == Stage::kBeforeTls && type != kTlsReqd && option != kAbort && option != kStartTls)
      return "an answer without TLS";
    if (stage == Stage::kUnderTls && type == kTlsReqd) return "TLS is asked for again";
    at += 20 + length;
  }
  return "";
}

// A server's exports: one that can be resized, one with a cache, and one that knows no context. `choice`: see below.
struct Server {
  explicit Server(uint8_t choice)
      : contexts((choice & 2) == 0),
        structured_replies((choice & 4) == 0),
        disk(Make("disk", 0x0d6d, nbd::ContextSet().With(nbd::kBaseAllocation, contexts), choice)),
        cached(Make("cached", 0x056d, nbd::ContextSet().With(nbd::kBaseAllocation, contexts).With(nbd::kBuseCache, contexts),
                    choice)),
        plain(Make("plain", 0x0103, {}, choice)) {
    disk.resize_limit = 2 << 20;
  }

  nbd::Export Make(const char* name, uint16_t flags, nbd::ContextSet known, uint8_t choice) const {
    return {.name = name,
            .description = "a disk",
            .size = 1 << 20,
            .flags = flags,
            .contexts = known,
            .structured_replies = structured_replies,
            .extended_headers = (choice & 8) == 0};
  }

  // What was agreed on must be possible.
  std::string Check(size_t chosen, const nbd::Terms& terms) const {
    if (chosen >= exports.size()) return "no export was chosen";
    const bool simple = terms.replies == nbd::Terms::Replies::kSimple;
    if (!terms.contexts.empty() && simple) return "a context was agreed on that cannot be used";
    for (const nbd::Context& context : nbd::kContexts) {
      if (terms.contexts.has(context.id) && !exports[chosen]->contexts.has(context.id)) return "another export's context";
    }
    if (!structured_replies && !simple) return "a refusal was overlooked";
    return "";
  }

  const bool contexts, structured_replies;
  nbd::Export disk, cached, plain;
  const std::array<const nbd::Export*, 3> exports = {&disk, &cached, &plain};
};

}  // namespace
}  // namespace buse

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using buse::Handshake;
  using buse::testing::MustBeRight;
  if (size == 0) return 0;
  const uint8_t choice = data[0];
  const size_t piece = (choice & 1) != 0 ? size_t{1} + choice / 16 : SIZE_MAX;
  const buse::Server server(choice);
  using buse::nbd::TlsMode;
  const TlsMode tls = (choice & 0x30) == 0x10 ? TlsMode::kOn : (choice & 0x30) == 0x20 ? TlsMode::kRequire : TlsMode::kOff;
  buse::Stage stage = tls == TlsMode::kRequire ? buse::Stage::kBeforeTls : buse::Stage::kAny;
  Handshake handshake(server.exports, tls);
  const std::span<const uint8_t> in(data + 1, size - 1);
  std::string buffer;
  Handshake::Outcome outcome = Handshake::Outcome::kMore;
  for (size_t fed = 0; outcome == Handshake::Outcome::kMore && fed < in.size();) {
    const size_t n = std::min({piece, in.size() - fed, size_t{65536} - buffer.size()});
    if (n == 0) MustBeRight("a full buffer is not emptied");
    buffer.append(reinterpret_cast<const char*>(in.data()) + fed, n);
    fed += n;
    std::string out;
    size_t consumed = 0;
    outcome = handshake.Advance(std::as_bytes(std::span(buffer)), consumed, out);
    if (consumed > buffer.size()) MustBeRight("more was consumed than came");
    // EXPORT_NAME is answered in a form of its own.
    const bool by_export_name =
        outcome == Handshake::Outcome::kTransmit && buffer.find(buse::testing::Big(4, 1)) != std::string::npos;
    if (!by_export_name) MustBeRight(buse::CheckReplies(out, stage));
    if (outcome == Handshake::Outcome::kTransmit && stage == buse::Stage::kBeforeTls) MustBeRight("transmission without TLS");
    // Each option is at least 16 bytes long, and is answered in less than 400.
    if (out.size() > (consumed / 16 + 1) * 400) MustBeRight("an answer out of proportion");
    buffer.erase(0, consumed);
    if (outcome == Handshake::Outcome::kStartTls) {
      if (tls == TlsMode::kOff || stage == buse::Stage::kUnderTls) MustBeRight("TLS begins where it cannot");
      handshake.Secured();
      const buse::nbd::Terms terms = handshake.terms();
      if (terms.replies != buse::nbd::Terms::Replies::kSimple || !terms.contexts.empty())
        MustBeRight("something is kept from before");
      stage = buse::Stage::kUnderTls;
      outcome = Handshake::Outcome::kMore;
      buffer.clear();  // as a connection that goes on would have nothing here
    }
    if (outcome == Handshake::Outcome::kMore && buffer.size() > Handshake::kBufferSize) MustBeRight("too much is kept");
  }
  if (outcome == Handshake::Outcome::kTransmit) MustBeRight(server.Check(handshake.chosen(), handshake.terms()));
  return 0;
}

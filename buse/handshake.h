// SPDX-License-Identifier: Apache-2.0
//
// The server's side of fixed newstyle negotiation, without any I/O: bytes in, bytes out. Source: doc/proto.md of the NBD
// project, sections "Handshake", "TLS support", "Metadata querying" and "Option types", and for extended headers that of its
// branch extension-ext-header.

#ifndef BUSE_HANDSHAKE_H_
#define BUSE_HANDSHAKE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "absl/strings/string_view.h"
#include "buse/device.h"
#include "buse/nbd.h"

namespace buse {

// One client's negotiation. Holds no more than a few words whatever the client claims to send: an option is looked at when it
// is complete in the caller's buffer, and one over kMaxOptionData is skipped and refused. Not thread-safe.
class Handshake {
 public:
  enum class Outcome {
    kMore,      // send what was answered and come back with more bytes
    kTransmit,  // send what was answered; requests follow
    kStartTls,  // send what was answered, let TLS begin, call Secured, and come back with what arrives through it
    kClose,     // send what was answered and close
  };

  // The longest option that is looked at, in bytes. Room for a name of any legal length and a list of what to tell of it.
  static constexpr uint32_t kMaxOptionData = 8192;
  // What the caller's buffer must hold for Advance to make progress.
  static constexpr size_t kBufferSize = nbd::kOptionHeaderSize + kMaxOptionData;

  // Of a server of these exports, at least one, which outlive the handshake. The first is the default export, to which the empty
  // name leads too.
  explicit Handshake(std::span<const nbd::Export* const> exports, nbd::TlsMode tls = nbd::TlsMode::kOff)
      : exports_(exports), tls_(tls) {}

  // What the server sends first.
  std::string Greeting() const;

  // Takes whole messages from the front of `in`, says how much it took, and appends its answers to `out`.
  Outcome Advance(ConstBytes in, size_t& consumed, std::string& out);

  // TLS has begun. What was agreed on before is forgotten: somebody in between may have said it.
  void Secured();

  // After kTransmit: the export that was chosen, by its place, and on what terms.
  size_t chosen() const { return chosen_; }
  nbd::Terms terms() const { return TermsOf(chosen_); }

  // After kClose: why, for the log. Empty where the client asked for the end.
  absl::string_view reason() const { return reason_; }

 private:
  enum class Step { kClientFlags, kOption, kSkip };

  Outcome TakeClientFlags(uint32_t flags);
  Outcome TakeOptionHeader(ConstBytes in, size_t& consumed, std::string& out);
  Outcome TakeOption(uint32_t option, absl::string_view data, std::string& out);
  bool Refused(uint32_t option) const;
  // TLS has to come first.
  bool NeedsTls() const { return tls_ == nbd::TlsMode::kRequire && !secured_; }
  Outcome TakeWithoutTls(uint32_t option, std::string& out);
  Outcome TakeStartTls(absl::string_view data, std::string& out);
  Outcome TakeExportName(absl::string_view name, std::string& out);
  Outcome TakeInfo(uint32_t option, absl::string_view data, std::string& out);
  void TellOf(size_t which, uint32_t option, absl::string_view infos, std::string& out) const;
  void TakeList(absl::string_view data, std::string& out) const;
  void TakeStyle(uint32_t option, absl::string_view data, std::string& out);
  void TakeMetaContext(uint32_t option, absl::string_view data, std::string& out);
  std::optional<size_t> Find(absl::string_view name) const;
  nbd::Terms TermsOf(size_t which) const;

  const std::span<const nbd::Export* const> exports_;
  nbd::TlsMode tls_;
  bool secured_ = false;
  Step step_ = Step::kClientFlags;
  bool no_zeroes_ = false;
  nbd::Terms::Replies replies_ = nbd::Terms::Replies::kSimple;
  // Contexts that were selected, and of which export: of any other, none are.
  nbd::ContextSet selected_;
  size_t selected_of_ = 0;
  size_t chosen_ = 0;
  uint32_t option_ = 0;
  uint32_t skip_ = 0;
  absl::string_view reason_;
};

}  // namespace buse

#endif  // BUSE_HANDSHAKE_H_

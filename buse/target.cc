// SPDX-License-Identifier: Apache-2.0
//
// Where to serve a device. The parser is strict: what it does not know it names, so that a mistyped parameter is not ignored.

#include "buse/target.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace buse {
namespace {

constexpr size_t kMaxExportName = 4096;  // the NBD specification's limit on strings
constexpr size_t kMaxSocketPath = sizeof(sockaddr_un::sun_path) - 1;
constexpr size_t kMaxQuoted = 200;  // bytes of a target that an error repeats
constexpr absl::string_view kForms = "give /dev/nbdN, nbd+unix:///NAME?socket=PATH or nbd://HOST:PORT/NAME";

// The pieces of SCHEME://AUTHORITY/PATH?QUERY, still encoded.
struct Pieces {
  absl::string_view scheme;
  absl::string_view authority;
  absl::string_view path;  // without its first slash
  absl::string_view query;
};

std::string Quoted(absl::string_view text) { return absl::StrCat("\"", absl::Utf8SafeCEscape(text), "\""); }

// The rest of an error's sentence; ParseTarget puts the target before it.
template <class... Text>
absl::Status Refused(const Text&... text) {
  return absl::InvalidArgumentError(absl::StrCat(text...));
}

std::string Encode(absl::string_view text) {
  std::string encoded;
  for (char c : text) {
    if (absl::ascii_isalnum(c) || absl::StrContains("-._~/", c)) {
      encoded += c;
    } else {
      absl::StrAppend(&encoded, "%", absl::AsciiStrToUpper(absl::BytesToHexString(absl::string_view(&c, 1))));
    }
  }
  return encoded;
}

absl::StatusOr<std::string> Decode(absl::string_view text) {
  std::string decoded;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '%') {
      decoded += text[at];
      continue;
    }
    const absl::string_view digits = text.substr(at + 1, 2);
    if (digits.size() < 2 || !absl::ascii_isxdigit(digits[0]) || !absl::ascii_isxdigit(digits[1])) {
      return Refused("has ", Quoted(text.substr(at, 3)),
                     ", which is no percent-encoded byte: write a percent sign itself as %25");
    }
    decoded += absl::HexStringToBytes(digits);
    at += 2;
  }
  return decoded;
}

absl::StatusOr<Pieces> Split(absl::string_view text) {
  if (!absl::StrContains(text, "://")) {
    if (absl::StrContains(text, '/') || absl::EndsWith(text, ".sock")) {
      return Refused("is a path and no target: for a Unix socket there, write nbd+unix:///?socket=", Encode(text));
    }
    return Refused("is no target: ", kForms);
  }
  if (absl::StrContains(text, '#')) return Refused("has a fragment, which means nothing to NBD: write # itself as %23");
  const std::pair<absl::string_view, absl::string_view> scheme = absl::StrSplit(text, absl::MaxSplits("://", 1));
  const std::pair<absl::string_view, absl::string_view> query = absl::StrSplit(scheme.second, absl::MaxSplits('?', 1));
  const std::pair<absl::string_view, absl::string_view> path = absl::StrSplit(query.first, absl::MaxSplits('/', 1));
  return Pieces{.scheme = scheme.first, .authority = path.first, .path = path.second, .query = query.second};
}

absl::StatusOr<std::string> ParseExportName(absl::string_view path) {
  absl::StatusOr<std::string> name = Decode(path);
  if (!name.ok()) return name;
  if (absl::StrContains(*name, '\0')) return Refused("has a NUL byte in its export name, which NBD forbids");
  if (name->size() > kMaxExportName) {
    return Refused("has an export name of ", name->size(), " bytes, but NBD allows at most ", kMaxExportName,
                   ": use a shorter name");
  }
  return name;
}

absl::Status UnknownParameter(absl::string_view name) {
  if (absl::StartsWith(name, "tls-")) return Refused("asks for ", name, ", but TLS is not supported");
  return Refused("has an unknown parameter ", Quoted(name), ": the only one is that of nbd+unix:///NAME?socket=PATH");
}

absl::StatusOr<std::string> ParseSocketPath(absl::string_view query) {
  absl::StatusOr<std::string> path = std::string();
  for (absl::string_view parameter : absl::StrSplit(query, '&', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> pair = absl::StrSplit(parameter, absl::MaxSplits('=', 1));
    if (pair.first != "socket") return UnknownParameter(pair.first);
    if (!path->empty()) return Refused("has more than one socket=: a target is one socket");
    path = Decode(pair.second);
    if (!path.ok()) return path;
    if (path->empty()) break;
  }
  if (path->empty()) return Refused("names no socket: write nbd+unix:///NAME?socket=PATH");
  if (absl::StrContains(*path, '\0')) {
    return Refused("has a NUL byte in its socket path: abstract sockets are not supported, give the path of a file");
  }
  if (path->size() > kMaxSocketPath) {
    return Refused("has a socket path of ", path->size(), " bytes, but the system allows at most ", kMaxSocketPath,
                   ": use a shorter or a relative path");
  }
  return path;
}

absl::StatusOr<Target> ParseUnix(const Pieces& pieces) {
  if (!pieces.authority.empty()) {
    return Refused("names a host, ", Quoted(pieces.authority),
                   ", which a Unix socket has not: write nbd+unix:///NAME?socket=PATH");
  }
  absl::StatusOr<std::string> name = ParseExportName(pieces.path);
  if (!name.ok()) return name.status();
  absl::StatusOr<std::string> path = ParseSocketPath(pieces.query);
  if (!path.ok()) return path.status();
  Target target;
  target.kind = Target::Kind::kUnixSocket;
  target.path = *std::move(path);
  target.export_name = *std::move(name);
  return target;
}

// An IPv6 address, which a zone such as %eth0 may follow.
bool IsAddress6(const std::string& host) {
  const std::pair<std::string, std::string> address = absl::StrSplit(host, absl::MaxSplits('%', 1));
  in6_addr unused;
  if (absl::StrContains(host, '\0') || absl::EndsWith(host, "%")) return false;
  return inet_pton(AF_INET6, address.first.c_str(), &unused) == 1;
}

bool IsHostName(absl::string_view host) {
  return std::all_of(host.begin(), host.end(), [](char c) { return absl::ascii_isalnum(c) || absl::StrContains("-._", c); });
}

absl::StatusOr<Target> ParseTcp(const Pieces& pieces) {
  if (!pieces.query.empty()) {
    return UnknownParameter(pieces.query.substr(0, std::min(pieces.query.find('='), pieces.query.find('&'))));
  }
  absl::string_view rest = pieces.authority;
  if (absl::StrContains(rest, '@')) return Refused("names a user, which needs TLS, and TLS is not supported");
  Target target;
  target.kind = Target::Kind::kTcp;
  if (absl::ConsumePrefix(&rest, "[")) {
    const size_t end = rest.find(']');
    if (end == absl::string_view::npos) return Refused("lacks the ] that ends an IPv6 address");
    absl::StatusOr<std::string> host = Decode(rest.substr(0, end));
    if (!host.ok()) return host.status();
    if (!IsAddress6(*host)) return Refused("has ", Quoted(*host), " in brackets, which is no IPv6 address");
    target.host = *std::move(host);
    rest.remove_prefix(end + 1);
    if (!rest.empty() && rest.front() != ':') return Refused("has ", Quoted(rest), " after the address: only :PORT may follow");
  } else {
    const absl::string_view host = rest.substr(0, rest.find(':'));
    rest.remove_prefix(host.size());
    if (std::count(rest.begin(), rest.end(), ':') > 1) {
      return Refused("has an address with several colons: an IPv6 address goes in brackets, such as nbd://[::1]/");
    }
    if (!IsHostName(host)) return Refused("has ", Quoted(host), " as its host, which is no name and no address");
    target.host = host.empty() ? "localhost" : std::string(host);
  }
  if (absl::ConsumePrefix(&rest, ":") && !rest.empty()) {
    uint32_t port = 0;
    const bool digits = std::all_of(rest.begin(), rest.end(), absl::ascii_isdigit);
    if (!digits || !absl::SimpleAtoi(rest, &port) || port > UINT16_MAX) {
      return Refused("has ", Quoted(rest), " as its port: give a number up to ", UINT16_MAX, ", or 0 for a free one");
    }
    target.port = static_cast<uint16_t>(port);
  }
  absl::StatusOr<std::string> name = ParseExportName(pieces.path);
  if (!name.ok()) return name.status();
  target.export_name = *std::move(name);
  return target;
}

absl::StatusOr<Target> Parse(absl::string_view text) {
  if (absl::StrContains(text, '\0')) return Refused("has a NUL byte: ", kForms);
  if (absl::StartsWith(text, "/dev/")) {
    Target target;
    target.path = std::string(text);
    return target;
  }
  const absl::StatusOr<Pieces> pieces = Split(text);
  if (!pieces.ok()) return pieces.status();
  const std::string scheme = absl::AsciiStrToLower(pieces->scheme);
  if (scheme == "nbd") return ParseTcp(*pieces);
  if (scheme == "nbd+unix") return ParseUnix(*pieces);
  if (scheme == "nbds" || scheme == "nbds+unix") {
    return Refused("asks for TLS, which is not supported: use ", scheme == "nbds" ? "nbd://" : "nbd+unix://");
  }
  return Refused("has an unknown scheme ", Quoted(scheme), ": ", kForms);
}

}  // namespace

std::string Target::Uri() const {
  switch (kind) {
    case Kind::kKernelDevice:
      return path;
    case Kind::kUnixSocket:
      return absl::StrCat("nbd+unix:///", Encode(export_name), "?socket=", Encode(path));
    case Kind::kTcp:
      break;
  }
  std::string uri = "nbd://";
  if (absl::StrContains(host, ':')) {
    const std::pair<std::string, std::string> address = absl::StrSplit(host, absl::MaxSplits('%', 1));
    absl::StrAppend(&uri, "[", address.first, address.second.empty() ? "" : "%25", Encode(address.second), "]");
  } else {
    absl::StrAppend(&uri, host);
  }
  if (port != kDefaultPort) absl::StrAppend(&uri, ":", port);
  return absl::StrCat(uri, "/", Encode(export_name));
}

absl::StatusOr<Target> ParseTarget(absl::string_view text) {
  absl::StatusOr<Target> target = Parse(text);
  if (target.ok()) return target;
  const bool long_text = text.size() > kMaxQuoted;
  const std::string quoted = long_text ? absl::StrCat(Quoted(text.substr(0, kMaxQuoted)), "...") : Quoted(text);
  return absl::InvalidArgumentError(absl::StrCat(quoted, " ", target.status().message()));
}

}  // namespace buse

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
constexpr absl::string_view kForms =
    "give /dev/nbdN, nbd+unix:///NAME?socket=PATH, nbd://HOST:PORT/NAME, nbd+vsock://:PORT/NAME, or - for standard input";

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
  if (absl::StartsWith(name, "tls-")) {
    return Refused("has ", name, ", which is for clients: give this server --tls-certificates=DIR or --tls-psk=FILE");
  }
  return Refused("has an unknown parameter ", Quoted(name), ": the only one is that of nbd+unix:///NAME?socket=PATH");
}

absl::Status NoUser(const Pieces& pieces) {
  if (!absl::StrContains(pieces.authority, '@')) return absl::OkStatus();
  return Refused("names a user, which is for clients: give this server --tls-psk=FILE, which names all of them");
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
  if (absl::Status status = NoUser(pieces); !status.ok()) return status;
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

absl::Status NoParameters(const Pieces& pieces) {
  if (pieces.query.empty()) return absl::OkStatus();
  return UnknownParameter(pieces.query.substr(0, std::min(pieces.query.find('='), pieces.query.find('&'))));
}

// A number without a sign.
absl::StatusOr<uint32_t> ParseNumber(absl::string_view text, uint32_t max, const char* what, const char* free) {
  uint64_t number = 0;
  const bool digits = std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
  if (!digits || !absl::SimpleAtoi(text, &number) || number > max) {
    return Refused("has ", Quoted(text), " as its ", what, ": give a number up to ", max, free);
  }
  return static_cast<uint32_t>(number);
}

// What is behind the host: ":PORT", ":" or nothing.
absl::Status ParsePort(absl::string_view rest, uint32_t max, Target& target) {
  if (!absl::ConsumePrefix(&rest, ":") || rest.empty()) return absl::OkStatus();
  const absl::StatusOr<uint32_t> port = ParseNumber(rest, max, "port", ", or 0 for a free one");
  if (port.ok()) target.port = *port;
  return port.status();
}

absl::StatusOr<Target> ParseVsock(const Pieces& pieces) {
  // The last two numbers mean any.
  constexpr uint32_t kMaxCid = 0xfffffffe, kMaxPort = 0xfffffffe;
  if (absl::Status status = NoParameters(pieces); !status.ok()) return status;
  if (absl::Status status = NoUser(pieces); !status.ok()) return status;
  Target target;
  target.kind = Target::Kind::kVsock;
  const absl::string_view cid = pieces.authority.substr(0, pieces.authority.find(':'));
  if (!cid.empty()) {
    const absl::StatusOr<uint32_t> number = ParseNumber(cid, kMaxCid, "CID", ", or none for any");
    if (!number.ok()) return number.status();
    target.cid = *number;
  }
  if (absl::Status status = ParsePort(pieces.authority.substr(cid.size()), kMaxPort, target); !status.ok()) return status;
  absl::StatusOr<std::string> name = ParseExportName(pieces.path);
  if (!name.ok()) return name.status();
  target.export_name = *std::move(name);
  return target;
}

absl::StatusOr<Target> ParseTcp(const Pieces& pieces) {
  if (absl::Status status = NoParameters(pieces); !status.ok()) return status;
  if (absl::Status status = NoUser(pieces); !status.ok()) return status;
  absl::string_view rest = pieces.authority;
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
  if (absl::Status status = ParsePort(rest, UINT16_MAX, target); !status.ok()) return status;
  absl::StatusOr<std::string> name = ParseExportName(pieces.path);
  if (!name.ok()) return name.status();
  target.export_name = *std::move(name);
  return target;
}

absl::StatusOr<Target> Parse(absl::string_view text) {
  if (absl::StrContains(text, '\0')) return Refused("has a NUL byte: ", kForms);
  Target target;
  if (text == "-") {
    target.kind = Target::Kind::kStandardInput;
    return target;
  }
  if (absl::StartsWith(text, "/dev/")) {
    target.path = std::string(text);
    return target;
  }
  const absl::StatusOr<Pieces> pieces = Split(text);
  if (!pieces.ok()) return pieces.status();
  const std::string scheme = absl::AsciiStrToLower(pieces->scheme);
  absl::string_view rest = scheme;
  const bool nbd = absl::ConsumePrefix(&rest, "nbd");
  const bool tls = absl::ConsumePrefix(&rest, "s");
  absl::StatusOr<Target> parsed = Refused("has an unknown scheme ", Quoted(scheme), ": ", kForms);
  if (nbd && rest.empty()) parsed = ParseTcp(*pieces);
  if (nbd && rest == "+unix") parsed = ParseUnix(*pieces);
  if (nbd && rest == "+vsock") parsed = ParseVsock(*pieces);
  if (parsed.ok()) parsed->tls = tls;
  return parsed;
}

std::string HostInUri(const std::string& host) {
  if (!absl::StrContains(host, ':')) return host;
  const std::pair<std::string, std::string> address = absl::StrSplit(host, absl::MaxSplits('%', 1));
  return absl::StrCat("[", address.first, address.second.empty() ? "" : "%25", Encode(address.second), "]");
}

}  // namespace

std::string Target::Uri() const {
  const absl::string_view scheme = tls ? "nbds" : "nbd";
  std::string uri;
  switch (kind) {
    case Kind::kKernelDevice:
      return path;
    case Kind::kStandardInput:
      return "-";
    case Kind::kUnixSocket:
      return absl::StrCat(scheme, "+unix:///", Encode(export_name), "?socket=", Encode(path));
    case Kind::kVsock:
      uri = absl::StrCat(scheme, "+vsock://");
      if (cid != kAnyCid) absl::StrAppend(&uri, cid);
      break;
    case Kind::kTcp:
      uri = absl::StrCat(scheme, "://", HostInUri(host));
      break;
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

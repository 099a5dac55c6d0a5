// SPDX-License-Identifier: Apache-2.0
//
// Where to serve a device: one argument, a kernel device, standard input, or a URI of the NBD project's URI format (its
// doc/uri.md), or of libnbd's for vsock (nbd_connect_uri(3)).

#ifndef BUSE_TARGET_H_
#define BUSE_TARGET_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace buse {

struct Target {
  enum class Kind {
    kKernelDevice,   // path
    kUnixSocket,     // path, export_name
    kTcp,            // host, port, export_name
    kVsock,          // cid, port, export_name
    kStandardInput,  // the one client that it is connected to
  };
  static constexpr uint32_t kDefaultPort = 10809;  // what IANA assigned to NBD
  static constexpr uint32_t kAnyCid = 0xffffffff;  // VMADDR_CID_ANY: whoever of the machine and its guests can reach it

  Kind kind = Kind::kKernelDevice;
  std::string path;  // at most 107 bytes for a socket
  std::string host;  // a name or an address; an IPv6 address without brackets
  uint32_t cid = kAnyCid;
  uint32_t port = kDefaultPort;  // 16 bits for TCP
  std::string export_name;       // at most 4096 bytes; may be empty
  bool tls = false;              // the scheme promises TLS: nbds

  // What names this target, in one way of several: the default port is left out, all that need not be plain is
  // percent-encoded. ParseTarget of it gives this target.
  std::string Uri() const;

  friend bool operator==(const Target&, const Target&) = default;
};

// -                                    standard input, which is a connected socket
// /dev/…                               a kernel device; whether it is one shows when the device is attached to it
// nbd+unix:///NAME?socket=PATH         a Unix socket; PATH may be relative
// nbd://HOST[:PORT]/NAME               TCP; PORT 0 means a free one; HOST may be an IPv6 address in brackets, and is
//                                      localhost if absent, so that nothing is served to a network that was not named
// nbd+vsock://[CID][:PORT]/NAME        vsock; PORT 0 means a free one; without CID whoever can reach it
// nbds://…, nbds+unix://…, nbds+vsock://…  the same where TLS is promised
// NAME and PATH are percent-decoded; NAME may be absent.
// kInvalidArgument otherwise, with a sentence that quotes `text` and says what to write.
absl::StatusOr<Target> ParseTarget(absl::string_view text);

}  // namespace buse

#endif  // BUSE_TARGET_H_

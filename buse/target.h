// SPDX-License-Identifier: Apache-2.0
//
// Where to serve a device: one argument, either a kernel device or a URI of the NBD project's URI format (its doc/uri.md).

#ifndef BUSE_TARGET_H_
#define BUSE_TARGET_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace buse {

struct Target {
  enum class Kind {
    kKernelDevice,  // path
    kUnixSocket,    // path, export_name
    kTcp,           // host, port, export_name
  };
  static constexpr uint16_t kDefaultPort = 10809;  // what IANA assigned to NBD

  Kind kind = Kind::kKernelDevice;
  std::string path;  // at most 107 bytes for a socket
  std::string host;  // a name or an address; an IPv6 address without brackets
  uint16_t port = kDefaultPort;
  std::string export_name;  // at most 4096 bytes; may be empty

  // What names this target, in one way of several: the default port is left out, all that need not be plain is
  // percent-encoded. ParseTarget of it gives this target.
  std::string Uri() const;

  friend bool operator==(const Target&, const Target&) = default;
};

// /dev/…                               a kernel device; whether it is one shows when the device is attached to it
// nbd+unix:///NAME?socket=PATH         a Unix socket; PATH may be relative
// nbd://HOST[:PORT]/NAME               TCP; PORT 0 means a free one; HOST may be an IPv6 address in brackets, and is
//                                      localhost if absent, so that nothing is served to a network that was not named
// NAME and PATH are percent-decoded; NAME may be absent. There is no TLS.
// kInvalidArgument otherwise, with a sentence that quotes `text` and says what to write.
absl::StatusOr<Target> ParseTarget(absl::string_view text);

}  // namespace buse

#endif  // BUSE_TARGET_H_

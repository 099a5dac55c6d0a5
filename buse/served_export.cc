// SPDX-License-Identifier: Apache-2.0

#include "buse/served_export.h"

#include <optional>
#include <vector>

namespace buse {

namespace {

using Abouts = std::vector<const nbd::Export*>;

// `transport` is a way over `socket`, or the socket itself.
template <Transport T>
absl::Status ServeClient(T transport, SocketTransport socket, std::span<ServedExport* const> exports, const Abouts& abouts,
                         const ServeOptions& options) {
  // So that nothing that it is told of is cut off before it could use it: of the export that it chooses to the end.
  std::vector<std::unique_ptr<ResizeGate::Guest>> guests;
  for (ServedExport* exported : exports) guests.push_back(std::make_unique<ResizeGate::Guest>(exported->resize_gate()));
  Deadline negotiated(socket, std::chrono::seconds(options.handshake_timeout));
  const absl::StatusOr<std::optional<Agreement>> agreed =
      Negotiate(transport, abouts, [&] { return negotiated.LimitNextWait(); });
  if (!agreed.ok() || !agreed->has_value()) return agreed.status();
  const std::unique_ptr<ResizeGate::Guest> guest = std::move(guests[(*agreed)->which]);
  guests.clear();
  socket.LimitWaits(std::chrono::seconds(options.idle_timeout));
  return exports[(*agreed)->which]->ServeClient(transport, **agreed);
}

}  // namespace

absl::StatusOr<std::unique_ptr<const TlsCredentials>> LoadTls(const std::string& program, const ServeOptions& options) {
  absl::StatusOr<std::unique_ptr<const TlsCredentials>> tls = options.LoadTls();
  if (tls.ok() && *tls != nullptr) {
    for (const std::string& warning : (*tls)->warnings()) Say(program, warning);
  }
  return tls;
}

std::function<absl::Status(int fd)> ServeClientsOf(std::span<ServedExport* const> exports, const ServeOptions& options,
                                                   const TlsCredentials* tls) {
  Abouts abouts;
  for (ServedExport* exported : exports) abouts.push_back(&exported->about());
  return [exports, &options, tls, abouts](int fd) -> absl::Status {
    SocketTransport socket(fd);
    socket.SpinFor(std::chrono::microseconds(options.spin));
    if (tls == nullptr) return ServeClient(socket, socket, exports, abouts, options);
    TlsSession session(*tls, socket);
    absl::Status status = ServeClient(TlsTransport(session), socket, exports, abouts, options);
    session.End();
    return status;
  };
}

absl::Status ServeExports(const std::string& program, std::span<ServedExport* const> exports, const ServeOptions& options,
                          LimitedLog& log) {
  const absl::StatusOr<std::unique_ptr<const TlsCredentials>> tls = LoadTls(program, options);
  if (!tls.ok()) return tls.status();
  Service service = {.program = program,
                     .about = exports.front()->about(),
                     .log = log,
                     .exports = exports.size(),
                     .named = true,
                     .serve_client = ServeClientsOf(exports, options, tls->get()),
                     .tls = tls->get(),
                     .flush = [exports] {
                       absl::Status first;
                       for (ServedExport* exported : exports) {
                         absl::Status status = exported->Flush();
                         if (!status.ok() && first.ok()) {
                           first = absl::Status(status.code(), absl::StrCat(exported->about().name, ": ", status.message()));
                         }
                       }
                       return first;
                     }};
  return Serve(service, options);
}

}  // namespace buse

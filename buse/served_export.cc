// SPDX-License-Identifier: Apache-2.0

#include "buse/served_export.h"

#include <optional>
#include <vector>

namespace buse {

std::function<absl::Status(int fd)> ServeClientsOf(std::span<ServedExport* const> exports, const ServeOptions& options) {
  std::vector<const nbd::Export*> abouts;
  for (ServedExport* exported : exports) abouts.push_back(&exported->about());
  return [exports, &options, abouts](int fd) -> absl::Status {
    SocketTransport transport(fd);
    transport.SpinFor(std::chrono::microseconds(options.spin));
    Deadline negotiated(transport, std::chrono::seconds(options.handshake_timeout));
    const absl::StatusOr<std::optional<Agreement>> agreed =
        Negotiate(transport, abouts, [&] { return negotiated.LimitNextWait(); });
    if (!agreed.ok() || !agreed->has_value()) return agreed.status();
    transport.LimitWaits(std::chrono::seconds(options.idle_timeout));
    return exports[(*agreed)->which]->ServeClient(transport, **agreed);
  };
}

absl::Status ServeExports(const std::string& program, std::span<ServedExport* const> exports, const ServeOptions& options,
                          LimitedLog& log) {
  Service service = {.program = program,
                     .about = exports.front()->about(),
                     .log = log,
                     .exports = exports.size(),
                     .named = true,
                     .serve_client = ServeClientsOf(exports, options),
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

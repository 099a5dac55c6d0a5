// SPDX-License-Identifier: Apache-2.0
//
// Server: a whole program made from a stack's type.
//
//   int main(int argc, char** argv) { return buse::Server<buse::Memory>::Main(argc, argv); }

#ifndef BUSE_SERVER_H_
#define BUSE_SERVER_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "buse/connection.h"
#include "buse/device.h"
#include "buse/disk.h"
#include "buse/nbd.h"
#include "buse/options.h"
#include "buse/serve.h"
#include "buse/size.h"
#include "buse/transport.h"
#include "layers/log.h"

namespace buse {

// What a server says of `disk`: all of it follows from the stack's type, its size and how it was opened.
template <Device Stack>
nbd::Export ExportOf(const std::string& program, const Disk<Stack>& disk) {
  static_assert((Stack::kBlockSize & (Stack::kBlockSize - 1)) == 0 && Stack::kBlockSize <= 65536,
                "buse: a server cannot offer this block size: NBD wants a power of two up to 65536 bytes. Put Align over the stack");
  constexpr uint16_t kFlags = nbd::TransmissionFlags<Stack>();
  return {.description = absl::StrCat(FormatSize(disk.size()), " served by ", program),
          .size = disk.size(),
          .flags = disk.writable() ? kFlags : nbd::WithoutWriting(kFlags),
          .min_block = static_cast<uint32_t>(Stack::kBlockSize),
          .preferred_block = std::max<uint32_t>(4096, Stack::kBlockSize)};
}

// Serves `disk` as `about` says until a signal ends it or its kernel device is disconnected; see buse::Serve, whose errors it
// returns. The disk is used by many threads meanwhile, as its kConcurrency allows. HoldSignals comes before the disk is opened.
template <Device Stack>
absl::Status ServeDisk(const std::string& program, Disk<Stack>& disk, const ServeOptions& options, const nbd::Export& about) {
  Exported<Stack> exported = {.device = disk.state(), .about = about};
  FailureLog failures(program);
  exported.on_failure = [&failures](const char* command, Range range, const absl::Status& status) {
    failures.Add(command, range, status);
  };
  const auto serve = [&exported](int fd, bool negotiate) -> absl::Status {
    absl::StatusOr<Buffers> buffers = Buffers::Create();
    if (!buffers.ok()) return buffers.status();
    using SocketConnection = Connection<Stack, SocketTransport>;
    auto connection = std::make_unique<SocketConnection>(exported, SocketTransport(fd), *std::move(buffers));
    if (negotiate) {
      absl::StatusOr<bool> agreed = connection->Negotiate();
      if (!agreed.ok() || !*agreed) return agreed.status();
    }
    return connection->Transmit();
  };
  Service service = {.program = program,
                     .about = exported.about,
                     .one_call_at_a_time = Stack::kConcurrency == Concurrency::kSerial,
                     .serve_client = [&serve](int fd) { return serve(fd, true); },
                     .serve_kernel = [&serve](int fd) { return serve(fd, false); },
                     .flush = [&disk] {
                       if constexpr (CanWrite<Stack>) {
                         if (disk.writable()) return disk.Flush();
                       }
                       return absl::OkStatus();
                     }};
  return Serve(service, options);
}

template <Device Stack>
class Server {
 public:
  // The `main` of a program that serves one `Stack`: options, help, serving, signals. Returns the exit code (buse/serve.h).
  static int Main(int argc, char** argv) {
    HoldSignals();
    typename Stack::Config config{};
    ServeOptions options;
    std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
    layers.push_back(DescribeOptions(ServeOptions::Describe(), options));
    const Program program = ProgramOf(argv[0], layers);
    if (const absl::optional<std::string> device = DisconnectRequested(argc, argv)) {
      return Conclude(program.name, Disconnect(program.name, *device));
    }
    const absl::StatusOr<ParseResult> parsed = ParseCommandLine(argc, argv, program, layers);
    if (!parsed.ok()) return Conclude(program.name, parsed.status());
    if (*parsed == ParseResult::kHelp) return kExitOk;
    // Logging is a layer, so that it costs nothing when it is not asked for.
    return Conclude(program.name, options.verbose ? OpenAndServe<Log<Stack>>(program.name, {.below = config}, options)
                                              : OpenAndServe<Stack>(program.name, config, options));
  }

 private:
  template <Device D>
  static absl::Status OpenAndServe(const std::string& program, const typename D::Config& config, const ServeOptions& options) {
    absl::StatusOr<Disk<D>> disk = Disk<D>::Open(config);
    return disk.ok() ? ServeDisk(program, *disk, options, ExportOf(program, *disk)) : disk.status();
  }
};

}  // namespace buse

#endif  // BUSE_SERVER_H_

// SPDX-License-Identifier: Apache-2.0
//
// Server: a whole program made from a stack's type.
//
//   int main(int argc, char** argv) { return buse::Server<buse::Memory>::Main(argc, argv); }

#ifndef BUSE_SERVER_H_
#define BUSE_SERVER_H_

#include <algorithm>
#include <chrono>
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
#include "buse/handover.h"
#include "buse/kernel_device.h"
#include "buse/medium.h"
#include "buse/nbd.h"
#include "buse/options.h"
#include "buse/serve.h"
#include "buse/signals.h"
#include "buse/size.h"
#include "buse/takeover.h"
#include "buse/transport.h"
#include "buse/verbs.h"
#include "layers/log.h"

namespace buse {

// For files to be let go of by the server before.
inline constexpr std::chrono::seconds kLetGoWait(5);

template <Device Stack>
using SocketConnection = std::unique_ptr<Connection<Stack, SocketTransport>>;

// What a server says of `disk`: all of it follows from the stack's type, its size and how it was opened.
template <Device Stack>
nbd::Export ExportOf(const std::string& program, const Disk<Stack>& disk) {
  static_assert(
      (Stack::kBlockSize & (Stack::kBlockSize - 1)) == 0 && Stack::kBlockSize <= 65536,
      "buse: a server cannot offer this block size: NBD wants a power of two up to 65536 bytes. Put Align over the stack");
  constexpr uint16_t kFlags = nbd::TransmissionFlags<Stack>();
  return {.description = absl::StrCat(FormatSize(disk.size()), " served by ", program),
          .size = disk.size(),
          .flags = disk.writable() ? kFlags : nbd::WithoutWriting(kFlags),
          .min_block = static_cast<uint32_t>(Stack::kBlockSize),
          .preferred_block = std::max<uint32_t>(4096, Stack::kBlockSize),
          .has_extents = CanExtents<Stack>};
}

// How a server may say less of a device than its type does.
struct Narrowing {
  uint16_t hidden_flags = 0;  // not to be announced
  uint32_t min_block = 1;     // a power of two; the larger of this and the stack's is announced
};

// What a server needs that replaces another one, or is replaced.
template <Device Stack>
struct Succession {
  const typename Stack::Config& config;  // with which the disk was opened
  Takeover& takeover;
};

// Serves `disk` until a signal ends it or its kernel device is disconnected; see buse::Serve, whose errors it returns. The
// disk is used by many threads meanwhile, as its kConcurrency allows. A ServingProcess must live.
template <Device Stack>
absl::Status ServeDisk(const std::string& program, Disk<Stack>& disk, const ServeOptions& options,
                       const Narrowing& narrowing = {}, const Succession<Stack>* succession = nullptr) {
  Exported<Stack> exported = {.device = disk.state(), .about = ExportOf(program, disk)};
  exported.about.flags = nbd::WithoutFlags(exported.about.flags, narrowing.hidden_flags);
  exported.about.min_block = std::max(exported.about.min_block, narrowing.min_block);
  options.Restrict(exported.about);
  exported.workers = options.workers;
  LimitedLog log(program);
  exported.on_failure = [&log](const char* command, Range range, const absl::Status& status) {
    log.Say(absl::StrCat(command, " ", range.offset, "+", range.length, " failed: ", status.ToString()));
  };
  const auto make_connection = [&exported](SocketTransport transport) {
    absl::StatusOr<Buffers> buffers = Buffers::Create();
    // Not as a connection that broke: an administrator wants to know.
    if (!buffers.ok()) return absl::StatusOr<SocketConnection<Stack>>(absl::InternalError(buffers.status().message()));
    return absl::StatusOr<SocketConnection<Stack>>(
        std::make_unique<Connection<Stack, SocketTransport>>(exported, transport, *std::move(buffers)));
  };
  const auto serve_client = [&make_connection, &options](int fd) -> absl::Status {
    SocketTransport transport(fd);
    transport.SpinFor(std::chrono::microseconds(options.spin));
    Deadline negotiated(transport, std::chrono::seconds(options.handshake_timeout));
    auto connection = make_connection(transport);
    if (!connection.ok()) return connection.status();
    absl::StatusOr<bool> agreed = (*connection)->Negotiate([&] { return negotiated.LimitNextWait(); });
    if (!agreed.ok() || !*agreed) return agreed.status();
    transport.LimitWaits(std::chrono::seconds(options.idle_timeout));
    return (*connection)->Transmit();
  };
  const auto serve_kernel = [&make_connection](SocketTransport transport) -> absl::Status {
    auto connection = make_connection(transport);
    if (!connection.ok()) return connection.status();
    absl::Status status = (*connection)->Transmit();
    if (!status.ok() || (*connection)->said_disconnect()) return status;
    return absl::UnavailableError("the kernel closed the connection without disconnecting");
  };
  Service service = {.program = program,
                     .about = exported.about,
                     .log = log,
                     .one_call_at_a_time = Stack::kConcurrency == Concurrency::kSerial,
                     .serve_client = serve_client,
                     .serve_kernel = serve_kernel,
                     .flush = [&disk] {
                       if constexpr (CanWrite<Stack>) {
                         if (disk.writable()) return disk.Flush();
                       }
                       return absl::OkStatus();
                     }};
  if constexpr (CanResize<Stack>) {
    service.resize = [&](uint64_t size) {
      if (!disk.writable()) return absl::PermissionDeniedError("the device was opened read-only");
      absl::Status status = Stack::Resize(disk.state(), size);
      exported.about.size = disk.size();
      return status;
    };
  }
  if (succession != nullptr) {
    service.takeover = &succession->takeover;
    service.close = [&disk]() -> absl::StatusOr<std::vector<MemoryContents>> {
      std::vector<MemoryContents> contents;
      if (absl::Status status = HandOver<Stack>(disk.state(), contents); !status.ok()) return status;
      disk.Close();
      return contents;
    };
    service.reopen = [&disk, succession](const std::vector<MemoryContents>& contents) {
      typename Stack::Config config = succession->config;
      AdoptContents<Stack>(config, contents);
      return disk.Reopen(config);
    };
  }
  return Serve(service, options);
}

template <Device Stack>
class Server {
 public:
  // The `main` of a program that serves one `Stack`: options, help, serving, signals. Returns the exit code (buse/serve.h).
  static int Main(int argc, char** argv) {
    const ServingProcess process;
    EnterCallersFolder();
    typename Stack::Config config{};
    ServeOptions options;
    std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
    layers.push_back(DescribeOptions(ServeOptions::Describe(), options));
    Program program = ProgramOf(argv[0], layers);
    if constexpr (kFormats<Stack>) {
      if (const Verb verb = VerbOf(argc, argv); verb != Verb::kNone) return RunVerb<Stack>(verb, program, argc, argv);
      program.verbs = VerbsHelp(program);
      LeaveShapingToFormat(program.name, layers);
    }
    if (const absl::optional<std::string> device = DisconnectRequested(argc, argv)) {
      return ExitWith(program.name, Disconnect(program.name, *device));
    }
    if (const absl::optional<absl::Status> resized = ResizeRequested(program.name, argc, argv)) {
      return ExitWith(program.name, *resized);
    }
    const absl::StatusOr<ParseResult> parsed = ParseCommandLine(argc, argv, program, layers);
    if (!parsed.ok()) return ExitWith(program.name, parsed.status());
    if (*parsed == ParseResult::kHelp) return kExitOk;
    absl::Status target = CheckTarget(options);
    if constexpr (kFormats<Stack>) {
      const absl::Status misplaced = CheckNoVerbMisplaced(program.name, layers);
      target = misplaced.ok() ? WithVerbs(target) : misplaced;
    }
    if (!target.ok()) return ExitWith(program.name, target);
    if (options.backend.empty()) options.backend = BackendOf(layers);
    // Logging is a layer, so that it costs nothing when it is not asked for.
    return ExitWith(program.name, options.verbose ? OpenAndServe<Log<Stack>>(program.name, {.below = config}, options)
                                                  : OpenAndServe<Stack>(program.name, config, options));
  }

 private:
  template <Device D>
  static absl::Status OpenAndServe(const std::string& program, typename D::Config config, const ServeOptions& options) {
    absl::StatusOr<Takeover> takeover = Takeover::Begin(options, LosesWhenKilled<D>(config));
    if (!takeover.ok()) return takeover.status();
    if (const Estate* estate = takeover->estate(); estate != nullptr && !AdoptContents<D>(config, estate->contents)) {
      return absl::InvalidArgumentError("--replace: the server that runs has another stack");
    }
    if (!takeover->device().empty()) MakeNothing<D>(config);
    absl::StatusOr<Disk<D>> disk = Disk<D>::Open(config);
    // A server that was killed, or is about to end, may not quite have let go of its files.
    if (options.resume || options.replace) {
      WaitUntil([&] { return !absl::IsAlreadyExists(disk.status()) || (disk = Disk<D>::Open(config)).ok(); }, kLetGoWait);
    }
    if (!disk.ok()) return OpeningFailed(disk.status());
    if (takeover->estate() != nullptr) takeover->estate()->contents.clear();
    MakeNothing<D>(config);  // when it is opened again
    const Succession<D> succession = {config, *takeover};
    return ServeDisk(program, *disk, options, {}, &succession);
  }
};

}  // namespace buse

#endif  // BUSE_SERVER_H_

// SPDX-License-Identifier: Apache-2.0
//
// Server: a whole program made from a stack's type.
//
//   int main(int argc, char** argv) { return buse::Server<buse::Memory>::Main(argc, argv); }

#ifndef BUSE_SERVER_H_
#define BUSE_SERVER_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "buse/device.h"
#include "buse/disk.h"
#include "buse/handover.h"
#include "buse/kernel_device.h"
#include "buse/medium.h"
#include "buse/options.h"
#include "buse/serve.h"
#include "buse/served_export.h"
#include "buse/service_manager.h"
#include "buse/signals.h"
#include "buse/takeover.h"
#include "buse/tls.h"
#include "buse/transport.h"
#include "buse/verbs.h"
#include "layers/log.h"

namespace buse {

// For files to be let go of by the server before.
inline constexpr std::chrono::seconds kLetGoWait(5);

// What a server needs that replaces another one, or is replaced.
template <Device Stack>
struct Succession {
  const typename Stack::Config& config;  // with which the disk was opened
  Takeover& takeover;
};

// Serves `disk` until a signal ends it or its kernel device is disconnected; see buse::Serve, whose errors it returns. The
// disk is used by many threads meanwhile, as its kConcurrency allows. A ServingProcess must live. `name`: the export's own, where
// the target does not give it one.
template <Device Stack>
absl::Status ServeDisk(const std::string& program, Disk<Stack>& disk, const ServeOptions& options,
                       const Narrowing& narrowing = {}, const Succession<Stack>* succession = nullptr,
                       const std::string& name = "") {
  LimitedLog log(program);
  StackExport<Stack> exported(program, name, disk, options, narrowing, log);
  ServedExport* const exports[] = {&exported};
  const absl::StatusOr<std::unique_ptr<const TlsCredentials>> tls = LoadTls(program, options);
  if (!tls.ok()) return tls.status();
  Service service = {.program = program,
                     .about = exported.about(),
                     .log = log,
                     .named = !name.empty(),
                     .one_call_at_a_time = Stack::kConcurrency == Concurrency::kSerial,
                     .serve_client = ServeClientsOf(exports, options, tls->get()),
                     .serve_kernel =
                         [&exported, &options](SocketTransport transport) {
                           transport.SpinFor(std::chrono::microseconds(options.spin));
                           return exported.ServeKernel(transport);
                         },
                     .tls = tls->get(),
                     .flush = [&exported] { return exported.Flush(); }};
  if constexpr (CanResize<Stack>) {
    service.resize = [&exported](uint64_t size) { return exported.Resize(size); };
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

// What --resize-limit says where it is of no use.
inline absl::Status CannotResize() {
  return absl::InvalidArgumentError("--resize-limit: this stack cannot change its size, so leave it out");
}

// What --mmap says likewise.
inline absl::Status CannotMap() {
  return absl::InvalidArgumentError(
      "--mmap: this stack does not keep its bytes in a file as they are, or a layer must see every read, as with --verbose: "
      "leave it out");
}

// Opens a stack as the options want it, and serves it. `name` as above.
template <Device D>
absl::Status OpenAndServe(const std::string& program, typename D::Config config, const ServeOptions& options,
                          const std::string& name = "") {
  if (!CanResize<D> && options.resize_limit != 0) return CannotResize();
  if (!CanBacking<D> && options.mmap) return CannotMap();
  absl::StatusOr<Takeover> takeover = Takeover::Begin(options, LossWhenKilled<D>(config));
  if (!takeover.ok()) return takeover.status();
  if (const Estate* estate = takeover->estate(); estate != nullptr && !AdoptContents<D>(config, estate->contents)) {
    return absl::InvalidArgumentError("--replace: the server that runs has another stack");
  }
  if (!takeover->device().empty()) MakeNothing<D>(config);
  if (ServesKernel(options)) BecomeIoFlusher();  // so that threads that a layer starts are, too
  absl::StatusOr<Disk<D>> disk = Disk<D>::Open(config);
  // A server that was killed, or is about to end, may not quite have let go of its files.
  if (options.resume || options.replace) {
    WaitUntil([&] { return !absl::IsAlreadyExists(disk.status()) || (disk = Disk<D>::Open(config)).ok(); }, kLetGoWait);
  }
  if (!disk.ok()) return OpeningFailed(disk.status());
  if (takeover->estate() != nullptr) takeover->estate()->contents.clear();
  MakeNothing<D>(config);  // when it is opened again
  const Succession<D> succession = {config, *takeover};
  return ServeDisk(program, *disk, options, {}, &succession, name);
}

// A stack as --verbose wants it: logging is a layer, so that it costs nothing when it is not asked for.
template <bool kLogged, Device Stack>
using MaybeLog = std::conditional_t<kLogged, Log<Stack>, Stack>;
template <bool kLogged, Device Stack>
typename MaybeLog<kLogged, Stack>::Config MaybeLogConfig(typename Stack::Config config) {
  if constexpr (kLogged) {
    return {.below = std::move(config)};
  } else {
    return config;
  }
}

template <Device Stack>
absl::Status OpenAndServeOrLog(const std::string& program, const typename Stack::Config& config, const ServeOptions& options,
                               const std::string& name = "") {
  if (options.fork) {
    if (absl::Status gone = GoToBackground(); !gone.ok()) return gone;
  }
  return options.verbose ? OpenAndServe<Log<Stack>>(program, {.below = config}, options, name)
                         : OpenAndServe<Stack>(program, config, options, name);
}

// A program that serves one stack. For several exports: buse/exports.h.
template <class Stack>
class Server {
  static_assert(Device<Stack>);

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
    program.keeps_status = kKeepsStatus<Stack>;
    if constexpr (kFormats<Stack>) {
      if (const Verb verb = VerbOf(program, argc, argv); verb != Verb::kNone) return RunVerb<Stack>(verb, program, argc, argv);
      program.verbs = VerbsHelp(program);
      LeaveShapingToFormat(program.name, layers);
    }
    if (const absl::optional<int> done = RunWithoutStack(program.name, argc, argv)) return *done;
    const absl::StatusOr<ParseResult> parsed = ParseCommandLine(argc, argv, program, layers);
    if (!parsed.ok()) return ExitWith(program.name, parsed.status());
    if (*parsed == ParseResult::kHelp) return kExitOk;
    if constexpr (!Exported<Stack>::kDefers) options.workers = 0;  // it has none, so their memory does not count
    absl::Status target = CheckTarget(options);
    if constexpr (kFormats<Stack>) {
      const absl::Status misplaced = CheckNoVerbMisplaced(program, layers);
      target = misplaced.ok() ? WithVerbs(program, target) : misplaced;
    }
    if (!target.ok()) return ExitWith(program.name, target);
    if (options.backend.empty()) options.backend = BackendOf(layers);
    return ExitWith(program.name, OpenAndServeOrLog<Stack>(program.name, config, options));
  }
};

}  // namespace buse

#endif  // BUSE_SERVER_H_

// SPDX-License-Identifier: Apache-2.0
//
// A serving process, whatever the device's type: where it serves, its signals, its end. buse/server.h puts a stack's type on
// top.

#ifndef BUSE_SERVE_H_
#define BUSE_SERVE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/nbd.h"
#include "buse/options.h"

namespace buse {

// What a program exits with. They differ, so that a script can tell them apart.
enum ExitCode : int {
  kExitOk = 0,
  kExitFailure = 1,       // I/O trouble, or anything without a code of its own
  kExitUsage = 2,         // the command line
  kExitNoSuchDevice = 3,  // no such device, file, folder or host; no nbd in the kernel
  kExitBusy = 4,          // the device, file or socket is in use
};
ExitCode ExitCodeFor(const absl::Status& status);

struct ServeOptions {
  std::string target;
  std::string disconnect;
  bool verbose = false;
  uint64_t max_clients = 128;
  uint64_t connections = 0;
  uint64_t block_size = 0;
  bool ioctl = false;

  static constexpr Description<ServeOptions, 7> Describe() {
    return {
        "server",
        "serves the device to the kernel or to NBD clients",
        Family::kLeaf,  // of no stack, so of no family
        {{{.field = &ServeOptions::target,
           .name = "target",
           .help = "where to serve: /dev/nbdN, nbd+unix:///NAME?socket=PATH or nbd://HOST:PORT/NAME; absent: a Unix socket of "
                   "its own, whose URI is printed",
           .positional = true},
          {.field = &ServeOptions::disconnect,
           .name = "disconnect",
           .help = "free the kernel device given here, whose server may be dead, and end; needs nothing else"},
          {.field = &ServeOptions::verbose,
           .name = "verbose",
           .help = "log every request and connection to standard error",
           .letter = 'v'},
          {.field = &ServeOptions::max_clients,
           .name = "max-clients",
           .help = "connections served at the same time; more have to wait. Each needs at most 33 MiB",
           .min = 1,
           .max = 100000},
          {.field = &ServeOptions::connections,
           .name = "connections",
           .help = "connections to a kernel device; 0 chooses: one for each CPU up to 4, and only one for a stack that takes "
                   "one call at a time",
           .max = 64},
          {.field = &ServeOptions::block_size,
           .name = "block-size",
           .help = "logical block size of a kernel device: 512, 1024, 2048 or 4096; 0 chooses the least that the stack allows",
           .unit = Unit::kBytes,
           .max = 4096},
          {.field = &ServeOptions::ioctl,
           .name = "ioctl",
           .help = "attach to the kernel by ioctl even where netlink is there"}}}};
  }
};

// Lines for an administrator, on standard error: "PROGRAM: MESSAGE", each in one write. Never waits for whoever reads them: a
// line that does not fit is dropped. Thread-safe.
void Say(const std::string& program, absl::string_view message);

// The same for what a client or a bad medium can cause without end: at most ten lines in a second, then how many there were
// besides.
class LimitedLog {
 public:
  explicit LimitedLog(std::string program) : program_(std::move(program)) {}
  void Say(absl::string_view message);

 private:
  static constexpr int kLinesPerSecond = 10;

  const std::string program_;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point second_;
  int lines_ = 0;  // of this second
};

// What serving needs to know of an open device.
struct Service {
  std::string program;  // begins every message
  nbd::Export& about;   // Serve fills in the name that the target gives it
  LimitedLog& log;
  bool one_call_at_a_time = false;
  // Serve one connected socket until its end. Called from a thread of its own, many at once.
  std::function<absl::Status(int fd)> serve_client;  // negotiation, then requests
  std::function<absl::Status(int fd)> serve_kernel;  // requests; an end without the kernel's word is an error
  // Makes durable what was written. Called when no connection is left.
  std::function<absl::Status()> flush;
};

// Under `bazel run`, goes to the folder it was called from, so that a relative path means what was typed.
void EnterCallersFolder();

// What can be said against the target and its options before anything is opened or created. Errors as those of Serve.
absl::Status CheckTarget(const ServeOptions& options);

// Serves until a signal, or until the kernel device is disconnected: then requests in flight are finished, the device is
// flushed and the target is free again. Prints where it serves, and what to type next, to standard output.
// SIGINT, SIGTERM and SIGHUP are its own meanwhile; a second one gives up what the first waits for.
// Errors: those of the target (kInvalidArgument, kNotFound, kAlreadyExists, kPermissionDenied) before anything is served;
// kFailedPrecondition where the kernel device is still mounted; kInternal for all that fails once it serves, the last flush
// too.
absl::Status Serve(Service& service, const ServeOptions& options);

// What --help says of the program that `layers` make.
Program ProgramOf(const char* argv0, const std::vector<LayerInfo>& layers);

// The device that --disconnect names, if it is given: then nothing else is needed on the command line, and nothing else is
// done.
absl::optional<std::string> DisconnectRequested(int argc, const char* const* argv);
absl::Status Disconnect(const std::string& program, const std::string& device);

// Says what is wrong, if anything is. Returns the exit code.
int ExitWith(const std::string& program, const absl::Status& status);

}  // namespace buse

#endif  // BUSE_SERVE_H_

// SPDX-License-Identifier: Apache-2.0
//
// A serving process, whatever the device's type: where it serves, its signals, its end. buse/server.h puts a stack's type on
// top.

#ifndef BUSE_SERVE_H_
#define BUSE_SERVE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/handover.h"
#include "buse/nbd.h"
#include "buse/options.h"
#include "buse/tls.h"
#include "buse/transport.h"
#include "buse/workers.h"

namespace buse {

// What a program exits with. They differ, so that a script can tell them apart.
enum ExitCode : int {
  kExitOk = 0,
  kExitFailure = 1,       // I/O trouble, or anything without a code of its own
  kExitUsage = 2,         // the command line
  kExitNoSuchDevice = 3,  // no such device, file, folder or host; no nbd or vsock in the kernel
  kExitBusy = 4,          // the device, file or socket is in use
  kExitDamaged = 5,       // what the medium holds is damaged
  kExitDegraded = 6,      // of a verb that tells how a set of legs is: some do not have everything
  kExitInDanger = 7,      // the same: with one more leg data is lost, or some is already
};
ExitCode ExitCodeFor(const absl::Status& status);

// The error of opening a stack, fit for ExitCodeFor: a medium that is refused is not in use.
absl::Status OpeningFailed(const absl::Status& status);

struct ServeOptions {
  std::string target;
  std::string disconnect;
  bool verbose = false;
  uint64_t max_clients = 128;
  uint64_t max_memory = 0;
  uint64_t max_request = nbd::kMaxPayload;
  uint64_t handshake_timeout = 30;
  uint64_t idle_timeout = 0;
  uint64_t resize_limit = 0;
  uint64_t spin = 0;
  uint64_t workers = 16;
  bool mmap = false;
  bool no_structured_replies = false;
  bool no_meta_context = false;
  bool no_extended_headers = false;
  uint64_t connections = 0;
  uint64_t block_size = 0;
  bool ioctl = false;
  uint64_t request_timeout = 0;
  uint64_t dead_timeout = 120;
  std::string backend;
  bool resume = false;
  bool replace = false;
  bool quiet = false;
  bool fork = false;
  std::string tls;
  std::string tls_certificates;
  std::string tls_psk;
  bool tls_verify_peer = false;

  static constexpr Description<ServeOptions, 29> Describe() {
    return {
        "server",
        "serves the device to the kernel or to NBD clients",
        Family::kLeaf,  // of no stack, so of no family
        {{{.field = &ServeOptions::target,
           .name = "target",
           .help =
               "where to serve: /dev/nbdN, /dev/nbd for any that is free, nbd+unix:///NAME?socket=PATH, "
               "nbd://HOST:PORT/NAME, nbd+vsock://:PORT/NAME, nbds in place of nbd where TLS is to be used for sure, or - for "
               "the one client that standard input is connected to; absent: the sockets that systemd hands over, or one of "
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
           .help = "connections served at the same time; more have to wait. Each needs at most 33 MiB, and where it has "
                   "workers twice that",
           .min = 1,
           .max = 100000},
          {.field = &ServeOptions::max_memory,
           .name = "max-memory",
           .help =
               "what connections may need together, at most 33 MiB each, or 2 MiB more than a smaller --max-request, and twice "
               "that where they have workers; more have to wait. 0: as many as --max-clients allows",
           .unit = Unit::kBytes},
          {.field = &ServeOptions::max_request,
           .name = "max-request",
           .help = "the most that an NBD client may read or write with one request",
           .unit = Unit::kBytes,
           .min = nbd::kLeastMaxPayload,
           .max = nbd::kMaxPayload},
          {.field = &ServeOptions::handshake_timeout,
           .name = "handshake-timeout",
           .help = "seconds that an NBD client may take to say what it wants; 0: as long as it likes",
           .max = 86400},
          {.field = &ServeOptions::idle_timeout,
           .name = "idle-timeout",
           .help =
               "seconds for which an NBD client may ask for nothing, or not take its answers, before it is disconnected; 0: "
               "as long as it likes",
           .max = 31536000},
          {.field = &ServeOptions::resize_limit,
           .name = "resize-limit",
           .help =
               "let NBD clients change the size of the device, up to this; 0: they may not. What they may add takes space, and "
               "what they cut off is lost",
           .unit = Unit::kBytes},
          {.field = &ServeOptions::spin,
           .name = "spin",
           .help =
               "microseconds for which the thread of an NBD client, or of a connection to a kernel device, looks for its next "
               "request before it sleeps: 50 to 100 shorten the time of single requests where CPUs are idle, and cost one "
               "while there are some",
           .max = 1000000},
          {.field = &ServeOptions::workers,
           .name = "workers",
           .help =
               "threads of each connection that do what may have to wait for a disk, so that one slow request does not hold up "
               "the others; started when they are needed. Where the kernel can do it by itself (io_uring), it does twice as "
               "many at once. 0: one request after another. A stack in memory, or one that takes one call at a time, has "
               "none, nor has a client with TLS",
           .max = Workers::kMaxThreads},
          {.field = &ServeOptions::mmap,
           .name = "mmap",
           .help =
               "send what is read straight from the page cache, for files that are in memory most of the time: 40 % less CPU "
               "for small reads. One that must wait for the disk holds up the others of its client, and one that fails ends "
               "its connection. For stacks that keep their bytes in files as they are; without effect for TLS, and where "
               "there are no --workers"},
          {.field = &ServeOptions::no_structured_replies,
           .name = "no-structured-replies",
           .help = "serve as an old server does, which knows neither structured replies nor what builds on them: for testing "
                   "clients"},
          {.field = &ServeOptions::no_meta_context,
           .name = "no-meta-context",
           .help = "refuse to tell what is allocated: for testing clients"},
          {.field = &ServeOptions::no_extended_headers,
           .name = "no-extended-headers",
           .help = "refuse extended headers, which not every server knows: for testing clients"},
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
          {.field = &ServeOptions::ioctl, .name = "ioctl", .help = "attach to the kernel by ioctl even where netlink is there"},
          {.field = &ServeOptions::request_timeout,
           .name = "request-timeout",
           .help = "seconds after which the kernel takes a request for lost and sends it again: so long I/O may stand still "
                   "after --resume. A slower device doubles it by itself. 0 chooses: 10, and never with --ioctl, where the "
                   "device would be lost",
           .max = 86400},
          {.field = &ServeOptions::dead_timeout,
           .name = "dead-timeout",
           .help = "seconds for which I/O on a kernel device waits for --resume when its server was killed, before it fails",
           .max = 86400},
          {.field = &ServeOptions::backend,
           .name = "backend",
           .help = "a name for what is served, which a server that takes a kernel device over must share; absent: what the "
                   "command line names, such as the file"},
          {.field = &ServeOptions::resume,
           .name = "resume",
           .help =
               "go on with a kernel device whose server was killed: its I/O has waited; a free device is attached as usual"},
          {.field = &ServeOptions::replace,
           .name = "replace",
           .help = "take a kernel device over from the server that runs, which ends: no request fails"},
          {.field = &ServeOptions::quiet,
           .name = "quiet",
           .help = "print nothing but the device or URI, on a line of its own, once it is served",
           .letter = 'q'},
          {.field = &ServeOptions::fork,
           .name = "fork",
           .help = "go to the background: the command ends with 0 once it serves, or with the exit code of what hindered it"},
          {.field = &ServeOptions::tls,
           .name = "tls",
           .help = "off, on for NBD clients that ask for TLS, or require, so that nobody else is served; absent: require where "
                   "--tls-certificates or --tls-psk is given"},
          {.field = &ServeOptions::tls_certificates,
           .name = "tls-certificates",
           .help = "a folder with server-cert.pem and server-key.pem, this server's certificate and its key, and for "
                   "--tls-verify-peer ca-cert.pem, and ca-crl.pem if there is one"},
          {.field = &ServeOptions::tls_psk,
           .name = "tls-psk",
           .help = "a file of keys that are shared with clients beforehand, a line USER:KEY for each, as psktool writes it; in "
                   "place of certificates. It is read anew for each client"},
          {.field = &ServeOptions::tls_verify_peer,
           .name = "tls-verify-peer",
           .help = "serve none but clients with a certificate that ca-cert.pem has signed"}}}};
  }

  // What an NBD client is not to be offered.
  void Restrict(nbd::Export& about) const;

  // Null where there is no TLS. Errors: those of TlsCredentials::Load.
  absl::StatusOr<std::unique_ptr<const TlsCredentials>> LoadTls() const;

  // What one client may take at most, in bytes; as much again where it has workers.
  uint64_t MemoryOfClient() const;

  // How many clients are served at the same time, 1 or more: as max_clients and max_memory allow.
  uint64_t ClientsAtOnce() const;

  // How many connections a kernel device gets.
  size_t ConnectionCount(bool one_call_at_a_time) const;
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

class Takeover;

// What serving needs to know of an open device.
struct Service {
  std::string program;  // begins every message
  nbd::Export& about;   // the default export; Serve fills in the name that the target gives it
  LimitedLog& log;
  size_t exports = 1;  // how many there are. A kernel device shows one only
  // They have names of their own, and the target gives none.
  bool named = false;
  bool one_call_at_a_time = false;
  // Serve one connected socket until its end. Called from a thread of its own, many at once.
  std::function<absl::Status(int fd)> serve_client;  // negotiation, then requests
  // Requests. OK: the kernel said that it disconnects; kCancelled: the transport was stopped.
  std::function<absl::Status(SocketTransport transport)> serve_kernel;
  const TlsCredentials* tls = nullptr;  // of serve_client
  // Makes durable what was written. Called when no connection is left.
  std::function<absl::Status()> flush;

  // What these change no connection may use meanwhile. Absent: it cannot be done.
  std::function<absl::Status(uint64_t size)> resize;
  // Closes the device, and gives what of it lives in memory; opens it again, with that.
  std::function<absl::StatusOr<std::vector<MemoryContents>>()> close;
  std::function<absl::Status(const std::vector<MemoryContents>& contents)> reopen;

  // Of a device that another server attached.
  Takeover* takeover = nullptr;
};

// Says that it serves. On standard output: "WHAT WHERE" on a line, then the advice; when it is to be quiet, WHERE alone. Then to
// the service manager, and to whoever waits for --fork.
void Announce(const ServeOptions& options, const std::string& what, const std::string& where, const std::string& advice);

// Under `bazel run`, goes to the folder it was called from, so that a relative path means what was typed.
void EnterCallersFolder();

// Whether the target is a kernel device.
bool ServesKernel(const ServeOptions& options);

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

// What needs no stack: "--disconnect DEVICE", which frees a kernel device, and "PROGRAM resize DEVICE SIZE", which has the server of
// one change its size. Returns the exit code; nothing: neither was asked for. Then nothing else is needed on the command line.
absl::optional<int> RunWithoutStack(const std::string& program, int argc, const char* const* argv);

// What names a stack's data on the command line: the texts that its leaves take by position. For ServeOptions::backend.
std::string BackendOf(const std::vector<LayerInfo>& layers);

// Says what is wrong, if anything is. Returns the exit code.
int ExitWith(const std::string& program, const absl::Status& status);

}  // namespace buse

#endif  // BUSE_SERVE_H_

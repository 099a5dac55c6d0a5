// SPDX-License-Identifier: Apache-2.0
//
// ServedExport: an open device as the clients of a server find it. One call, and one of many types of it, for a whole connection:
// inside, the request loop has the stack inlined.

#ifndef BUSE_SERVED_EXPORT_H_
#define BUSE_SERVED_EXPORT_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "buse/connection.h"
#include "buse/device.h"
#include "buse/disk.h"
#include "buse/exported.h"
#include "buse/nbd.h"
#include "buse/negotiation.h"
#include "buse/resize_gate.h"
#include "buse/serve.h"
#include "buse/size.h"
#include "buse/tls.h"
#include "buse/transport.h"

namespace buse {

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
          .contexts = nbd::ContextsOf<Stack>()};
}

// How a server may say less of a device than its type does.
struct Narrowing {
  uint16_t hidden_flags = 0;  // not to be announced
  uint32_t min_block = 1;     // a power of two; the larger of this and the stack's is announced
};

// Its functions may be called from any thread, but for `about`, which changes only while no client is there.
class ServedExport {
 public:
  virtual ~ServedExport() = default;

  virtual nbd::Export& about() = 0;
  // Null where no client may change the size.
  virtual ResizeGate* resize_gate() = 0;
  // Serves a client that chose this one until its end.
  virtual absl::Status ServeClient(SocketTransport transport, const Agreement& agreement) = 0;
  virtual absl::Status ServeClient(TlsTransport transport, const Agreement& agreement) = 0;
  // Makes durable what was written.
  virtual absl::Status Flush() = 0;
};

template <Device Stack>
class StackExport final : public ServedExport {
 public:
  // The disk and the log outlive it. `name` begins what the log says of it, and is empty where it is the only one.
  StackExport(const std::string& program, const std::string& name, Disk<Stack>& disk, const ServeOptions& options,
              const Narrowing& narrowing, LimitedLog& log)
      : disk_(disk), exported_{.device = disk.state(), .about = ExportOf(program, disk)} {
    exported_.about.name = name;
    exported_.about.flags = nbd::WithoutFlags(exported_.about.flags, narrowing.hidden_flags);
    exported_.about.min_block = std::max(exported_.about.min_block, narrowing.min_block);
    options.Restrict(exported_.about);
    if (!CanResize<Stack> || !disk.writable()) exported_.about.resize_limit = 0;
    // A worker goes on while its connection waits outside of the gate, and a client that resizes would not be alone.
    exported_.workers = exported_.about.resize_limit > 0 ? 0 : options.workers;
    exported_.lends_files = options.mmap;
    // What a description says must stay true.
    if (exported_.about.resize_limit > 0) exported_.about.description = absl::StrCat("served by ", program);
    const std::string prefix = name.empty() ? "" : absl::StrCat(name, ": ");
    exported_.on_failure = [&log, prefix](const char* command, Range range, const absl::Status& status) {
      log.Say(absl::StrCat(prefix, command, " ", range.offset, "+", range.length, " failed: ", status.ToString()));
    };
  }

  nbd::Export& about() override { return exported_.about; }

  ResizeGate* resize_gate() override { return exported_.about.resize_limit > 0 ? &exported_.resize_gate : nullptr; }

  // Without TLS, requests are served by code that knows nothing of it.
  absl::Status ServeClient(SocketTransport transport, const Agreement& agreement) override {
    return ServeThrough(transport, agreement);
  }
  absl::Status ServeClient(TlsTransport transport, const Agreement& agreement) override {
    return ServeThrough(transport, agreement);
  }

  // The kernel, which negotiates nothing. OK: it said that it disconnects.
  absl::Status ServeKernel(SocketTransport transport) {
    absl::StatusOr<Buffers> buffers = MakeBuffers();
    if (!buffers.ok()) return buffers.status();
    const auto connection = std::make_unique<Connection<Stack, SocketTransport>>(exported_, transport, *std::move(buffers));
    absl::Status status = connection->Transmit();
    if (!status.ok() || connection->said_disconnect()) return status;
    return absl::UnavailableError("the kernel closed the connection without disconnecting");
  }

  absl::Status Flush() override {
    if constexpr (CanWrite<Stack>) {
      if (disk_.writable()) return disk_.Flush();
    }
    return absl::OkStatus();
  }

  // While no request is under way.
  absl::Status Resize(uint64_t size) requires CanResize<Stack> {
    if (!disk_.writable()) return absl::PermissionDeniedError("the device was opened read-only");
    return exported_.Resize(size);
  }

 private:
  template <Transport T>
  absl::Status ServeThrough(T transport, const Agreement& agreement) {
    absl::StatusOr<Buffers> buffers = MakeBuffers();
    if (!buffers.ok()) return buffers.status();
    return std::make_unique<Connection<Stack, T>>(exported_, transport, *std::move(buffers), agreement)->Transmit();
  }

  static absl::StatusOr<Buffers> MakeBuffers() {
    absl::StatusOr<Buffers> buffers = Buffers::Create();
    // Not as a connection that broke: an administrator wants to know.
    if (!buffers.ok()) return absl::InternalError(buffers.status().message());
    return buffers;
  }

  Disk<Stack>& disk_;
  Exported<Stack> exported_;
};

// What `options` want of TLS, null for none, with its warnings said. Errors: those of TlsCredentials::Load.
absl::StatusOr<std::unique_ptr<const TlsCredentials>> LoadTls(const std::string& program, const ServeOptions& options);

// What serves clients of these exports, for Service: negotiates, and hands each client to the export that it chose. All outlive
// it; `tls` may be null.
std::function<absl::Status(int fd)> ServeClientsOf(std::span<ServedExport* const> exports, const ServeOptions& options,
                                                   const TlsCredentials* tls);

// Serves several exports to clients; see buse::Serve, whose errors it returns.
absl::Status ServeExports(const std::string& program, std::span<ServedExport* const> exports, const ServeOptions& options,
                          LimitedLog& log);

}  // namespace buse

#endif  // BUSE_SERVED_EXPORT_H_

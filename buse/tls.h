// SPDX-License-Identifier: Apache-2.0
//
// TLS for NBD clients, by GnuTLS: what proves who the server is, and one client's session, which begins in plain text. What
// goes over the wire: doc/proto.md of the NBD project, "TLS support". The files are those of nbdkit, qemu and libnbd:
// certificates in PEM by the names that these give them, and keys as psktool(1) writes them.

#ifndef BUSE_TLS_H_
#define BUSE_TLS_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/nbd.h"
#include "buse/transport.h"

// GnuTLS's own types, so that its header is needed by tls.cc alone.
struct gnutls_certificate_credentials_st;
struct gnutls_priority_st;
struct gnutls_psk_server_credentials_st;
struct gnutls_session_int;

namespace buse {

// What an administrator asks for.
struct TlsOptions {
  std::string mode;          // "off", "on" or "require"; empty: require where there are certificates or keys, else off
  std::string certificates;  // a folder: server-cert.pem, server-key.pem; to verify clients ca-cert.pem, and ca-crl.pem if any
  std::string psk;           // a file of lines USER:KEY, which is read anew for each client
  bool verify_peer = false;  // clients must have a certificate of ca-cert.pem
  bool promised = false;     // the target's scheme says that there is TLS
};

// What `options` ask for together. Errors: kInvalidArgument, where they contradict each other or something is missing.
absl::StatusOr<nbd::TlsMode> TlsModeOf(const TlsOptions& options);

// What proves to clients who the server is, and to the server who its clients are. Thread-safe; outlives its sessions.
class TlsCredentials {
 public:
  // Null where the mode is kOff. Errors: those of TlsModeOf; kNotFound for a file that is not there, kPermissionDenied for one
  // that this process may not read, kInternal for one that does not hold what it should.
  static absl::StatusOr<std::unique_ptr<const TlsCredentials>> Load(const TlsOptions& options);

  ~TlsCredentials();

  nbd::TlsMode mode() const { return mode_; }
  // Sentences for an administrator: what will not work, or is not safe.
  const std::vector<std::string>& warnings() const { return warnings_; }
  // `uri` of this server, with what a client of libnbd needs on this machine.
  std::string UriForClients(const std::string& uri) const;

 private:
  friend class TlsSession;

  TlsCredentials() = default;
  absl::Status LoadCertificates(const TlsOptions& options);
  absl::Status LoadPsk(const std::string& path);
  void WarnIfOpenToAll(const std::string& path);
  void WarnIfExpired(const std::string& path);

  nbd::TlsMode mode_ = nbd::TlsMode::kOff;
  bool verify_peer_ = false;
  std::string files_;  // what of the options names them
  std::string user_;   // the first that has a key
  std::vector<std::string> warnings_;
  gnutls_certificate_credentials_st* certificates_ = nullptr;  // or
  gnutls_psk_server_credentials_st* psk_ = nullptr;
  gnutls_priority_st* priority_ = nullptr;
};

// One client's connection. Used by one thread. Memory: nothing before Start, then about 120 KiB, GnuTLS's own included. Nothing
// of ours is allocated after Start.
class TlsSession {
 public:
  TlsSession(const TlsCredentials& credentials, SocketTransport socket) : credentials_(credentials), socket_(socket) {}
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;
  ~TlsSession();

  nbd::TlsMode mode() const { return credentials_.mode(); }

  // Shakes hands; from then on all is encrypted. `before_wait` is called before each wait for the client, and its error ends
  // this. Errors: kInvalidArgument with a reason for an administrator, also where the connection broke: a client that does not
  // like what it sees may just leave.
  absl::Status Start(absl::FunctionRef<absl::Status()> before_wait);

  // As those of SocketTransport. Receive waits for one record, and takes more where they are there already. Errors: also
  // kUnavailable where the connection ended but TLS did not, kInvalidArgument where what came is no TLS.
  absl::StatusOr<size_t> Receive(std::span<iovec> pieces);
  absl::Status Send(std::span<iovec> pieces);

  // Tells the client that nothing more comes. Waits no longer than a second.
  void End();

 private:
  static constexpr size_t kMaxRecord = 16 << 10;  // RFC 8446, 5.1
  struct Buffers {
    std::array<std::byte, 4 * kMaxRecord> received;  // and not yet decrypted
    std::array<std::byte, kMaxRecord> to_send;       // what together makes a record
  };

  static ssize_t Pull(void* self, void* data, size_t size);
  static ssize_t Push(void* self, const iovec* pieces, int count);
  absl::StatusOr<size_t> ReceiveInto(iovec piece);
  absl::Status SendRecord(const std::byte* data, size_t size);
  std::string WhyNot(int error) const;

  const TlsCredentials& credentials_;
  SocketTransport socket_;
  gnutls_session_int* session_ = nullptr;
  std::unique_ptr<Buffers> buffers_;
  size_t begin_ = 0;  // of what was received
  size_t end_ = 0;
  bool may_wait_ = true;  // for what has not arrived
  bool started_ = false;
  bool heard_ = false;  // anything from the client since
  const absl::FunctionRef<absl::Status()>* before_wait_ = nullptr;
  absl::Status broken_;  // why the socket is of no use any more
};

// A connection that may come to be secured. Copies are of the same session, which outlives them.
class TlsTransport {
 public:
  explicit TlsTransport(TlsSession& session) : session_(&session) {}

  nbd::TlsMode tls() const { return session_->mode(); }
  absl::Status StartTls(absl::FunctionRef<absl::Status()> before_wait) { return session_->Start(before_wait); }
  absl::StatusOr<size_t> Receive(std::span<iovec> pieces) { return session_->Receive(pieces); }
  absl::Status Send(std::span<iovec> pieces) { return session_->Send(pieces); }

 private:
  TlsSession* session_;
};
static_assert(Transport<TlsTransport>);

}  // namespace buse

#endif  // BUSE_TLS_H_

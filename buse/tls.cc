// SPDX-License-Identifier: Apache-2.0

#include "buse/tls.h"

#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <fstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "buse/io.h"
#include "buse/status.h"

namespace buse {
namespace {

using nbd::TlsMode;

// The system's defaults but for old versions, which the NBD specification advises against; pre-shared keys only with forward
// secrecy.
constexpr char kVersions[] = "-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";
constexpr char kVersionsAndPsk[] = "-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:+ECDHE-PSK:+DHE-PSK";
constexpr std::chrono::milliseconds kEndWait(1000);

template <class... Text>
absl::Status Refused(const Text&... text) {
  return absl::InvalidArgumentError(absl::StrCat(text...));
}

// `what` says which file it is and who wants it.
absl::Status CheckReadable(const std::string& path, absl::string_view what) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.valid()) return absl::OkStatus();
  const int error = errno;
  const std::string message = absl::StrCat(path, ", ", what, ": ", std::strerror(error));
  if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(message);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(message);
  return absl::InternalError(message);
}

absl::Status NotWhatItShouldBe(const std::string& path, int error) {
  return absl::InternalError(absl::StrCat(path, ": ", gnutls_strerror(error)));
}

// Whether the client says by this alert that it does not take the server's certificate.
bool IsOfCertificates(gnutls_alert_description_t alert) {
  switch (alert) {
    case GNUTLS_A_BAD_CERTIFICATE:
    case GNUTLS_A_UNSUPPORTED_CERTIFICATE:
    case GNUTLS_A_CERTIFICATE_REVOKED:
    case GNUTLS_A_CERTIFICATE_EXPIRED:
    case GNUTLS_A_CERTIFICATE_UNKNOWN:
    case GNUTLS_A_UNKNOWN_CA:
      return true;
    default:
      return false;
  }
}

}  // namespace

absl::StatusOr<TlsMode> TlsModeOf(const TlsOptions& options) {
  const char* const given = !options.certificates.empty() ? "--tls-certificates" : !options.psk.empty() ? "--tls-psk" : nullptr;
  TlsMode mode = given != nullptr ? TlsMode::kRequire : TlsMode::kOff;
  if (options.mode == "off") mode = TlsMode::kOff;
  if (options.mode == "on") mode = TlsMode::kOn;
  if (options.mode == "require") mode = TlsMode::kRequire;
  if (!options.mode.empty() && options.mode != "off" && options.mode != "on" && options.mode != "require") {
    return Refused("--tls: \"", absl::Utf8SafeCEscape(options.mode), "\" is none of off, on and require");
  }
  if (options.promised && options.mode == "on") {
    return Refused(
        "the target's nbds says that there is TLS for sure, and --tls=on serves without it too: give --tls=require, or "
        "a target that begins with nbd");
  }
  if (options.promised && options.mode == "off") return Refused("the target's nbds asks for TLS, and --tls=off for none");
  if ((options.promised || mode != TlsMode::kOff) && given == nullptr) {
    return Refused(options.promised ? "the target's nbds" : absl::StrCat("--tls=", options.mode),
                   " needs what proves who the server is: give --tls-certificates=DIR or --tls-psk=FILE");
  }
  if (mode == TlsMode::kOff && given != nullptr) return Refused(given, " is given, and --tls=off: leave one out");
  if (!options.certificates.empty() && !options.psk.empty()) {
    return Refused("--tls-certificates and --tls-psk: clients know the server by one of them, so give one");
  }
  if (options.verify_peer && options.certificates.empty()) {
    return Refused("--tls-verify-peer: is about clients' certificates, so it needs --tls-certificates=DIR",
                   options.psk.empty() ? "" : "; who has no key of --tls-psk is refused anyway");
  }
  return mode;
}

absl::StatusOr<std::unique_ptr<const TlsCredentials>> TlsCredentials::Load(const TlsOptions& options) {
  const absl::StatusOr<TlsMode> mode = TlsModeOf(options);
  if (!mode.ok()) return mode.status();
  if (*mode == TlsMode::kOff) return std::unique_ptr<const TlsCredentials>();
  std::unique_ptr<TlsCredentials> credentials(new TlsCredentials);
  credentials->mode_ = *mode;
  credentials->verify_peer_ = options.verify_peer;
  credentials->files_ = options.psk.empty() ? options.certificates : options.psk;
  absl::Status status = options.psk.empty() ? credentials->LoadCertificates(options) : credentials->LoadPsk(options.psk);
  if (!status.ok()) return status;
  const char* const priority = options.psk.empty() ? kVersions : kVersionsAndPsk;
  if (int error = gnutls_priority_init2(&credentials->priority_, priority, nullptr, GNUTLS_PRIORITY_INIT_DEF_APPEND);
      error < 0) {
    return absl::InternalError(absl::StrCat("choosing versions and ciphers of TLS: ", gnutls_strerror(error)));
  }
  return std::unique_ptr<const TlsCredentials>(std::move(credentials));
}

TlsCredentials::~TlsCredentials() {
  if (certificates_ != nullptr) gnutls_certificate_free_credentials(certificates_);
  if (psk_ != nullptr) gnutls_psk_free_server_credentials(psk_);
  if (priority_ != nullptr) gnutls_priority_deinit(priority_);
}

absl::Status TlsCredentials::LoadCertificates(const TlsOptions& options) {
  const std::string folder = absl::StrCat(options.certificates, "/");
  const std::string certificate = folder + "server-cert.pem", key = folder + "server-key.pem";
  const std::string authority = folder + "ca-cert.pem", revoked = folder + "ca-crl.pem";
  if (absl::Status status = CheckReadable(folder, "which --tls-certificates names"); !status.ok()) return status;
  if (absl::Status status = CheckReadable(certificate, "this server's certificate"); !status.ok()) return status;
  if (absl::Status status = CheckReadable(key, "the private key of this server's certificate"); !status.ok()) return status;
  if (gnutls_certificate_allocate_credentials(&certificates_) < 0) return absl::UnavailableError("no memory for TLS");
  const int loaded =
      gnutls_certificate_set_x509_key_file2(certificates_, certificate.c_str(), key.c_str(), GNUTLS_X509_FMT_PEM, nullptr, 0);
  if (loaded == GNUTLS_E_CERTIFICATE_KEY_MISMATCH) {
    return absl::InternalError(absl::StrCat(key, " is not the key of the certificate ", certificate));
  }
  if (loaded < 0) return NotWhatItShouldBe(absl::StrCat(certificate, " and ", key), loaded);
  WarnIfOpenToAll(key);
  WarnIfExpired(certificate);
  if (!verify_peer_) return absl::OkStatus();
  if (absl::Status status = CheckReadable(authority, "who must have signed clients' certificates"); !status.ok()) return status;
  const int trusted = gnutls_certificate_set_x509_trust_file(certificates_, authority.c_str(), GNUTLS_X509_FMT_PEM);
  if (trusted < 0) return NotWhatItShouldBe(authority, trusted);
  if (trusted == 0) return absl::InternalError(absl::StrCat(authority, ": there is no certificate in it"));
  if (absl::IsNotFound(CheckReadable(revoked, ""))) return absl::OkStatus();
  const int revocations = gnutls_certificate_set_x509_crl_file(certificates_, revoked.c_str(), GNUTLS_X509_FMT_PEM);
  return revocations < 0 ? NotWhatItShouldBe(revoked, revocations) : absl::OkStatus();
}

absl::Status TlsCredentials::LoadPsk(const std::string& path) {
  if (absl::Status status = CheckReadable(path, "which --tls-psk names"); !status.ok()) return status;
  std::ifstream file(path);
  int number = 1;
  for (std::string line; std::getline(file, line); ++number) {
    const std::pair<absl::string_view, absl::string_view> pair = absl::StrSplit(line, absl::MaxSplits(':', 1));
    const bool hex = std::all_of(pair.second.begin(), pair.second.end(), absl::ascii_isxdigit);
    if (pair.first.empty() || pair.second.empty() || !hex || pair.second.size() % 2 != 0) {
      if (line.empty() || line[0] == '#') continue;  // psktool begins a user's name in hexadecimal like that too
      return absl::InternalError(
          absl::StrCat(path, ", line ", number,
                       ": is not USER:KEY with the key in hexadecimal digits, as psktool -u USER -p FILE writes it"));
    }
    if (user_.empty()) user_ = std::string(pair.first);
  }
  if (user_.empty())
    return absl::InternalError(absl::StrCat(path, ": there is no key in it: psktool -u USER -p FILE makes one"));
  if (gnutls_psk_allocate_server_credentials(&psk_) < 0) return absl::UnavailableError("no memory for TLS");
  const int error = gnutls_psk_set_server_credentials_file(psk_, path.c_str());
  if (error < 0) return NotWhatItShouldBe(path, error);
  WarnIfOpenToAll(path);
  return absl::OkStatus();
}

std::string TlsCredentials::UriForClients(const std::string& uri) const {
  const char* const separator = absl::StrContains(uri, '?') ? "&" : "?";
  if (psk_ == nullptr) return absl::StrCat(uri, separator, "tls-certificates=", files_);
  const size_t authority = uri.find("://") + 3;
  return absl::StrCat(uri.substr(0, authority), user_, "@", uri.substr(authority), separator, "tls-psk-file=", files_);
}

void TlsCredentials::WarnIfOpenToAll(const std::string& path) {
  struct stat about;
  if (stat(path.c_str(), &about) != 0 || (about.st_mode & S_IROTH) == 0) return;
  warnings_.push_back(absl::StrCat(path, " is secret, and every user may read it: chmod o-r it"));
}

void TlsCredentials::WarnIfExpired(const std::string& path) {
  gnutls_x509_crt_t* chain = nullptr;
  unsigned length = 0;
  if (gnutls_certificate_get_x509_crt(certificates_, 0, &chain, &length) < 0) return;
  const std::time_t now = std::time(nullptr);
  const bool early = length > 0 && gnutls_x509_crt_get_activation_time(chain[0]) > now;
  const bool late = length > 0 && gnutls_x509_crt_get_expiration_time(chain[0]) < now;
  if (early || late) {
    warnings_.push_back(absl::StrCat(path, late ? " has expired" : " is not valid yet", ": clients that look will refuse it"));
  }
  for (unsigned i = 0; i < length; ++i) gnutls_x509_crt_deinit(chain[i]);
  gnutls_free(chain);
}

TlsSession::~TlsSession() {
  if (session_ != nullptr) gnutls_deinit(session_);
}

absl::Status TlsSession::Start(absl::FunctionRef<absl::Status()> before_wait) {
  if (gnutls_init(&session_, GNUTLS_SERVER | GNUTLS_NO_TICKETS) < 0) return absl::InternalError("no memory for TLS");
  buffers_ = std::make_unique<Buffers>();
  gnutls_priority_set(session_, credentials_.priority_);
  if (credentials_.psk_ != nullptr) gnutls_credentials_set(session_, GNUTLS_CRD_PSK, credentials_.psk_);
  if (credentials_.certificates_ != nullptr) {
    gnutls_credentials_set(session_, GNUTLS_CRD_CERTIFICATE, credentials_.certificates_);
  }
  if (credentials_.verify_peer_) {
    gnutls_certificate_server_set_request(session_, GNUTLS_CERT_REQUIRE);
    // A certificate that is for servers alone proves nothing about a client.
    static char purpose[] = GNUTLS_KP_TLS_WWW_CLIENT;
    // The session keeps the pointer.
    static gnutls_typed_vdata_st wanted = {
        .type = GNUTLS_DT_KEY_PURPOSE_OID, .data = reinterpret_cast<unsigned char*>(purpose), .size = 0};
    gnutls_session_set_verify_cert2(session_, &wanted, 1, 0);
  }
  gnutls_transport_set_ptr(session_, this);
  gnutls_transport_set_pull_function(session_, Pull);
  gnutls_transport_set_vec_push_function(session_, Push);
  before_wait_ = &before_wait;
  int result = 0;
  do {
    result = gnutls_handshake(session_);
  } while (result < 0 && gnutls_error_is_fatal(result) == 0);
  before_wait_ = nullptr;
  started_ = result == GNUTLS_E_SUCCESS;
  if (started_) return absl::OkStatus();
  // Whatever broke it, an administrator wants to know: a client may just leave.
  if (!broken_.ok()) return Refused("no agreement on TLS: ", broken_.message());
  gnutls_alert_send_appropriate(session_, result);
  return Refused("no agreement on TLS: ", WhyNot(result));
}

std::string TlsSession::WhyNot(int error) const {
  switch (error) {
    case GNUTLS_E_FATAL_ALERT_RECEIVED: {
      const gnutls_alert_description_t alert = gnutls_alert_get(session_);
      return absl::StrCat("the client refuses (", gnutls_alert_get_name(alert), ")",
                          IsOfCertificates(alert) ? ": it does not trust this server's certificate" : "");
    }
    case GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR: {
      gnutls_datum_t text = {};
      const unsigned status = gnutls_session_get_verify_cert_status(session_);
      if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) < 0) break;
      const std::string why(reinterpret_cast<const char*>(text.data), text.size);
      gnutls_free(text.data);
      return absl::StrCat("the client's certificate is refused: ", absl::StripAsciiWhitespace(why));
    }
    case GNUTLS_E_NO_CERTIFICATE_FOUND:
    case GNUTLS_E_CERTIFICATE_REQUIRED:
      return "the client has shown no certificate, which --tls-verify-peer asks for";
    case GNUTLS_E_PREMATURE_TERMINATION:
      return "the client has closed the connection: what it says itself may tell why";
    case GNUTLS_E_NO_CIPHER_SUITES:
    case GNUTLS_E_INSUFFICIENT_CREDENTIALS:
      return credentials_.psk_ != nullptr
                 ? "the client shows no key, which --tls-psk asks for, or there is no cipher in common"
                 : "the client takes no certificate (is it set up for keys?), or there is no cipher in common";
    case GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER:
    case GNUTLS_E_DECRYPTION_FAILED:
      if (credentials_.psk_ == nullptr) break;
      return "the client's key is not that of a user in the file of --tls-psk";
    case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
      return "the client speaks neither TLS 1.2 nor 1.3";
    case GNUTLS_E_UNEXPECTED_PACKET_LENGTH:
    case GNUTLS_E_RECORD_OVERFLOW:
      return "what the client says is not TLS";
    default:
      break;
  }
  return gnutls_strerror(error);
}

// What GnuTLS wants of the socket.
ssize_t TlsSession::Pull(void* self, void* data, size_t size) {
  TlsSession& session = *static_cast<TlsSession*>(self);
  const auto fail = [&](int error) {
    gnutls_transport_set_errno(session.session_, error);
    return -1;
  };
  if (session.begin_ == session.end_) {
    if (!session.may_wait_) return fail(EAGAIN);
    if (session.before_wait_ != nullptr) session.broken_ = (*session.before_wait_)();
    if (!session.broken_.ok()) return fail(EIO);
    iovec free = {session.buffers_->received.data(), session.buffers_->received.size()};
    const absl::StatusOr<size_t> n = session.socket_.Receive({&free, 1});
    if (!n.ok()) {
      session.broken_ = n.status();
      return fail(EIO);
    }
    session.begin_ = 0;
    session.end_ = *n;
  }
  const size_t n = std::min(size, session.end_ - session.begin_);
  std::memcpy(data, session.buffers_->received.data() + session.begin_, n);
  session.begin_ += n;
  return static_cast<ssize_t>(n);
}

ssize_t TlsSession::Push(void* self, const iovec* pieces, int count) {
  TlsSession& session = *static_cast<TlsSession*>(self);
  std::array<iovec, 16> some;
  const size_t n = std::min<size_t>(count, some.size());
  std::copy_n(pieces, n, some.begin());
  ssize_t bytes = 0;
  for (size_t i = 0; i < n; ++i) bytes += static_cast<ssize_t>(some[i].iov_len);
  if (absl::Status status = session.socket_.Send({some.data(), n}); !status.ok()) {
    session.broken_ = status;
    gnutls_transport_set_errno(session.session_, EIO);
    return -1;
  }
  return bytes;
}

absl::StatusOr<size_t> TlsSession::Receive(std::span<iovec> pieces) {
  if (!started_) return socket_.Receive(pieces);
  size_t total = 0;
  may_wait_ = true;
  for (iovec piece : pieces) {
    while (piece.iov_len > 0) {
      const absl::StatusOr<size_t> n = ReceiveInto(piece);
      // What was received before an error is good; the error comes again.
      if (total > 0 && (!n.ok() || *n == 0)) return total;
      if (!n.ok() || *n == 0) return n;
      total += *n;
      piece.iov_base = static_cast<char*>(piece.iov_base) + *n;
      piece.iov_len -= *n;
      may_wait_ = false;
    }
  }
  return total;
}

// Up to one record. 0: the client has ended TLS, or nothing has arrived that must not be waited for.
absl::StatusOr<size_t> TlsSession::ReceiveInto(iovec piece) {
  for (;;) {
    const ssize_t n = gnutls_record_recv(session_, piece.iov_base, piece.iov_len);
    if (n > 0) heard_ = true;
    if (n >= 0) return static_cast<size_t>(n);
    if (n == GNUTLS_E_AGAIN && !may_wait_) return size_t{0};
    // An end without an end of TLS may come from somebody in between; what is owed can be sent all the same.
    const absl::Status cut = absl::UnavailableError("the connection ended, and TLS did not");
    if (const absl::Status& end = n == GNUTLS_E_PREMATURE_TERMINATION ? cut : broken_; !end.ok()) {
      if (heard_) return end;
      return Refused("the client has left, and said nothing under TLS: it may not trust this server's certificate (",
                     end.message(), ")");
    }
    if (n == GNUTLS_E_REHANDSHAKE) return Refused("the client asks for new TLS in the middle, which is not done here");
    if (gnutls_error_is_fatal(static_cast<int>(n)) != 0) return Refused("TLS broke: ", WhyNot(static_cast<int>(n)));
  }
}

absl::Status TlsSession::Send(std::span<iovec> pieces) {
  if (!started_) return socket_.Send(pieces);
  // A header of 16 bytes does not deserve a record of its own.
  std::array<std::byte, kMaxRecord>& record = buffers_->to_send;
  size_t filled = 0;
  for (const iovec& piece : pieces) {
    const std::byte* from = static_cast<const std::byte*>(piece.iov_base);
    size_t left = piece.iov_len;
    while (left > 0) {
      const bool whole = filled == 0 && left >= kMaxRecord;
      const size_t n = std::min(left, kMaxRecord - filled);
      if (!whole) {
        std::memcpy(record.data() + filled, from, n);
        filled += n;
      }
      if (whole || filled == kMaxRecord) {
        if (absl::Status status = SendRecord(whole ? from : record.data(), kMaxRecord); !status.ok()) return status;
        filled = 0;
      }
      from += n;
      left -= n;
    }
  }
  return SendRecord(record.data(), filled);
}

absl::Status TlsSession::SendRecord(const std::byte* data, size_t size) {
  while (size > 0) {
    const ssize_t n = gnutls_record_send(session_, data, size);
    if (!broken_.ok()) return broken_;
    if (n < 0 && gnutls_error_is_fatal(static_cast<int>(n)) != 0) return Refused("TLS broke: ", WhyNot(static_cast<int>(n)));
    if (n < 0) continue;
    data += n;
    size -= n;
  }
  return absl::OkStatus();
}

void TlsSession::End() {
  if (!started_ || !broken_.ok()) return;
  socket_.LimitWaits(kEndWait);
  gnutls_bye(session_, GNUTLS_SHUT_WR);
}

}  // namespace buse

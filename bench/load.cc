// SPDX-License-Identifier: Apache-2.0

#include "bench/load.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "buse/io.h"
#include "buse/nbd.h"
#include "layers/splitmix.h"

namespace buse::bench {
namespace {

using std::chrono::nanoseconds;

// A server that says nothing for so long is broken.
constexpr timeval kPatience = {30, 0};

int64_t Nanoseconds(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

absl::Status Broken(const char* doing) {
  return absl::UnavailableError(absl::StrCat(doing, ": ", errno == 0 ? "the server closed" : std::strerror(errno)));
}

absl::Status SendAll(int fd, const void* from, size_t length) {
  for (const char* at = static_cast<const char*>(from); length > 0;) {
    const ssize_t n = send(fd, at, length, MSG_NOSIGNAL);
    if (n <= 0) return Broken("sending to the server");
    at += n;
    length -= n;
  }
  return absl::OkStatus();
}

absl::Status ReceiveAll(int fd, void* to, size_t length) {
  errno = 0;
  const ssize_t n = length == 0 ? 0 : recv(fd, to, length, MSG_WAITALL);
  return n == static_cast<ssize_t>(length) ? absl::OkStatus() : Broken("receiving from the server");
}

// A connected socket on which requests may be sent, and the size of the device.
struct Session {
  UniqueFd fd;
  uint64_t size = 0;
};

// Sends GO and takes its answers. `size` becomes that of the export.
absl::Status Negotiate(int fd, const std::string& name, uint64_t& size) {
  std::array<std::byte, 65536> data;
  if (absl::Status status = ReceiveAll(fd, data.data(), 18); !status.ok()) return status;
  if (nbd::Load<uint64_t>(data.data()) != nbd::kMagic || nbd::Load<uint64_t>(data.data() + 8) != nbd::kOptionMagic) {
    return absl::InternalError("this is no NBD server of today: it does not begin with NBDMAGIC and IHAVEOPT");
  }
  const uint16_t flags = nbd::Load<uint16_t>(data.data() + 16);
  const uint32_t name_length = name.size();
  nbd::Store<uint32_t>(data.data(), flags & (nbd::kFlagFixedNewstyle | nbd::kFlagNoZeroes));
  nbd::Store<uint64_t>(data.data() + 4, nbd::kOptionMagic);
  nbd::Store<uint32_t>(data.data() + 12, nbd::kOptGo);
  nbd::Store<uint32_t>(data.data() + 16, name_length + 6);
  nbd::Store<uint32_t>(data.data() + 20, name_length);
  std::memcpy(data.data() + 24, name.data(), name_length);
  nbd::Store<uint16_t>(data.data() + 24 + name_length, 0);
  if (absl::Status status = SendAll(fd, data.data(), 26 + name_length); !status.ok()) return status;
  for (;;) {
    if (absl::Status status = ReceiveAll(fd, data.data(), 20); !status.ok()) return status;
    const uint32_t type = nbd::Load<uint32_t>(data.data() + 12);
    const uint32_t length = nbd::Load<uint32_t>(data.data() + 16);
    if (length > data.size()) return absl::InternalError("the server's answer to GO is too long");
    if (absl::Status status = ReceiveAll(fd, data.data(), length); !status.ok()) return status;
    if (type == nbd::kRepAck) return absl::OkStatus();
    if (type != nbd::kRepInfo) {
      return absl::InternalError(absl::StrCat("the server refuses export \"", name, "\": answer ", absl::Hex(type), " to GO"));
    }
    if (length >= 12 && nbd::Load<uint16_t>(data.data()) == nbd::kInfoExport) size = nbd::Load<uint64_t>(data.data() + 2);
  }
}

absl::StatusOr<Session> Connect(const Endpoint& endpoint) {
  Session session{UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))};
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  if (endpoint.socket.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", endpoint.socket, "\" is too long for a socket's path"));
  }
  setsockopt(session.fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof(kPatience));
  endpoint.socket.copy(address.sun_path, endpoint.socket.size());
  if (connect(session.fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return Broken(absl::StrCat("connecting to ", endpoint.socket).c_str());
  }
  absl::Status status = Negotiate(session.fd.get(), endpoint.export_name, session.size);
  if (!status.ok()) return status;
  return session;
}

// What all threads of a measurement share.
struct Measurement {
  const Load& load;
  uint64_t size = 0;
  int64_t begin = 0;  // of what counts, on the monotonic clock
  int64_t end = 0;
  std::atomic<bool> stop = false;
};

// One connection and what it measures. Used by one thread.
class Worker {
 public:
  Worker(const Measurement& shared, int fd, uint32_t index)
      : shared_(shared),
        work_(shared.load.work),
        fd_(fd),
        random_(index + 1),
        receive_(kReceiveSize),
        slots_(work_.depth),
        requests_(work_.depth),
        payload_(work_.block, std::byte{0x5a}) {
    const uint64_t blocks = shared.size / work_.block;
    // Sequences of several connections keep apart.
    first_ = next_ = blocks * index / work_.connections;
    last_ = std::max(first_ + 1, blocks * (index + 1) / work_.connections);
    blocks_ = blocks;
  }

  absl::Status Run() {
    const int64_t start = Nanoseconds(CLOCK_MONOTONIC);
    for (uint32_t slot = 0; slot < work_.depth; ++slot) Ask(slot, start);
    for (;;) {
      if (absl::Status status = Send(); !status.ok()) return status;
      if (in_flight_ == 0 && unsent() == 0) return absl::OkStatus();
      absl::StatusOr<size_t> n = Receive();
      if (!n.ok()) return n.status();
      if (absl::Status status = TakeAnswers(*n); !status.ok()) return status;
    }
  }

  const LatencyHistogram& latency() const { return latency_; }
  double cpu_seconds() const { return static_cast<double>(cpu_end_ - cpu_begin_) * 1e-9; }

 private:
  static constexpr size_t kReceiveSize = 256 << 10;

  struct Slot {
    int64_t asked = 0;
    uint32_t payload = 0;  // that its answer carries
  };

  size_t unsent() const { return pieces_.size() - sent_; }

  // Makes `slot` ask for the next thing.
  void Ask(uint32_t slot, int64_t now) {
    std::array<std::byte, nbd::kRequestSize>& wire = requests_[slot];
    uint16_t type = nbd::kCmdRead;
    if (work_.flush_every != 0 && writes_since_flush_ == work_.flush_every) {
      type = nbd::kCmdFlush;
      writes_since_flush_ = 0;
    } else if (work_.read_percent == 0 || (work_.read_percent < 100 && random_() % 100 >= work_.read_percent)) {
      type = nbd::kCmdWrite;
      ++writes_since_flush_;
    }
    uint64_t block = 0;
    if (work_.random) {
      // The upper half of the product: no division.
      block = static_cast<uint64_t>((static_cast<unsigned __int128>(random_()) * blocks_) >> 64);
    } else {
      block = next_;
      next_ = next_ + 1 == last_ ? first_ : next_ + 1;
    }
    const bool flush = type == nbd::kCmdFlush;
    nbd::Store<uint32_t>(wire.data(), nbd::kRequestMagic);
    nbd::Store<uint16_t>(wire.data() + 4, 0);
    nbd::Store<uint16_t>(wire.data() + 6, type);
    nbd::Store<uint64_t>(wire.data() + 8, slot);
    nbd::Store<uint64_t>(wire.data() + 16, flush ? 0 : block * work_.block);
    nbd::Store<uint32_t>(wire.data() + 24, flush ? 0 : work_.block);
    slots_[slot] = {now, type == nbd::kCmdRead ? work_.block : 0};
    pieces_.push_back({wire.data(), wire.size()});
    if (type == nbd::kCmdWrite) pieces_.push_back({payload_.data(), payload_.size()});
    ++in_flight_;
  }

  // Sends what it can without waiting.
  absl::Status Send() {
    while (unsent() > 0) {
      msghdr message{};
      message.msg_iov = pieces_.data() + sent_;
      message.msg_iovlen = std::min<size_t>(unsent(), 1024);
      ssize_t n = sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0) {
        if (errno == EAGAIN) return absl::OkStatus();
        return Broken("sending requests");
      }
      for (; sent_ < pieces_.size() && static_cast<size_t>(n) >= pieces_[sent_].iov_len; ++sent_) n -= pieces_[sent_].iov_len;
      if (n > 0) pieces_[sent_] = {static_cast<char*>(pieces_[sent_].iov_base) + n, pieces_[sent_].iov_len - n};
    }
    pieces_.clear();
    sent_ = 0;
    return absl::OkStatus();
  }

  // Waits until there are answers or room for requests. 0: only room.
  absl::StatusOr<size_t> Receive() {
    const bool must_send = unsent() > 0;
    const nanoseconds spin = shared_.load.spin;
    const int64_t until = spin.count() > 0 ? Nanoseconds(CLOCK_MONOTONIC) + spin.count() : 0;
    for (;;) {
      const bool spinning = until != 0 && Nanoseconds(CLOCK_MONOTONIC) < until;
      errno = 0;
      const ssize_t n = recv(fd_, receive_.data() + held_, receive_.size() - held_, must_send || spinning ? MSG_DONTWAIT : 0);
      if (n > 0) return n;
      if (n == 0 || errno != EAGAIN || !(must_send || spinning)) return Broken("receiving answers");
      if (spinning) continue;
      pollfd ready = {fd_, POLLIN | POLLOUT, 0};
      if (poll(&ready, 1, kPatience.tv_sec * 1000) == 0) return Broken("sending requests");
      if ((ready.revents & POLLIN) == 0) return size_t{0};
    }
  }

  // Looks at `n` bytes more, and asks anew for what they answer.
  absl::Status TakeAnswers(size_t n) {
    const int64_t now = Nanoseconds(CLOCK_MONOTONIC);
    NoticeTime(now);
    const bool counts = now >= shared_.begin && now < shared_.end;
    const bool goes_on = !shared_.stop.load(std::memory_order_relaxed);
    const std::byte* at = receive_.data();
    size_t left = held_ + n;
    for (;;) {
      if (slot_ != kNoSlot) {
        const size_t part = std::min<size_t>(left, payload_left_);
        at += part;
        left -= part;
        payload_left_ -= part;
        if (payload_left_ > 0) break;
        if (counts) latency_.Record(now - slots_[slot_].asked);
        --in_flight_;
        if (goes_on) Ask(slot_, now);
        slot_ = kNoSlot;
      }
      if (left < nbd::kSimpleReplySize) break;
      const uint32_t error = nbd::Load<uint32_t>(at + 4);
      const uint64_t cookie = nbd::Load<uint64_t>(at + 8);
      if (nbd::Load<uint32_t>(at) != nbd::kSimpleReplyMagic || cookie >= slots_.size()) {
        return absl::InternalError("the server's answer is no simple reply to a request of ours");
      }
      if (error != 0) return absl::InternalError(absl::StrCat("the server answered a request with error ", error));
      at += nbd::kSimpleReplySize;
      left -= nbd::kSimpleReplySize;
      slot_ = static_cast<uint32_t>(cookie);
      payload_left_ = slots_[slot_].payload;
    }
    std::memmove(receive_.data(), at, left);
    held_ = left;
    return absl::OkStatus();
  }

  void NoticeTime(int64_t now) {
    if (cpu_begin_ == 0 && now >= shared_.begin) cpu_begin_ = cpu_end_ = Nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    if (!ended_ && now >= shared_.end) {
      ended_ = true;
      cpu_end_ = Nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    }
  }

  static constexpr uint32_t kNoSlot = UINT32_MAX;

  const Measurement& shared_;
  const Work& work_;
  const int fd_;
  SplitMix64 random_;
  std::vector<std::byte> receive_;
  size_t held_ = 0;  // bytes of an answer's beginning, at the front of receive_
  std::vector<Slot> slots_;
  std::vector<std::array<std::byte, nbd::kRequestSize>> requests_;
  std::vector<std::byte> payload_;
  std::vector<iovec> pieces_;
  size_t sent_ = 0;  // of pieces_
  uint64_t blocks_ = 0;
  uint64_t first_ = 0;
  uint64_t next_ = 0;
  uint64_t last_ = 0;
  uint64_t writes_since_flush_ = 0;
  uint32_t slot_ = kNoSlot;  // whose payload is coming in
  uint32_t payload_left_ = 0;
  uint32_t in_flight_ = 0;
  LatencyHistogram latency_;
  int64_t cpu_begin_ = 0;
  int64_t cpu_end_ = 0;
  bool ended_ = false;
};

void SleepUntil(int64_t time) {
  const timespec until = {time / 1'000'000'000, time % 1'000'000'000};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
  }
}

void Disconnect(int fd) {
  std::array<std::byte, nbd::kRequestSize> wire = {};
  nbd::Store<uint32_t>(wire.data(), nbd::kRequestMagic);
  nbd::Store<uint16_t>(wire.data() + 6, nbd::kCmdDisc);
  SendAll(fd, wire.data(), wire.size()).IgnoreError();
}

// One request that is waited for. `payload` is written, or read into.
absl::Status Do(int fd, nbd::Command command, uint64_t offset, std::vector<std::byte>& payload) {
  std::array<std::byte, nbd::kRequestSize> wire = {};
  nbd::Store<uint32_t>(wire.data(), nbd::kRequestMagic);
  nbd::Store<uint16_t>(wire.data() + 6, command);
  nbd::Store<uint64_t>(wire.data() + 16, offset);
  nbd::Store<uint32_t>(wire.data() + 24, payload.size());
  if (absl::Status status = SendAll(fd, wire.data(), wire.size()); !status.ok()) return status;
  if (command == nbd::kCmdWrite) {
    if (absl::Status status = SendAll(fd, payload.data(), payload.size()); !status.ok()) return status;
  }
  if (absl::Status status = ReceiveAll(fd, wire.data(), nbd::kSimpleReplySize); !status.ok()) return status;
  if (const uint32_t error = nbd::Load<uint32_t>(wire.data() + 4); error != 0) {
    return absl::InternalError(absl::StrCat("the server answered a request at ", offset, " with error ", error));
  }
  return command == nbd::kCmdRead ? ReceiveAll(fd, payload.data(), payload.size()) : absl::OkStatus();
}

}  // namespace

absl::StatusOr<LoadResult> Generate(const Endpoint& endpoint, const Load& load, const std::function<double()>& server_cpu) {
  Measurement shared{.load = load};
  std::vector<Session> sessions;
  for (uint32_t i = 0; i < load.work.connections; ++i) {
    absl::StatusOr<Session> session = Connect(endpoint);
    if (!session.ok()) return session.status();
    sessions.push_back(*std::move(session));
  }
  shared.size = sessions[0].size;
  if (load.size > shared.size) {
    return absl::InvalidArgumentError(absl::StrCat("the device has ", shared.size, " bytes, the load needs ", load.size));
  }
  if (load.size != 0) shared.size = load.size;
  if (shared.size / load.work.block < load.work.connections) {
    return absl::InvalidArgumentError(absl::StrCat("a device of ", shared.size, " bytes is too small for this load"));
  }
  shared.begin = Nanoseconds(CLOCK_MONOTONIC) + load.warmup.count();
  shared.end = shared.begin + load.duration.count();

  std::vector<std::unique_ptr<Worker>> workers;
  std::vector<absl::Status> statuses(sessions.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < sessions.size(); ++i) {
    workers.push_back(std::make_unique<Worker>(shared, sessions[i].fd.get(), i));
    threads.emplace_back([&status = statuses[i], &worker = *workers.back(), cpus = load.cpus] {
      if (cpus != nullptr) sched_setaffinity(0, sizeof(*cpus), cpus);
      status = worker.Run();
    });
  }
  SleepUntil(shared.begin);
  const double cpu_before = server_cpu();
  const int64_t sampled_before = Nanoseconds(CLOCK_MONOTONIC);
  SleepUntil(shared.end);
  const double cpu_after = server_cpu();
  const int64_t sampled_after = Nanoseconds(CLOCK_MONOTONIC);
  shared.stop = true;
  for (std::thread& thread : threads) thread.join();

  LoadResult result;
  result.seconds = static_cast<double>(load.duration.count()) * 1e-9;
  // The samples are a little late: what they span is scaled to what the requests were counted in.
  result.server_cpu_seconds =
      (cpu_after - cpu_before) * result.seconds / (static_cast<double>(sampled_after - sampled_before) * 1e-9);
  for (size_t i = 0; i < sessions.size(); ++i) {
    if (!statuses[i].ok()) return statuses[i];
    Disconnect(sessions[i].fd.get());
    result.latency.Merge(workers[i]->latency());
    result.client_cpu_seconds += workers[i]->cpu_seconds();
  }
  result.requests = result.latency.count();
  return result;
}

absl::Status FillAndCheck(const Endpoint& endpoint, uint64_t size) {
  absl::StatusOr<Session> session = Connect(endpoint);
  if (!session.ok()) return session.status();
  if (session->size < size) {
    return absl::InvalidArgumentError(absl::StrCat("the device has ", session->size, " bytes, ", size, " are wanted"));
  }
  const int fd = session->fd.get();
  std::vector<std::byte> piece(1 << 20);
  constexpr uint64_t kStamp = 4096;  // each begins with its own offset
  for (uint64_t offset = 0; offset < size; offset += piece.size()) {
    piece.resize(std::min<uint64_t>(piece.size(), size - offset));
    for (uint64_t at = 0; at + sizeof(at) <= piece.size(); at += kStamp) nbd::Store<uint64_t>(piece.data() + at, offset + at);
    if (absl::Status status = Do(fd, nbd::kCmdWrite, offset, piece); !status.ok()) return status;
  }
  piece.resize(kStamp);
  SplitMix64 random(1);
  for (int i = 0; i < 100; ++i) {
    const uint64_t offset = random() % (size / kStamp) * kStamp;
    if (absl::Status status = Do(fd, nbd::kCmdRead, offset, piece); !status.ok()) return status;
    if (nbd::Load<uint64_t>(piece.data()) != offset) {
      return absl::DataLossError(absl::StrCat("the server gave other bytes than were written at ", offset));
    }
  }
  Disconnect(fd);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<UniqueFd>> ConnectIdle(const Endpoint& endpoint, int count) {
  std::vector<UniqueFd> connections;
  for (int i = 0; i < count; ++i) {
    absl::StatusOr<Session> session = Connect(endpoint);
    if (!session.ok()) return session.status();
    connections.push_back(std::move(session->fd));
  }
  return connections;
}

}  // namespace buse::bench

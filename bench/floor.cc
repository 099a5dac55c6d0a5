// SPDX-License-Identifier: Apache-2.0
//
// The floor: a memory disk on a Unix socket by hand, as fast as we know how, for the benchmark to compare with. It has no
// layers, no checks and no options, and believes whatever a client says: never serve it to anyone.
//
//   floor SIZE SOCKET

#include <endian.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

namespace {

struct [[gnu::packed]] Request {
  uint32_t magic;
  uint16_t flags, type;
  uint64_t cookie, offset;
  uint32_t length;
};
struct [[gnu::packed]] Reply {
  uint32_t magic = htobe32(0x67446698), error = 0;
  uint64_t cookie;
};

char* disk;
uint64_t size;

bool SendAll(int fd, iovec* piece, size_t count) {
  while (count > 0) {
    const msghdr message = {.msg_iov = piece, .msg_iovlen = count};
    ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (n < 0) return false;
    for (; count > 0 && static_cast<size_t>(n) >= piece->iov_len; ++piece, --count) n -= piece->iov_len;
    if (count > 0) *piece = {static_cast<char*>(piece->iov_base) + n, piece->iov_len - n};
  }
  return true;
}

bool Negotiate(int fd) {
  const auto send_text = [fd](const std::string& text) { return send(fd, text.data(), text.size(), MSG_NOSIGNAL) > 0; };
  const auto big = [](int bytes, uint64_t value) {
    std::string out;
    while (bytes-- > 0) out += static_cast<char>(value >> 8 * bytes);
    return out;
  };
  char data[65536];
  if (!send_text("NBDMAGICIHAVEOPT" + big(2, 3)) || recv(fd, data, 4, MSG_WAITALL) != 4) return false;
  while (recv(fd, data, 16, MSG_WAITALL) == 16) {
    uint32_t option, length;
    std::memcpy(&option, data + 8, 4);
    std::memcpy(&length, data + 12, 4);
    if (recv(fd, data, be32toh(length), MSG_WAITALL) < 0) return false;
    const auto reply = [&](uint32_t type, const std::string& text) {
      return send_text(big(8, 0x3e889045565a9) + big(4, be32toh(option)) + big(4, type) + big(4, text.size()) + text);
    };
    // GO, or a refusal. Flags: flush, several connections.
    if (be32toh(option) == 7) return reply(3, big(2, 0) + big(8, size) + big(2, 0x105)) && reply(1, "");
    if (!reply(0x80000001, "")) return false;
  }
  return false;
}

void Serve(int fd) {
  alignas(4096) static thread_local char in[65536];
  static thread_local Reply replies[512];
  static thread_local iovec pieces[1024];
  size_t begin = 0, end = 0, used = 0, answers = 0, room = sizeof(in);
  const auto answer = [&] {
    const bool ok = used == 0 || SendAll(fd, pieces, used);
    used = answers = 0;
    return ok;
  };
  if (!Negotiate(fd)) return;
  for (;;) {
    std::memmove(in, in + begin, end - begin);
    end -= begin;
    begin = 0;
    const ssize_t n = recv(fd, in + end, room - end, 0);
    if (n <= 0) return;
    end += n;
    room = sizeof(in);
    while (end - begin >= sizeof(Request)) {
      Request request;
      std::memcpy(&request, in + begin, sizeof(request));
      begin += sizeof(request);
      char* place = disk + be64toh(request.offset);
      const size_t length = be32toh(request.length);
      if (request.type == htobe16(1)) {
        size_t have = std::min(length, end - begin);
        std::memcpy(place, in + begin, have);
        begin += have;
        if (have < length) {
          if (!answer()) return;
          // The rest goes straight into place. Behind a large payload only a header, so that the next one can do so too.
          begin = end = 0;
          if (length >= sizeof(in)) room = sizeof(Request);
          while (have < length) {
            iovec rest[] = {{place + have, length - have}, {in, room}};
            const ssize_t got = readv(fd, rest, 2);
            if (got <= 0) return;
            end = static_cast<size_t>(got) > length - have ? got - (length - have) : 0;
            have += got - end;
          }
        }
      } else if (request.type == htobe16(2)) {
        answer();
        return;
      }
      replies[answers] = {.cookie = request.cookie};
      pieces[used++] = {&replies[answers++], sizeof(Reply)};
      if (request.type == htobe16(0)) {
        // The first bytes of all pieces of a batch come from memory at the same time: a tenth less CPU.
        __builtin_prefetch(place, 0, 2);
        pieces[used++] = {place, length};
      }
      if (answers == std::size(replies) && !answer()) return;
    }
    if (!answer()) return;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  size = std::strtoull(argv[1], nullptr, 10);
  disk = static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (disk == MAP_FAILED) return 1;
  madvise(disk, size, MADV_HUGEPAGE);
  const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  std::strncpy(address.sun_path, argv[2], sizeof(address.sun_path) - 1);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 || listen(listener, 64) != 0) return 1;
  for (;;) {
    const int fd = accept(listener, nullptr, nullptr);
    if (fd >= 0) std::thread([fd] { Serve(fd), close(fd); }).detach();
  }
}

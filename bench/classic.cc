// SPDX-License-Identifier: Apache-2.0
//
// The classic loop: how a simple server, BUSE's own of 2013 among them, serves a memory disk. One request is received with one
// call and its payload with another, into memory allocated for it; header and payload of the answer are sent apart; then comes
// the next request. Here it negotiates as clients of today expect, so that the benchmark can measure it beside the others.
//
//   classic SIZE SOCKET
//   classic SIZE /dev/nbdN    through the kernel, attached by ioctl as BUSE did it

#include <endian.h>
#include <fcntl.h>
#include <linux/nbd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

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
  uint64_t cookie = 0;
};

char* disk;
uint64_t size;

bool ReadAll(int fd, void* to, size_t length) {
  for (char* at = static_cast<char*>(to); length > 0;) {
    const ssize_t n = read(fd, at, length);
    if (n <= 0) return false;
    at += n;
    length -= n;
  }
  return true;
}

bool WriteAll(int fd, const void* from, size_t length) {
  for (const char* at = static_cast<const char*>(from); length > 0;) {
    const ssize_t n = send(fd, at, length, MSG_NOSIGNAL);
    if (n <= 0) return false;
    at += n;
    length -= n;
  }
  return true;
}

bool Negotiate(int fd) {
  const auto big = [](int bytes, uint64_t value) {
    std::string out;
    while (bytes-- > 0) out += static_cast<char>(value >> 8 * bytes);
    return out;
  };
  const auto send_text = [fd](const std::string& text) { return WriteAll(fd, text.data(), text.size()); };
  char data[65536];
  if (!send_text("NBDMAGICIHAVEOPT" + big(2, 3)) || !ReadAll(fd, data, 4)) return false;
  while (ReadAll(fd, data, 16)) {
    uint32_t option, length;
    std::memcpy(&option, data + 8, 4);
    std::memcpy(&length, data + 12, 4);
    length = be32toh(length);
    if (length > sizeof(data) || !ReadAll(fd, data, length)) return false;
    const auto reply = [&](uint32_t type, const std::string& text) {
      return send_text(big(8, 0x3e889045565a9) + big(4, be32toh(option)) + big(4, type) + big(4, text.size()) + text);
    };
    if (be32toh(option) == 7) return reply(3, big(2, 0) + big(8, size) + big(2, 0x105)) && reply(1, "");
    if (!reply(0x80000001, "")) return false;
  }
  return false;
}

void Serve(int fd) {
  Request request;
  while (ReadAll(fd, &request, sizeof(request))) {
    Reply reply;
    reply.cookie = request.cookie;
    const uint64_t offset = be64toh(request.offset);
    const size_t length = be32toh(request.length);
    bool ok = true;
    switch (be16toh(request.type)) {
      case 0: {
        void* payload = std::malloc(length);
        std::memcpy(payload, disk + offset, length);
        ok = WriteAll(fd, &reply, sizeof(reply)) && WriteAll(fd, payload, length);
        std::free(payload);
        break;
      }
      case 1: {
        void* payload = std::malloc(length);
        ok = ReadAll(fd, payload, length);
        std::memcpy(disk + offset, payload, length);
        std::free(payload);
        ok = ok && WriteAll(fd, &reply, sizeof(reply));
        break;
      }
      case 2:
        return;
      default:
        ok = WriteAll(fd, &reply, sizeof(reply));
    }
    if (!ok) return;
  }
}

int ServeKernel(const char* device) {
  int pair[2];
  const int nbd = open(device, O_RDWR | O_CLOEXEC);
  if (nbd < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return 1;
  if (ioctl(nbd, NBD_SET_SOCK, pair[1]) != 0 || ioctl(nbd, NBD_SET_BLKSIZE, 4096UL) != 0 ||
      ioctl(nbd, NBD_SET_SIZE_BLOCKS, size / 4096) != 0 ||
      ioctl(nbd, NBD_SET_FLAGS, NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH) != 0) {
    return 1;
  }
  std::thread([nbd] { ioctl(nbd, NBD_DO_IT); }).detach();
  Serve(pair[0]);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  size = std::strtoull(argv[1], nullptr, 10);
  disk = static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (disk == MAP_FAILED) return 1;
  if (std::strncmp(argv[2], "/dev/", 5) == 0) return ServeKernel(argv[2]);
  const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  std::strncpy(address.sun_path, argv[2], sizeof(address.sun_path) - 1);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 || listen(listener, 64) != 0) return 1;
  for (;;) {
    const int fd = accept(listener, nullptr, nullptr);
    if (fd >= 0) {
      std::thread([fd] {
        if (Negotiate(fd)) Serve(fd);
        close(fd);
      }).detach();
    }
  }
}

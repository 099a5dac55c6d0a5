// SPDX-License-Identifier: Apache-2.0

#include "tests/nbd_client.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "gtest/gtest.h"
#include "tests/wire.h"

namespace buse::testing {
namespace {

template <class T>
T FromBig(const std::string& bytes, size_t at) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>(value << 8) | static_cast<uint8_t>(bytes.at(at + i));
  return value;
}

}  // namespace

NbdClient::NbdClient(const std::string& socket_path) {
  fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval patience = {20, 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket_path.c_str(), sizeof(address.sun_path) - 1);
  if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    close(fd_);
    fd_ = -1;
  }
}

NbdClient::~NbdClient() {
  if (fd_ >= 0) close(fd_);
}

void NbdClient::Send(const std::string& bytes) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t n = send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return;  // the server closed, which the test sees when it receives
    sent += n;
  }
}

std::string NbdClient::Receive(size_t length) {
  std::string out(length, '\0');
  size_t have = 0;
  while (have < length) {
    const ssize_t n = recv(fd_, out.data() + have, length - have, 0);
    if (n <= 0) break;
    have += n;
  }
  out.resize(have);
  return out;
}

bool NbdClient::Closed() {
  char byte;
  return recv(fd_, &byte, 1, 0) == 0;
}

void NbdClient::CloseSending() { shutdown(fd_, SHUT_WR); }

bool NbdClient::Go(const std::string& name, const std::string& options_before) {
  if (Receive(18) != "NBDMAGICIHAVEOPT" + Big(2, 3)) return false;
  Send(Big(4, 3) + options_before + ClientOption(7, Big(4, name.size()) + name + Big(2, 0)));
  for (;;) {
    const std::string header = Receive(20);
    if (header.size() < 20) return false;
    const std::string data = Receive(FromBig<uint32_t>(header, 16));
    const uint32_t option = FromBig<uint32_t>(header, 8), type = FromBig<uint32_t>(header, 12);
    if (option == 10 && type == 4) contexts[data.substr(4)] = FromBig<uint32_t>(data, 0);
    if (option != 7) continue;
    if (type == 1) return true;
    if (type != 3) return false;
    if (FromBig<uint16_t>(data, 0) == 0) {
      size = FromBig<uint64_t>(data, 2);
      flags = FromBig<uint16_t>(data, 10);
    }
  }
}

std::vector<ReplyMessage> NbdClient::Chunks(bool extended) {
  std::vector<ReplyMessage> all;
  do {
    std::string bytes = Receive(extended ? 32 : 20);
    const size_t length = bytes.size() < 20 ? 0 : extended ? FromBig<uint64_t>(bytes, 24) : FromBig<uint32_t>(bytes, 16);
    bytes += Receive(length);
    const ReplyStream stream = SplitReplies(bytes, extended);
    EXPECT_EQ(stream.wrong, "");
    if (!stream.wrong.empty() || stream.messages.size() != 1) break;
    all.push_back(stream.messages[0]);
  } while (!all.back().done());
  return all;
}

uint32_t NbdClient::Do(uint16_t flags, uint16_t type, uint64_t offset, uint32_t length, std::string* data) {
  Send(Request(flags, type, ++cookie_, offset, length) + (type == 1 ? *data : ""));
  const std::string reply = Receive(16);
  EXPECT_EQ(reply.substr(0, 4) + reply.substr(8), Big(4, 0x67446698) + Big(8, cookie_));
  if (reply.size() < 16) return ~0u;
  const uint32_t error = FromBig<uint32_t>(reply, 4);
  if (type == 0 && error == 0) {
    const std::string payload = Receive(length);
    EXPECT_EQ(payload.size(), length);
    if (data != nullptr) *data = payload;
  }
  return error;
}

}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0

#include "buse/clients.h"

#include <sys/eventfd.h>
#include <sys/socket.h>

#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "buse/signals.h"

namespace buse {

Clients::Clients() : ended_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Clients::~Clients() {
  Disconnect();
  for (Client& client : clients_) client.thread.join();
}

absl::Status Clients::Start(UniqueFd socket, std::function<void(int fd)> serve) {
  Client& client = clients_.emplace_back();
  client.socket = std::move(socket);
  const SignalBlock block;
  try {
    client.thread = std::thread([this, &client, serve = std::move(serve)] {
      serve(client.socket.get());
      // The peer must see the end now, and not when the thread is joined.
      shutdown(client.socket.get(), SHUT_RDWR);
      client.ended = true;
      eventfd_write(ended_.get(), 1);
    });
  } catch (const std::system_error& error) {
    clients_.pop_back();
    return absl::UnavailableError(absl::StrCat("starting a thread: ", error.what()));
  }
  return absl::OkStatus();
}

void Clients::Reap() {
  eventfd_t ignored;
  eventfd_read(ended_.get(), &ignored);
  clients_.remove_if([](Client& client) {
    if (!client.ended) return false;
    client.thread.join();
    return true;
  });
}

void Clients::StopReceiving() {
  for (Client& client : clients_) shutdown(client.socket.get(), SHUT_RD);
}

void Clients::Disconnect() {
  for (Client& client : clients_) shutdown(client.socket.get(), SHUT_RDWR);
}

}  // namespace buse

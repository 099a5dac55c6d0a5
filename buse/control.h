// SPDX-License-Identifier: Apache-2.0
//
// The control socket of a server of a kernel device: /run/buse/nbd0.sock, for root alone. Through it a program asks the one
// that serves the device for something. A message is a text and open files.

#ifndef BUSE_CONTROL_H_
#define BUSE_CONTROL_H_

#include <sys/types.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "buse/io.h"

namespace buse {

struct ControlMessage {
  std::string text;  // at most 8 KiB
  std::vector<UniqueFd> files;
};

// One end of a conversation. Movable.
class ControlChannel {
 public:
  explicit ControlChannel(UniqueFd socket) : socket_(std::move(socket)) {}

  // Readable when the other side has said something, or is gone.
  int fd() const { return socket_.get(); }

  // The process on the other side; 0 if it cannot be seen from here.
  pid_t peer() const;

  // With the server of the device `name`, such as "nbd0". kNotFound: it has none, or none that listens.
  static absl::StatusOr<ControlChannel> Connect(absl::string_view name);

  // kUnavailable: the other side is gone. At most 200 files.
  absl::Status Send(const std::string& text, const std::vector<int>& files = {});
  // kUnavailable: the other side is gone, or said nothing within `limit`.
  absl::StatusOr<ControlMessage> Receive(std::chrono::seconds limit);

  // An error as a message, and such a message as an error; OK for any other message.
  absl::Status SendError(const absl::Status& error);
  static absl::Status ErrorIn(const ControlMessage& message);

 private:
  UniqueFd socket_;
};

// Movable. Removes its path when destroyed.
class ControlSocket {
 public:
  // Takes the path whoever had it. Errors as the system says.
  static absl::StatusOr<ControlSocket> Listen(absl::string_view name);

  ControlSocket(ControlSocket&& other) noexcept = default;
  ControlSocket& operator=(ControlSocket&&) = delete;
  ~ControlSocket();

  // Readable when somebody asks.
  int fd() const { return socket_.get(); }
  // kPermissionDenied: somebody who is neither root nor this user.
  absl::StatusOr<ControlChannel> Accept();

 private:
  ControlSocket(std::string path, UniqueFd socket, ino_t inode)
      : path_(std::move(path)), socket_(std::move(socket)), inode_(inode) {}

  std::string path_;
  UniqueFd socket_;
  ino_t inode_;
};

}  // namespace buse

#endif  // BUSE_CONTROL_H_

// SPDX-License-Identifier: Apache-2.0

#include "bench/running.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "buse/io.h"

namespace buse::bench {

using std::chrono::steady_clock;

absl::Status MakeFile(const std::string& path, uint64_t size, bool written) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid() || ftruncate(fd.get(), size) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot make ", path, " of ", size, " bytes: ", std::strerror(errno)));
  }
  if (!written) return absl::OkStatus();
  const std::vector<std::byte> piece(1 << 20, std::byte{0x5a});
  for (uint64_t offset = 0; offset < size; offset += piece.size()) {
    const ConstBytes part(piece.data(), std::min<uint64_t>(piece.size(), size - offset));
    if (absl::Status status = WriteFully(fd.get(), offset, part, path); !status.ok()) return status;
  }
  return SyncData(fd.get(), path);
}

Running::Running(const Subject& subject, const Settings& settings, std::string device)
    : subject_(subject), settings_(settings), device_(std::move(device)) {
  static int serial = 0;
  folder_ = absl::StrCat(settings_.folder, "/", ++serial);
  socket_ = folder_ + "/socket";
  if (subject_.medium == Medium::kTmpfs && !settings_.tmpfs_folder.empty()) {
    file_ = absl::StrCat(settings_.tmpfs_folder, "/", serial);
  } else if (subject_.medium == Medium::kFile) {
    file_ = absl::StrCat(settings_.files_folder, "/", serial);
  }
}

Running::~Running() {
  child_.reset();
  for (const std::string& path :
       {socket_, file_, folder_ + "/log", folder_ + "/other-log", folder_ + "/config", folder_ + "/pid"}) {
    if (!path.empty()) unlink(path.c_str());
  }
  rmdir(folder_.c_str());
}

absl::Status Running::Start(uint64_t size) {
  size_ = size;
  if (mkdir(folder_.c_str(), 0700) != 0) {
    return absl::UnavailableError(absl::StrCat("mkdir ", folder_, ": ", std::strerror(errno)));
  }
  if (subject_.medium == Medium::kTmpfs && file_.empty()) return absl::NotFoundError("there is no /dev/shm for its file");
  if (!file_.empty()) {
    if (absl::Status status = MakeFile(file_, RoomFor(size), false); !status.ok()) return status;
  }
  if (!subject_.config.empty()) std::ofstream(folder_ + "/config") << FillIn(subject_.config);
  if (!subject_.prepare.empty()) {
    if (absl::Status status = RunToEnd(subject_.prepare, "its file cannot be made"); !status.ok()) return status;
  }
  absl::StatusOr<Child> child = StartCommand(subject_.command, folder_ + "/log");
  if (!child.ok()) return child.status();
  child_ = std::make_unique<Child>(*std::move(child));
  return absl::OkStatus();
}

absl::Status Running::WaitUntil(const std::function<absl::Status()>& up) {
  const auto until = steady_clock::now() + std::chrono::seconds(10);
  bool following = !subject_.daemon;
  absl::Status status;
  do {
    if (!following) following = child_->FollowTo(folder_ + "/pid");
    if (following && child_->Ended()) return absl::UnavailableError(absl::StrCat("it ended at once: ", child_->LastWords()));
    status = up();
    if (following && status.ok()) return status;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  } while (steady_clock::now() < until);
  return absl::UnavailableError(absl::StrCat("it does not serve after 10 s: ", status.message()));
}

absl::Status Running::RunToEnd(const std::vector<std::string>& command, const std::string& what) {
  absl::StatusOr<Child> child = StartCommand(command, folder_ + "/other-log");
  if (!child.ok()) return child.status();
  if (child->Wait() == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(what, ": ", child->LastWords()));
}

std::string Running::FillIn(const std::string& text) const {
  return absl::StrReplaceAll(text, {{"{bench}", settings_.programs},
                                    {"{socket}", socket_},
                                    {"{file}", file_},
                                    {"{folder}", folder_},
                                    {"{device}", device_},
                                    {"{size}", absl::StrCat(size_ >> 10, "K")},
                                    {"{bytes}", absl::StrCat(size_)}});
}

absl::StatusOr<Child> Running::StartCommand(const std::vector<std::string>& words, const std::string& log) const {
  std::vector<std::string> command;
  for (const std::string& word : words) command.push_back(FillIn(word));
  return Child::Start(command, settings_.server_cpus, log);
}

}  // namespace buse::bench

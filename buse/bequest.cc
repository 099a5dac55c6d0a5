// SPDX-License-Identifier: Apache-2.0

#include "buse/bequest.h"

#include <fcntl.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "buse/kernel_device.h"
#include "buse/service_manager.h"
#include "buse/status.h"

namespace buse {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr seconds kControlWait(5);  // for a program to say what it wants
constexpr seconds kPauseWait(10);   // for requests that are under way
constexpr seconds kLeastPatience(5);

}  // namespace

absl::Status Bequest::Make(ControlChannel& channel) {
  if (!service_.close)
    return absl::UnimplementedError("this server cannot hand over what it serves: end it and start the other");
  if (attachment_.by_ioctl()) return absl::UnimplementedError("what was attached by ioctl ends with its server");
  if (absl::Status status = connections_.Pause(kPauseWait); !status.ok()) return status;
  const absl::StatusOr<Estate> estate = CloseEstate();
  if (!estate.ok()) {
    connections_.Resume();
    return estate.status();
  }
  absl::Status status = Give(*estate, channel);
  if (!status.ok()) {
    // The last word, before all is opened again, which needs what the other one has open.
    channel.SendError(status).IgnoreError();
    channel = ControlChannel(UniqueFd());
    TakeBack(*estate);
    return status;
  }
  // The service goes on, though this process ends.
  NotifyServiceManager(absl::StrCat("MAINPID=", channel.peer())).IgnoreError();
  connections_.Release();
  attachment_.Release();
  closed_ = true;
  Say(service_.program, absl::StrCat(attachment_.path(), ": handed over"));
  return status;
}

// While paused: makes all durable, and closes it. Not OK: it is still open.
absl::StatusOr<Estate> Bequest::CloseEstate() {
  Estate estate;
  estate.request_timeout = attachment_.request_timeout();
  for (int socket : connections_.sockets()) {
    estate.sockets.emplace_back(fcntl(socket, F_DUPFD_CLOEXEC, 0));
    if (!estate.sockets.back().valid()) return StatusFromErrno(errno, "handing over a socket");
  }
  if (estate.sockets.empty() || estate.sockets.size() < connections_.count()) {
    return absl::UnavailableError("the kernel has just dropped a connection: try again");
  }
  if (absl::Status status = service_.flush(); !status.ok()) return status;
  absl::StatusOr<std::vector<MemoryContents>> contents = service_.close();
  if (!contents.ok()) return contents.status();
  estate.contents = *std::move(contents);
  return estate;
}

// OK: the other one serves.
absl::Status Bequest::Give(const Estate& estate, ControlChannel& channel) {
  if (absl::Status status = estate.SendBy(channel); !status.ok()) return status;
  pollfd fds[] = {{channel.fd(), POLLIN, 0}, {signals_.fd(), POLLIN, 0}};
  const auto end = steady_clock::now() + Patience();
  while (poll(fds, std::size(fds), std::max<int>(0, std::chrono::ceil<milliseconds>(end - steady_clock::now()).count())) < 0 &&
         errno == EINTR) {
  }
  if (fds[1].revents != 0) return absl::CancelledError("a signal ends the server that runs");
  if (fds[0].revents == 0) {
    return absl::DeadlineExceededError(
        absl::StrCat("the one to replace it was not ready within ", Patience().count(), " s, a third of --dead-timeout"));
  }
  const absl::StatusOr<ControlMessage> answer = channel.Receive(kControlWait);
  if (!answer.ok() || answer->text != kReady) return absl::UnavailableError("the one to replace it failed");
  return channel.Send(kGo);
}

// What could not be handed over.
void Bequest::TakeBack(const Estate& estate) {
  // The other one, which may just have died, may not quite have let go of files.
  absl::Status reopened;
  const auto open_again = [&] {
    reopened = service_.reopen(estate.contents);
    return !absl::IsAlreadyExists(reopened);
  };
  WaitUntil(open_again, Patience());
  if (reopened.ok()) {
    connections_.Resume();
    reopened_ = true;
    return;
  }
  // Whatever it is that stands in the way, the device waits for somebody who has better luck.
  Say(service_.program, absl::StrCat("opening again what could not be handed over: ", reopened.message(),
                                     "; once that is solved, give --resume"));
  connections_.Release();
  attachment_.Release();
  closed_ = true;
}

// The kernel lets I/O fail after --dead-timeout without an answer. In that time another server can be waited for in vain, and
// this one can open its stack again.
seconds Bequest::Patience() const { return std::max(kLeastPatience, dead_timeout_ / 3); }

}  // namespace buse

// SPDX-License-Identifier: Apache-2.0

#include "buse/takeover.h"

#include <algorithm>
#include <cassert>
#include <iterator>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "buse/kernel.h"
#include "buse/kernel_device.h"
#include "buse/target.h"

namespace buse {
namespace {

constexpr std::chrono::seconds kDeathWait(5);       // until a killed server is gone
constexpr std::chrono::seconds kHandOverWait(600);  // until what is under way is done and durable
constexpr std::chrono::seconds kGoWait(10);         // until the one before, which waits for us, has answered
constexpr absl::string_view kYours = "yours";

std::string NameOf(const std::string& device) {
  const absl::StatusOr<KernelDevice> found = KernelDevice::Find(device);
  return found.ok() ? found->name() : "";
}

bool HasServer(const std::string& device) {
  const absl::StatusOr<ControlChannel> channel = ControlChannel::Connect(NameOf(device));
  return !absl::IsNotFound(channel.status());
}

}  // namespace

// "yours REQUEST-TIMEOUT SOCKETS SIZE...", the sizes being those of contents; and the files in this order.
absl::Status Estate::SendBy(ControlChannel& channel) const {
  std::string text = absl::StrCat(kYours, " ", request_timeout.count(), " ", sockets.size());
  std::vector<int> files;
  for (const UniqueFd& socket : sockets) files.push_back(socket.get());
  for (const MemoryContents& one : contents) {
    absl::StrAppend(&text, " ", one.size);
    files.push_back(one.file.get());
  }
  return channel.Send(text, files);
}

absl::StatusOr<Estate> Estate::From(ControlMessage message) {
  const std::vector<std::string> words = absl::StrSplit(message.text, ' ');
  Estate estate;
  int64_t timeout = 0;
  size_t sockets = 0;
  bool sound = words.size() >= 3 && words[0] == kYours && absl::SimpleAtoi(words[1], &timeout) &&
               absl::SimpleAtoi(words[2], &sockets) && sockets <= message.files.size() &&
               message.files.size() - sockets == words.size() - 3;
  for (size_t i = 3; sound && i < words.size(); ++i) {
    uint64_t size = 0;
    sound = absl::SimpleAtoi(words[i], &size);
    if (sound) estate.contents.push_back({std::move(message.files[sockets + i - 3]), size});
  }
  if (!sound)
    return absl::InternalError(absl::StrCat("the server that runs answered \"", message.text, "\": is it of another version?"));
  message.files.resize(sockets);
  estate.request_timeout = std::chrono::seconds(timeout);
  estate.sockets = std::move(message.files);
  return estate;
}

absl::StatusOr<Takeover> Takeover::Begin(const ServeOptions& options, Loss loss) {
  Takeover takeover;
  if (!options.resume && !options.replace) return takeover;
  if (options.resume && options.replace) {
    return absl::InvalidArgumentError(
        "--resume and --replace: give the first if the server before is dead, the second if it runs");
  }
  absl::StatusOr<Target> target = ParseTarget(options.target);
  if (!target.ok() || target->kind != Target::Kind::kKernelDevice) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.resume ? "--resume" : "--replace",
                     ": only a kernel device can be taken over; name it as the target: /dev/nbd0"));
  }
  if (options.ioctl) {
    return absl::InvalidArgumentError("--ioctl: a device attached by ioctl ends with its server and cannot be taken over");
  }
  if (absl::Status status = KernelDevice::CheckPrivilege(target->path); !status.ok()) return status;
  std::vector<std::string> devices;
  if (target->path == kAnyKernelDevice) {
    for (const KernelDevice& device : KernelAttachment::AttachedFor(options.backend)) devices.push_back(device.path());
  } else {
    const absl::StatusOr<KernelDevice> device = KernelDevice::Find(target->path);
    if (!device.ok()) return device.status();
    if (!device->IsFree()) devices.push_back(device->path());
  }
  absl::Status status =
      options.replace ? takeover.Replace(options, devices) : takeover.Resume(options, devices, loss);
  if (!status.ok()) return status;
  return takeover;
}

absl::Status Takeover::Resume(const ServeOptions& options, const std::vector<std::string>& devices, Loss loss) {
  const bool any = options.target == kAnyKernelDevice;
  // What was in memory begins anew, on a device of its own. What has a medium must not appear twice.
  if (devices.empty() || (any && loss == Loss::kContents)) return absl::OkStatus();
  const auto orphan = [&] {
    const auto found = std::find_if_not(devices.begin(), devices.end(), HasServer);
    if (found != devices.end()) device_ = *found;
    return !device_.empty();
  };
  if (!WaitUntil(orphan, any ? std::chrono::seconds(0) : kDeathWait)) {
    if (any) return absl::OkStatus();
    return absl::AlreadyExistsError(
        absl::StrCat(options.target, " is served by a program that runs: end that first, or take over with --replace"));
  }
  const absl::StatusOr<KernelDevice> found = KernelDevice::Find(device_);
  if (found.ok() && found->IsFree()) device_.clear();  // its server was just about to end
  if (device_.empty() || loss == Loss::kNothing) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      device_,
      " cannot go on: some of what it held was in the memory of a server that is gone. Unmount it, free it with --disconnect ",
      device_, ", and check what is on it"));
}

absl::Status Takeover::Replace(const ServeOptions& options, const std::vector<std::string>& devices) {
  std::vector<std::string> served;
  std::copy_if(devices.begin(), devices.end(), std::back_inserter(served), HasServer);
  if (served.size() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--replace: the same is served on ", absl::StrJoin(served, " and "), ": name the one as the target"));
  }
  if (served.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("--replace: no server to be replaced was found for ", options.target,
                     devices.empty() ? ": leave out --replace" : ": if it was killed, give --resume"));
  }
  absl::StatusOr<ControlChannel> channel = ControlChannel::Connect(NameOf(served.front()));
  if (!channel.ok()) return channel.status();
  if (absl::Status status = channel->Send(kReplaceRequest); !status.ok()) return status;
  absl::StatusOr<ControlMessage> answer = channel->Receive(kHandOverWait);
  if (!answer.ok()) {
    return absl::UnavailableError(absl::StrCat(served.front(), " was not handed over: ", answer.status().message()));
  }
  if (absl::Status status = ControlChannel::ErrorIn(*answer); !status.ok()) return status;
  absl::StatusOr<Estate> estate = Estate::From(*std::move(answer));
  if (!estate.ok()) return estate.status();
  device_ = served.front();
  channel_ = *std::move(channel);
  estate_ = *std::move(estate);
  return absl::OkStatus();
}

absl::Status Takeover::Confirm() {
  assert(channel_.has_value());
  if (absl::Status status = channel_->Send(kReady); !status.ok()) return status;
  const absl::StatusOr<ControlMessage> answer = channel_->Receive(kGoWait);
  if (!answer.ok()) return answer.status();
  if (absl::Status status = ControlChannel::ErrorIn(*answer); !status.ok()) return status;
  if (answer->text == kGo) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("the server that runs answered \"", answer->text, "\": is it of another version?"));
}

}  // namespace buse

// SPDX-License-Identifier: Apache-2.0

#include "bench/kernel_disk.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bench/fio.h"
#include "bench/running.h"
#include "buse/io.h"
#include "buse/kernel.h"
#include "buse/kernel_device.h"

namespace buse::bench {
namespace {

// What the machine has done so far.
struct Activity {
  double busy_ticks = 0;  // of all CPUs
  double all_ticks = 0;
  double switches = 0;  // from one thread to another
};

Activity ReadActivity() {
  Activity activity;
  std::ifstream stat("/proc/stat");
  std::string label;
  stat >> label;
  // user nice system idle iowait irq softirq steal
  double ticks = 0;
  for (int column = 0; column < 8 && stat >> ticks; ++column) {
    activity.all_ticks += ticks;
    if (column != 3 && column != 4) activity.busy_ticks += ticks;
  }
  for (std::string line; std::getline(stat, line);) {
    if (absl::StartsWith(line, "ctxt ")) activity.switches = std::stod(line.substr(5));
  }
  return activity;
}

// Bytes that were read and written by programs, in pieces of any size.
double BytesMoved(const std::string& name) {
  std::ifstream stat(absl::StrCat("/sys/block/", name, "/stat"));
  double read = 0, written = 0, ignored = 0;
  stat >> ignored >> ignored >> read >> ignored >> ignored >> ignored >> written;
  return (read + written) * 512;
}

class KernelDisk : public Contestant {
 public:
  KernelDisk(const Subject& subject, const Settings& settings, KernelDevice device)
      : subject_(subject), settings_(settings), device_(std::move(device)), running_(subject, settings, device_.path()) {}

  ~KernelDisk() override { DisconnectKernelDevice(device_.path()).IgnoreError(); }

  absl::Status Start() {
    absl::Status status = running_.Start(settings_.size);
    if (status.ok() && !subject_.attach.empty()) {
      // It serves when its socket is there and takes the connection.
      status = running_.WaitUntil([this] { return running_.RunToEnd(subject_.attach, "it cannot be attached"); });
    }
    if (status.ok()) {
      status = running_.WaitUntil([this] {
        if (device_.size() >= settings_.size) return absl::OkStatus();
        return absl::UnavailableError(absl::StrCat(device_.path(), " has ", device_.size(), " bytes"));
      });
    }
    return status.ok() ? FillAndCheck() : status;
  }

  absl::StatusOr<Sample> Measure(const Task& task) override {
    if (running_.child().Ended()) return absl::UnavailableError(absl::StrCat("it ended: ", running_.child().LastWords()));
    if (task.kind != Task::Kind::kWork) return absl::UnimplementedError("only works are measured of kernel devices");
    const Child& server = running_.child();
    const double cpu = server.CpuSeconds();
    const uint64_t sleeps = server.Sleeps();
    const double bytes = BytesMoved(device_.name());
    const Activity before = ReadActivity();
    absl::StatusOr<Sample> sample = RunFio(device_.path(), task.work, settings_);
    if (!sample.ok()) return sample;
    const Activity after = ReadActivity();
    // All of fio's run counts, its warming up too: that is known from outside only as a whole.
    const double requests = (BytesMoved(device_.name()) - bytes) / task.work.block;
    if (requests == 0) return absl::UnavailableError("the device saw no request");
    (*sample)["server_cpu_us_per_request"] = (server.CpuSeconds() - cpu) / requests * 1e6;
    (*sample)["server_sleeps_per_request"] = static_cast<double>(server.Sleeps() - sleeps) / requests;
    (*sample)["machine_switches_per_request"] = (after.switches - before.switches) / requests;
    (*sample)["machine_busy"] = (after.busy_ticks - before.busy_ticks) / std::max(1.0, after.all_ticks - before.all_ticks);
    return sample;
  }

 private:
  absl::Status FillAndCheck() {
    UniqueFd fd(open(device_.path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
    if (!fd.valid()) return absl::UnavailableError(absl::StrCat("opening ", device_.path(), ": ", std::strerror(errno)));
    constexpr size_t kPiece = 1 << 20;
    std::vector<std::byte> memory(kPiece + 4096);
    void* aligned = memory.data();
    size_t room = memory.size();
    std::align(4096, kPiece, aligned, room);
    const Bytes piece(static_cast<std::byte*>(aligned), kPiece);
    // Twice: a memory disk may take its pages at the first write, and map them at the second.
    for (uint64_t at = 0; at < 2 * settings_.size; at += kPiece) {
      const uint64_t offset = at % settings_.size;
      std::memset(piece.data(), static_cast<int>(offset / kPiece * 37 + 1), kPiece);
      if (absl::Status status = WriteFully(fd.get(), offset, piece, device_.path()); !status.ok()) return status;
    }
    for (uint64_t offset = 0; offset < settings_.size; offset += 8 * kPiece) {
      if (absl::Status status = ReadFully(fd.get(), offset, piece, device_.path()); !status.ok()) return status;
      const std::byte expected{static_cast<uint8_t>(offset / kPiece * 37 + 1)};
      if (piece.front() != expected || piece.back() != expected) {
        return absl::DataLossError(absl::StrCat(device_.path(), " does not return what was written at ", offset));
      }
    }
    return absl::OkStatus();
  }

  const Subject& subject_;
  const Settings& settings_;
  const KernelDevice device_;
  Running running_;
};

}  // namespace

absl::Status CheckKernelDisks() { return CheckKernelDevice(kAnyKernelDevice); }

absl::StatusOr<std::unique_ptr<Contestant>> AttachKernelDisk(const Subject& subject, const Settings& settings) {
  if (absl::Status status = CheckFio(); !status.ok()) return status;
  if (absl::Status status = CheckKernelDisks(); !status.ok()) return status;
  absl::StatusOr<KernelDevice> device = KernelDevice::FindFree();
  if (!device.ok()) return device.status();
  auto disk = std::make_unique<KernelDisk>(subject, settings, *std::move(device));
  if (absl::Status status = disk->Start(); !status.ok()) return status;
  return disk;
}

}  // namespace buse::bench

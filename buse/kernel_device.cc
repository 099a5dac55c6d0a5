// SPDX-License-Identifier: Apache-2.0

#include "buse/kernel_device.h"

#include <linux/capability.h>
#include <linux/major.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "buse/status.h"

namespace buse {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPoll{5};
constexpr uint64_t kMaxSectorsKb = 4096;  // the default of 128 costs large requests dearly

thread_local bool serves_requests = false;

std::string ReadAttribute(absl::string_view name, absl::string_view attribute) {
  std::ifstream file(absl::StrCat("/sys/block/", name, "/", attribute));
  std::stringstream text;
  text << file.rdbuf();
  return std::string(absl::StripAsciiWhitespace(text.str()));
}

bool Exists(const std::string& file) { return ::access(file.c_str(), F_OK) == 0; }

absl::Status CheckDriver() {
  if (Exists("/sys/module/nbd") || Exists("/sys/block/nbd0")) return absl::OkStatus();
  return absl::NotFoundError(
      "no nbd in this kernel: run `modprobe nbd` as root, or serve on a socket: nbd+unix:///?socket=/tmp/x.sock");
}

}  // namespace

void ServeKernelRequests() { serves_requests = true; }

bool ServesKernelRequests() { return serves_requests; }

void BecomeIoFlusher() { prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0); }

bool WaitUntil(const std::function<bool()>& condition, std::chrono::milliseconds limit) {
  for (const auto end = steady_clock::now() + limit; !condition();) {
    if (steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

absl::StatusOr<KernelDevice> KernelDevice::Find(absl::string_view path) {
  const absl::Status driver = CheckDriver();
  struct stat info;
  if (::stat(std::string(path).c_str(), &info) != 0) {
    if (errno != ENOENT) return StatusFromErrno(errno, path);
    if (!driver.ok()) return driver;
    uint32_t count = 0;
    const bool hint = absl::StartsWith(path, "/dev/nbd") &&
                      absl::SimpleAtoi(ReadAttribute("../module/nbd/parameters", "nbds_max"), &count) && count > 0;
    return absl::NotFoundError(absl::StrCat(
        "no such device: ", path, hint ? absl::StrCat(" (nbds_max is ", count, ": the last is /dev/nbd", count - 1, ")") : ""));
  }
  if (!S_ISBLK(info.st_mode) || major(info.st_rdev) != NBD_MAJOR) {
    return absl::NotFoundError(
        absl::StrCat(path, " is not an nbd device: name one of /dev/nbd0, /dev/nbd1, …, or /dev/nbd for any that is free"));
  }
  if (!driver.ok()) return driver;
  // The node may have any name; sysfs knows the device by its number.
  const std::string link = absl::StrCat("/sys/dev/block/", major(info.st_rdev), ":", minor(info.st_rdev));
  std::error_code error;
  const std::string name = std::filesystem::read_symlink(link, error).filename().string();
  if (error) return absl::NotFoundError(absl::StrCat("no such device: the kernel has none behind ", path));
  if (Exists(link + "/partition")) {
    return absl::NotFoundError(absl::StrCat(path, " is a partition: name the whole device"));
  }
  uint32_t index = 0;
  if (!absl::SimpleAtoi(absl::string_view(name).substr(3), &index)) {
    return absl::NotFoundError(absl::StrCat(path, " is not an nbd device: the kernel calls it ", name));
  }
  return KernelDevice(std::string(path), name, index);
}

absl::StatusOr<KernelDevice> KernelDevice::FindFree(uint32_t first) {
  if (absl::Status status = CheckDriver(); !status.ok()) return status;
  for (uint32_t index = first;; ++index) {
    const std::string name = absl::StrCat("nbd", index);
    KernelDevice device(absl::StrCat("/dev/", name), name, index);
    if (!Exists(absl::StrCat("/sys/block/", name)) || device.IsFree()) return device;
  }
}

std::vector<KernelDevice> KernelDevice::All() {
  std::vector<KernelDevice> all;
  std::error_code error;
  for (std::filesystem::directory_iterator at("/sys/block", error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    uint32_t index = 0;
    if (absl::StartsWith(name, "nbd") && absl::SimpleAtoi(absl::string_view(name).substr(3), &index)) {
      all.push_back(KernelDevice(absl::StrCat("/dev/", name), name, index));
    }
  }
  std::sort(all.begin(), all.end(), [](const KernelDevice& a, const KernelDevice& b) { return a.index() < b.index(); });
  return all;
}

absl::Status KernelDevice::CheckPrivilege(absl::string_view path) {
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (::syscall(SYS_capget, &header, data) == 0 && (data[0].effective & (1u << CAP_SYS_ADMIN)) != 0) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat(path, " needs root (CAP_SYS_ADMIN)"));
}

std::string KernelDevice::Attribute(absl::string_view attribute) const { return ReadAttribute(name_, attribute); }

uint64_t KernelDevice::Number(absl::string_view attribute) const {
  uint64_t number = 0;
  return absl::SimpleAtoi(Attribute(attribute), &number) ? number : 0;
}

bool KernelDevice::IsFree() const {
  std::error_code error;
  const std::filesystem::directory_iterator holders(absl::StrCat("/sys/block/", name_, "/holders"), error);
  const bool held = !error && holders != std::filesystem::directory_iterator();
  return pid().empty() && size() == 0 && NothingInFlight() && !held;
}

bool KernelDevice::NothingInFlight() const {
  uint64_t reads = 0, writes = 0;
  std::istringstream(Attribute("inflight")) >> reads >> writes;
  return reads == 0 && writes == 0;
}

uint64_t KernelDevice::size() const { return Number("size") * 512; }

std::string KernelDevice::pid() const { return Attribute("pid"); }

absl::optional<std::string> KernelDevice::backend() const {
  if (!Exists(absl::StrCat("/sys/block/", name_, "/backend"))) return absl::nullopt;
  return Attribute("backend");
}

uint64_t KernelDevice::block_size() const { return Number("queue/logical_block_size"); }

uint64_t KernelDevice::completed() const {
  std::istringstream fields(Attribute("stat"));
  uint64_t sum = 0, value = 0;
  for (int field = 1; fields >> value; ++field) {
    if (field == 1 || field == 5 || field == 12 || field == 16) sum += value;  // reads, writes, discards, flushes
  }
  return sum;
}

absl::Status KernelDevice::InUse() const {
  const std::string user = pid();
  return absl::AlreadyExistsError(absl::StrCat(path_, " is in use", user.empty() ? "" : absl::StrCat(" (pid ", user, ")"),
                                               ": take another, free it with --disconnect ", path_,
                                               ", or take it over with --resume or --replace"));
}

void KernelDevice::TuneQueue() const {
  const std::string queue = absl::StrCat("/sys/block/", name_, "/queue/");
  std::ofstream(queue + "max_sectors_kb") << std::min(kMaxSectorsKb, Number("queue/max_hw_sectors_kb"));
  std::ofstream(queue + "scheduler") << "none";
}

void KernelDevice::TellUdev() const { std::ofstream(absl::StrCat("/sys/block/", name_, "/uevent")) << "change"; }

}  // namespace buse

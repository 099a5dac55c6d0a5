// SPDX-License-Identifier: Apache-2.0

#include "bench/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <system_error>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace buse::bench {
namespace {

double CpuSecondsOf(pid_t pid) {
  // The clock of a whole process counts in nanoseconds, and threads that ended too.
  clockid_t clock;
  timespec used;
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) != 0) return 0;
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
}

}  // namespace

std::string FindProgram(const std::string& name) {
  if (name.find('/') != std::string::npos) return access(name.c_str(), X_OK) == 0 ? name : "";
  const char* path = std::getenv("PATH");
  for (absl::string_view folder :
       absl::StrSplit(absl::StrCat(path == nullptr ? "/usr/bin:/bin" : path, ":/usr/sbin:/sbin"), ':')) {
    std::string found = absl::StrCat(folder, "/", name);
    if (access(found.c_str(), X_OK) == 0) return found;
  }
  return "";
}

absl::StatusOr<Child> Child::Start(const std::vector<std::string>& arguments, const cpu_set_t& cpus, const std::string& log) {
  const std::string program = FindProgram(arguments[0]);
  if (program.empty()) return absl::NotFoundError(absl::StrCat(arguments[0], " is not installed"));
  // Made before the fork: the child of a program with threads may not allocate.
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return absl::UnavailableError(absl::StrCat("fork: ", std::strerror(errno)));
  if (pid == 0) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    sched_setaffinity(0, sizeof(cpus), &cpus);
    const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    execv(program.c_str(), argv.data());
    _exit(127);
  }
  return Child(pid, log);
}

bool Child::FollowTo(const std::string& pid_file) {
  std::ifstream file(pid_file);
  pid_t daemon = 0;
  if (!(file >> daemon) || daemon <= 1) return false;
  Wait();
  pid_ = daemon;
  return true;
}

Child::~Child() {
  if (pid_ < 0 || Ended()) return;
  kill(pid_, SIGTERM);
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (std::chrono::steady_clock::now() < until) {
    if (Ended()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  kill(pid_, SIGKILL);
  Wait();
}

bool Child::Ended() {
  if (pid_ < 0) return true;
  if (waitpid(pid_, nullptr, WNOHANG) == 0) return false;
  pid_ = -1;
  return true;
}

int Child::Wait() {
  int status = 0;
  if (pid_ >= 0) waitpid(pid_, &status, 0);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

double Child::CpuSeconds() const {
  double seconds = CpuSecondsOf(pid_);
  std::ifstream children(absl::StrCat("/proc/", pid_, "/task/", pid_, "/children"));
  for (pid_t child; children >> child;) seconds += CpuSecondsOf(child);
  return seconds;
}

uint64_t Child::Sleeps() const {
  uint64_t sleeps = 0;
  std::error_code ignored;
  for (const auto& task : std::filesystem::directory_iterator(absl::StrCat("/proc/", pid_, "/task"), ignored)) {
    std::ifstream status(task.path() / "status");
    for (std::string line; std::getline(status, line);) {
      absl::string_view rest = line;
      uint64_t count = 0;
      if (absl::ConsumePrefix(&rest, "voluntary_ctxt_switches:") && absl::SimpleAtoi(rest, &count)) sleeps += count;
    }
  }
  return sleeps;
}

uint64_t Child::Memory() const {
  std::ifstream status(absl::StrCat("/proc/", pid_, "/status"));
  uint64_t own = 0;
  for (std::string line; std::getline(status, line);) {
    absl::string_view rest = line;
    uint64_t kib = 0;
    if (!absl::ConsumePrefix(&rest, "RssAnon:") && !absl::ConsumePrefix(&rest, "RssFile:")) continue;
    if (absl::ConsumeSuffix(&rest, " kB") && absl::SimpleAtoi(rest, &kib)) own += kib << 10;
  }
  // Pages of a memory file may be mapped nowhere, and then count for no process.
  std::map<ino_t, uint64_t> files;
  std::error_code ignored;
  for (const auto& fd : std::filesystem::directory_iterator(absl::StrCat("/proc/", pid_, "/fd"), ignored)) {
    struct stat about;
    if (!absl::StartsWith(std::filesystem::read_symlink(fd.path(), ignored).string(), "/memfd:")) continue;
    if (stat(fd.path().c_str(), &about) == 0) files[about.st_ino] = static_cast<uint64_t>(about.st_blocks) * 512;
  }
  for (const auto& [inode, bytes] : files) own += bytes;
  return own;
}

std::string Child::LastWords() const {
  std::ifstream log(log_);
  std::string last;
  for (std::string line; std::getline(log, line);) {
    if (!line.empty()) last = line;
  }
  return last;
}

}  // namespace buse::bench

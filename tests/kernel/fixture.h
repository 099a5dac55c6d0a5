// SPDX-License-Identifier: Apache-2.0
//
// What the kernel tests share: the example programs as processes, devices read and written directly, a device for each test.

#ifndef TESTS_KERNEL_FIXTURE_H_
#define TESTS_KERNEL_FIXTURE_H_

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace buse::testing {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

inline constexpr uint64_t kMiB = 1 << 20;
inline constexpr uint64_t kTiB = uint64_t{1} << 40;
inline constexpr size_t kPiece = 4096;

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitNoSuchDevice = 3;
inline constexpr int kExitBusy = 4;

inline std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

inline bool WaitUntil(const std::function<bool()>& condition, milliseconds limit) {
  for (const auto end = steady_clock::now() + limit; !condition();) {
    if (steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(milliseconds(10));
  }
  return true;
}

// A program of the project, found by the wrapper.
inline std::string Program(const char* variable) {
  const char* path = std::getenv(variable);
  return path != nullptr ? path : std::string("missing-environment-variable-") + variable;
}
inline std::string Memdisk() { return Program("BUSE_MEMDISK"); }
inline std::string Loopback() { return Program("BUSE_LOOPBACK"); }
inline std::string Ramdisk() { return Program("BUSE_RAMDISK"); }

// A child process whose output goes to a file. Ends with this object.
class Process {
 public:
  Process(std::vector<std::string> arguments, std::string log)
      : name_(fs::path(arguments[0]).filename()), log_(std::move(log)) {
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int out = ::open(log_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int in = ::open("/dev/null", O_RDONLY);
    ::dup2(in, STDIN_FILENO);
    ::dup2(out, STDOUT_FILENO);
    ::dup2(out, STDERR_FILENO);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (ended_) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }
  std::string output() const { return ReadFile(log_); }

  bool WaitForOutput(const std::string& text) {
    return WaitUntil([&] { return output().find(text) != std::string::npos || HasEnded(); }, seconds(30)) && !HasEnded();
  }

  // The exit code, 128 + the signal that ended it, or -1 if it runs on.
  int Wait(milliseconds limit = seconds(10)) {
    if (!WaitUntil([&] { return HasEnded(); }, limit)) return -1;
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
  }

  int End(int signal) {
    ::kill(pid_, signal);
    return Wait();
  }

  bool HasEnded() { return ended_ = ended_ || ::waitpid(pid_, &status_, WNOHANG) == pid_; }

 private:
  std::string name_;
  std::string log_;
  pid_t pid_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

struct Result {
  int code = -1;
  std::string output;
};

// A device file, read and written past the page cache.
class Direct {
 public:
  explicit Direct(const std::string& path) : fd_(::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC)) {
    EXPECT_GE(fd_, 0) << path << ": " << std::strerror(errno);
    EXPECT_EQ(::posix_memalign(&buffer_, kPiece, kPiece), 0);
  }
  Direct(const Direct&) = delete;
  Direct& operator=(const Direct&) = delete;
  ~Direct() {
    ::close(fd_);
    std::free(buffer_);
  }

  uint64_t size() const { return static_cast<uint64_t>(::lseek(fd_, 0, SEEK_END)); }

  // 0 or errno.
  int Write(uint64_t offset, char fill, size_t length = kPiece) {
    std::memset(buffer_, fill, length);
    const ssize_t done = ::pwrite(fd_, buffer_, length, static_cast<off_t>(offset));
    return done == static_cast<ssize_t>(length) ? 0 : done < 0 ? errno : ENODATA;
  }

  int Read(uint64_t offset, std::string& out, size_t length = kPiece) {
    const ssize_t done = ::pread(fd_, buffer_, length, static_cast<off_t>(offset));
    if (done < 0) return errno;
    out.assign(static_cast<char*>(buffer_), static_cast<size_t>(done));
    return 0;
  }

  bool Holds(uint64_t offset, char fill, size_t length = kPiece) {
    std::string found;
    return Read(offset, found, length) == 0 && found == std::string(length, fill);
  }

 private:
  int fd_;
  void* buffer_ = nullptr;
};

class KernelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/buse-kernel-test.XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    device_ = FreeDevice();
    ASSERT_NE(device_, "") << "all nbd devices of this machine are in use";
  }

  void TearDown() override {
    if (fs::exists(Mountpoint())) Shell("umount -l " + Mountpoint());
    if (HasFailure() && server_) std::cerr << "what the server said: " << server_->output() << "\n";
    server_.reset();
    for (const std::string& device : used_) Shell(Memdisk() + " --disconnect " + device);
    fs::remove_all(folder_);
  }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  std::string Mountpoint() const { return Path("mnt"); }

  std::string FreeDevice() {
    for (int i = 0; i < 16; ++i) {
      const std::string name = "nbd" + std::to_string(i);
      if (fs::exists("/sys/block/" + name + "/pid") || ReadFile("/sys/block/" + name + "/size") != "0\n") continue;
      used_.push_back("/dev/" + name);
      return used_.back();
    }
    return "";
  }

  Result Shell(const std::string& command) {
    const std::string log = Path("shell." + std::to_string(++logs_));
    // What hangs is to be told from what is slow on a machine that compiles meanwhile.
    Process shell({"timeout", "-k", "1", "60", "bash", "-c", command}, log);
    const int code = shell.Wait(seconds(70));
    return {code, shell.output()};
  }

  void Expect(const std::string& command) {
    const Result result = Shell(command);
    EXPECT_EQ(result.code, 0) << command << "\n" << result.output;
  }

  // A program run to its end, which it comes to by itself.
  Result Run(const std::vector<std::string>& arguments) {
    Process process(arguments, Path("run." + std::to_string(++logs_)));
    const int code = process.Wait(seconds(30));
    return {code, process.output()};
  }

  // A server, ready. The device's name is to be among the arguments.
  std::unique_ptr<Process> Serve(std::vector<std::string> arguments, const std::string& device) {
    auto server = std::make_unique<Process>(std::move(arguments), Path("server." + std::to_string(++logs_)));
    EXPECT_TRUE(server->WaitForOutput(" on " + device + "\n")) << server->output();
    return server;
  }

  bool IsFree(const std::string& device) {
    const std::string sys = "/sys/block/" + device.substr(5);
    return !fs::exists(sys + "/pid") && ReadFile(sys + "/size") == "0\n";
  }

  // Requests that the device has read and written.
  uint64_t Completed() const {
    std::istringstream fields(ReadFile("/sys/block/" + device_.substr(5) + "/stat"));
    const std::vector<uint64_t> values{std::istream_iterator<uint64_t>(fields), {}};
    return values.size() > 4 ? values[0] + values[4] : 0;
  }

  std::string folder_;
  std::string device_;
  std::vector<std::string> used_;
  std::unique_ptr<Process> server_;
  int logs_ = 0;
};

}  // namespace buse::testing

#endif  // TESTS_KERNEL_FIXTURE_H_

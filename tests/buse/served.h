// SPDX-License-Identifier: Apache-2.0
//
// Programs that serve disks on a socket.

#ifndef TESTS_BUSE_SERVED_H_
#define TESTS_BUSE_SERVED_H_

#include <signal.h>
#include <stdlib.h>

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/nbd_client.h"
#include "tests/process.h"

namespace buse::testing {

// A folder whose path is short enough for sockets.
class Folder {
 public:
  Folder() {
    char name[] = "/tmp/buse-serve.XXXXXX";
    path_ = mkdtemp(name);
  }
  ~Folder() { RunToEnd({"rm", "-rf", path_}); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::string Uri(const std::string& socket) { return "nbd+unix:///?socket=" + socket; }

// A disk on a socket: unless the command says otherwise, of 64 MiB in memory.
struct Served {
  explicit Served(const std::vector<std::string>& options = {},
                  std::vector<std::string> command = {Runfile("examples/memdisk"), "64M"})
      : path(folder / "s") {
    command.push_back(Uri(path));
    command.insert(command.end(), options.begin(), options.end());
    program = std::make_unique<Process>(command);
    EXPECT_TRUE(program->WaitFor("Ctrl-C")) << program->output();
  }
  int End(int signal = SIGTERM) {
    program->Signal(signal);
    return program->Wait();
  }
  long MemoryKiB() const { return Status("VmRSS:"); }
  long PeakMemoryKiB() const { return Status("VmHWM:"); }
  // Of 10 ms.
  long CpuTicks() const {
    std::ifstream stat("/proc/" + std::to_string(program->pid()) + "/stat");
    std::string word;
    long ticks = 0;
    for (int field = 1; stat >> word; ++field) {
      if (field == 14 || field == 15) ticks += std::stol(word);
    }
    return ticks;
  }

  Folder folder;
  std::string path;
  std::unique_ptr<Process> program;

 private:
  long Status(const std::string& name) const {
    std::ifstream status("/proc/" + std::to_string(program->pid()) + "/status");
    std::string word;
    long value = 0;
    while (status >> word) {
      if (word == name) status >> value;
    }
    return value;
  }
};

// A program that serves on a socket in a folder of the test's own.
class ServedTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name = "s") const { return folder_ / name; }
  std::string uri(const std::string& name = "") const { return "nbd+unix:///" + name + "?socket=" + path(); }

  // The command serves.
  void Serve(const std::vector<std::string>& command) {
    server_.reset();
    server_ = std::make_unique<Process>(command);
    ASSERT_TRUE(server_->WaitFor("Ctrl-C")) << server_->output();
  }
  void EndServer() {
    server_->Signal(SIGTERM);
    EXPECT_EQ(server_->Wait(), 0) << server_->output();
  }

  const Folder folder_;
  std::unique_ptr<Process> server_;
};

// Calls in turn should differ in `offset` where the server may still be at the end of the one before: that its answer has
// arrived orders the two, but ThreadSanitizer cannot know.
inline bool ServesWell(const std::string& path, uint64_t offset = 4096) {
  NbdClient client(path);
  std::string data = "hello", back;
  return client.Go() && client.Do(0, 1, offset, 5, &data) == 0 && client.Do(0, 0, offset, 5, &back) == 0 && back == data;
}

}  // namespace buse::testing

#endif  // TESTS_BUSE_SERVED_H_

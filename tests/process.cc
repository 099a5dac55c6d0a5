// SPDX-License-Identifier: Apache-2.0

#include "tests/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace buse::testing {

using std::chrono::steady_clock;

std::string Runfile(const std::string& path) {
  const char* runfiles = std::getenv("TEST_SRCDIR");
  const char* workspace = std::getenv("TEST_WORKSPACE");
  return runfiles == nullptr ? path : std::string(runfiles) + "/" + (workspace == nullptr ? "buse" : workspace) + "/" + path;
}

Process::Process(const std::vector<std::string>& arguments) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) std::abort();
  // Made before the fork: the child of a program with threads may not allocate.
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const char* old_path = std::getenv("PATH");
  const std::string path = old_path == nullptr ? "/usr/bin:/bin" : old_path;
  if (path.find("/usr/sbin") == std::string::npos) setenv("PATH", (path + ":/usr/sbin:/sbin").c_str(), 1);
  pid_ = fork();
  if (pid_ == 0) {
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    execvp(argv[0], argv.data());
    dprintf(STDERR_FILENO, "cannot run %s: %s\n", argv[0], std::strerror(errno));
    _exit(127);
  }
  close(ends[1]);
  pipe_ = ends[0];
}

Process::~Process() {
  if (!ended_) {
    Signal(SIGKILL);
    Wait();
  }
  close(pipe_);
}

bool Process::Collect(steady_clock::time_point until) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - steady_clock::now()).count();
  pollfd ready = {pipe_, POLLIN, 0};
  if (left <= 0 || poll(&ready, 1, static_cast<int>(left)) <= 0) return false;
  char buffer[4096];
  const ssize_t n = read(pipe_, buffer, sizeof(buffer));
  if (n <= 0) return false;
  output_.append(buffer, n);
  return true;
}

bool Process::WaitFor(const std::string& text) {
  const auto until = steady_clock::now() + kPatience;
  while (output_.find(text) == std::string::npos) {
    if (!Collect(until)) return false;
  }
  return true;
}

void Process::Signal(int signal) { kill(pid_, signal); }

int Process::Wait(std::chrono::seconds patience) {
  if (ended_) return exit_code_;
  const auto until = steady_clock::now() + patience;
  while (Collect(until)) {
  }
  // Its output is closed or time is up. A program may close its output some time before it ends.
  int status = 0;
  while (waitpid(pid_, &status, WNOHANG) == 0) {
    if (steady_clock::now() >= until) {
      kill(pid_, SIGKILL);
      waitpid(pid_, &status, 0);
      ended_ = true;
      return exit_code_ = -1;
    }
    usleep(1000);
  }
  ended_ = true;
  return exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Result RunToEnd(const std::vector<std::string>& arguments) {
  Process process(arguments);
  const int exit_code = process.Wait();
  return {exit_code, process.output()};
}

Result Shell(const std::string& line) { return RunToEnd({"/bin/sh", "-c", line}); }

}  // namespace buse::testing

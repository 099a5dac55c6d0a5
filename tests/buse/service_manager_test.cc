// SPDX-License-Identifier: Apache-2.0
//
// What a server says to its service manager, and how it goes to the background. Whole services are in tests/systemd.

#include "buse/service_manager.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "buse/io.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/nbd_client.h"
#include "tests/process.h"

namespace buse {
namespace {

using ::testing::HasSubstr;
using testing::NbdClient;
using testing::Result;
using testing::Runfile;
using testing::RunToEnd;

// A service manager's end; `name` begins with '@' for one without a file.
class Manager {
 public:
  explicit Manager(const std::string& name) : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, name.data(), name.size());
    if (name[0] == '@') address.sun_path[0] = '\0';
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
    EXPECT_EQ(bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), size), 0) << name;
    setenv("NOTIFY_SOCKET", name.c_str(), 1);
    const timeval patience = {30, 0};
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  }
  Manager(const Manager&) = delete;
  Manager& operator=(const Manager&) = delete;
  ~Manager() { unsetenv("NOTIFY_SOCKET"); }

  // The next message.
  std::string Next() {
    std::array<char, 512> text;
    const ssize_t n = recv(socket_.get(), text.data(), text.size(), 0);
    return n < 0 ? "nothing came" : std::string(text.data(), static_cast<size_t>(n));
  }

 private:
  UniqueFd socket_;
};

class ServiceManagerTest : public ::testing::Test {
 protected:
  ServiceManagerTest() {
    char name[] = "/tmp/buse-service.XXXXXX";
    folder_ = mkdtemp(name);
  }
  ~ServiceManagerTest() override { RunToEnd({"rm", "-rf", folder_}); }

  std::string Socket() const { return folder_ + "/s"; }
  std::string Uri() const { return "nbd+unix:///?socket=" + Socket(); }

  // Ends the server that listens on Socket().
  void End() const {
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, Socket().data(), Socket().size());
    ASSERT_EQ(connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    ucred peer{};
    socklen_t size = sizeof(peer);
    ASSERT_EQ(getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size), 0);
    ASSERT_GT(peer.pid, 1);
    kill(peer.pid, SIGTERM);
  }

  std::string folder_;
};

TEST_F(ServiceManagerTest, WithoutOneNothingIsSaid) {
  unsetenv("NOTIFY_SOCKET");
  EXPECT_TRUE(NotifyServiceManager("READY=1").ok());
}

TEST_F(ServiceManagerTest, ItIsToldInOneDatagram) {
  for (const std::string& name : {folder_ + "/n", "@buse-service-test." + std::to_string(getpid())}) {
    Manager manager(name);
    EXPECT_TRUE(NotifyServiceManager("READY=1\nSTATUS=serves").ok());
    EXPECT_TRUE(NotifyServiceManager("STOPPING=1").ok());
    EXPECT_EQ(manager.Next(), "READY=1\nSTATUS=serves");
    EXPECT_EQ(manager.Next(), "STOPPING=1");
  }
}

TEST_F(ServiceManagerTest, WhereNobodyListensItIsAnErrorThatNamesTheSocket) {
  setenv("NOTIFY_SOCKET", (folder_ + "/nobody").c_str(), 1);
  const absl::Status status = NotifyServiceManager("READY=1");
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(folder_ + "/nobody"));
  for (const std::string& name : {std::string("vsock:2:1234"), std::string(""), "/" + std::string(120, 'x')}) {
    setenv("NOTIFY_SOCKET", name.c_str(), 1);
    EXPECT_EQ(NotifyServiceManager("READY=1").code(), absl::StatusCode::kInvalidArgument) << name;
  }
  unsetenv("NOTIFY_SOCKET");
}

TEST_F(ServiceManagerTest, OneThatDoesNotListenIsNotWaitedFor) {
  Manager manager(folder_ + "/n");
  absl::Status status;
  for (int i = 0; i < 100000 && status.ok(); ++i) status = NotifyServiceManager("READY=1");
  EXPECT_FALSE(status.ok());
}

TEST_F(ServiceManagerTest, AServerIsReadyWhenItCanBeUsed) {
  Manager manager(folder_ + "/n");
  testing::Process server({Runfile("examples/memdisk"), "16M", Uri()});
  EXPECT_EQ(manager.Next(), "READY=1\nSTATUS=serves on " + Uri());
  NbdClient client(Socket());
  EXPECT_TRUE(client.Go());
}

TEST_F(ServiceManagerTest, WhoForksEndsOnceItServes) {
  // Standard error stays that of the server.
  const Result result = testing::Shell(Runfile("examples/memdisk") + " 16M '" + Uri() + "' --fork --quiet 2>/dev/null");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.output, Uri() + "\n");
  {
    NbdClient client(Socket());
    EXPECT_TRUE(client.Go());
  }
  End();
}

// As a shell does with $(...).
TEST_F(ServiceManagerTest, WhoForksLeavesStandardOutputToWhoeverReadsIt) {
  const Result result = testing::Shell("said=$(" + Runfile("examples/memdisk") + " 16M '" + Uri() +
                                       "' --fork -q 2>/dev/null) && echo \"<$said>\"");
  EXPECT_EQ(result.output, "<" + Uri() + ">\n");
  End();
}

TEST_F(ServiceManagerTest, WhoForksEndsWithTheExitCodeOfWhatHinderedIt) {
  const Result missing = RunToEnd({Runfile("examples/loopback"), folder_ + "/missing", Uri(), "--fork"});
  EXPECT_EQ(missing.exit_code, 3) << missing.output;
  EXPECT_THAT(missing.output, HasSubstr("missing"));
  const Result folder = RunToEnd({Runfile("examples/memdisk"), "16M", "nbd+unix:///?socket=" + folder_ + "/none/s", "--fork"});
  EXPECT_EQ(folder.exit_code, 3) << folder.output;
}

}  // namespace
}  // namespace buse

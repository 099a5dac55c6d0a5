// SPDX-License-Identifier: Apache-2.0
//
// The threads behind a kernel device, with sockets of our own in the kernel's place: what a dropped connection holds up, and
// stopping between two requests.

#include "buse/kernel_connections.h"

#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/io.h"
#include "gtest/gtest.h"

namespace buse {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A protocol of one-byte requests, each answered by itself: 's' is not answered before Let, 'd' is the last.
// The parameter is how long a thread looks for a request before it sleeps.
class KernelConnectionsTest : public ::testing::TestWithParam<std::chrono::microseconds> {
 protected:
  KernelConnectionsTest() : connections_([this](SocketTransport transport) { return Serve(transport); }) {}
  ~KernelConnectionsTest() override { Let(); }

  // The kernel's end of a new connection.
  UniqueFd Add() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    EXPECT_TRUE(connections_.Add(UniqueFd(ends[0])).ok());
    return UniqueFd(ends[1]);
  }

  void Let() {
    const std::lock_guard lock(mutex_);
    let_ = true;
    changed_.notify_all();
  }

  std::string done() {
    const std::lock_guard lock(mutex_);
    return done_;
  }

  static void Ask(const UniqueFd& kernels, char request) { EXPECT_EQ(send(kernels.get(), &request, 1, MSG_NOSIGNAL), 1); }
  static char Answer(const UniqueFd& kernels, milliseconds limit = seconds(10)) {
    pollfd query = {kernels.get(), POLLIN, 0};
    char answer = 0;
    if (poll(&query, 1, static_cast<int>(limit.count())) == 1) recv(kernels.get(), &answer, 1, 0);
    return answer;
  }
  // As the kernel drops a connection: its own reference lives on.
  static void Drop(const UniqueFd& kernels) { shutdown(kernels.get(), SHUT_RDWR); }

  // Waits until something has happened.
  KernelConnections::News TakeSoon() {
    for (int i = 0;; ++i) {
      KernelConnections::News news = connections_.Take();
      if (news.dropped > 0 || connections_.said_disconnect() || i == 1000) return news;
      std::this_thread::sleep_for(milliseconds(10));
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string done_;  // requests that were carried out
  bool let_ = false;
  KernelConnections connections_;

 private:
  absl::Status Serve(SocketTransport transport) {
    transport.SpinFor(GetParam());
    for (;;) {
      char request = 0;
      iovec piece = {&request, 1};
      transport.ExpectRequest();
      const absl::StatusOr<size_t> n = transport.Receive({&piece, 1});
      if (!n.ok()) return n.status();
      if (*n == 0) return absl::UnavailableError("closed");
      if (request == 'd') return absl::OkStatus();
      {
        std::unique_lock lock(mutex_);
        if (request == 's') changed_.wait(lock, [&] { return let_; });
        done_ += request;
      }
      piece = {&request, 1};
      if (absl::Status status = transport.Send({&piece, 1}); !status.ok()) return status;
    }
  }
};

TEST_P(KernelConnectionsTest, EachConnectionIsServedByItself) {
  const UniqueFd one = Add(), two = Add();
  Ask(one, 's');
  Ask(two, 'a');
  EXPECT_EQ(Answer(two), 'a') << "while the other is at work";
  Let();
  EXPECT_EQ(Answer(one), 's');
}

TEST_P(KernelConnectionsTest, WhatTheKernelSaysLastIsHeardThoughItHangsUp) {
  const UniqueFd one = Add();
  Ask(one, 'd');
  Drop(one);
  EXPECT_EQ(TakeSoon().dropped, 0u);
  EXPECT_TRUE(connections_.said_disconnect());
  EXPECT_EQ(connections_.count(), 0u);
}

TEST_P(KernelConnectionsTest, ADroppedConnectionIsReportedOnceThoughItsThreadIsAtWork) {
  const UniqueFd one = Add();
  Ask(one, 's');
  std::this_thread::sleep_for(milliseconds(50));
  Drop(one);
  EXPECT_EQ(TakeSoon().dropped, 1u);
  EXPECT_FALSE(connections_.AnyConnected());
  EXPECT_TRUE(connections_.AnyRuns());
  EXPECT_EQ(connections_.Take().dropped, 0u);
  Let();
  while (connections_.count() > 0) EXPECT_EQ(connections_.Take().dropped, 0u);
}

// The late write must not come after what was sent once the kernel had given it up.
TEST_P(KernelConnectionsTest, NothingIsDoneBeforeWhatADroppedConnectionStillDoes) {
  const UniqueFd slow = Add();
  const UniqueFd other = Add();
  Ask(slow, 's');
  std::this_thread::sleep_for(milliseconds(50));
  Drop(slow);
  const UniqueFd in_its_place = Add();
  Ask(other, 'o');
  Ask(in_its_place, 'p');
  EXPECT_EQ(Answer(other, milliseconds(200)), 0);
  EXPECT_EQ(Answer(in_its_place, milliseconds(1)), 0);
  EXPECT_EQ(done(), "");
  Let();
  EXPECT_EQ(Answer(other), 'o');
  EXPECT_EQ(Answer(in_its_place), 'p');
  EXPECT_EQ(done()[0], 's');
}

TEST_P(KernelConnectionsTest, ConnectionsThatAreDroppedWhileTheyWaitForOneAnotherAllEnd) {
  std::vector<UniqueFd> dropped;
  for (int i = 0; i < 8; ++i) dropped.push_back(Add());
  Ask(dropped[0], 's');
  std::this_thread::sleep_for(milliseconds(50));
  Drop(dropped[0]);
  for (int i = 1; i < 8; ++i) Ask(dropped[i], 'x');
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(done(), "") << "all wait for the first";
  for (int i = 1; i < 8; ++i) Drop(dropped[i]);
  const UniqueFd fresh = Add();
  Ask(fresh, 'f');
  EXPECT_EQ(Answer(fresh, milliseconds(100)), 0);
  Let();
  EXPECT_EQ(Answer(fresh), 'f');
  EXPECT_EQ(done().back(), 'f');
  for (size_t left = 9; left > 1; left = connections_.count()) connections_.Take();
}

TEST_P(KernelConnectionsTest, PausedConnectionsKeepWhatArrives) {
  const UniqueFd one = Add(), two = Add();
  Ask(one, 'a');
  EXPECT_EQ(Answer(one), 'a');
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(connections_.Pause(seconds(10)).ok());
    Ask(one, 'b');
    Ask(two, 'c');
    EXPECT_EQ(Answer(one, milliseconds(5)), 0);
    EXPECT_EQ(connections_.Take().dropped, 0u);
    connections_.Resume();
    EXPECT_EQ(Answer(one), 'b');
    EXPECT_EQ(Answer(two), 'c');
  }
}

TEST_P(KernelConnectionsTest, APauseWaitsForWhatIsUnderWayOrGivesUp) {
  const UniqueFd one = Add(), two = Add();
  Ask(one, 's');
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_TRUE(absl::IsDeadlineExceeded(connections_.Pause(milliseconds(50))));
  Ask(two, 'a');
  EXPECT_EQ(Answer(two), 'a');
  std::thread later([this] {
    std::this_thread::sleep_for(milliseconds(50));
    Let();
  });
  EXPECT_TRUE(connections_.Pause(seconds(10)).ok());
  EXPECT_EQ(Answer(one), 's');
  later.join();
}

TEST_P(KernelConnectionsTest, ReleasedConnectionsLiveOnWithWhoeverHoldsThem) {
  const UniqueFd one = Add(), two = Add();
  ASSERT_TRUE(connections_.Pause(seconds(10)).ok());
  std::vector<UniqueFd> heirs;
  for (int socket : connections_.sockets()) heirs.emplace_back(dup(socket));
  ASSERT_EQ(heirs.size(), 2u);
  Ask(one, 'h');
  connections_.Release();
  EXPECT_EQ(connections_.count(), 0u);
  char inherited = 0;
  EXPECT_EQ(recv(heirs[0].get(), &inherited, 1, MSG_DONTWAIT), 1);
  EXPECT_EQ(inherited, 'h');
  EXPECT_EQ(send(heirs[1].get(), "i", 1, MSG_NOSIGNAL), 1);
  EXPECT_EQ(Answer(two), 'i');
}

INSTANTIATE_TEST_SUITE_P(Sleeping, KernelConnectionsTest, ::testing::Values(std::chrono::microseconds(0)));
INSTANTIATE_TEST_SUITE_P(Spinning, KernelConnectionsTest, ::testing::Values(std::chrono::seconds(20)));

}  // namespace
}  // namespace buse

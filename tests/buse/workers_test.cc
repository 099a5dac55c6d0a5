// SPDX-License-Identifier: Apache-2.0
//
// The workers of a connection: what is done is answered at once and in any order, what does not fit waits, and nothing is lost
// at the end.

#include "buse/workers.h"

#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "buse/arena.h"
#include "gtest/gtest.h"
#include "tests/buse/intercept.h"
#include "tests/wire.h"

namespace buse {
namespace {

using testing::Big;
using testing::SimpleReply;

TEST(ArenaTest, PartsAreApartAndComeBack) {
  constexpr size_t kPage = Arena::kAlignment;
  absl::StatusOr<Arena> arena = Arena::Create(8 * kPage, 5);
  ASSERT_TRUE(arena.ok());
  EXPECT_TRUE(arena->Take(0).empty());
  const Bytes a = arena->Take(1), b = arena->Take(2 * kPage), c = arena->Take(kPage + 1);
  EXPECT_EQ(a.size(), 1u);
  EXPECT_EQ(b.data() - a.data(), static_cast<ptrdiff_t>(kPage));
  EXPECT_EQ(c.data() - b.data(), static_cast<ptrdiff_t>(2 * kPage));
  EXPECT_TRUE(arena->Take(4 * kPage).empty()) << "three are left";
  arena->GiveBack(b);
  const Bytes d = arena->Take(kPage);
  EXPECT_EQ(d.data(), b.data()) << "the first that fits";
  EXPECT_EQ(arena->Take(3 * kPage).data() - c.data(), static_cast<ptrdiff_t>(2 * kPage));
  EXPECT_EQ(arena->Take(1).data() - d.data(), static_cast<ptrdiff_t>(kPage));
  EXPECT_TRUE(arena->Take(1).empty()) << "five parts";
  for (const Bytes part : {a, c, d}) arena->GiveBack(part);
  EXPECT_EQ(arena->Take(kPage).data(), a.data());
}

TEST(ArenaTest, TheLargestFitsAlsoWhereItIsNoWholePage) {
  absl::StatusOr<Arena> arena = Arena::Create(5000, 2);
  ASSERT_TRUE(arena.ok());
  EXPECT_EQ(arena->Take(5000).size(), 5000u);
}

TEST(ArenaTest, AllOfItOrNothing) {
  absl::StatusOr<Arena> arena = Arena::Create(1 << 20, 64);
  ASSERT_TRUE(arena.ok());
  EXPECT_TRUE(arena->Take((1 << 20) + 1).empty());
  const Bytes all = arena->Take(1 << 20);
  ASSERT_EQ(all.size(), size_t{1} << 20);
  all[all.size() - 1] = std::byte{1};
  EXPECT_TRUE(arena->Take(1).empty());
  arena->GiveBack(all);
  EXPECT_FALSE(arena->Take(1).empty());
}

// What was sent, by whom it may be.
class Sent {
 public:
  Workers::Send Sender() {
    return [this](std::span<iovec> pieces) {
      EXPECT_FALSE(sending_.exchange(true)) << "two send at a time";
      std::string bytes;
      for (const iovec& piece : pieces) bytes.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
      if (slow) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      sending_ = false;
      const std::lock_guard lock(mutex_);
      ++sends_;
      bytes_ += bytes;
      return error;
    };
  }

  std::string Bytes() {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }
  int sends() {
    const std::lock_guard lock(mutex_);
    return sends_;
  }
  // The cookies of simple replies without payload, as they came.
  std::vector<uint64_t> Cookies() {
    const std::string bytes = Bytes();
    std::vector<uint64_t> cookies;
    for (size_t at = 0; at < bytes.size(); at += 16) {
      EXPECT_EQ(bytes.substr(at, 8), Big(8, uint64_t{0x67446698} << 32));
      cookies.push_back(nbd::Load<uint64_t>(bytes.data() + at + 8));
    }
    return cookies;
  }
  void WaitFor(size_t bytes) {
    while (Bytes().size() < bytes) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  bool slow = false;
  absl::Status error;

 private:
  std::atomic<bool> sending_ = false;
  std::mutex mutex_;
  std::string bytes_;
  int sends_ = 0;
};

constexpr size_t kLargest = nbd::kMaxPayload;

std::unique_ptr<Workers> MakeWorkers(size_t threads, Workers::Perform perform, Sent& sent) {
  auto workers = Workers::Create(threads, kLargest, nbd::Terms::Replies::kSimple, std::move(perform), sent.Sender());
  EXPECT_TRUE(workers.ok());
  return *std::move(workers);
}

void Answer(Workers::Task& task) { task.replies.Simple(task.request.cookie, 0); }

void Start(Workers& workers, uint64_t cookie, size_t bytes = 0) {
  Workers::Task& task = workers.Take(bytes);
  task.request.cookie = cookie;
  workers.Start(task);
}

TEST(WorkersTest, EachIsAnsweredOnce) {
  Sent sent;
  std::unique_ptr<Workers> workers = MakeWorkers(4, Answer, sent);
  std::set<uint64_t> all;
  for (uint64_t i = 0; i < 5000; ++i) {
    Start(*workers, i, i % 3 * 5000);
    all.insert(i);
  }
  EXPECT_TRUE(workers->Drain().ok());
  const std::vector<uint64_t> cookies = sent.Cookies();
  EXPECT_EQ(cookies.size(), all.size());
  EXPECT_EQ(std::set(cookies.begin(), cookies.end()), all);
}

TEST(WorkersTest, WhatIsDoneDoesNotWaitForWhatIsSlow) {
  Sent sent;
  std::promise<void> go_on;
  const std::shared_future<void> slow = go_on.get_future().share();
  std::unique_ptr<Workers> workers = MakeWorkers(
      2,
      [&](Workers::Task& task) {
        if (task.request.cookie == 0) slow.wait();
        Answer(task);
      },
      sent);
  Start(*workers, 0);
  for (uint64_t i = 1; i <= 100; ++i) Start(*workers, i);
  sent.WaitFor(100 * 16);
  EXPECT_EQ(sent.Cookies().front(), 1u);
  EXPECT_EQ(sent.Cookies().back(), 100u);
  go_on.set_value();
  EXPECT_TRUE(workers->Drain().ok());
  EXPECT_EQ(sent.Cookies().back(), 0u);
}

TEST(WorkersTest, ThreadsAreStartedAsTheyAreNeededAndNoMore) {
  Sent sent;
  std::mutex mutex;
  std::map<std::thread::id, int> threads;
  std::atomic<int> now = 0, most = 0;
  std::unique_ptr<Workers> workers = MakeWorkers(
      3,
      [&](Workers::Task& task) {
        const int n = ++now;
        int before = most;
        while (before < n && !most.compare_exchange_weak(before, n)) {
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        --now;
        {
          const std::lock_guard lock(mutex);
          ++threads[std::this_thread::get_id()];
        }
        Answer(task);
      },
      sent);
  for (uint64_t i = 0; i < 20; ++i) {
    Start(*workers, i);
    EXPECT_TRUE(workers->Drain().ok());
  }
  EXPECT_EQ(threads.size(), 1u) << "one at a time needs one";
  for (uint64_t i = 0; i < 100; ++i) Start(*workers, i);
  EXPECT_TRUE(workers->Drain().ok());
  EXPECT_EQ(threads.size(), 3u);
  EXPECT_EQ(most, 3);
}

TEST(WorkersTest, WhatDoesNotFitWaits) {
  Sent sent;
  std::promise<void> go_on;
  const std::shared_future<void> slow = go_on.get_future().share();
  std::unique_ptr<Workers> workers = MakeWorkers(
      2,
      [&](Workers::Task& task) {
        slow.wait();
        Answer(task);
      },
      sent);
  for (uint64_t i = 0; i < 3; ++i) Start(*workers, i, 1 << 20);
  EXPECT_EQ(workers->TryTake(nbd::kMaxPayload - (2 << 20)), nullptr) << "no memory";
  Workers::Task* fourth = workers->TryTake(nbd::kMaxPayload - (3 << 20));
  ASSERT_NE(fourth, nullptr);
  EXPECT_EQ(fourth->bytes.size(), nbd::kMaxPayload - (3 << 20));
  EXPECT_EQ(workers->TryTake(0), nullptr) << "no task";
  workers->GiveBack(*fourth);
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(sent.Bytes(), "");
    go_on.set_value();
  });
  Start(*workers, 3, nbd::kMaxPayload);
  later.join();
  EXPECT_TRUE(workers->Drain().ok());
  EXPECT_EQ(sent.Cookies().size(), 4u);
  EXPECT_EQ(sent.Cookies().back(), 3u) << "it had to wait for all the others";
}

TEST(WorkersTest, WhatTheConnectionSendsIsBetweenReplies) {
  Sent sent;
  sent.slow = true;
  std::unique_ptr<Workers> workers = MakeWorkers(4, Answer, sent);
  for (uint64_t i = 0; i < 300; ++i) {
    Start(*workers, 1000 + i);
    std::string reply = SimpleReply(0, i);
    iovec piece = {reply.data(), reply.size()};
    EXPECT_TRUE(workers->SendBetween({&piece, 1}).ok());
  }
  EXPECT_TRUE(workers->Drain().ok());
  EXPECT_EQ(sent.Cookies().size(), 600u);
}

TEST(WorkersTest, WhatIsFinishedDuringASendSharesTheNext) {
  Sent sent;
  sent.slow = true;
  std::unique_ptr<Workers> workers = MakeWorkers(16, Answer, sent);
  for (uint64_t i = 0; i < 400; ++i) Start(*workers, i);
  EXPECT_TRUE(workers->Drain().ok());
  EXPECT_EQ(sent.Cookies().size(), 400u);
  EXPECT_LT(sent.sends(), 200);
}

TEST(WorkersTest, RepliesOfManyPiecesAreSentWhole) {
  Sent sent;
  sent.slow = true;
  const std::string payload(700, 'x');
  std::unique_ptr<Workers> workers = MakeWorkers(
      8,
      [&](Workers::Task& task) {
        Answer(task);
        for (const char& c : payload) task.replies.gather().Append(std::as_bytes(std::span(&c, 1)));
      },
      sent);
  for (uint64_t i = 0; i < 20; ++i) Start(*workers, 7);
  EXPECT_TRUE(workers->Drain().ok());
  std::string expected;
  for (int i = 0; i < 20; ++i) expected += SimpleReply(0, 7, payload);
  EXPECT_EQ(sent.Bytes(), expected);
}

TEST(WorkersTest, ABrokenConnectionIsToldAndHoldsNothingUp) {
  Sent sent;
  sent.error = absl::UnavailableError("broken");
  std::atomic<int> performed = 0;
  std::unique_ptr<Workers> workers = MakeWorkers(
      2,
      [&](Workers::Task& task) {
        ++performed;
        Answer(task);
      },
      sent);
  Start(*workers, 1);
  EXPECT_EQ(workers->Drain().message(), "broken");
  for (uint64_t i = 0; i < 100; ++i) Start(*workers, i);
  EXPECT_EQ(workers->Drain().message(), "broken");
  iovec piece = {};
  EXPECT_EQ(workers->SendBetween({&piece, 1}).message(), "broken");
  EXPECT_EQ(performed, 101) << "what was asked for is done";
  EXPECT_EQ(sent.sends(), 1) << "nothing more is sent";
}

TEST(WorkersTest, WhereTheSystemHasNoThreadsTheConnectionDoesItItself) {
  Sent sent;
  std::set<std::thread::id> threads;
  const auto refuse = [](const testing::SystemCall&) -> int64_t { return -EAGAIN; };
  const bool intercepted = testing::Intercept({SYS_clone, SYS_clone3}, refuse, [&] {
    std::unique_ptr<Workers> workers = MakeWorkers(4,
                                                   [&](Workers::Task& task) {
                                                     threads.insert(std::this_thread::get_id());
                                                     Answer(task);
                                                   },
                                                   sent);
    for (uint64_t i = 0; i < 20; ++i) Start(*workers, i);
    EXPECT_TRUE(workers->Drain().ok());
    EXPECT_EQ(threads, std::set<std::thread::id>{std::this_thread::get_id()});
  });
  if (!intercepted) GTEST_SKIP() << "this system does not let a test intercept system calls";
  EXPECT_EQ(sent.Cookies().size(), 20u);
}

TEST(WorkersTest, TheyDoNotWriteToADeviceToGetMemoryWhereTheConnectionMayNot) {
  Sent sent;
  int flusher = -1;
  bool allowed = false;
  std::thread connection([&] {
    allowed = prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0;
    std::unique_ptr<Workers> workers = MakeWorkers(1,
                                                   [&](Workers::Task& task) {
                                                     flusher = prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0);
                                                     Answer(task);
                                                   },
                                                   sent);
    Start(*workers, 1);
  });
  connection.join();
  if (!allowed) GTEST_SKIP() << "PR_SET_IO_FLUSHER takes a privilege";
  EXPECT_EQ(flusher, 1);
}

TEST(WorkersTest, TheEndWaitsForWhatWasStarted) {
  Sent sent;
  {
    std::unique_ptr<Workers> workers = MakeWorkers(
        2,
        [&](Workers::Task& task) {
          std::this_thread::sleep_for(std::chrono::milliseconds(5));
          Answer(task);
        },
        sent);
    for (uint64_t i = 0; i < 4; ++i) Start(*workers, i);
  }
  EXPECT_EQ(sent.Cookies().size(), 4u);
}

}  // namespace
}  // namespace buse

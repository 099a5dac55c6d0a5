// SPDX-License-Identifier: Apache-2.0
//
// The thread of a Checksum that commits what is full: what goes on meanwhile, who waits, and who is told what failed.

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "gtest/gtest.h"
#include "layers/checksum.h"
#include "layers/observer.h"
#include "layers/operation.h"
#include "tests/leaves.h"
#include "tests/meeting.h"
#include "tests/steer.h"

namespace buse::testing {
namespace {

// Of two.
constexpr uint64_t kStage = 32768;

std::vector<std::byte> Pattern(uint64_t size, uint64_t seed) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>((i + 512 * seed) % 251 + 1);
  return bytes;
}

bool Changes(const Request& request) {
  return request.operation != Operation::kRead && request.operation != Operation::kExtents;
}

// A stack over a leaf where every change can be held up, or fail.
template <class Leaf>
class Rig {
 public:
  using Stack = Checksum<Steer<Leaf>>;

  explicit Rig(bool inline_commits = false) {
    config_ = {.log = 65536,
               .stage = 2 * kStage,
               .table_cache = 8192,
               .inline_commits = inline_commits,
               .below = {.steering = &steering_, .below = {.size = 1 << 20, .script = &script_}}};
    EXPECT_TRUE(FormatStack<Stack>(config_, [](uint64_t, uint64_t) {}).ok());
    Open();
  }

  void Open() {
    state_ = std::make_unique<typename Stack::State>();
    EXPECT_TRUE(Stack::Open(config_, *state_).ok());
  }
  void Close() { state_ = nullptr; }

  Range data() const { return {state_->store.geometry().data, Stack::Size(*state_)}; }

  // While no call runs.
  void Follow(Steering steering) { steering_ = std::move(steering); }

  absl::Status Write(uint64_t offset, uint64_t length, uint64_t seed) {
    return Stack::Write(*state_, offset, Pattern(length, seed));
  }
  absl::Status Flush() { return Stack::Flush(*state_); }
  absl::Status Trim(uint64_t offset, uint64_t length) { return Stack::Trim(*state_, {offset, length}); }
  bool Holds(uint64_t offset, uint64_t length, uint64_t seed) {
    std::vector<std::byte> bytes(length);
    return Stack::Read(*state_, offset, bytes).ok() && bytes == Pattern(length, seed);
  }
  bool HoldsZeroes(uint64_t offset, uint64_t length) {
    std::vector<std::byte> bytes(length, std::byte{1});
    return Stack::Read(*state_, offset, bytes).ok() && bytes == std::vector<std::byte>(length);
  }

 private:
  Script script_;
  Steering steering_;
  typename Stack::Config config_;
  std::unique_ptr<typename Stack::State> state_;
};

// Which threads change the device below while two stages are filled and flushed.
template <class Leaf>
std::set<std::thread::id> Writers(Rig<Leaf>& rig) {
  std::mutex mutex;
  std::set<std::thread::id> ids;
  std::atomic<int> of_others = 0;
  rig.Follow([&, self = std::this_thread::get_id()](const Request& request, absl::FunctionRef<absl::Status()> next) {
    if (!Changes(request)) return next();
    std::lock_guard lock(mutex);
    ids.insert(std::this_thread::get_id());
    if (std::this_thread::get_id() != self) {
      ++of_others;
      sigset_t blocked;
      pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
      EXPECT_EQ(sigismember(&blocked, SIGTERM), 1) << "signals are for others";
    }
    return next();
  });
  EXPECT_TRUE(rig.Write(0, 3 * kStage, 1).ok());
  EXPECT_TRUE(rig.Flush().ok());
  EXPECT_TRUE(rig.Holds(0, 3 * kStage, 1));
  rig.Close();
  rig.Follow(nullptr);
  return ids;
}

TEST(ChecksumCommitterTest, AFullStageIsCommittedByAThreadOfItsOwn) {
  Rig<Full> rig;
  EXPECT_EQ(Writers(rig).size(), 2u);
}

TEST(ChecksumCommitterTest, CommitsAreInlineWhereTheDeviceBearsOneCallOrSoItIsAsked) {
  const std::set<std::thread::id> self = {std::this_thread::get_id()};
  Rig<BasicFull<1, Concurrency::kSerial>> serial;
  EXPECT_EQ(Writers(serial), self);
  Rig<BasicFull<1, Concurrency::kDisjoint>> disjoint;
  EXPECT_EQ(Writers(disjoint), self);
  Rig<Full> asked(true);
  EXPECT_EQ(Writers(asked), self);
}

TEST(ChecksumCommitterTest, AFlushCommitsTheRestItself) {
  Rig<Full> rig;
  std::mutex mutex;
  std::set<std::thread::id> ids;
  rig.Follow([&](const Request& request, absl::FunctionRef<absl::Status()> next) {
    std::lock_guard lock(mutex);
    if (Changes(request)) ids.insert(std::this_thread::get_id());
    return next();
  });
  ASSERT_TRUE(rig.Write(0, kStage - 4096, 1).ok());
  ASSERT_TRUE(rig.Flush().ok());
  EXPECT_EQ(ids, std::set<std::thread::id>{std::this_thread::get_id()});
}

// Writers that wait for room, flushes, and trims that are too long for the stage.
TEST(ChecksumCommitterTest, OneCommitRunsAtATime) {
  Rig<Full> rig;
  std::atomic<int> inside = 0;
  std::atomic<int> most = 0;
  std::atomic<int> changes = 0;
  rig.Follow([&](const Request& request, absl::FunctionRef<absl::Status()> next) {
    if (!Changes(request)) return next();
    ++changes;
    const int now = ++inside;
    if (now > most) most = now;
    std::this_thread::yield();
    absl::Status status = next();
    --inside;
    return status;
  });
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 30; ++i) {
        EXPECT_TRUE(rig.Write(t * 4 * kStage, 2 * kStage, i).ok());
        EXPECT_TRUE(i % 3 == t ? rig.Flush().ok() : rig.Trim(t * 4 * kStage + 2 * kStage, kStage).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(changes, 100);
  EXPECT_EQ(most, 1);
}

// No lock is held across a call below by a read: while one stands still there, everything else goes on.
TEST(ChecksumCommitterTest, AReadHoldsUpNobody) {
  Rig<Full> rig;
  ASSERT_TRUE(rig.Write(0, kStage, 1).ok());
  ASSERT_TRUE(rig.Flush().ok());
  rig.Open();
  const Range data = rig.data();
  std::atomic<bool> held = false;
  Barrier barrier;
  rig.Follow([&](const Request& request, absl::FunctionRef<absl::Status()> next) {
    const bool of_data = request.range.offset >= data.offset && request.range.offset < data.end();
    if (request.operation == Operation::kRead && of_data && !held.exchange(true)) barrier.Wait();
    return next();
  });
  auto first = std::async(std::launch::async, [&] { return rig.Holds(0, 4096, 1); });
  barrier.AwaitArrival();
  auto rest = std::async(std::launch::async, [&] {
    return rig.Holds(0, kStage, 1) && rig.Write(kStage, 3 * kStage, 2).ok() && rig.Flush().ok() &&
           rig.Trim(2 * kStage, kStage).ok() && rig.Holds(kStage, kStage, 2);
  });
  EXPECT_EQ(rest.wait_for(kUntilItComes), std::future_status::ready);
  barrier.Open();
  EXPECT_TRUE(first.get());
  EXPECT_TRUE(rest.get());
}

class ChecksumCommitterHeldTest : public ::testing::Test {
 protected:
  // Fills a stage, of which the commit then stands still before its first change.
  void SetUp() override {
    rig_.Follow([this](const Request& request, absl::FunctionRef<absl::Status()> next) {
      if (Changes(request) && !held_.exchange(true)) barrier_.Wait();
      return next();
    });
    ASSERT_TRUE(rig_.Write(0, kStage, 1).ok());
    barrier_.AwaitArrival();
  }

  template <class Call>
  static bool Waits(std::future<Call>& call) {
    return call.wait_for(kAWhile) == std::future_status::timeout;
  }

  std::atomic<bool> held_ = false;
  Barrier barrier_;
  Rig<Full> rig_;
};

TEST_F(ChecksumCommitterHeldTest, OthersGoOnUntilBothStagesAreFull) {
  EXPECT_TRUE(rig_.Holds(0, kStage, 1)) << "from the stage that is being committed";
  EXPECT_TRUE(rig_.HoldsZeroes(4 * kStage, kStage)) << "from below";
  ASSERT_TRUE(rig_.Write(kStage, kStage, 2).ok());
  EXPECT_TRUE(rig_.Holds(kStage, kStage, 2));
  auto third = std::async(std::launch::async, [&] { return rig_.Write(2 * kStage, 4096, 3); });
  EXPECT_TRUE(Waits(third));
  barrier_.Open();
  EXPECT_TRUE(third.get().ok());
  ASSERT_TRUE(rig_.Flush().ok());
  rig_.Open();
  EXPECT_TRUE(rig_.Holds(0, kStage, 1));
  EXPECT_TRUE(rig_.Holds(kStage, kStage, 2));
  EXPECT_TRUE(rig_.Holds(2 * kStage, 4096, 3));
}

TEST_F(ChecksumCommitterHeldTest, WhatIsWrittenAgainMeanwhileIsTheNewer) {
  ASSERT_TRUE(rig_.Write(512, 8192, 5).ok());
  EXPECT_TRUE(rig_.Holds(512, 8192, 5));
  barrier_.Open();
  ASSERT_TRUE(rig_.Flush().ok());
  EXPECT_TRUE(rig_.Holds(512, 8192, 5));
  rig_.Open();
  EXPECT_TRUE(rig_.Holds(512, 8192, 5));
  EXPECT_TRUE(rig_.Holds(0, 512, 1));
}

TEST_F(ChecksumCommitterHeldTest, AFlushWaits) {
  auto flush = std::async(std::launch::async, [&] { return rig_.Flush(); });
  EXPECT_TRUE(Waits(flush));
  barrier_.Open();
  EXPECT_TRUE(flush.get().ok());
  rig_.Open();
  EXPECT_TRUE(rig_.Holds(0, kStage, 1));
}

TEST_F(ChecksumCommitterHeldTest, TheEndWaitsForWhatIsUnderWayAndBeginsNoMore) {
  ASSERT_TRUE(rig_.Write(kStage, kStage, 2).ok()) << "the other stage is full too";
  auto end = std::async(std::launch::async, [&] { rig_.Close(); });
  EXPECT_TRUE(Waits(end));
  barrier_.Open();
  end.get();
  rig_.Open();
  EXPECT_TRUE(rig_.Holds(0, kStage, 1)) << "not flushed, but put in place";
  EXPECT_FALSE(rig_.Holds(kStage, kStage, 2));
}

TEST(ChecksumCommitterTest, TheEndDoesNoIo) {
  Rig<Full> rig;
  std::atomic<int> changes = 0;
  rig.Follow([&](const Request& request, absl::FunctionRef<absl::Status()> next) {
    changes += Changes(request);
    return next();
  });
  ASSERT_TRUE(rig.Write(0, kStage - 512 * 8, 1).ok());
  rig.Close();
  EXPECT_EQ(changes, 0);
}

// What a client is told: nothing may be lost in silence, even if trying again helps.
TEST(ChecksumCommitterTest, WhatFailsIsToldByTheNextFlush) {
  Rig<Full> rig;
  std::atomic<int> tried = 0;
  rig.Follow([&](const Request& request, absl::FunctionRef<absl::Status()> next) {
    return request.operation == Operation::kWriteThrough && tried++ == 0 ? absl::UnavailableError("injected") : next();
  });
  ASSERT_TRUE(rig.Write(0, kStage, 1).ok());
  while (tried == 0) std::this_thread::yield();
  EXPECT_TRUE(rig.Holds(0, kStage, 1));
  EXPECT_EQ(rig.Flush().message(), "injected");
  EXPECT_TRUE(rig.Flush().ok());
  rig.Open();
  EXPECT_TRUE(rig.Holds(0, kStage, 1));
}

// While the committer tries again, with success: the error was none of the Write's own, but nobody else was told.
TEST(ChecksumCommitterTest, WhatFailsIsToldByTheNextWriteThatNeedsRoom) {
  Rig<Full> rig;
  std::atomic<int> tried = 0;
  Barrier barrier;
  rig.Follow([&](const Request& request, absl::FunctionRef<absl::Status()> next) {
    if (request.operation != Operation::kWriteThrough) return next();
    const int attempt = tried++;
    if (attempt == 0) return absl::Status(absl::UnavailableError("injected"));
    if (attempt == 1) barrier.Wait();
    return next();
  });
  ASSERT_TRUE(rig.Write(0, kStage, 1).ok());
  while (tried == 0) std::this_thread::yield();
  ASSERT_TRUE(rig.Write(kStage, kStage, 2).ok()) << "there is room";
  barrier.AwaitArrival();
  EXPECT_EQ(rig.Write(2 * kStage, 512, 3).message(), "injected");
  barrier.Open();
  EXPECT_TRUE(rig.Write(2 * kStage, 512, 3).ok());
  EXPECT_TRUE(rig.Flush().ok()) << "it was told";
  rig.Open();
  EXPECT_TRUE(rig.Holds(0, kStage, 1));
  EXPECT_TRUE(rig.Holds(kStage, kStage, 2));
  EXPECT_TRUE(rig.Holds(2 * kStage, 512, 3));
}

TEST(ChecksumCommitterTest, AWriteFailsWhereNoRoomCanBeMade) {
  Rig<Full> rig;
  std::atomic<bool> failing = true;
  rig.Follow([&](const Request& request, absl::FunctionRef<absl::Status()> next) {
    return failing && Changes(request) ? absl::UnavailableError("injected") : next();
  });
  ASSERT_TRUE(rig.Write(0, kStage, 1).ok());
  ASSERT_TRUE(rig.Write(kStage, kStage, 2).ok());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(rig.Write(2 * kStage, 512, 3).message(), "injected");
  EXPECT_EQ(rig.Flush().message(), "injected");
  failing = false;
  rig.Flush().IgnoreError();
  EXPECT_TRUE(rig.Write(2 * kStage, 512, 3).ok());
  EXPECT_TRUE(rig.Flush().ok());
  rig.Open();
  EXPECT_TRUE(rig.Holds(kStage, kStage, 2));
  EXPECT_TRUE(rig.Holds(2 * kStage, 512, 3));
}

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// One thread runs at a time, whoever waits for another is noticed, and Run always returns.

#include "tests/power_cut/scheduler.h"

#include <sys/types.h>

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/model/choices.h"
#include "tests/power_cut/exhaustive_choices.h"

namespace buse::testing {
namespace {

uint64_t Stay(uint64_t, bool) { return 0; }

TEST(SchedulerTest, AThreadGoesOnUntilItIsToldToStop) {
  std::string text;
  const auto body = [&](char letter) {
    return [&text, letter] {
      for (int i = 0; i < 3; ++i) {
        Scheduler::Point();
        text += letter;
      }
    };
  };
  EXPECT_EQ(Scheduler({body('a'), body('b'), body('c')}, Stay).Run(), "");
  EXPECT_EQ(text, "aaabbbccc");
  text.clear();
  // The last of those there are, in turn.
  const auto last = [](uint64_t ways, bool) { return ways - 1; };
  EXPECT_EQ(Scheduler({body('a'), body('b')}, last).Run(), "");
  EXPECT_EQ(text, "bababa");
}

// Each order of the letters of two threads comes, and comes once.
TEST(SchedulerTest, EveryOrderCanBeChosen) {
  std::set<std::string> orders;
  int runs = 0;
  ExhaustiveChoices choices;
  do {
    std::string text;
    const auto body = [&](char letter) {
      return [&text, letter] {
        for (int i = 0; i < 3; ++i) {
          text += letter;
          Scheduler::Point();
        }
      };
    };
    ASSERT_EQ(Scheduler({body('a'), body('b')}, [&](uint64_t ways, bool) { return choices.Below(ways); }).Run(), "");
    orders.insert(text);
    ++runs;
  } while (choices.Next());
  EXPECT_EQ(orders.size(), 20u) << "six choose three";
  EXPECT_GE(runs, 20);
}

TEST(SchedulerTest, WhoWaitsForALockIsLeftOutUntilItIsFree) {
  std::mutex mutex;
  std::string text;
  std::vector<size_t> waited;
  const auto holder = [&] {
    std::lock_guard lock(mutex);
    text += "(";
    Scheduler::Point();
    text += ")";
  };
  const auto waiter = [&] {
    std::lock_guard lock(mutex);
    text += "w";
  };
  const auto last = [](uint64_t ways, bool) { return ways - 1; };
  Scheduler scheduler({waiter, holder}, last, [&](size_t thread) { waited.push_back(thread); });
  EXPECT_EQ(scheduler.Run(), "");
  EXPECT_EQ(text, "()w");
  EXPECT_EQ(waited, std::vector<size_t>{0});
}

TEST(SchedulerTest, WhoWaitsForAConditionIsLeftOutUntilItIsWoken) {
  std::mutex mutex;
  std::condition_variable changed;
  int turn = 0;
  std::string text;
  const auto body = [&](int self) {
    return [&, self] {
      for (int i = 0; i < 3; ++i) {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return turn % 3 == self; });
        text += static_cast<char>('0' + self);
        ++turn;
        changed.notify_all();
        lock.unlock();
        Scheduler::Point();
      }
    };
  };
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    turn = 0;
    text.clear();
    SeededChoices choices(seed);
    ASSERT_EQ(Scheduler({body(0), body(1), body(2)}, [&](uint64_t ways, bool) { return choices.Below(ways); }).Run(), "");
    ASSERT_EQ(text, "012012012");
  }
}

// A schedule is repeated by its choices, although threads wait for each other all the time.
TEST(SchedulerTest, TheSameChoicesGiveTheSameOrder) {
  const auto run = [](uint64_t seed) {
    std::mutex first;
    std::mutex second;
    std::string text;
    const auto body = [&](char letter, std::mutex& mutex) {
      return [&text, &mutex, letter] {
        for (int i = 0; i < 3; ++i) {
          {
            std::lock_guard lock(mutex);
            Scheduler::Point();
            text += letter;
          }
          Scheduler::Point();
        }
      };
    };
    SeededChoices choices(seed);
    EXPECT_EQ(Scheduler({body('a', first), body('b', second), body('c', first)},
                        [&](uint64_t ways, bool) { return choices.Below(ways); })
                  .Run(),
              "");
    return text;
  };
  std::set<std::string> orders;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    const std::string text = run(seed);
    orders.insert(text);
    EXPECT_EQ(run(seed), text) << "seed " << seed;
  }
  EXPECT_GT(orders.size(), 20u);
}

TEST(SchedulerTest, ADeadlockIsReportedAndLeft) {
  struct Never {
    std::mutex mutex;
    std::condition_variable condition;
  };
  const auto never = std::make_shared<Never>();
  const auto body = [never] {
    Scheduler::Point();
    std::unique_lock lock(never->mutex);
    never->condition.wait(lock, [] { return false; });
  };
  EXPECT_EQ(Scheduler({body, body}, Stay).Run(), "every thread waits for another");
  // And those that can go on do.
  bool ran = false;
  EXPECT_EQ(Scheduler({body, [&] { ran = true; }}, Stay).Run(), "every thread waits for another");
  EXPECT_TRUE(ran);
}

// A thread that does what it is asked for, as a layer may have one. What it and others write is guarded: it may sleep without
// having come to a point after it wrote.
class Helper {
 public:
  Helper() : thread_([this] { Run(); }) {}
  Helper(const Helper&) = delete;
  Helper& operator=(const Helper&) = delete;
  ~Helper() {
    Ask(true);
    thread_.join();
  }
  void Ask(bool end = false) {
    std::lock_guard lock(mutex_);
    (end ? ending_ : asked_) = true;
    wake_.notify_one();
  }
  void Add(char letter) {
    std::lock_guard lock(text_mutex_);
    text_ += letter;
  }
  std::string text() {
    std::lock_guard lock(text_mutex_);
    return text_;
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return asked_ || ending_; });
      if (ending_) return;
      asked_ = false;
      lock.unlock();
      for (int i = 0; i < 2; ++i) {
        Scheduler::Point();
        Add('h');
      }
      lock.lock();
    }
  }

  std::mutex text_mutex_;
  std::string text_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool asked_ = false;
  bool ending_ = false;
  std::thread thread_;
};

TEST(SchedulerTest, AnAdoptedThreadTakesPartAndIsWaitedFor) {
  std::set<std::string> orders;
  ExhaustiveChoices choices;
  do {
    const std::vector<pid_t> before = Scheduler::Threads();
    Helper helper;
    std::vector<pid_t> adopted;
    for (const pid_t thread : Scheduler::Threads()) {
      if (!std::binary_search(before.begin(), before.end(), thread)) adopted.push_back(thread);
    }
    ASSERT_GE(adopted.size(), 1u) << "a sanitizer may have started one too, which never comes to a point";
    const auto body = [&] {
      helper.Ask();
      for (int i = 0; i < 2; ++i) {
        Scheduler::Point();
        helper.Add('b');
      }
    };
    ASSERT_EQ(Scheduler(
                  {body}, [&](uint64_t ways, bool) { return choices.Below(ways); }, nullptr, adopted)
                  .Run(),
              "");
    ASSERT_EQ(helper.text().size(), 4u) << helper.text();
    orders.insert(helper.text());
  } while (choices.Next());
  EXPECT_EQ(orders.size(), 6u) << "four choose two";
}

TEST(SchedulerTest, OtherThreadsHaveNoPoints) {
  Scheduler::Point();
  EXPECT_FALSE(Scheduler::Self().has_value());
  std::vector<std::optional<size_t>> self(2);
  EXPECT_EQ(Scheduler({[&] { self[0] = Scheduler::Self(); }, [&] { self[1] = Scheduler::Self(); }}, Stay).Run(), "");
  EXPECT_EQ(self, (std::vector<std::optional<size_t>>{0, 1}));
}

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// The baton goes from thread to thread; the thread that called Run watches for one that sleeps while it has it.

#include "tests/power_cut/scheduler.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace buse::testing {
namespace {

constexpr std::chrono::microseconds kLook(50);
constexpr std::chrono::seconds kDeadlock(1);
constexpr std::chrono::seconds kLost(60);

// What the kernel says of a thread. Allocates nothing, lest it hold up the thread that it looks at.
class ThreadState {
 public:
  ThreadState() = default;
  ThreadState(const ThreadState&) = delete;
  ThreadState& operator=(const ThreadState&) = delete;
  ~ThreadState() {
    if (fd_ >= 0) close(fd_);
  }

  void Open(pid_t thread) {
    char path[64];
    std::snprintf(path, sizeof(path), "/proc/self/task/%d/stat", static_cast<int>(thread));
    fd_ = open(path, O_RDONLY | O_CLOEXEC);
  }

  bool Sleeps() const {
    char text[256];
    const ssize_t n = pread(fd_, text, sizeof(text) - 1, 0);
    text[std::max<ssize_t>(n, 0)] = '\0';
    const char* const name_end = std::strrchr(text, ')');
    return name_end != nullptr && std::strncmp(name_end, ") S", 3) == 0;
  }

 private:
  int fd_ = -1;
};

pid_t ThisThread() { return static_cast<pid_t>(syscall(SYS_gettid)); }

// This thread, those it starts and those that it adopts share one CPU, and a thread that is woken does not displace the one
// that runs.
class OneCpu {
 public:
  explicit OneCpu(const std::vector<pid_t>& adopted) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    moved_ = sched_getaffinity(0, sizeof(before_), &before_) == 0 && sched_setaffinity(0, sizeof(one), &one) == 0;
    sched_param none{};
    sched_setscheduler(0, SCHED_BATCH, &none);
    for (const pid_t thread : adopted) {
      sched_setaffinity(thread, sizeof(one), &one);
      sched_setscheduler(thread, SCHED_BATCH, &none);
    }
    slack_ = prctl(PR_GET_TIMERSLACK);
    prctl(PR_SET_TIMERSLACK, 1);
  }
  ~OneCpu() {
    if (slack_ > 0) prctl(PR_SET_TIMERSLACK, slack_);
    sched_param none{};
    sched_setscheduler(0, SCHED_OTHER, &none);
    if (moved_) sched_setaffinity(0, sizeof(before_), &before_);
  }

 private:
  cpu_set_t before_;
  bool moved_;
  int slack_;
};

}  // namespace

struct Scheduler::Core {
  using Clock = std::chrono::steady_clock;
  enum class Is {
    kStarting,
    kAtPoint,
    kRunning,  // has the baton
    kBlocked,  // or was, and is on its way to a point
    kDone,
  };
  struct Task {
    size_t number = 0;
    std::function<void()> body;  // none: adopted
    pid_t thread = 0;            // of one that is adopted
    std::condition_variable wake;
    ThreadState state;
    std::atomic<bool> here = true;  // in the scheduler, where it may sleep
    Is is = Is::kStarting;
    uint64_t points = 0;
  };

  std::mutex mutex;  // guards all below but the atomics
  std::condition_variable main_wake;
  std::condition_variable came;  // one that was blocked, to a point
  std::vector<std::unique_ptr<Task>> tasks;
  Task* running = nullptr;
  bool lost = false;  // one ran on and on
  bool over = false;
  Choose choose;
  std::function<void(size_t)> blocked;

  // Whether all bodies returned and, as nothing is left to choose from, what they asked of others is done.
  bool Ended() const {
    if (running != nullptr) return false;
    return std::all_of(tasks.begin(), tasks.end(), [](const auto& task) {
      return task->is == Is::kDone || (task->body == nullptr && task->is == Is::kBlocked);
    });
  }

  // Whether it sleeps elsewhere than here. Asked without the lock of one that has the baton: it may then come here meanwhile.
  static bool SleepsElsewhere(const Task& task) { return !task.here && task.state.Sleeps() && !task.here; }

  // Waits until each thread that was blocked is so again, or at a point, or done.
  void Settle(std::unique_lock<std::mutex>& lock) {
    for (const auto& task : tasks) {
      const Clock::time_point begin = Clock::now();
      while (task->is == Is::kBlocked && !lost) {
        if (SleepsElsewhere(*task)) break;
        lost = Clock::now() - begin > kLost;
        came.wait_for(lock, kLook);
      }
    }
  }

  // Gives the baton to one of those at a point, if there are. `last` had it.
  void PassOn(std::unique_lock<std::mutex>& lock, Task* last) {
    Settle(lock);
    std::vector<Task*> ways;
    const bool may_stay = last->is == Is::kAtPoint;
    if (may_stay) ways.push_back(last);
    for (const auto& task : tasks) {
      if (task.get() != last && task->is == Is::kAtPoint) ways.push_back(task.get());
    }
    running = nullptr;
    if (ways.empty() || lost) return main_wake.notify_one();
    running = ways[ways.size() == 1 ? 0 : choose(ways.size(), may_stay)];
    running->is = Is::kRunning;
    running->wake.notify_one();
  }

  void Point(Task& task, Is is) {
    task.here = true;
    std::unique_lock lock(mutex);
    if (over) {
      task.here = false;
      return;
    }
    const bool had_baton = task.is == Is::kRunning;
    task.is = is;
    ++task.points;
    had_baton ? PassOn(lock, &task) : came.notify_all();
    if (is == Is::kStarting) main_wake.notify_one();
    // What a thread does at its very end may hold up others: they shall be through by then.
    task.wake.wait(lock, [&] { return task.is == Is::kRunning || (task.is == Is::kDone && over); });
    task.here = false;
  }

  std::string Watch();

  // The task of a thread that was adopted, and is not known yet.
  Task* TaskOf(pid_t thread) {
    for (const auto& task : tasks) {
      if (task->body == nullptr && task->thread == thread) return task.get();
    }
    return nullptr;
  }

  void End() {
    std::lock_guard lock(mutex);
    over = true;
    for (const auto& task : tasks) task->wake.notify_one();
  }
};

namespace {
// Of a thread of a scheduler.
thread_local std::function<void()> point;
thread_local std::optional<size_t> self;
}  // namespace

// Of the scheduler that runs, for the threads that it adopted.
std::mutex Scheduler::adopter_mutex_;
std::shared_ptr<Scheduler::Core> Scheduler::adopter_;

// Until all are done, or never will be.
std::string Scheduler::Core::Watch() {
  std::unique_lock lock(mutex);
  for (auto& task : tasks) {
    if (task->body == nullptr) continue;
    main_wake.wait(lock, [&] { return task->points > 0; });
    task->is = Is::kAtPoint;
  }
  Task nobody;
  PassOn(lock, &nobody);
  Task* last = nullptr;
  uint64_t last_points = 0;
  Clock::time_point since;  // then it was so
  while (true) {
    main_wake.wait_for(lock, kLook);
    Task* const task = running;
    const uint64_t points = task != nullptr ? task->points : 0;
    if (std::exchange(last, task) != task || std::exchange(last_points, points) != points) since = Clock::now();
    const Clock::duration elapsed = Clock::now() - since;
    if (lost || (task != nullptr && elapsed > kLost)) return "a thread runs on for a minute and comes to no disk";
    if (task == nullptr) {
      PassOn(lock, &nobody);
      if (Ended()) return "";
      if (running == nullptr && elapsed > kDeadlock) return "every thread waits for another";
      continue;
    }
    lock.unlock();
    const bool sleeps = SleepsElsewhere(*task);
    lock.lock();
    if (!sleeps || task->is != Is::kRunning || task->points != points) continue;
    task->is = Is::kBlocked;
    if (blocked != nullptr) blocked(task->number);
    PassOn(lock, task);
  }
}

Scheduler::Scheduler(std::vector<std::function<void()>> bodies, Choose choose, std::function<void(size_t)> blocked,
                     std::vector<pid_t> adopted)
    : core_(std::make_shared<Core>()), adopted_(std::move(adopted)) {
  core_->choose = std::move(choose);
  core_->blocked = std::move(blocked);
  for (auto& body : bodies) {
    auto task = std::make_unique<Core::Task>();
    task->number = core_->tasks.size();
    task->body = std::move(body);
    core_->tasks.push_back(std::move(task));
  }
  for (const pid_t thread : adopted_) {
    auto task = std::make_unique<Core::Task>();
    task->number = core_->tasks.size();
    task->thread = thread;
    task->state.Open(thread);
    task->here = false;
    task->is = Core::Is::kBlocked;
    core_->tasks.push_back(std::move(task));
  }
}

std::string Scheduler::Run() {
  const OneCpu one_cpu(adopted_);
  {
    std::lock_guard lock(adopter_mutex_);
    adopter_ = core_;
  }
  std::vector<std::thread> threads;
  for (auto& task : core_->tasks) {
    if (task->body == nullptr) continue;
    threads.emplace_back([core = core_, task = task.get()] {
      task->state.Open(ThisThread());
      point = [&] { core->Point(*task, Core::Is::kAtPoint); };
      self = task->number;
      core->Point(*task, Core::Is::kStarting);
      task->body();
      core->Point(*task, Core::Is::kDone);
    });
  }
  std::string failure = core_->Watch();
  {
    std::lock_guard lock(adopter_mutex_);
    adopter_ = nullptr;
  }
  core_->End();
  for (std::thread& thread : threads) failure.empty() ? thread.join() : thread.detach();
  return failure;
}

void Scheduler::Point() {
  if (point == nullptr) Adopt();
  if (point != nullptr) point();
}

// Called by a thread that a scheduler may have been told of.
void Scheduler::Adopt() {
  std::shared_ptr<Core> core;
  {
    std::lock_guard lock(adopter_mutex_);
    core = adopter_;
  }
  Core::Task* const task = core != nullptr ? core->TaskOf(ThisThread()) : nullptr;
  if (task == nullptr) return;
  self = task->number;
  point = [core, task] { core->Point(*task, Core::Is::kAtPoint); };
}

std::vector<pid_t> Scheduler::Threads() {
  std::vector<pid_t> threads;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    threads.push_back(std::stoi(entry.path().filename().string()));
  }
  std::sort(threads.begin(), threads.end());
  return threads;
}

std::optional<size_t> Scheduler::Self() { return self; }

}  // namespace buse::testing

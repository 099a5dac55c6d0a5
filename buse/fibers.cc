// SPDX-License-Identifier: Apache-2.0

#include "buse/fibers.h"

#include <poll.h>
#include <sys/mman.h>

#include <array>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cassert>
#include <cerrno>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace buse {
namespace {

namespace context = boost::context;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStackSize = 256 << 10;  // their frames are larger
#else
constexpr size_t kStackSize = 64 << 10;
#endif

// Tells a sanitizer that its thread goes on with another stack: made by who leaves, ended by who arrives.
class Switch {
 public:
  struct Stack {
    const void* bottom = nullptr;
    size_t size = 0;
    void* tsan = nullptr;
  };

  // `last`: who leaves does not come back.
  static void Leave([[maybe_unused]] void** kept, [[maybe_unused]] const Stack& to, [[maybe_unused]] bool last = false) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : kept, to.bottom, to.size);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to.tsan, 0);
#endif
  }
  static void Arrive([[maybe_unused]] void* kept, [[maybe_unused]] Stack* from) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(kept, from != nullptr ? &from->bottom : nullptr, from != nullptr ? &from->size : nullptr);
#endif
  }
};

}  // namespace

// One that runs one task after another, and is idle between two.
struct Fibers::Fiber {
  explicit Fiber(Fibers& all) : all(all) {
    context::stack_context memory = context::protected_fixedsize_stack(kStackSize).allocate();
    own = {static_cast<const char*>(memory.sp) - memory.size, memory.size, nullptr};
#if defined(__SANITIZE_THREAD__)
    own.tsan = __tsan_create_fiber(0);
#endif
    here = context::fiber(std::allocator_arg, context::preallocated(memory.sp, memory.size, memory),
                          context::protected_fixedsize_stack(kStackSize), [this](context::fiber&& caller) {
                            there = std::move(caller);
                            Switch::Arrive(nullptr, &thread);
                            while (task != nullptr) {
                              this->all.perform_(*task);
                              task = nullptr;
                              LeaveForThread();
                            }
                            Switch::Leave(nullptr, thread, true);
                            return std::move(there);
                          });
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() {
    Enter();  // without a task it ends
#if defined(__SANITIZE_THREAD__)
    __tsan_destroy_fiber(own.tsan);
#endif
  }

  // By the thread.
  void Enter() {
#if defined(__SANITIZE_THREAD__)
    thread.tsan = __tsan_get_current_fiber();
#endif
    void* kept = nullptr;
    Switch::Leave(&kept, own);
    here = std::move(here).resume();
    Switch::Arrive(kept, nullptr);
  }

  // By the fiber; returns at the next Enter.
  void LeaveForThread() {
    void* kept = nullptr;
    Switch::Leave(&kept, thread);
    there = std::move(there).resume();
    Switch::Arrive(kept, &thread);
  }

  Fibers& all;
  Task* task = nullptr;
  ssize_t result = 0;
  Switch::Stack own, thread;
  context::fiber here, there;
};

std::unique_ptr<Fibers> Fibers::Create(size_t count, std::function<void(Task&)> perform) {
  std::unique_ptr<Fibers> fibers(new Fibers(count, std::move(perform)));
  return fibers->ring_open_ ? std::move(fibers) : nullptr;
}

Fibers::Fibers(size_t count, std::function<void(Task&)> perform) : perform_(std::move(perform)) {
  ring_open_ = io_uring_queue_init(static_cast<unsigned>(count), &ring_, 0) == 0;
  if (!ring_open_) return;
  // A kernel that drops completions it has no room for would lose requests; of those that have io_uring only the first few do.
  if ((ring_.features & IORING_FEAT_NODROP) == 0) {
    io_uring_queue_exit(&ring_);
    ring_open_ = false;
    return;
  }
  done_.reserve(count);
  idle_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    fibers_.push_back(std::make_unique<Fiber>(*this));
    idle_.push_back(fibers_.back().get());
  }
}

Fibers::~Fibers() {
  assert(under_way() == 0);
  fibers_.clear();
  if (ring_open_) io_uring_queue_exit(&ring_);
}

void Fibers::Start(Task& task) {
  assert(!idle_.empty());
  Fiber& fiber = *idle_.back();
  idle_.pop_back();
  fiber.task = &task;
  Run(fiber);
}

void Fibers::Run(Fiber& fiber) {
  Task* const task = fiber.task;
  running_ = &fiber;
  SetCurrent(this);
  fiber.Enter();
  SetCurrent(nullptr);
  running_ = nullptr;
  if (fiber.task != nullptr) return;
  idle_.push_back(&fiber);
  done_.push_back(task);
}

void Fibers::Proceed() {
  // What could not be handed over stays for the next time.
  if (io_uring_sq_ready(&ring_) > 0) io_uring_submit(&ring_);
  io_uring_cqe* entry;
  while (io_uring_peek_cqe(&ring_, &entry) == 0) {
    auto* const fiber = static_cast<Fiber*>(io_uring_cqe_get_data(entry));
    fiber->result = entry->res;
    io_uring_cqe_seen(&ring_, entry);
    Run(*fiber);
  }
  if (io_uring_sq_ready(&ring_) > 0) io_uring_submit(&ring_);
}

bool Fibers::Wait(int fd) {
  std::array<pollfd, 2> queries = {{{ring_.ring_fd, POLLIN, 0}, {fd, POLLIN, 0}}};
  // What the kernel did not take for now is tried again.
  const int limit = io_uring_sq_ready(&ring_) > 0 ? 1 : -1;
  return poll(queries.data(), queries.size(), limit) >= 0 && queries[1].revents == 0;
}

// There is one for each fiber, as each waits for one thing.
io_uring_sqe* Fibers::NextEntry() {
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  if (entry == nullptr) {
    io_uring_submit(&ring_);
    entry = io_uring_get_sqe(&ring_);
  }
  return entry;
}

ssize_t Fibers::Park(io_uring_sqe* entry) {
  Fiber& fiber = *running_;
  io_uring_sqe_set_data(entry, &fiber);
  fiber.LeaveForThread();
  return fiber.result;
}

ssize_t Fibers::Read(int fd, Bytes out, uint64_t offset) {
  io_uring_sqe* const entry = NextEntry();
  if (entry == nullptr) return -EAGAIN;
  io_uring_prep_read(entry, fd, out.data(), static_cast<unsigned>(out.size()), offset);
  return Park(entry);
}

ssize_t Fibers::Write(int fd, ConstBytes in, uint64_t offset, int rwf_flags) {
  io_uring_sqe* const entry = NextEntry();
  if (entry == nullptr) return -EAGAIN;
  io_uring_prep_write(entry, fd, in.data(), static_cast<unsigned>(in.size()), offset);
  entry->rw_flags = rwf_flags;
  return Park(entry);
}

}  // namespace buse

// SPDX-License-Identifier: Apache-2.0

#include "buse/fibers.h"

#include <poll.h>
#include <sys/mman.h>

#include <array>
#include <boost/context/detail/fcontext.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cassert>
#include <cerrno>
#include <new>
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

// A stack, as sanitizers want to know it.
struct Stack {
  const void* bottom = nullptr;
  size_t size = 0;
  void* tsan = nullptr;
};

// Around each switch: Leave by who leaves, on its way to `to`, and Arrive by who arrives, with what its own Leave kept. In line, as
// ThreadSanitizer counts functions that are entered on one stack and left on another.
[[gnu::always_inline]] inline void Leave([[maybe_unused]] void** kept, [[maybe_unused]] const Stack& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(kept, to.bottom, to.size);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.tsan, 0);
#endif
}
[[gnu::always_inline]] inline void Arrive([[maybe_unused]] void* kept, [[maybe_unused]] Stack& from) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(kept, &from.bottom, &from.size);
#endif
}

}  // namespace

// One that does one task after another, and is idle between two. It holds nothing then, so that its stack can be dropped.
struct Fibers::Fiber {
  explicit Fiber(Fibers& all) : all(all), memory(context::protected_fixedsize_stack(kStackSize).allocate()) {
    own = {static_cast<const char*>(memory.sp) - memory.size, memory.size, nullptr};
#if defined(__SANITIZE_THREAD__)
    own.tsan = __tsan_create_fiber(0);
#endif
    here = context::detail::make_fcontext(memory.sp, memory.size, &Live);
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() {
#if defined(__SANITIZE_THREAD__)
    __tsan_destroy_fiber(own.tsan);
#endif
    context::protected_fixedsize_stack(kStackSize).deallocate(memory);
  }

  // By the thread.
  void Enter() {
#if defined(__SANITIZE_THREAD__)
    thread.tsan = __tsan_get_current_fiber();
#endif
    void* kept = nullptr;
    Leave(&kept, own);
    here = context::detail::jump_fcontext(here, this).fctx;
    Arrive(kept, own);
  }

  // By the fiber; returns at the next Enter.
  void LeaveForThread() {
    void* kept = nullptr;
    Leave(&kept, thread);
    there = context::detail::jump_fcontext(there, nullptr).fctx;
    Arrive(kept, thread);
  }

  static void Live(context::detail::transfer_t entered) {
    auto* const self = static_cast<Fiber*>(entered.data);
    Arrive(nullptr, self->thread);
    self->there = entered.fctx;
    for (;;) {
      self->all.perform_(*self->task);
      self->task = nullptr;
      self->LeaveForThread();
    }
  }

  Fibers& all;
  context::stack_context memory;
  Stack own, thread;
  context::detail::fcontext_t here = nullptr, there = nullptr;
  Task* task = nullptr;
  ssize_t result = 0;
};

std::unique_ptr<Fibers> Fibers::Create(size_t count, std::function<void(Task&)> perform) {
  std::unique_ptr<Fibers> fibers(new Fibers(std::move(perform)));
  return fibers->Open(count) ? std::move(fibers) : nullptr;
}

bool Fibers::Open(size_t count) {
  ring_open_ = io_uring_queue_init(static_cast<unsigned>(count), &ring_, 0) == 0;
  // A kernel that drops completions it has no room for would lose requests; of those that have io_uring only the first few do.
  if (!ring_open_ || (ring_.features & IORING_FEAT_NODROP) == 0) return false;
  done_.reserve(count);
  idle_.reserve(count);
  try {
    while (fibers_.size() < count) fibers_.push_back(std::make_unique<Fiber>(*this));
  } catch (const std::bad_alloc&) {  // no memory for a stack
    return false;
  }
  for (const auto& fiber : fibers_) idle_.push_back(fiber.get());
  return true;
}

Fibers::Fibers(std::function<void(Task&)> perform) : perform_(std::move(perform)) {}

Fibers::~Fibers() {
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
  return poll(queries.data(), queries.size(), limit) <= 0 || queries[1].revents == 0;
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

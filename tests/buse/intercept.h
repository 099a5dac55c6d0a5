// SPDX-License-Identifier: Apache-2.0
//
// Intercept: runs code whose system calls a test sees, counts, fails or answers itself. The kernel does it (seccomp user
// notification, Linux 5.5), without privileges, and only for the thread that runs the code.

#ifndef TESTS_BUSE_INTERCEPT_H_
#define TESTS_BUSE_INTERCEPT_H_

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <thread>
#include <vector>

#include "buse/io.h"

namespace buse::testing {

// One system call: its number and arguments. Memory it points to can be used as it is.
struct SystemCall {
  int number = 0;
  const uint64_t* arguments = nullptr;
};

// The answer that lets the call go on to the kernel. Others are what the call returns, errors as -errno.
inline constexpr int64_t kProceed = INT64_MIN;

namespace intercept_internal {

// Returns the descriptor on which this thread's calls with one of `numbers` are announced, or -1.
inline int Listen(const std::vector<int>& numbers) {
  std::vector<sock_filter> program = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const int number : numbers) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter = {static_cast<unsigned short>(program.size()), program.data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
  return static_cast<int>(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter));
}

inline void Answer(int listener, const std::function<int64_t(const SystemCall&)>& decide) {
  seccomp_notif call = {};
  if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0) return;
  const uint64_t* arguments = reinterpret_cast<const uint64_t*>(call.data.args);
  const int64_t answer = decide({call.data.nr, arguments});
  seccomp_notif_resp response = {};
  response.id = call.id;
  if (answer == kProceed) {
    response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
  } else if (answer < 0) {
    response.error = static_cast<int32_t>(answer);
  } else {
    response.val = answer;
  }
  ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

}  // namespace intercept_internal

// Runs `body` on a thread of its own, and asks `decide`, on the calling thread, about each of its system calls among
// `numbers`. Returns false, and runs nothing, where the system does not allow it.
inline bool Intercept(const std::vector<int>& numbers, const std::function<int64_t(const SystemCall&)>& decide,
                      const std::function<void()>& body) {
  const UniqueFd done(eventfd(0, EFD_CLOEXEC));
  std::promise<int> listening;
  std::thread thread([&] {
    const int fd = intercept_internal::Listen(numbers);
    listening.set_value(fd);
    if (fd < 0) return;
    body();
    eventfd_write(done.get(), 1);
  });
  const UniqueFd listener(listening.get_future().get());
  while (listener.valid()) {
    pollfd ready[] = {{listener.get(), POLLIN, 0}, {done.get(), POLLIN, 0}};
    if (poll(ready, 2, -1) < 0 && errno != EINTR) break;
    if ((ready[0].revents & POLLIN) != 0) {
      intercept_internal::Answer(listener.get(), decide);
    } else if (ready[1].revents != 0) {
      break;
    }
  }
  thread.join();
  return listener.valid();
}

}  // namespace buse::testing

#endif  // TESTS_BUSE_INTERCEPT_H_

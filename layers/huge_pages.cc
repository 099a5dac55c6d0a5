// SPDX-License-Identifier: Apache-2.0

#include "layers/huge_pages.h"

#include <sys/mman.h>

#include <chrono>
#include <fstream>
#include <string>
#include <system_error>

#include "buse/signals.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // <asm-generic/mman-common.h>, which older C libraries do not repeat
#endif

namespace buse {
namespace {

using std::chrono::steady_clock;

// What is written in one go is joined in one go: each call has a price of its own.
constexpr std::chrono::milliseconds kGather(20);

// MADV_COLLAPSE itself does not ask.
bool Wanted() {
  const std::string folder = "/sys/kernel/mm/transparent_hugepage/";
  uint64_t size = 0;
  std::string enabled;
  std::ifstream(folder + "hpage_pmd_size") >> size;
  std::getline(std::ifstream(folder + "enabled"), enabled);
  return size == HugePages::kSize && !enabled.empty() && enabled.find("[never]") == std::string::npos;
}

}  // namespace

HugePages::~HugePages() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void HugePages::Wake() {
  const std::lock_guard lock(mutex_);
  work_ = true;
  if (started_) {
    changed_.notify_one();
    return;
  }
  started_ = true;
  if (!Wanted()) return;
  const SignalBlock block;
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error&) {  // the system has no threads left: the pages stay small
  }
}

void HugePages::Run() {
  std::unique_lock lock(mutex_);
  const auto sleep = [&](steady_clock::duration time) { changed_.wait_for(lock, time, [this] { return ending_; }); };
  for (;;) {
    changed_.wait(lock, [this] { return work_ || ending_; });
    sleep(kGather);
    work_ = false;
    for (bool more = true; more && !ending_;) {
      lock.unlock();
      const auto begin = steady_clock::now();
      more = step_();
      const auto took = steady_clock::now() - begin;
      lock.lock();
      sleep(took);
    }
    if (ending_) return;
  }
}

void HugePages::Join(std::byte* memory, size_t length) {
  // An error means that some stay as they are.
  madvise(memory, length, MADV_COLLAPSE);
}

}  // namespace buse

// SPDX-License-Identifier: Apache-2.0
//
// Cache allocates nothing after Open. A test of its own, since it counts every allocation of the program.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "buse/device.h"
#include "buse/gather.h"
#include "gtest/gtest.h"
#include "layers/cache.h"
#include "layers/memory.h"
#include "layers/splitmix.h"

static std::atomic<uint64_t> allocations = 0;

void* operator new(size_t size) {
  ++allocations;
  void* memory = std::malloc(size);
  if (memory == nullptr) std::abort();
  return memory;
}
void* operator new[](size_t size) { return operator new(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

namespace buse::testing {
namespace {

TEST(CacheAllocationTest, NothingIsAllocatedAfterOpen) {
  static constexpr uint64_t kDisk = 4 << 20;
  using Stack = Cache<Memory>;
  auto state = std::make_unique<Stack::State>();
  ASSERT_TRUE(Stack::Open({.size = 1 << 20, .below = {.size = kDisk}}, *state).ok());
  auto gather = std::make_unique<Gather>();
  std::vector<std::byte> bytes(65536, std::byte{1});
  // Memory allocates when it is first written to.
  ASSERT_TRUE(Stack::Write(*state, 0, {bytes.data(), 1}).ok());
  ASSERT_TRUE(Stack::Flush(*state).ok());

  const uint64_t before = allocations;
  SplitMix64 random(1);
  bool ok = true;
  for (int i = 0; i < 20000; ++i) {
    const uint64_t length = 1 + random() % bytes.size();
    const uint64_t offset = i % 100 < 50 ? (i * 4096) % (kDisk - 65536) : random() % (kDisk - 65536);
    switch (random() % 8) {
      case 0:
      case 1:
        ok &= Stack::Read(*state, offset, {bytes.data(), length}).ok();
        break;
      case 2:
        ok &= Stack::View(*state, {offset, length}, *gather).ok();
        gather->Release();
        break;
      case 3:
        ok &= Stack::WriteThrough(*state, offset, {bytes.data(), length}).ok();
        break;
      case 4:
        ok &= Stack::Trim(*state, {offset, length}).ok();
        break;
      case 5:
        ok &= Stack::Flush(*state).ok() && Stack::Prefetch(*state, {offset, length}).ok();
        break;
      default:
        ok &= Stack::Write(*state, offset, {bytes.data(), length}).ok();
    }
  }
  EXPECT_EQ(allocations - before, 0u);
  EXPECT_TRUE(ok);
}

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// Checksum allocates what its header says, and nothing after Open. A test of its own, since it counts every allocation of the
// program.

#include <malloc.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "gtest/gtest.h"
#include "layers/checksum.h"
#include "layers/file_backed.h"
#include "layers/splitmix.h"
#include "tests/leaves.h"

static std::atomic<uint64_t> allocations = 0;
static std::atomic<uint64_t> held = 0;  // bytes
static std::atomic<uint64_t> most_held = 0;

void* operator new(size_t size) {
  ++allocations;
  void* memory = std::malloc(size);
  if (memory == nullptr) std::abort();
  const uint64_t now = held += malloc_usable_size(memory);
  if (now > most_held) most_held = now;
  return memory;
}
void* operator new[](size_t size) { return operator new(size); }
void operator delete(void* memory) noexcept {
  held -= malloc_usable_size(memory);
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept { operator delete(memory); }
void operator delete[](void* memory) noexcept { operator delete(memory); }
void operator delete[](void* memory, size_t) noexcept { operator delete(memory); }

namespace buse::testing {
namespace {

// Bytes of address space.
uint64_t AddressSpace() {
  uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

class ChecksumAllocationTest : public ::testing::Test {
 protected:
  using Stack = Checksum<FileBacked>;

  ChecksumAllocationTest() {
    std::remove(path_.c_str());
    Stack::Config config = {.log = kLog, .below = {.path = path_, .create = kDisk}};
    EXPECT_TRUE(FormatStack<Stack>(config, [](uint64_t, uint64_t) {}).ok());
  }
  ~ChecksumAllocationTest() override { std::remove(path_.c_str()); }

  static constexpr uint64_t kDisk = 64 << 20;
  static constexpr uint64_t kLog = 65536;
  const std::string path_ = absl::StrCat(::testing::TempDir(), "/checksum-allocation");
};

TEST_F(ChecksumAllocationTest, OpenTakesAsMuchAsTheHeaderSays) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer takes memory of its own";
#endif
  // What is large comes from the system, and not from what was freed before.
  ASSERT_EQ(mallopt(M_MMAP_THRESHOLD, 32 << 10), 1);
  for (uint64_t stage : {32 << 20, 48 << 20, 256 << 20}) {
    for (uint64_t table : {65536, 131072}) {
      SCOPED_TRACE(stage);
      auto state = std::make_unique<Stack::State>();
      malloc_trim(0);
      const uint64_t before = AddressSpace();
      // Without the address space of a thread.
      ASSERT_TRUE(
          Stack::Open({.stage = stage, .table_cache = table, .inline_commits = true, .below = {.path = path_}}, *state).ok());
      const uint64_t taken = AddressSpace() - before;
      const auto of_stage = static_cast<double>(taken - stage - table - (256 << 10)) / static_cast<double>(stage);
      EXPECT_GE(of_stage, 0.013);
      EXPECT_LE(of_stage, 0.015);
    }
  }
}

// Sums that were never settled: of neighbours, of pages without, and of blocks without, as many as go into fifteen slots. The
// log itself is mapped, and not counted.
TEST_F(ChecksumAllocationTest, RecoveryTakesAsMuchAsTheHeaderSays) {
  struct Case {
    uint64_t in_slot;
    uint64_t apart;
    uint64_t length;
    double least;  // of the log
    double most;
  };
  for (const auto& [in_slot, apart, length, least, most] :
       {Case{84, 4096, 4096, 0, 0.5}, Case{84, 11 * 4096, 4096, 1, 3}, Case{169, 5 * 4096, 512, 2, 6}}) {
    const uint64_t stage = 2 * 4096 * in_slot;  // one of the two is committed at once
    const Stack::Config config = {.stage = stage, .table_cache = 1 << 20, .inline_commits = true, .below = {.path = path_}};
    auto state = std::make_unique<Stack::State>();
    ASSERT_TRUE(Stack::Open(config, *state).ok());
    const std::vector<std::byte> bytes(length, std::byte{1});
    for (uint64_t i = 0; i < in_slot * 15 + 1; ++i) ASSERT_TRUE(Stack::Write(*state, i * apart, bytes).ok());
    state = std::make_unique<Stack::State>();  // nothing is flushed
    const uint64_t before = most_held = held.load();
    ASSERT_TRUE(Stack::Open(config, *state).ok());
    const double taken = (static_cast<double>(most_held - before) - 0.015 * static_cast<double>(stage)) / kLog;
    EXPECT_LE(taken, most) << apart;
    EXPECT_GE(taken, least) << apart;
    RecordProperty(std::to_string(apart), std::to_string(taken));
  }
}

TEST_F(ChecksumAllocationTest, NothingIsAllocatedAfterOpen) {
  auto state = std::make_unique<Stack::State>();
  ASSERT_TRUE(Stack::Open({.stage = 1 << 20, .table_cache = 65536, .below = {.path = path_}}, *state).ok());
  const uint64_t size = Stack::Size(*state) / 512;
  std::vector<std::byte> bytes(131072, std::byte{1});

  const uint64_t before = allocations;
  SplitMix64 random(1);
  bool ok = true;
  for (int i = 0; i < 2000; ++i) {
    const uint64_t length = (1 + random() % (bytes.size() / 512)) * 512;
    const uint64_t offset = random() % (size - bytes.size() / 512) * 512;
    switch (random() % 8) {
      case 0:
      case 1:
        ok &= Stack::Read(*state, offset, {bytes.data(), length}).ok();
        break;
      case 2:
        ok &= Stack::Extents(*state, {offset, length}, [](const Extent&) { return true; }).ok();
        break;
      case 3:
        ok &= Stack::WriteZeroes(*state, {offset, length}).ok();
        break;
      case 4:
        ok &= Stack::Trim(*state, {offset, length}).ok();
        break;
      case 5:
        ok &= (i % 16 != 0 || Stack::Flush(*state).ok()) && Stack::Prefetch(*state, {offset, length}).ok();
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

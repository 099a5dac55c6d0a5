// SPDX-License-Identifier: Apache-2.0

#include "layers/sparse_memory.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

namespace buse {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kGiB = uint64_t{1} << 30;

std::vector<std::byte> Fill(size_t length, int value) { return std::vector<std::byte>(length, static_cast<std::byte>(value)); }

std::vector<std::byte> Get(SparseMemory& memory, uint64_t offset, size_t length) {
  std::vector<std::byte> out = Fill(length, 0xee);
  EXPECT_TRUE(memory.Read(offset, out).ok());
  return out;
}

std::vector<Extent> ExtentsOf(SparseMemory& memory, Range range) {
  std::vector<Extent> extents;
  memory.Extents(range, [&](const Extent& extent) {
    extents.push_back(extent);
    return true;
  });
  return extents;
}

Extent Data(uint64_t begin, uint64_t end) { return {{begin, end - begin}, Extent::Kind::kData}; }
Extent Hole(uint64_t begin, uint64_t end) { return {{begin, end - begin}, Extent::Kind::kHole}; }

std::vector<std::byte> Joined(Gather& gather) {
  std::vector<std::byte> joined;
  for (const iovec& piece : gather.pieces()) {
    const auto* begin = static_cast<const std::byte*>(piece.iov_base);
    joined.insert(joined.end(), begin, begin + piece.iov_len);
  }
  return joined;
}

// Lowers a limit for the length of a test.
class Limit {
 public:
  Limit(decltype(RLIMIT_AS) resource, uint64_t value) : resource_(resource) {
    getrlimit(resource_, &before_);
    const rlimit lower = {.rlim_cur = value, .rlim_max = before_.rlim_max};
    EXPECT_EQ(setrlimit(resource_, &lower), 0);
  }
  ~Limit() { setrlimit(resource_, &before_); }

 private:
  decltype(RLIMIT_AS) resource_;
  rlimit before_;
};

uint64_t AddressSpaceInUse() {
  uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

TEST(SparseMemoryTest, ImpossibleSizesAreRefusedByName) {
  for (const uint64_t size : {uint64_t{0}, SparseMemory::kMaxSize + 1, UINT64_MAX}) {
    SparseMemory memory;
    const absl::Status status = memory.Open(size);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(std::to_string(size)), absl::string_view::npos) << status;
  }
}

TEST(SparseMemoryTest, OnlyWrittenPagesTakeMemoryAndTrimGivesItBack) {
  SparseMemory memory;
  ASSERT_TRUE(memory.Open(64 << 20).ok());
  EXPECT_EQ(memory.allocated_bytes(), 0u);
  ASSERT_TRUE(memory.Write(kPage, Fill(8 * kPage, 1)).ok());
  EXPECT_EQ(memory.allocated_bytes(), 8 * kPage);
  ASSERT_TRUE(memory.Write(100 * kPage + 5, Fill(1, 1)).ok());
  EXPECT_EQ(memory.allocated_bytes(), 9 * kPage);
  ASSERT_TRUE(memory.Trim({2 * kPage - 1, 3 * kPage + 2}).ok());
  EXPECT_EQ(memory.allocated_bytes(), 6 * kPage) << "the whole pages are given back";
  ASSERT_TRUE(memory.Trim({0, memory.size()}).ok());
  EXPECT_EQ(memory.allocated_bytes(), 0u);
}

TEST(SparseMemoryTest, ReadingAndLookingAllocatesNothing) {
  SparseMemory memory;
  ASSERT_TRUE(memory.Open(4 << 20).ok());
  ASSERT_TRUE(memory.Write(1 << 20, Fill(1, 1)).ok());
  ASSERT_TRUE(memory.Write(2 << 20, Fill(2 * kPage, 2)).ok());
  ASSERT_TRUE(memory.Trim({2 << 20, kPage}).ok());
  const uint64_t before = memory.allocated_bytes();
  std::vector<std::byte> expected = Fill(4 << 20, 0);
  expected[1 << 20] = std::byte{1};
  std::fill_n(expected.begin() + (2 << 20) + kPage, kPage, std::byte{2});
  EXPECT_EQ(Get(memory, 0, 4 << 20), expected);
  for (uint64_t at = 0; at < memory.size(); at += kPage) Get(memory, at, kPage);
  Gather gather;
  memory.View({0, memory.size()}, gather);
  EXPECT_FALSE(gather.overflowed());
  EXPECT_EQ(Joined(gather), expected);
  ExtentsOf(memory, {0, memory.size()});
  ASSERT_TRUE(memory.Trim({5000, 20000}).ok());
  EXPECT_EQ(memory.allocated_bytes(), before);
}

TEST(SparseMemoryTest, ALastPageInPartIsAPage) {
  SparseMemory memory;
  ASSERT_TRUE(memory.Open(kPage + 100).ok());
  ASSERT_TRUE(memory.Write(kPage, Fill(100, 7)).ok());
  EXPECT_EQ(ExtentsOf(memory, {0, kPage + 100}), (std::vector<Extent>{Hole(0, kPage), Data(kPage, kPage + 100)}));
  ASSERT_TRUE(memory.Trim({kPage, 99}).ok());
  EXPECT_EQ(Get(memory, kPage + 98, 2), (std::vector<std::byte>{std::byte{0}, std::byte{7}}));
  ASSERT_TRUE(memory.Trim({kPage, 100}).ok());
  EXPECT_EQ(ExtentsOf(memory, {0, kPage + 100}), (std::vector<Extent>{Hole(0, kPage + 100)}));
  EXPECT_EQ(memory.allocated_bytes(), 0u);
}

// First and last byte, and across the borders of the mappings, whose size is 1 GiB.
TEST(SparseMemoryTest, SizesFarBeyondMemoryAndAddressSpaceWork) {
  for (const uint64_t size : {3072 * kGiB, uint64_t{1} << 62, SparseMemory::kMaxSize}) {
    SCOPED_TRACE(size);
    SparseMemory memory;
    ASSERT_TRUE(memory.Open(size).ok());
    EXPECT_EQ(memory.size(), size);
    const uint64_t middle = size / kGiB / 2 * kGiB;
    for (const uint64_t at : {uint64_t{0}, kGiB - 2, middle - 2, size - 4}) {
      EXPECT_EQ(Get(memory, at, 4), Fill(4, 0));
      ASSERT_TRUE(memory.Write(at, Fill(4, 9)).ok());
      EXPECT_EQ(Get(memory, at, 4), Fill(4, 9));
      ASSERT_TRUE(memory.Write(at, Fill(4, 8)).ok());
      EXPECT_EQ(Get(memory, at, 4), Fill(4, 8));
    }
    const uint64_t last = (size - 4) / kPage * kPage;
    EXPECT_EQ(ExtentsOf(memory, {0, size}),
              (std::vector<Extent>{Data(0, kPage), Hole(kPage, kGiB - kPage), Data(kGiB - kPage, kGiB + kPage),
                                   Hole(kGiB + kPage, middle - kPage), Data(middle - kPage, middle + kPage),
                                   Hole(middle + kPage, last), Data(last, size)}));
    EXPECT_EQ(ExtentsOf(memory, {middle - 1, 2}), (std::vector<Extent>{Data(middle - 1, middle + 1)}));
    ASSERT_TRUE(memory.Trim({0, size}).ok());
    EXPECT_EQ(ExtentsOf(memory, {0, size}), (std::vector<Extent>{Hole(0, size)}));
    EXPECT_EQ(memory.allocated_bytes(), 0u);
  }
}

// More mappings than a process has address space in user-mode Linux.
TEST(SparseMemoryTest, EveryGiBOfALargeDiskCanBeWritten) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer ends the process where a mapping finds no place";
#endif
  constexpr uint64_t kGiBs = 3072;
  SparseMemory memory;
  ASSERT_TRUE(memory.Open(kGiBs * kGiB).ok());
  for (uint64_t i = 0; i < kGiBs; ++i) ASSERT_TRUE(memory.Write(i * kGiB + 7, Fill(2, i % 251 + 1)).ok());
  for (uint64_t i = 0; i < kGiBs; ++i) ASSERT_EQ(Get(memory, i * kGiB + 7, 2), Fill(2, i % 251 + 1));
  EXPECT_EQ(memory.allocated_bytes(), kGiBs * kPage);
  EXPECT_EQ(ExtentsOf(memory, {0, memory.size()}).size(), 2 * kGiBs);
}

TEST(SparseMemoryTest, AnEnumerationOfExtentsEndsWhenTold) {
  SparseMemory memory;
  ASSERT_TRUE(memory.Open(64 * kPage).ok());
  ASSERT_TRUE(memory.Write(kPage, Fill(1, 1)).ok());
  int calls = 0;
  memory.Extents({0, memory.size()}, [&](const Extent&) { return ++calls < 2; });
  EXPECT_EQ(calls, 2);
}

TEST(SparseMemoryTest, WithoutRoomInTheAddressSpaceEverythingStillWorks) {
  SparseMemory memory;
  ASSERT_TRUE(memory.Open(8 * kGiB).ok());
  ASSERT_TRUE(memory.Write(0, Fill(kPage, 1)).ok());
  {
    Limit limit(RLIMIT_AS, AddressSpaceInUse() + kGiB / 2);
    ASSERT_TRUE(memory.Write(kGiB - 3, Fill(2 * kPage, 2)).ok());
  }
  ASSERT_TRUE(memory.Write(kGiB, Fill(1, 3)).ok());
  std::vector<std::byte> expected = Fill(2 * kPage + 6, 2);
  std::fill_n(expected.begin(), 3, std::byte{0});
  std::fill_n(expected.end() - 3, 3, std::byte{0});
  expected[6] = std::byte{3};
  EXPECT_EQ(Get(memory, kGiB - 6, expected.size()), expected);
  ASSERT_TRUE(memory.Trim({kGiB, kPage}).ok());
  EXPECT_EQ(memory.allocated_bytes(), 3 * kPage);
  EXPECT_EQ(ExtentsOf(memory, {kGiB, 3 * kPage}),
            (std::vector<Extent>{Hole(kGiB, kGiB + kPage), Data(kGiB + kPage, kGiB + 2 * kPage),
                                 Hole(kGiB + 2 * kPage, kGiB + 3 * kPage)}));
  Gather gather;
  memory.View({kGiB - kPage, kPage}, gather);
  EXPECT_FALSE(gather.overflowed()) << "what lies in the mapping is lent";
  memory.View({kGiB, 2 * kPage}, gather);
  EXPECT_TRUE(gather.overflowed()) << "its owner shall read into a buffer";
}

TEST(SparseMemoryTest, APlaceIsLentWhereAllOfItIsPresent) {
  SparseMemory memory;
  ASSERT_TRUE(memory.Open(3 * kGiB).ok());
  ASSERT_TRUE(memory.Write(kGiB - 2 * kPage, Fill(4 * kPage, 1)).ok());
  Scatter scatter;
  memory.Place({kGiB - kPage - 5, kPage + 10}, scatter);
  ASSERT_FALSE(scatter.overflowed());
  EXPECT_EQ(scatter.pieces().size(), 2u) << "one for each window";
  scatter.Fill(Fill(kPage + 10, 2));
  memory.Placed({kGiB - kPage - 5, kPage + 10});
  std::vector<std::byte> expected = Fill(4 * kPage, 1);
  std::fill_n(expected.begin() + kPage - 5, kPage + 10, std::byte{2});
  EXPECT_EQ(Get(memory, kGiB - 2 * kPage, 4 * kPage), expected);
  for (const Range absent : {Range{0, 1}, Range{kGiB - 3 * kPage, 2 * kPage}, Range{kGiB + 2 * kPage - 1, 2}}) {
    Scatter none;
    memory.Place(absent, none);
    EXPECT_TRUE(none.overflowed()) << absent.offset;
  }
  EXPECT_EQ(memory.allocated_bytes(), 4 * kPage);
}

// A client that went away half-way, and a Trim before its last bytes came: they must not lie where nothing is said to be.
TEST(SparseMemoryTest, WhatWasPutInPlaceAfterATrimIsKnown) {
  SparseMemory memory;
  ASSERT_TRUE(memory.Open(8 * kPage).ok());
  ASSERT_TRUE(memory.Write(0, Fill(4 * kPage, 1)).ok());
  Scatter scatter;
  memory.Place({0, 4 * kPage}, scatter);
  scatter.Fill(Fill(kPage, 2));
  ASSERT_TRUE(memory.Trim({0, 4 * kPage}).ok());
  scatter.Fill(Fill(kPage, 3));
  memory.Placed({0, 4 * kPage});
  const std::vector<std::byte> now = Get(memory, 0, 4 * kPage);
  // A partial write brings nothing to light that was not there before.
  ASSERT_TRUE(memory.Write(kPage + 1, Fill(1, 9)).ok());
  std::vector<std::byte> expected = now;
  expected[kPage + 1] = std::byte{9};
  EXPECT_EQ(Get(memory, 0, 4 * kPage), expected);
  EXPECT_EQ(now[kPage], std::byte{3});
}

TEST(SparseMemoryTest, AWriteThatFindsNoSpaceIsAnErrorAndTouchesNothingElse) {
  SparseMemory memory;
  ASSERT_TRUE(memory.Open(8 * kPage).ok());
  ASSERT_TRUE(memory.Write(0, Fill(kPage, 1)).ok());
  ASSERT_TRUE(memory.Write(7 * kPage, Fill(kPage, 1)).ok());
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  {
    Limit limit(RLIMIT_FSIZE, 3 * kPage + 10);
    EXPECT_EQ(memory.Write(2 * kPage, Fill(4 * kPage, 2)).code(), absl::StatusCode::kResourceExhausted);
    EXPECT_TRUE(memory.Write(7 * kPage, Fill(kPage, 3)).ok()) << "what has its memory can be written";
  }
  std::signal(SIGXFSZ, before);
  EXPECT_EQ(Get(memory, 0, kPage), Fill(kPage, 1));
  EXPECT_EQ(Get(memory, kPage, kPage), Fill(kPage, 0));
  EXPECT_EQ(Get(memory, 6 * kPage, kPage), Fill(kPage, 0));
  EXPECT_EQ(Get(memory, 7 * kPage, kPage), Fill(kPage, 3));
  EXPECT_TRUE(memory.Write(2 * kPage, Fill(4 * kPage, 4)).ok());
  EXPECT_EQ(Get(memory, 2 * kPage, 4 * kPage), Fill(4 * kPage, 4));
}

// A part of a large disk around the border of two mappings, against a vector of bytes and a vector of pages.
TEST(SparseMemoryTest, RandomOperationsMatchAModel) {
  constexpr uint64_t kLength = 200 * kPage;
  for (uint32_t seed = 0; seed < 8; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    SparseMemory memory;
    ASSERT_TRUE(memory.Open(2 * kGiB).ok());
    const uint64_t base = kGiB - 100 * kPage;
    std::vector<std::byte> bytes = Fill(kLength, 0);
    std::vector<bool> pages(kLength / kPage);
    for (int i = 0; i < 1500; ++i) {
      const uint64_t offset = random() % 2 == 0 ? random() % kLength : random() % (kLength / kPage) * kPage;
      uint64_t length = 1 + random() % (random() % 4 == 0 ? kLength : random() % 2 == 0 ? kPage : 100);
      length = std::min(length, kLength - offset);
      switch (random() % 4) {
        case 0: {
          const auto in = Fill(length, 1 + random() % 255);
          ASSERT_TRUE(memory.Write(base + offset, in).ok());
          std::copy(in.begin(), in.end(), bytes.begin() + offset);
          std::fill(pages.begin() + offset / kPage, pages.begin() + (offset + length - 1) / kPage + 1, true);
          break;
        }
        case 1: {
          ASSERT_TRUE(memory.Trim({base + offset, length}).ok());
          std::fill_n(bytes.begin() + offset, length, std::byte{0});
          const uint64_t first = (offset + kPage - 1) / kPage;
          const uint64_t last = (offset + length) / kPage;
          if (first < last) std::fill(pages.begin() + first, pages.begin() + last, false);
          break;
        }
        case 2: {
          ASSERT_EQ(std::memcmp(Get(memory, base + offset, length).data(), bytes.data() + offset, length), 0) << i;
          break;
        }
        case 3: {
          std::vector<Extent> expected;
          for (uint64_t at = offset; at < offset + length;) {
            uint64_t end = at;
            while (end < offset + length && pages[end / kPage] == pages[at / kPage]) end = (end / kPage + 1) * kPage;
            end = std::min(end, offset + length);
            expected.push_back(pages[at / kPage] ? Data(base + at, base + end) : Hole(base + at, base + end));
            at = end;
          }
          ASSERT_EQ(ExtentsOf(memory, {base + offset, length}), expected) << i;
          break;
        }
      }
    }
    EXPECT_EQ(Get(memory, base, kLength), bytes);
    EXPECT_EQ(memory.allocated_bytes(), std::count(pages.begin(), pages.end(), true) * kPage);
  }
}

TEST(SparseMemoryTest, ResizesMatchAModel) {
  constexpr uint64_t kBase = kGiB - 40 * kPage;  // what is compared: around the border of two mappings
  for (uint32_t seed = 0; seed < 5; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const auto any_size = [&] { return kBase + 1 + random() % (100 * kPage) + (random() % 4 == 0 ? 3 * kGiB : 0); };
    SparseMemory memory;
    ASSERT_TRUE(memory.Open(any_size()).ok());
    std::vector<std::byte> bytes;
    for (int i = 0; i < 200; ++i) {
      const uint64_t size = any_size();
      if (random() % 2 == 0) {
        bytes.resize(std::min(memory.size() - kBase, 100 * kPage));
        ASSERT_TRUE(memory.Resize(size).ok());
        ASSERT_EQ(memory.size(), size);
        bytes.resize(std::min(size - kBase, 100 * kPage), std::byte{0});
      } else {
        bytes.resize(std::min(memory.size() - kBase, 100 * kPage));
      }
      const uint64_t offset = random() % bytes.size();
      const auto in = Fill(1 + random() % std::min<uint64_t>(bytes.size() - offset, 9000), 1 + random() % 255);
      ASSERT_TRUE(memory.Write(kBase + offset, in).ok());
      std::copy(in.begin(), in.end(), bytes.begin() + offset);
      ASSERT_TRUE(memory.Write(memory.size() - 1, Fill(1, 7)).ok());
      if (memory.size() - kBase <= bytes.size()) bytes[memory.size() - kBase - 1] = std::byte{7};
      ASSERT_EQ(Get(memory, kBase, bytes.size()), bytes) << i;
    }
    ASSERT_TRUE(memory.Resize(1).ok());
    EXPECT_EQ(memory.allocated_bytes(), 0u);
    ASSERT_TRUE(memory.Resize(5 * kGiB).ok());
    EXPECT_EQ(ExtentsOf(memory, {0, 5 * kGiB}), (std::vector<Extent>{Hole(0, 5 * kGiB)}));
    EXPECT_EQ(memory.Resize(0).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(memory.Resize(SparseMemory::kMaxSize + 1).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(memory.size(), 5 * kGiB);
  }
}

TEST(SparseMemoryTest, AnotherTakesOverWhatOneHolds) {
  constexpr uint64_t kSize = 3 * kGiB + 5;
  SparseMemory second;
  {
    SparseMemory first;
    ASSERT_TRUE(first.Open(kSize).ok());
    ASSERT_TRUE(first.Write(10, Fill(3, 1)).ok());
    ASSERT_TRUE(first.Write(kGiB - kPage, Fill(3 * kPage, 2)).ok());
    ASSERT_TRUE(first.Trim({kGiB, kPage}).ok());
    ASSERT_TRUE(first.Write(kSize - 1, Fill(1, 3)).ok());
    ASSERT_TRUE(second.Open(kSize, first.file()).ok());
  }
  EXPECT_EQ(ExtentsOf(second, {0, kSize}),
            (std::vector<Extent>{Data(0, kPage), Hole(kPage, kGiB - kPage), Data(kGiB - kPage, kGiB), Hole(kGiB, kGiB + kPage),
                                 Data(kGiB + kPage, kGiB + 2 * kPage), Hole(kGiB + 2 * kPage, 3 * kGiB),
                                 Data(3 * kGiB, kSize)}));
  EXPECT_EQ(Get(second, 10, 4), (std::vector<std::byte>{std::byte{1}, std::byte{1}, std::byte{1}, std::byte{0}}));
  EXPECT_EQ(Get(second, kGiB - kPage, kPage), Fill(kPage, 2));
  EXPECT_EQ(Get(second, kGiB, kPage), Fill(kPage, 0));
  EXPECT_EQ(Get(second, kSize - 1, 1), Fill(1, 3));
  EXPECT_EQ(second.allocated_bytes(), 4 * kPage);
}

// How much of this process's memory files lies in huge pages, as far as it was touched.
uint64_t BytesInHugePages() {
  std::ifstream smaps("/proc/self/smaps_rollup");
  std::string name;
  for (uint64_t kib = 0; smaps >> name;) {
    if (name == "ShmemPmdMapped:" && smaps >> kib) return kib << 10;
  }
  return 0;
}

// Why there are none here; "": there are.
std::string NoHugePages() {
  std::string enabled;
  std::getline(std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled"), enabled);
  if (enabled.empty() || enabled.find("[never]") != std::string::npos) return "this system has no transparent huge pages";
  std::string size;
  std::getline(std::ifstream("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"), size);
  if (size != std::to_string(HugePages::kSize)) return "huge pages of this system have " + size + " bytes";
  constexpr int kCollapse = 25;
  const uint64_t length = 2 * HugePages::kSize;
  void* memory = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const uint64_t begin = (reinterpret_cast<uint64_t>(memory) + HugePages::kSize - 1) / HugePages::kSize * HugePages::kSize;
  std::memset(memory, 1, length);
  const bool works = madvise(reinterpret_cast<void*>(begin), HugePages::kSize, kCollapse) == 0;
  munmap(memory, length);
  return works ? "" : std::string("MADV_COLLAPSE: ") + std::strerror(errno);
}

TEST(SparseMemoryTest, WhatWasWrittenWholeComesToLieInHugePagesAndTakesNoMoreMemory) {
  if (const std::string why = NoHugePages(); !why.empty()) GTEST_SKIP() << why;
  constexpr uint64_t kHuge = HugePages::kSize;
  SparseMemory memory;
  ASSERT_TRUE(memory.Open(2 * kGiB).ok());
  // Across the border of two mappings: three whole ones, and two that lack their last page.
  const uint64_t begin = kGiB - 2 * kHuge;
  for (uint64_t at = 0; at < 3 * kHuge; at += 64 << 10) ASSERT_TRUE(memory.Write(begin + at, Fill(64 << 10, 1 + at % 251)).ok());
  for (const uint64_t at : {begin - 2 * kHuge, begin - kHuge}) ASSERT_TRUE(memory.Write(at, Fill(kHuge - kPage, 2)).ok());
  const uint64_t written = 5 * kHuge - 2 * kPage;
  for (int i = 0; i < 1000 && BytesInHugePages() < 3 * kHuge; ++i) {
    Get(memory, begin, 3 * kHuge);  // a huge page is mapped when it is touched
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(BytesInHugePages(), 3 * kHuge);
  EXPECT_EQ(memory.allocated_bytes(), written);
  for (uint64_t at = 0; at < 3 * kHuge; at += 64 << 10) {
    ASSERT_EQ(Get(memory, begin + at, 64 << 10), Fill(64 << 10, 1 + at % 251));
  }
  ASSERT_TRUE(memory.Trim({begin + 7 * kPage, 3 * kPage}).ok());
  EXPECT_EQ(memory.allocated_bytes(), written - 3 * kPage) << "single pages are given back all the same";
  ASSERT_TRUE(memory.Resize(begin + kHuge).ok());
  EXPECT_EQ(memory.allocated_bytes(), written - 3 * kPage - 2 * kHuge);
  ASSERT_TRUE(memory.Resize(2 * kGiB).ok());
  EXPECT_EQ(Get(memory, begin + kHuge, kPage), Fill(kPage, 0));
  EXPECT_EQ(Get(memory, begin + 10 * kPage, kPage), Fill(kPage, 1));
}

// Each thread writes, trims and reads huge pages of its own, which are joined meanwhile wherever they are whole; and the end
// comes in the midst of it.
TEST(SparseMemoryTest, PagesAreJoinedUnderTheirUsers) {
  constexpr uint64_t kHuge = HugePages::kSize;
  constexpr int kThreads = 4;
  for (int round = 0; round < 3; ++round) {
    SparseMemory memory;
    ASSERT_TRUE(memory.Open(kGiB).ok());
    std::vector<std::thread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        std::mt19937_64 random(round * kThreads + thread);
        const uint64_t begin = thread * kHuge;
        std::vector<std::byte> model = Fill(kHuge, 0);
        for (int i = 0; i < 150; ++i) {
          const bool whole = random() % 4 == 0;
          const uint64_t offset = whole ? 0 : random() % kHuge;
          const uint64_t length = whole ? kHuge : 1 + random() % std::min<uint64_t>(kHuge - offset, 16 * kPage);
          if (random() % 3 != 0) {
            const std::vector<std::byte> in = Fill(length, 1 + random() % 255);
            ASSERT_TRUE(memory.Write(begin + offset, in).ok());
            std::copy(in.begin(), in.end(), model.begin() + offset);
          } else {
            ASSERT_TRUE(memory.Trim({begin + offset, length}).ok());
            std::fill_n(model.begin() + offset, length, std::byte{0});
          }
          if (i % 8 == 0) {
            ASSERT_EQ(std::memcmp(Get(memory, begin, kHuge).data(), model.data(), kHuge), 0) << i;
          }
        }
        ASSERT_EQ(std::memcmp(Get(memory, begin, kHuge).data(), model.data(), kHuge), 0);
      });
    }
    for (std::thread& thread : threads) thread.join();
    const uint64_t taken = memory.allocated_bytes();
    uint64_t data = 0;
    for (const Extent& extent : ExtentsOf(memory, {0, kGiB})) data += extent.kind == Extent::Kind::kData ? extent.range.length : 0;
    EXPECT_EQ(taken, data) << "nothing was joined over a hole";
  }
}

// Each thread has the bytes that leave its number when divided by kThreads, so that all meet in every page.
TEST(SparseMemoryTest, ThreadsWithRangesOfTheirOwnDoNotDisturbEachOther) {
  constexpr int kThreads = 4;
  constexpr uint64_t kUnit = 1000;
  constexpr uint64_t kUnits = 400;
  SparseMemory memory;
  ASSERT_TRUE(memory.Open(2 * kGiB).ok());
  const uint64_t base = kGiB - kUnits * kUnit / 2;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937_64 random(thread);
      std::vector<int> model(kUnits / kThreads);
      for (int i = 0; i < 4000; ++i) {
        const uint64_t mine = random() % model.size();
        const uint64_t offset = base + (mine * kThreads + thread) * kUnit;
        switch (random() % 3) {
          case 0:
            model[mine] = static_cast<int>(random() % 256);
            ASSERT_TRUE(memory.Write(offset, Fill(kUnit, model[mine])).ok());
            break;
          case 1:
            model[mine] = 0;
            ASSERT_TRUE(memory.Trim({offset, kUnit}).ok());
            break;
          case 2:
            ASSERT_EQ(Get(memory, offset, kUnit), Fill(kUnit, model[mine]));
            break;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Writes and trims that overlap may leave either, but nothing may come back later: a page said to be a hole is zero below too,
// which a write to a part of it would show.
TEST(SparseMemoryTest, NothingStaleLiesBelowAHoleAfterOverlappingWritesAndTrims) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "overlapping copies are data races, though harmless ones";
#endif
  constexpr uint64_t kPages = 4;
  uint64_t holes = 0;
  for (int round = 0; round < 2000; ++round) {
    SparseMemory memory;
    ASSERT_TRUE(memory.Open(kPages * kPage).ok());
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 3; ++thread) {
      threads.emplace_back([&, thread] {
        std::mt19937_64 random(round * 3 + thread);
        std::vector<std::byte> buffer = Fill(kPages * kPage, 0xff);
        for (int i = 0; i < 12; ++i) {
          const uint64_t offset = random() % 2 == 0 ? random() % kPages * kPage : random() % (kPages * kPage);
          const uint64_t length = std::min(1 + random() % (2 * kPage), kPages * kPage - offset);
          if (thread == 0) {
            ASSERT_TRUE(memory.Trim({offset / kPage * kPage, kPage}).ok());
          } else {
            ASSERT_TRUE(memory.Write(offset, {buffer.data(), length}).ok());
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    const std::vector<std::byte> contents = Get(memory, 0, kPages * kPage);
    ASSERT_EQ(Get(memory, 0, kPages * kPage), contents);
    for (const Extent& extent : ExtentsOf(memory, {0, kPages * kPage})) {
      if (extent.kind == Extent::Kind::kData) continue;
      for (uint64_t at = extent.range.offset; at < extent.range.end(); at += kPage, ++holes) {
        ASSERT_TRUE(memory.Write(at, Fill(1, 0)).ok());
        ASSERT_EQ(Get(memory, at, kPage), Fill(kPage, 0)) << "round " << round;
      }
    }
  }
  EXPECT_GT(holes, 0u);
}

}  // namespace
}  // namespace buse

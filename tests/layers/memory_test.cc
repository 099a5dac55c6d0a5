// SPDX-License-Identifier: Apache-2.0

#include "layers/memory.h"

#include <algorithm>
#include <array>
#include <vector>

#include "buse/operations.h"
#include "gtest/gtest.h"
#include "tests/leaves.h"

namespace buse::testing {
namespace {

static_assert(kCapabilities<Memory> ==
              Capabilities{.write = true,
                           .write_through = true,
                           .trim = true,
                           .extents = true,
                           .view = true,
                           .resize = true,
                           .place = true});
static_assert(Memory::kBlockSize == 1);
static_assert(Memory::kConcurrency == Concurrency::kParallel);

constexpr Description<Memory::Config, 1> kDescription = Memory::Describe();
static_assert(kDescription.options[0].positional && kDescription.options[0].required);
static_assert(kDescription.options[0].min == 1 && kDescription.options[0].max == SparseMemory::kMaxSize);

TEST(MemoryTest, WithoutASizeItDoesNotOpen) {
  Memory::State state;
  EXPECT_EQ(Memory::Open({}, state).code(), absl::StatusCode::kInvalidArgument);
}

TEST(MemoryTest, ReadsBackWhatWasWrittenAndTrimmed) {
  Memory::State state;
  ASSERT_TRUE(Memory::Open({.size = 10000}, state).ok());
  EXPECT_EQ(Memory::Size(state), 10000u);
  const std::vector<std::byte> ones(300, std::byte{1});
  EXPECT_TRUE(Memory::Write(state, 5000, ones).ok());
  EXPECT_TRUE(Memory::WriteThrough(state, 5300, ones).ok());
  EXPECT_TRUE(Memory::Flush(state).ok());
  EXPECT_TRUE(Memory::Trim(state, {5100, 100}).ok());
  EXPECT_TRUE(buse::WriteZeroes<Memory>(state, {5300, 50}).ok());
  std::vector<std::byte> expected(10000);
  std::fill_n(expected.begin() + 5000, 600, std::byte{1});
  std::fill_n(expected.begin() + 5100, 100, std::byte{0});
  std::fill_n(expected.begin() + 5300, 50, std::byte{0});
  std::vector<std::byte> out(10000, std::byte{0xee});
  EXPECT_TRUE(Memory::Read(state, 0, out).ok());
  EXPECT_EQ(out, expected);
}

TEST(MemoryTest, ZeroesThatWereWrittenKeepTheirSpace) {
  Memory::State state;
  ASSERT_TRUE(Memory::Open({.size = 1 << 20}, state).ok());
  EXPECT_TRUE(buse::WriteZeroes<Memory>(state, {0, 1 << 19}).ok());
  EXPECT_EQ(state.bytes.allocated_bytes(), 1u << 19);
  std::vector<Extent> extents;
  EXPECT_TRUE(Memory::Extents(state, {0, 1 << 20}, [&](const Extent& extent) {
                extents.push_back(extent);
                return true;
              }).ok());
  EXPECT_EQ(extents, (std::vector<Extent>{{{0, 1 << 19}, Extent::Kind::kData}, {{1 << 19, 1 << 19}, Extent::Kind::kHole}}));
}

TEST(MemoryTest, AViewIsTheMemoryItself) {
  Memory::State state;
  ASSERT_TRUE(Memory::Open({.size = 1 << 20}, state).ok());
  std::array<std::byte, 4> bytes = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  ASSERT_TRUE(Memory::Write(state, 4094, bytes).ok());
  Gather gather;
  ASSERT_TRUE(Memory::View(state, {4094, 4}, gather).ok());
  ASSERT_EQ(gather.pieces().size(), 1u) << "pages side by side are one piece";
  const auto* view = static_cast<const std::byte*>(gather.pieces()[0].iov_base);
  EXPECT_EQ(view[3], std::byte{4});
  bytes[3] = std::byte{5};
  ASSERT_TRUE(Memory::Write(state, 4094, bytes).ok());
  EXPECT_EQ(view[3], std::byte{5}) << "nothing was copied";
}

}  // namespace
}  // namespace buse::testing

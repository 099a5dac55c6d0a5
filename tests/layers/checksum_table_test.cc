// SPDX-License-Identifier: Apache-2.0

#include "layers/checksum_table.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "layers/memory.h"
#include "tests/leaves.h"

namespace buse {
namespace {

using testing::Full;

class ChecksumTableTest : public ::testing::Test {
 protected:
  // Eight pages of table: 1024 sums in each.
  ChecksumTableTest() {
    geometry_ = *ChecksumGeometry::Plan(4 << 20, 16384, 512, 4, Uuid{});
    EXPECT_TRUE(Full::Open({.size = 4 << 20}, leaf_).ok());
  }

  uint64_t Pages() const { return geometry_.table_pages(); }
  size_t Calls(const std::string& operation) {
    return std::count_if(script().calls.begin(), script().calls.end(),
                         [&](const testing::Call& call) { return call.operation == operation; });
  }
  testing::Script& script() { return leaf_.own; }
  uint32_t Get(uint64_t block) {
    uint32_t sum;
    EXPECT_TRUE(table_.Get(io_, block, 1, reinterpret_cast<std::byte*>(&sum)).ok());
    return sum;
  }
  uint64_t Put(uint64_t block, std::vector<uint32_t> sums) {
    uint64_t done;
    EXPECT_TRUE(table_.Put(io_, block, sums.size(), reinterpret_cast<std::byte*>(sums.data()), done).ok());
    return done;
  }
  absl::Status WriteDirty() {
    std::vector<std::byte> scratch(8192);
    return table_.WriteDirty(io_, scratch);
  }

  ChecksumGeometry geometry_;
  Full::State leaf_;
  DeviceIoOf<Full> io_{leaf_};
  ChecksumTable table_;
};

TEST_F(ChecksumTableTest, KeepsWhatWasPut) {
  ASSERT_TRUE(table_.Allocate(1 << 20, geometry_).ok());
  EXPECT_EQ(Get(5), 0u);
  EXPECT_EQ(Put(1022, {1, 2, 3, 4}), 4u);
  EXPECT_EQ(Get(1021), 0u);
  EXPECT_EQ(Get(1023), 2u);
  EXPECT_EQ(Get(1025), 4u);
  uint32_t sums[6];
  ASSERT_TRUE(table_.Get(io_, 1021, 6, reinterpret_cast<std::byte*>(sums)).ok());
  EXPECT_EQ(std::vector<uint32_t>(sums, sums + 6), (std::vector<uint32_t>{0, 1, 2, 3, 4, 0}));
  EXPECT_EQ(Calls("Read"), 2u) << "each page once";
  EXPECT_EQ(Calls("Write"), 0u);
}

TEST_F(ChecksumTableTest, WritesNeighboursTogether) {
  ASSERT_TRUE(table_.Allocate(1 << 20, geometry_).ok());
  for (uint64_t page : {3, 2, 6}) Put(page * 1024, {7});
  ASSERT_TRUE(WriteDirty().ok());
  EXPECT_EQ(Calls("Write"), 2u);
  uint32_t sum;
  std::memcpy(&sum, script().medium.data() + geometry_.table + 3 * 4096, 4);
  EXPECT_EQ(sum, 7u);
  ASSERT_TRUE(WriteDirty().ok());
  EXPECT_EQ(Calls("Write"), 2u) << "nothing is dirty";
}

TEST_F(ChecksumTableTest, AsksForRoomAndAlwaysHasItForGet) {
  ASSERT_TRUE(table_.Allocate(4 * 4096, geometry_).ok());
  EXPECT_EQ(Put(0, {1}), 1u);
  EXPECT_EQ(Put(1024, {2}), 1u);
  EXPECT_EQ(Put(2048, {3}), 0u);
  EXPECT_EQ(Put(1, {4}), 1u) << "a page that is dirty";
  for (uint64_t page = 0; page < Pages(); ++page) EXPECT_EQ(Get(page * 1024), page < 2 ? page + 1 : 0);
  ASSERT_TRUE(WriteDirty().ok());
  EXPECT_EQ(Put(2047, {3, 3}), 2u);
  for (uint64_t page = 0; page < Pages(); ++page) Get(page * 1024 + 5);
  EXPECT_EQ(Get(1), 4u);
  EXPECT_EQ(Get(2048), 3u);
}

TEST_F(ChecksumTableTest, FailuresLeaveItUsable) {
  ASSERT_TRUE(table_.Allocate(4 * 4096, geometry_).ok());
  script().fail_at = 0;
  uint32_t sum;
  EXPECT_FALSE(table_.Get(io_, 0, 1, reinterpret_cast<std::byte*>(&sum)).ok());
  Put(0, {1});
  Put(2048, {2});
  script().fail_at = script().calls.size() + 1;
  EXPECT_FALSE(WriteDirty().ok());
  EXPECT_TRUE(WriteDirty().ok());
  table_.Forget(0, Pages());
  EXPECT_EQ(Get(0), 1u);
  EXPECT_EQ(Get(2048), 2u);
}

TEST_F(ChecksumTableTest, ForgetsWhatIsZeroedBelow) {
  ASSERT_TRUE(table_.Allocate(8 * 4096, geometry_).ok());
  Put(0, {1});
  Put(1024, {2});
  ASSERT_TRUE(WriteDirty().ok());
  Put(1025, {2});
  ASSERT_TRUE(io_.Zero({geometry_.table + 4096, 4096}, true).ok());
  table_.Forget(1, 2);
  EXPECT_EQ(Get(0), 1u);
  EXPECT_EQ(Get(1024), 0u);
  EXPECT_EQ(Get(1025), 0u);
  for (uint64_t page = 0; page < 4; ++page) EXPECT_EQ(Put(page * 1024, {9}), 1u) << "it is not dirty any more";
}

TEST_F(ChecksumTableTest, CountsZeroesWithoutReadingHoles) {
  ASSERT_TRUE(table_.Allocate(8 * 4096, geometry_).ok());
  EXPECT_EQ(*table_.CountZeroes(io_, 0, geometry_.blocks), geometry_.blocks);
  EXPECT_EQ(Calls("Read"), 0u);
  Put(3000, {1});
  EXPECT_EQ(*table_.CountZeroes(io_, 10, 5000), 2990u);
  EXPECT_EQ(*table_.CountZeroes(io_, 3000, 5), 0u);
  EXPECT_EQ(*table_.CountZeroes(io_, 3001, 100), 100u);
  ASSERT_TRUE(WriteDirty().ok());
  table_.Forget(0, Pages());
  EXPECT_EQ(*table_.CountZeroes(io_, 10, 5000), 2990u);
}

TEST(ChecksumTableThreadsTest, ManyReadAndOneWrites) {
  const ChecksumGeometry geometry = *ChecksumGeometry::Plan(64 << 20, 16384, 512, 4, Uuid{});
  Memory::State memory;
  ASSERT_TRUE(Memory::Open({.size = 64 << 20}, memory).ok());
  DeviceIoOf<Memory> io(memory);
  ChecksumTable table;
  ASSERT_TRUE(table.Allocate(40 * 4096, geometry).ok());
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 3000; ++i) {
        uint32_t sums[2];
        const uint64_t block = (i * 7919 + t * 31) % (geometry.blocks - 1);
        ASSERT_TRUE(table.Get(io, block, 2, reinterpret_cast<std::byte*>(sums)).ok());
        EXPECT_TRUE(sums[0] == 0 || sums[0] == block + 1);
      }
    });
  }
  std::vector<std::byte> scratch(65536);
  for (uint32_t i = 0; i < 3000; ++i) {
    const uint64_t block = i * 104729ull % geometry.blocks;
    const uint32_t sum = static_cast<uint32_t>(block + 1);
    uint64_t done = 0;
    ASSERT_TRUE(table.Put(io, block, 1, reinterpret_cast<const std::byte*>(&sum), done).ok());
    if (done == 0) {
      ASSERT_TRUE(table.WriteDirty(io, scratch).ok());
    }
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace buse

// SPDX-License-Identifier: Apache-2.0

#include "layers/checksum_log.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "layers/checksum_geometry.h"

namespace buse {
namespace {

ChecksumGeometry Geometry(uint64_t sum_bytes = 4) {
  return *ChecksumGeometry::Plan(64 << 20, 65536, 512, sum_bytes, Uuid{1, 2, 3});
}

// Each slot's records as "kind:first+count=first byte of the first sum".
std::string Records(const ChecksumGeometry& geometry, uint64_t index, ConstBytes slot) {
  std::string text;
  const auto decoded = LogSlot::Decode(geometry, index, slot, [&](const LogRecord& record) {
    absl::StrAppend(&text, text.empty() ? "" : " ", static_cast<int>(record.kind), ":", record.first, "+", record.count);
    if (record.sums != nullptr) absl::StrAppend(&text, "=", std::to_integer<int>(record.sums[0]));
  });
  return decoded.has_value() ? absl::StrCat(decoded->sequence, "/", decoded->content_slots, " ", text) : "invalid";
}

TEST(ChecksumGeometryTest, TakesLittleSpace) {
  const uint64_t terabyte = uint64_t{1} << 40;
  for (const auto& [block, sum, share] : std::vector<std::tuple<uint64_t, uint64_t, double>>{
           {512, 4, 0.0078}, {4096, 4, 0.00098}, {512, 8, 0.0154}, {512, 32, 0.0589}, {4096, 32, 0.0078}}) {
    const auto g = ChecksumGeometry::Plan(terabyte, 1 << 20, block, sum, Uuid{});
    ASSERT_TRUE(g.ok());
    EXPECT_NEAR(1 - static_cast<double>(g->blocks * block) / terabyte, share, share / 50) << block << " " << sum;
  }
}

TEST(ChecksumGeometryTest, TheLogIsASixteenthBetweenOneMebibyteAndSixteen) {
  const uint64_t mebibyte = 1 << 20;
  EXPECT_EQ(ChecksumGeometry::DefaultLog(mebibyte), mebibyte);
  EXPECT_EQ(ChecksumGeometry::DefaultLog(64 * mebibyte + 512), 4 * mebibyte) << "whole slots";
  EXPECT_EQ(ChecksumGeometry::DefaultLog(uint64_t{1} << 50), 16 * mebibyte);
}

TEST(ChecksumGeometryTest, PartsDoNotOverlap) {
  for (uint64_t size = 40960; size < 400000; size += 512) {
    for (uint64_t sum : {4, 8, 32}) {
      const auto g = ChecksumGeometry::Plan(size, 16384, 512, sum, Uuid{});
      ASSERT_TRUE(g.ok()) << size;
      EXPECT_EQ(g->heads[0], 4096u);
      EXPECT_EQ(g->log, 8192u);
      EXPECT_EQ(g->table, g->log + 4 * 4096);
      EXPECT_GE(g->table_pages() * 4096, g->blocks * sum);
      EXPECT_LE(g->data + g->blocks * 512, g->heads[1]);
      EXPECT_EQ(g->heads[1] % 4096, 0u);
      EXPECT_EQ(g->heads[1] + 4096, SuperblockCopyAt(size));
      EXPECT_GT(g->blocks, 0u);
    }
  }
}

TEST(ChecksumGeometryTest, RefusesWhatDoesNotFit) {
  EXPECT_EQ(ChecksumGeometry::Plan(1 << 20, 1 << 20, 512, 4, Uuid{}).status().message(),
            "checksum: the device below has 1048576 bytes, too few for a log of 1048576: it needs 1073152, or a smaller --log");
  EXPECT_EQ(ChecksumGeometry::Plan(1 << 20, 12288, 512, 4, Uuid{}).status().message(),
            "checksum: a log of 12288 bytes: it must be a multiple of 4096 and at least 16384");
  EXPECT_FALSE(ChecksumGeometry::Plan(1 << 20, 16385, 512, 4, Uuid{}).ok());
  EXPECT_TRUE(ChecksumGeometry::Plan(40960, 16384, 512, 4, Uuid{}).ok());
  EXPECT_FALSE(ChecksumGeometry::Plan(40959, 16384, 512, 4, Uuid{}).ok());
}

TEST(ChecksumGeometryTest, ComesBackFromTheSuperblock) {
  Superblock superblock;
  superblock.uuid = {1, 2, 3};
  superblock.medium_size = 64 << 20;
  superblock.block_size = 512;
  superblock.size = Geometry().blocks * 512;
  superblock.fields = Geometry().Fields();
  const auto g = ChecksumGeometry::From(superblock, 4);
  ASSERT_TRUE(g.ok());
  EXPECT_EQ(g->Fields(), Geometry().Fields());
  EXPECT_EQ(g->salt, Geometry().salt);
  superblock.fields[4].second += 4096;
  EXPECT_EQ(ChecksumGeometry::From(superblock, 4).status().code(), absl::StatusCode::kDataLoss);
  superblock.fields.pop_back();
  EXPECT_FALSE(ChecksumGeometry::From(superblock, 4).ok());
}

TEST(ChecksumHeadTest, EveryBitIsProtected) {
  std::vector<std::byte> bytes(4096, std::byte{7});
  ChecksumHead{.number = 5, .checkpoint = 6, .settled = 7}.Encode(99, bytes);
  const auto head = ChecksumHead::Decode(99, bytes);
  ASSERT_TRUE(head.has_value());
  EXPECT_EQ(head->number, 5u);
  EXPECT_EQ(head->checkpoint, 6u);
  EXPECT_EQ(head->settled, 7u);
  EXPECT_FALSE(ChecksumHead::Decode(98, bytes).has_value());
  for (size_t bit = 0; bit < ChecksumHead::kBytes * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_FALSE(ChecksumHead::Decode(99, bytes).has_value()) << bit;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
  }
}

TEST(ChecksumLogTest, NeighboursShareARecord) {
  const ChecksumGeometry g = Geometry();
  std::vector<std::byte> slots(2 * 4096);
  std::vector<std::byte> sums(64, std::byte{5});
  LogWriter writer(slots, g, 33);
  EXPECT_TRUE(writer.Add({LogRecord::Kind::kSums, 10, 3, sums.data()}));
  sums[0] = std::byte{6};
  EXPECT_TRUE(writer.Add({LogRecord::Kind::kSums, 13, 2, sums.data()}));
  EXPECT_TRUE(writer.Add({LogRecord::Kind::kSums, 16, 1, sums.data()}));
  EXPECT_TRUE(writer.Add({LogRecord::Kind::kContent, 17, 1, sums.data()}));
  EXPECT_TRUE(writer.Add({LogRecord::Kind::kZeroes, 18, 1000, nullptr}));
  EXPECT_EQ(writer.Finish(), 1u);
  EXPECT_EQ(Records(g, 1, ConstBytes(slots).first(4096)), "33/0 1:10+5=5 1:16+1=6 2:17+1=6 3:18+1000");
  std::vector<std::byte> sum(1);
  LogSlot::Decode(g, 1, ConstBytes(slots).first(4096), [&](const LogRecord& record) {
    if (record.first == 10) sum[0] = record.sums[12];
  });
  EXPECT_EQ(sum[0], std::byte{6});
}

TEST(ChecksumLogTest, IsValidOnlyInItsPlaceAndWhole) {
  const ChecksumGeometry g = Geometry();
  std::vector<std::byte> slot(4096);
  std::vector<std::byte> sums(64, std::byte{5});
  LogWriter writer(slot, g, 33);
  writer.Add({LogRecord::Kind::kSums, 10, 3, sums.data()});
  writer.Finish();
  EXPECT_EQ(Records(g, 1, slot), "33/0 1:10+3=5") << "33 modulo 16";
  EXPECT_EQ(Records(g, 2, slot), "invalid");
  ChecksumGeometry other = g;
  other.salt ^= 1;
  EXPECT_EQ(Records(other, 1, slot), "invalid");
  for (size_t bit = 0; bit < 4096 * 8; ++bit) {
    slot[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_EQ(Records(g, 1, slot), "invalid") << bit;
    slot[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
  }
}

TEST(ChecksumLogTest, FillsSlotsInTurn) {
  for (uint64_t sum_bytes : {4, 8, 32}) {
    const ChecksumGeometry g = Geometry(sum_bytes);
    std::vector<std::byte> slots(3 * 4096);
    std::vector<std::byte> sums(8 * sum_bytes, std::byte{5});
    LogWriter writer(slots, g, 100);
    uint64_t added = 0;
    while (writer.Add({LogRecord::Kind::kSums, added * 16, 8, sums.data()})) ++added;
    EXPECT_EQ(writer.Finish(), 3u);
    EXPECT_EQ(added, 3 * (4072 / (16 + 8 * sum_bytes)));
    uint64_t found = 0;
    for (uint64_t i = 0; i < 3; ++i) {
      const auto slot = LogSlot::Decode(g, (100 + i) % g.slots, ConstBytes(slots).subspan(i * 4096, 4096),
                                        [&](const LogRecord& record) { EXPECT_EQ(record.first, found++ * 16); });
      ASSERT_TRUE(slot.has_value());
      EXPECT_EQ(slot->sequence, 100 + i);
    }
    EXPECT_EQ(found, added);
  }
}

// What a log has room for between two checkpoints, with Crc32c and blocks of 512.
TEST(ChecksumLogTest, AMebibyteIsFor120MebibytesOfNeighboursAnd84PagesAreInASlotElse) {
  const ChecksumGeometry g = Geometry();
  const std::vector<std::byte> sums(8 * 4, std::byte{5});
  const auto pages_in = [&](uint64_t slots, uint64_t blocks_apart) {
    std::vector<std::byte> memory(slots * 4096);
    LogWriter writer(memory, g, 1);
    uint64_t pages = 0;
    while (writer.Add({LogRecord::Kind::kSums, pages * blocks_apart, 8, sums.data()})) ++pages;
    return pages;
  };
  EXPECT_EQ(pages_in(1, 16), 84u);
  EXPECT_EQ(pages_in(1, 16), 4072 / 48u);
  EXPECT_NEAR(static_cast<double>(pages_in(256, 8) * 4096) / (1 << 20), 126, 1);
}

TEST(ChecksumLogTest, ContentFollowsWithoutZeroes) {
  const ChecksumGeometry g = Geometry();
  std::vector<std::byte> slots(3 * 4096, std::byte{9});
  std::vector<std::byte> sums(12 * 4, std::byte{5});
  std::fill(sums.begin() + 4, sums.begin() + 8, std::byte{0});
  std::vector<std::byte> content(12 * 512);
  for (size_t i = 0; i < 12; ++i) std::fill_n(content.begin() + i * 512, 512, static_cast<std::byte>(i));
  LogWriter writer(slots, g, 1);
  const LogRecord record = {LogRecord::Kind::kContent, 10, 12, sums.data()};
  EXPECT_TRUE(writer.Add(record));
  EXPECT_TRUE(writer.AddContent(record, content));
  EXPECT_EQ(writer.Finish(), 3u);
  EXPECT_EQ(Records(g, 1, ConstBytes(slots).first(4096)), "1/2 2:10+12=5");
  EXPECT_EQ(slots[4096], std::byte{0});
  EXPECT_EQ(slots[4096 + 512], std::byte{2}) << "the second has the sum of zeroes";
  EXPECT_EQ(slots[4096 + 11 * 512], std::byte{0}) << "what an earlier one left is gone";
  LogWriter small(Bytes(slots).first(8192), g, 1);
  EXPECT_TRUE(small.Add(record));
  EXPECT_FALSE(small.AddContent(record, content)) << "no room";
}

TEST(ChecksumLogTest, RecordsPastTheEndAreIgnored) {
  const ChecksumGeometry g = Geometry();
  std::vector<std::byte> slot(4096);
  LogWriter writer(slot, g, 1);
  writer.Add({LogRecord::Kind::kZeroes, g.blocks - 1, 1, nullptr});
  writer.Add({LogRecord::Kind::kZeroes, g.blocks - 1, 2, nullptr});
  writer.Finish();
  EXPECT_EQ(Records(g, 1, slot), absl::StrCat("1/0 3:", g.blocks - 1, "+1"));
}

}  // namespace
}  // namespace buse

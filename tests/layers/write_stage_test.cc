// SPDX-License-Identifier: Apache-2.0

#include "layers/write_stage.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace buse {
namespace {

using Found = std::bitset<WriteStage::kMaxGet>;

std::vector<std::byte> Fill(uint64_t blocks, int value) {
  return std::vector<std::byte>(blocks * 512, static_cast<std::byte>(value));
}

std::unique_ptr<WriteStage> Make(uint64_t pages) {
  auto stage = std::make_unique<WriteStage>();
  EXPECT_TRUE(stage->Allocate(pages * 4096, 512, SumBlocks<Crc32c>, 4, 7).ok());
  return stage;
}

template <class Hash>
bool HasSum(uint64_t salt, uint64_t block, ConstBytes bytes, const std::byte* sum) {
  std::array<std::byte, Hash::kBytes> actual;
  SumBlocks<Hash>(salt, block, bytes, bytes.size(), actual.data());
  return std::equal(actual.begin(), actual.end(), sum);
}

// "first+count" of every piece in order, with a t for those to be released.
std::string Pieces(WriteStage& stage) {
  stage.Sort();
  std::string text;
  stage.ForEachPiece(0, stage.pages(), [&](const WriteStage::Piece& piece) {
    absl::StrAppend(&text, text.empty() ? "" : " ", piece.first, "+", piece.count, piece.release ? "t" : "");
    for (uint64_t i = 0; i < piece.count; ++i) {
      EXPECT_TRUE(HasSum<Crc32c>(7, piece.first + i, {piece.data + i * 512, 512}, piece.sums + i * 4)) << piece.first + i;
    }
    return true;
  });
  return text;
}

TEST(WriteStageTest, GivesBackWhatWasPut) {
  const auto stage = Make(4);
  EXPECT_TRUE(stage->empty());
  EXPECT_EQ(stage->Put(6, Fill(4, 1)), 4u);
  EXPECT_EQ(stage->Put(7, Fill(1, 2)), 1u);
  EXPECT_FALSE(stage->empty());
  std::vector<std::byte> out = Fill(6, 9);
  Found found;
  stage->Get(5, out, found);
  EXPECT_EQ(found, Found(0b011110));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(out[i * 512], static_cast<std::byte>("\x09\x01\x02\x01\x01\x09"[i])) << i;
  // What was found elsewhere stays.
  found = Found(0b000010);
  out = Fill(6, 9);
  stage->Get(5, out, found);
  EXPECT_EQ(out[512], std::byte{9});
  EXPECT_EQ(out[1024], std::byte{2});
}

TEST(WriteStageTest, PiecesAreInOrderAndDoNotCrossPages) {
  const auto stage = Make(4);
  stage->Put(70, Fill(1, 1));
  stage->Put(14, Fill(4, 1));
  stage->Put(1, Fill(1, 1));
  stage->PutZeroes(2, 2, true);
  stage->PutZeroes(3, 2, false);
  EXPECT_EQ(Pieces(*stage), "1+1 2+1t 3+2 14+2 16+2 70+1");
  EXPECT_EQ(stage->CountAbsent(5, 100), 9u);
  EXPECT_EQ(stage->CountAbsent(18, 52), 52u);
  EXPECT_EQ(stage->CountAbsent(4, 1), 0u);
}

TEST(WriteStageTest, TakesWhatFitsAndOverwritesWhenFull) {
  const auto stage = Make(2);
  EXPECT_EQ(stage->Put(4, Fill(40, 1)), 12u);
  EXPECT_TRUE(stage->full());
  EXPECT_EQ(stage->Put(100, Fill(1, 2)), 0u);
  EXPECT_EQ(stage->Put(8, Fill(2, 2)), 2u);
  EXPECT_EQ(stage->PutZeroes(14, 4, true), 2u);
  EXPECT_EQ(Pieces(*stage), "4+4 8+6 14+2t");
  stage->Drop();
  EXPECT_TRUE(stage->empty());
  Found found;
  std::vector<std::byte> out(40 * 512);
  stage->Get(4, out, found);
  EXPECT_TRUE(found.none());
  EXPECT_EQ(stage->Put(1000, Fill(16, 1)), 16u);
}

// Bytes and sum of a block always belong together.
TEST(WriteStageTest, ThreadsMayMeetOnABlock) {
  const auto stage = Make(16);
  std::vector<std::thread> threads;
  for (int t = 1; t <= 3; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 300; ++i) {
        EXPECT_EQ(stage->Put(i % 7 * 8 + t, Fill(12, t)), 12u);
        Found found;
        std::vector<std::byte> out(12 * 512);
        stage->Get(i % 5 * 8, out, found);
        for (size_t b = 0; b < 12; ++b) {
          EXPECT_TRUE(!found[b] || std::memcmp(&out[b * 512], &out[b * 512 + 1], 511) == 0);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Pieces(*stage);
}

}  // namespace
}  // namespace buse

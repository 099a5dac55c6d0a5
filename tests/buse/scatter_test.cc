// SPDX-License-Identifier: Apache-2.0
//
// Scatter: bytes land in the pieces in order, however they are cut.

#include "buse/scatter.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"

namespace buse {
namespace {

TEST(ScatterTest, BytesLandInOrderHoweverTheyAreCut) {
  std::vector<std::byte> in(100);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<std::byte>(i + 1);
  for (size_t cut = 1; cut <= in.size(); ++cut) {
    std::vector<std::byte> out(102);
    Scatter scatter;
    scatter.Append(Bytes(out).first(1));
    scatter.Append(Bytes(out).subspan(1, 0));
    scatter.Append(Bytes(out).subspan(1, 60));
    scatter.Append(Bytes(out).subspan(61, 39));
    EXPECT_EQ(scatter.pieces().size(), 3u) << "empty pieces are dropped";
    for (size_t at = 0; at < in.size(); at += cut) {
      EXPECT_EQ(scatter.bytes(), in.size() - at);
      scatter.Fill(ConstBytes(in).subspan(at, std::min(cut, in.size() - at)));
    }
    EXPECT_EQ(scatter.bytes(), 0u);
    EXPECT_TRUE(scatter.pieces().empty());
    EXPECT_TRUE(std::equal(in.begin(), in.end(), out.begin())) << cut;
    EXPECT_EQ(out[100], std::byte{0});
  }
}

TEST(ScatterTest, WhatComesBehindFollowsTheLastPiece) {
  std::vector<std::byte> memory(100);
  Scatter scatter;
  scatter.Append(Bytes(memory).first(10));
  scatter.Append(Bytes(memory).subspan(20, 10));
  scatter.Advance(15);
  const std::span<iovec> pieces = scatter.PiecesAnd(Bytes(memory).subspan(50, 7));
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(pieces[0].iov_base, &memory[25]);
  EXPECT_EQ(pieces[0].iov_len, 5u);
  EXPECT_EQ(pieces[1].iov_base, &memory[50]);
  EXPECT_EQ(pieces[1].iov_len, 7u);
  EXPECT_EQ(scatter.pieces().size(), 1u) << "it is no place of the payload";
}

TEST(ScatterTest, OneTooManyOverflows) {
  std::vector<std::byte> memory(Scatter::kMaxPieces + 1);
  Scatter scatter;
  for (size_t i = 0; i < Scatter::kMaxPieces; ++i) scatter.Append(Bytes(memory).subspan(i, 1));
  EXPECT_FALSE(scatter.overflowed());
  EXPECT_EQ(scatter.PiecesAnd(memory).size(), Scatter::kMaxPieces + 1);
  scatter.Append(Bytes(memory).last(1));
  EXPECT_TRUE(scatter.overflowed());
  scatter.Clear();
  EXPECT_FALSE(scatter.overflowed());
  EXPECT_EQ(scatter.bytes(), 0u);
}

}  // namespace
}  // namespace buse

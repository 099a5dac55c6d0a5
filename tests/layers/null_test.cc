// SPDX-License-Identifier: Apache-2.0

#include "layers/null.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/leaves.h"

namespace buse::testing {
namespace {

static_assert(kCapabilities<Null> ==
              Capabilities{
                  .write = true, .write_through = true, .trim = true, .write_zeroes = true, .extents = true, .view = true});
static_assert(Null::kBlockSize == 1);
static_assert(Null::kConcurrency == Concurrency::kParallel);

TEST(NullTest, ImpossibleSizesAreRefusedByName) {
  for (const uint64_t size : {uint64_t{0}, Null::kMaxSize + 1}) {
    Null::State state;
    const absl::Status status = Null::Open({.size = size}, state);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(std::to_string(size)), absl::string_view::npos) << status;
  }
}

TEST(NullTest, ReadsZeroesWhateverWasWritten) {
  Null::State state;
  ASSERT_TRUE(Null::Open({.size = Null::kMaxSize}, state).ok());
  EXPECT_EQ(Null::Size(state), Null::kMaxSize);
  const std::vector<std::byte> zeroes(100000);
  std::vector<std::byte> bytes(100000, std::byte{1});
  EXPECT_TRUE(Null::Write(state, 0, bytes).ok());
  EXPECT_TRUE(Null::WriteThrough(state, 0, bytes).ok());
  EXPECT_TRUE(Null::Flush(state).ok());
  EXPECT_TRUE(Null::Trim(state, {0, 1}).ok());
  EXPECT_TRUE(Null::WriteZeroes(state, {0, 1}).ok());
  EXPECT_TRUE(Null::Read(state, 0, bytes).ok());
  EXPECT_EQ(bytes, zeroes);
  Gather gather;
  EXPECT_TRUE(Null::View(state, {0, 100000}, gather).ok());
  EXPECT_EQ(gather.bytes(), 100000u);
  for (const iovec& piece : gather.pieces()) {
    const auto* begin = static_cast<const std::byte*>(piece.iov_base);
    EXPECT_EQ(std::vector<std::byte>(begin, begin + piece.iov_len), std::vector<std::byte>(piece.iov_len));
  }
}

TEST(NullTest, ExtentsAreOneHole) {
  Null::State state;
  ASSERT_TRUE(Null::Open({.size = 1 << 20}, state).ok());
  std::vector<Extent> extents;
  EXPECT_TRUE(Null::Extents(state, {5, 1000}, [&](const Extent& extent) {
                extents.push_back(extent);
                return true;
              }).ok());
  EXPECT_EQ(extents, (std::vector<Extent>{{{5, 1000}, Extent::Kind::kHole}}));
}

}  // namespace
}  // namespace buse::testing

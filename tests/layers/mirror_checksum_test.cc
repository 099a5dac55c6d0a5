// SPDX-License-Identifier: Apache-2.0
//
// A mirror of checksums repairs itself: whatever bits flip on either medium, as long as one leg has each block.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "gtest/gtest.h"
#include "layers/checksum.h"
#include "layers/mirror.h"
#include "tests/leaves.h"

namespace buse::testing {
namespace {

using Stack = Mirror<Checksum<Full512>, Checksum<Full512>>;

class MirrorChecksumTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kBlock = 512;

  MirrorChecksumTest() {
    EXPECT_EQ(FormatStack<Stack>(Config(), [](uint64_t, uint64_t) {}), absl::OkStatus());
    Open();
    content_.resize(Stack::Size(*state_));
    for (std::byte& byte : content_) byte = static_cast<std::byte>(random_());
    EXPECT_EQ(Stack::Write(*state_, 0, content_), absl::OkStatus());
    EXPECT_EQ(Stack::Flush(*state_), absl::OkStatus());
  }

  Stack::Config Config() {
    Stack::Config config = {.region_size = 16384};
    std::get<0>(config.below) = {.log = 16384, .below = {.size = 1 << 18, .script = &media_[0]}};
    std::get<1>(config.below) = {.log = 16384, .below = {.size = 1 << 18, .script = &media_[1]}};
    return config;
  }
  void Open() {
    state_ = std::make_unique<Stack::State>();
    EXPECT_EQ(Stack::Open(Config(), *state_), absl::OkStatus());
  }
  // Flips a bit of a block on the medium of one leg.
  void Flip(size_t leg, uint64_t block) {
    std::vector<std::byte>& medium = media_[leg].medium;
    const auto begin = content_.begin() + static_cast<ptrdiff_t>(block * kBlock);
    const auto place = std::search(medium.begin(), medium.end(), begin, begin + kBlock);
    ASSERT_NE(place, medium.end());
    place[static_cast<ptrdiff_t>(random_() % kBlock)] ^= std::byte{1} << random_() % 8;
  }
  absl::Status ReadBlock(uint64_t block) {
    std::array<std::byte, kBlock> bytes;
    absl::Status status = Stack::Read(*state_, block * kBlock, bytes);
    EXPECT_TRUE(!status.ok() || std::equal(bytes.begin(), bytes.end(), content_.begin() + block * kBlock)) << "wrong bytes";
    return status;
  }
  std::vector<std::string> Check() {
    std::vector<std::string> said;
    const CheckReport report = {
        .damaged = [&](Range range, absl::string_view why) { said.push_back(absl::StrCat(range.offset, " ", why)); },
        .flawed = [&](absl::string_view what) { said.push_back(std::string(what)); },
        .progress = [](uint64_t, uint64_t) {}};
    EXPECT_EQ(CheckStack<Stack>(
                  *state_, [](absl::string_view, uint64_t) {}, report),
              absl::OkStatus());
    return said;
  }

  std::mt19937_64 random_{7};
  std::array<Script, 2> media_;
  std::vector<std::byte> content_;
  std::unique_ptr<Stack::State> state_;
};

TEST_F(MirrorChecksumTest, BitsThatFlipOnEitherLegAreHealedByReading) {
  const uint64_t blocks = content_.size() / kBlock;
  for (uint64_t block = 0; block < blocks; block += 1 + random_() % 5) Flip(random_() % 2, block);
  EXPECT_NE(Check(), std::vector<std::string>());
  for (uint64_t block = 0; block < blocks; ++block) EXPECT_EQ(ReadBlock(block), absl::OkStatus());
  // What was read came from one leg; a scrub reads both.
  EXPECT_EQ(*Stack::Scrub(*state_, content_.size()), 0u);
  EXPECT_GT(Stack::Status(*state_).repaired, 0u);
  EXPECT_EQ(Stack::Status(*state_).mismatched, 0u);
  EXPECT_EQ(Stack::Flush(*state_), absl::OkStatus());
  EXPECT_EQ(Check(), std::vector<std::string>());
  for (size_t leg = 0; leg < 2; ++leg) {
    EXPECT_EQ(Stack::Status(*state_).leg[leg].state, MirrorLegs::State::kInSync);
    EXPECT_NE(std::search(media_[leg].medium.begin(), media_[leg].medium.end(), content_.begin(), content_.end()),
              media_[leg].medium.end())
        << "leg " << leg << " has all of it again";
  }
  Open();
  for (uint64_t block = 0; block < blocks; ++block) EXPECT_EQ(ReadBlock(block), absl::OkStatus());
}

TEST_F(MirrorChecksumTest, WhatFlippedOnBothLegsIsAnErrorUntilItIsWritten) {
  Flip(0, 5);
  Flip(1, 5);
  Flip(0, 6);
  EXPECT_EQ(ReadBlock(4), absl::OkStatus());
  EXPECT_EQ(ReadBlock(5).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReadBlock(6), absl::OkStatus());
  EXPECT_EQ(Stack::Write(*state_, 5 * kBlock, ConstBytes(content_).subspan(5 * kBlock, kBlock)), absl::OkStatus());
  EXPECT_EQ(ReadBlock(5), absl::OkStatus());
  EXPECT_EQ(*Stack::Scrub(*state_, content_.size()), 0u);
  EXPECT_EQ(Stack::Flush(*state_), absl::OkStatus());
  EXPECT_EQ(Check(), std::vector<std::string>());
}

// With the layers below it.
TEST_F(MirrorChecksumTest, AReplacedLegIsFormattedAndRebuilt) {
  media_[1].medium.assign(media_[1].medium.size(), std::byte{0});
  state_ = std::make_unique<Stack::State>();
  Stack::Config config = Config();
  config.replace_leg = "1";
  ASSERT_EQ(Stack::Open(config, *state_), absl::OkStatus());
  EXPECT_EQ(Stack::Status(*state_).leg[1].state, MirrorLegs::State::kRebuilding);
  EXPECT_EQ(*Stack::Rebuild(*state_, content_.size()), 0u);
  EXPECT_EQ(Stack::Flush(*state_), absl::OkStatus());
  EXPECT_EQ(Check(), std::vector<std::string>());
  EXPECT_NE(std::search(media_[1].medium.begin(), media_[1].medium.end(), content_.begin(), content_.end()),
            media_[1].medium.end());
  Open();
  for (uint64_t block = 0; block < content_.size() / kBlock; ++block) EXPECT_EQ(ReadBlock(block), absl::OkStatus());
}

}  // namespace
}  // namespace buse::testing

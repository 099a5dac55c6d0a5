// SPDX-License-Identifier: Apache-2.0

#include "layers/checksum_hash.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "layers/crc32c.h"
#include "layers/splitmix.h"
#include "tests/layers/set_crc32c.h"

namespace buse {
namespace {

std::vector<std::byte> Random(size_t size, uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

template <class Hash>
bool HasSum(uint64_t salt, uint64_t block, ConstBytes bytes, const std::byte* sum) {
  std::array<std::byte, Hash::kBytes> actual;
  SumBlocks<Hash>(salt, block, bytes, bytes.size(), actual.data());
  return std::equal(actual.begin(), actual.end(), sum);
}

template <class Hash>
class ChecksumHashTest : public ::testing::Test {
 protected:
  using Sum = std::array<std::byte, Hash::kBytes>;
  static Sum SumOf(uint64_t salt, uint64_t block, ConstBytes bytes) {
    Sum sum;
    SumBlocks<Hash>(salt, block, bytes, bytes.size(), sum.data());
    return sum;
  }
};

using Hashes = ::testing::Types<Crc32c, Xxh3, Sha256>;
TYPED_TEST_SUITE(ChecksumHashTest, Hashes);

TYPED_TEST(ChecksumHashTest, OnlyZeroesHaveTheSumZero) {
  const typename TestFixture::Sum zero = {};
  for (size_t size : {512, 4096}) {
    std::vector<std::byte> bytes(size);
    EXPECT_EQ(this->SumOf(7, 3, bytes), zero);
    for (size_t at : {size_t{0}, size_t{15}, size_t{16}, size - 1}) {
      bytes[at] = std::byte{1};
      EXPECT_NE(this->SumOf(7, 3, bytes), zero);
      EXPECT_FALSE(HasSum<TypeParam>(7, 3, bytes, zero.data()));
      bytes[at] = std::byte{0};
    }
    EXPECT_TRUE(HasSum<TypeParam>(7, 3, bytes, zero.data()));
  }
}

// No content is known for which the others are 0.
TEST(Crc32cSumTest, IsNot0WhereTheHashIs) {
  std::vector<std::byte> bytes = Random(512, 1);
  testing::SetCrc32c(0, 7, 3, bytes);
  uint32_t sum = 0;
  Crc32c::Compute(7, 3, bytes, reinterpret_cast<std::byte*>(&sum));
  ASSERT_EQ(sum, 0u);
  SumBlocks<Crc32c>(7, 3, bytes, 512, reinterpret_cast<std::byte*>(&sum));
  EXPECT_EQ(sum, 1u);
}

TYPED_TEST(ChecksumHashTest, IsBoundToTheBlockAndTheMedium) {
  const std::vector<std::byte> bytes = Random(512, 1);
  const auto sum = this->SumOf(7, 3, bytes);
  EXPECT_TRUE(HasSum<TypeParam>(7, 3, bytes, sum.data()));
  EXPECT_FALSE(HasSum<TypeParam>(8, 3, bytes, sum.data()));
  for (uint64_t block : {uint64_t{2}, uint64_t{4}, uint64_t{3} << 32, (uint64_t{1} << 32) + 3}) {
    EXPECT_FALSE(HasSum<TypeParam>(7, block, bytes, sum.data())) << block;
  }
}

TYPED_TEST(ChecksumHashTest, EveryBitCounts) {
  std::vector<std::byte> bytes = Random(512, 2);
  const auto sum = this->SumOf(7, 3, bytes);
  for (size_t bit = 0; bit < 4096; ++bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_FALSE(HasSum<TypeParam>(7, 3, bytes, sum.data())) << bit;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
  }
}

TYPED_TEST(ChecksumHashTest, BlocksAreSummedOneByOne) {
  const std::vector<std::byte> bytes = Random(4096, 3);
  std::vector<std::byte> sums(8 * TypeParam::kBytes);
  SumBlocks<TypeParam>(7, 16, bytes, 512, sums.data());
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_TRUE(HasSum<TypeParam>(7, 16 + i, ConstBytes(bytes).subspan(i * 512, 512), sums.data() + i * TypeParam::kBytes));
  }
}

// ---- Crc32c::AllMatch.

class RunTest : public ::testing::TestWithParam<uint64_t> {
 protected:
  void SetUp() override {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("pclmul")) return;
#endif
    GTEST_SKIP() << "this machine has no carry-less multiplication, so that all is done block by block";
  }
  bool Matches() const { return Crc32c::AllMatch(7, kFirst, bytes_, GetParam(), sums_.data()); }
  void Sum() {
    sums_.resize(bytes_.size() / GetParam() * 4);
    SumBlocks<Crc32c>(7, kFirst, bytes_, GetParam(), sums_.data());
  }

  static constexpr uint64_t kFirst = (uint64_t{1} << 32) - 20;
  std::vector<std::byte> bytes_;
  std::vector<std::byte> sums_;
};

TEST_P(RunTest, MatchesWhatEachBlockMatches) {
  for (size_t blocks : {1, 2, 3, 4, 5, 6, 31, 256}) {
    bytes_ = Random(blocks * GetParam(), blocks);
    Sum();
    EXPECT_TRUE(Matches()) << blocks;
    // Blocks of zeroes have no CRC.
    for (size_t block : std::set<size_t>{0, blocks / 2, blocks - 1}) {
      std::fill_n(bytes_.begin() + block * GetParam(), GetParam(), std::byte{0});
      EXPECT_FALSE(Matches()) << block << " of " << blocks;
      Sum();
      EXPECT_TRUE(Matches()) << block << " of " << blocks;
    }
  }
}

TEST_P(RunTest, NoticesDamageInAnyBlockAndAnySum) {
  for (size_t blocks : {1, 7, 32}) {
    bytes_ = Random(blocks * GetParam(), blocks);
    std::fill_n(bytes_.begin() + blocks / 2 * GetParam(), GetParam(), std::byte{0});
    Sum();
    for (size_t bit = 0; bit < bytes_.size() * 8; bit += 61) {
      bytes_[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      EXPECT_FALSE(Matches()) << bit;
      bytes_[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    }
    for (size_t bit = 0; bit < sums_.size() * 8; ++bit) {
      sums_[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      EXPECT_FALSE(Matches()) << bit;
      sums_[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    }
  }
}

TEST_P(RunTest, NoticesBlocksThatChangedPlacesAndTheSameDamageTwice) {
  bytes_ = Random(8 * GetParam(), 1);
  Sum();
  for (size_t a = 0; a < 8; ++a) {
    for (size_t b = 0; b < a; ++b) {
      const auto first = bytes_.begin() + a * GetParam();
      const auto second = bytes_.begin() + b * GetParam();
      std::swap_ranges(first, first + GetParam(), second);
      EXPECT_FALSE(Matches()) << a << " and " << b;
      std::swap_ranges(first, first + GetParam(), second);
      first[5] ^= std::byte{9};
      second[5] ^= std::byte{9};
      EXPECT_FALSE(Matches()) << a << " and " << b;
      first[5] ^= std::byte{9};
      second[5] ^= std::byte{9};
    }
  }
  EXPECT_TRUE(Matches());
}

// What is said not to be found: the difference that damage to the first block makes in the register, put into the bytes of the
// second where it is XORed with it. Neither block has its sum.
TEST_P(RunTest, DamageThatCancelsOutPasses) {
  const uint64_t block = GetParam();
  bytes_ = Random(2 * block, 1);
  Sum();
  const auto register_at = [&] { return ExtendCrc32c(0, ConstBytes(bytes_).first(2 * block - 4)); };
  const uint32_t before = register_at();
  bytes_[block / 2] ^= std::byte{1};
  const uint32_t difference = before ^ register_at();
  for (size_t i = 0; i < 4; ++i) bytes_[2 * block - 4 + i] ^= static_cast<std::byte>(difference >> 8 * i);
  EXPECT_TRUE(Matches());
  for (uint64_t i : {0, 1}) {
    const ConstBytes one = ConstBytes(bytes_).subspan(i * block, block);
    EXPECT_FALSE(Crc32c::AllMatch(7, kFirst + i, one, block, sums_.data() + i * 4)) << i;
    EXPECT_FALSE(HasSum<Crc32c>(7, kFirst + i, one, sums_.data() + i * 4)) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Blocks, RunTest, ::testing::Values(512, 1024, 2048, 4096));

TEST(Sha256Test, IsOfSaltBlockAndBytes) {
  // sha256 of 16 zero bytes and then 512 times 'a'.
  const std::vector<std::byte> bytes(512, std::byte{'a'});
  std::array<std::byte, 32> sum;
  Sha256::Compute(0, 0, bytes, sum.data());
  std::string hex;
  for (std::byte b : sum) {
    hex += "0123456789abcdef"[std::to_integer<int>(b) / 16];
    hex += "0123456789abcdef"[std::to_integer<int>(b) % 16];
  }
  EXPECT_EQ(hex, "9db1a776e5e552d1de356488d21393bb5e89d5faa70123354206c8048f4c1686");
}

}  // namespace
}  // namespace buse

// SPDX-License-Identifier: Apache-2.0

#include "layers/crc32c.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "layers/splitmix.h"

namespace buse {
namespace {

// The values that others publish.
TEST(Crc32cTest, IsCastagnolis) {
  const std::string digits = "123456789";
  EXPECT_EQ(ExtendCrc32c(0, std::as_bytes(std::span(digits))), 0xe3069283u);
  const std::vector<std::byte> zeroes(32);
  EXPECT_EQ(ExtendCrc32c(0, zeroes), 0x8a9136aau);
  // In two parts.
  const std::string end = digits.substr(4);
  EXPECT_EQ(ExtendCrc32c(ExtendCrc32c(0, std::as_bytes(std::span(digits)).first(4)), std::as_bytes(std::span(end))),
            0xe3069283u);
}

// From the definition, a bit at a time.
uint32_t Slowly(uint32_t crc, ConstBytes bytes) {
  crc = ~crc;
  for (std::byte b : bytes) {
    crc ^= std::to_integer<uint32_t>(b);
    for (int i = 0; i < 8; ++i) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0x82f63b78u : 0u);
  }
  return ~crc;
}

TEST(Crc32cTest, IsTheDefinitionsOfAnyBytesAtAnyAddress) {
  SplitMix64 random(1);
  std::vector<std::byte> bytes(8 + 4096);
  for (size_t offset = 0; offset < 8; ++offset) {
    for (size_t size : {0, 1, 7, 16, 63, 255, 512, 1024, 4096}) {
      for (std::byte& b : bytes) b = static_cast<std::byte>(random());
      const auto before = static_cast<uint32_t>(random());
      const ConstBytes part = ConstBytes(bytes).subspan(offset, size);
      ASSERT_EQ(ExtendCrc32c(before, part), Slowly(before, part)) << size << " at " << offset;
    }
  }
}

}  // namespace
}  // namespace buse

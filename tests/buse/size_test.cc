// SPDX-License-Identifier: Apache-2.0
//
// Sizes as people write and read them: every accepted form, and the sentence for every refused one.

#include "buse/size.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace buse {
namespace {

TEST(SizeTest, EveryAcceptedFormGivesItsBytes) {
  const std::vector<std::pair<std::string, uint64_t>> table = {
      {"0", 0},
      {"4096", 4096},
      {"0004096", 4096},
      {"4096B", 4096},
      {"4K", 4096},
      {"4k", 4096},
      {"4KB", 4096},
      {"4KiB", 4096},
      {"4kib", 4096},
      {"4 KiB", 4096},
      {"1 byte", 1},
      {"1000 bytes", 1000},
      {"128M", 134217728},
      {"1.5G", 1610612736},
      {"1.50G", 1610612736},
      {"0.5K", 512},
      {"1.0", 1},
      {"0.0009765625K", 1},
      {"2.000000000000000000000000000000000000000000000000000000000000000000000000000M", 2097152},
      {"3T", 3298534883328},
      {"2P", uint64_t{2} << 50},
      {"15E", uint64_t{15} << 60},
      {"15.999999999999999999132638262011596452794037759304046630859375E", UINT64_MAX},
      {"18446744073709551615", UINT64_MAX},
  };
  for (const auto& [text, bytes] : table) {
    const absl::StatusOr<uint64_t> size = ParseSize(text);
    ASSERT_TRUE(size.ok()) << size.status();
    EXPECT_EQ(*size, bytes) << text;
  }
}

TEST(SizeTest, EveryRefusedFormHasOneSentenceThatSaysWhatIsAccepted) {
  const std::string accepted = ": give bytes, or a number with K, M, G, T, P or E, such as 128M";
  const std::string most = ": the most is 18446744073709551615 bytes, one less than 16E";
  const std::vector<std::pair<std::string, std::string>> table = {
      {"", "\"\" is no size" + accepted},
      {"  ", "\"  \" is no size" + accepted},
      {"12Q", "\"12Q\" is no size" + accepted},
      {"1e30", "\"1e30\" is no size" + accepted},
      {"12KK", "\"12KK\" is no size" + accepted},
      {"12iB", "\"12iB\" is no size" + accepted},
      {"12 ", "\"12 \" is no size" + accepted},
      {" 12", "\" 12\" is no size" + accepted},
      {"12  K", "\"12  K\" is no size" + accepted},
      {"K", "\"K\" is no size" + accepted},
      {".5K", "\".5K\" is no size" + accepted},
      {"5.K", "\"5.K\" is no size" + accepted},
      {"1.2.3K", "\"1.2.3K\" is no size" + accepted},
      {"+1", "\"+1\" is no size" + accepted},
      {"-", "\"-\" is no size" + accepted},
      {"0x10", "\"0x10\" is no size" + accepted},
      {"a\nb\"", "\"a\\nb\\\"\" is no size" + accepted},
      {"-1", "\"-1\" is negative" + accepted},
      {"-5K", "\"-5K\" is negative" + accepted},
      {"1.5", "\"1.5\" is not a whole number of bytes" + accepted},
      {"0.3K", "\"0.3K\" is not a whole number of bytes" + accepted},
      {"16E", "\"16E\" is too large" + most},
      {"18446744073709551616", "\"18446744073709551616\" is too large" + most},
      {"99999999999999999999", "\"99999999999999999999\" is too large" + most},
      {"18014398509481984K", "\"18014398509481984K\" is too large" + most},
  };
  for (const auto& [text, sentence] : table) {
    const absl::StatusOr<uint64_t> size = ParseSize(text);
    ASSERT_FALSE(size.ok()) << text << " is " << *size;
    EXPECT_EQ(size.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(size.status().message(), sentence);
  }
}

TEST(SizeTest, FormattedSizesAreExactShortAndAcceptedAgain) {
  const std::vector<std::pair<uint64_t, std::string>> table = {
      {0, "0 bytes"},
      {1, "1 byte"},
      {1000, "1000 bytes"},
      {1024, "1 KiB"},
      {1536, "1536 bytes"},
      {1025 * 1024, "1025 KiB"},
      {134217728, "128 MiB"},
      {uint64_t{3} << 40, "3 TiB"},
      {uint64_t{5} << 50, "5 PiB"},
      {uint64_t{15} << 60, "15 EiB"},
      {UINT64_MAX, "18446744073709551615 bytes"},
  };
  for (const auto& [bytes, text] : table) {
    EXPECT_EQ(FormatSize(bytes), text);
    const absl::StatusOr<uint64_t> again = ParseSize(text);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(*again, bytes);
  }
}

TEST(SizeTest, RoughlyIsRoundedDownToThreeDigits) {
  const std::vector<std::pair<uint64_t, std::string>> table = {
      {0, "0 bytes"},
      {1, "1 byte"},
      {1023, "1023 bytes"},
      {1024, "1 KiB"},
      {1025, "1.00 KiB"},
      {1536, "1.50 KiB"},
      {10 * 1024 + 1023, "10.9 KiB"},
      {100 * 1024 + 1023, "100 KiB"},
      {(1 << 20) - 1, "1023 KiB"},
      {134217728, "128 MiB"},
      {10653122560, "9.92 GiB"},
      {uint64_t{15} << 60, "15 EiB"},
      {UINT64_MAX, "15.9 EiB"},
  };
  for (const auto& [bytes, text] : table) EXPECT_EQ(FormatSizeRoughly(bytes), text);
}

}  // namespace
}  // namespace buse

// SPDX-License-Identifier: Apache-2.0
//
// Sizes in bytes as people write and read them. No floating point: a size is exact or refused.

#include "buse/size.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace buse {
namespace {

constexpr absl::string_view kUnits = "KMGTPE";  // the i-th is 1024 to the power of i + 1
constexpr absl::string_view kAccepted = "give bytes, or a number with K, M, G, T, P or E, such as 128M";

absl::Status Refused(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("\"", absl::Utf8SafeCEscape(text), "\" ", why));
}

// Removes the digits that `text` begins with and returns them.
absl::string_view TakeDigits(absl::string_view& text) {
  const size_t count = std::find_if_not(text.begin(), text.end(), absl::ascii_isdigit) - text.begin();
  const absl::string_view digits = text.substr(0, count);
  text.remove_prefix(count);
  return digits;
}

// The exponent of 2 that a unit stands for, if it is one.
std::optional<int> ParseUnit(absl::string_view unit) {
  if (unit.empty() || absl::EqualsIgnoreCase(unit, "B") || unit == " byte" || unit == " bytes") return 0;
  if (unit.front() == ' ') unit.remove_prefix(1);
  if (unit.empty()) return std::nullopt;
  const size_t power = kUnits.find(absl::ascii_toupper(unit.front()));
  unit.remove_prefix(1);
  if (power == absl::string_view::npos) return std::nullopt;
  if (!unit.empty() && !absl::EqualsIgnoreCase(unit, "B") && !absl::EqualsIgnoreCase(unit, "iB")) return std::nullopt;
  return 10 * (static_cast<int>(power) + 1);
}

// 0.`digits` times 2 to the power of `shift`, if that is whole. Doubles in decimal: the carries are the bits of the result.
std::optional<uint64_t> ScaleFraction(absl::string_view digits, int shift) {
  std::vector<int> fraction;
  for (char digit : digits) fraction.push_back(digit - '0');
  uint64_t result = 0;
  for (int bit = 0; bit < shift; ++bit) {
    int carry = 0;
    for (auto digit = fraction.rbegin(); digit != fraction.rend(); ++digit) {
      const int doubled = 2 * *digit + carry;
      *digit = doubled % 10;
      carry = doubled / 10;
    }
    result = 2 * result + carry;
  }
  if (std::any_of(fraction.begin(), fraction.end(), [](int digit) { return digit != 0; })) return std::nullopt;
  return result;
}

}  // namespace

absl::StatusOr<uint64_t> ParseSize(absl::string_view text) {
  if (text.size() > 1 && text.front() == '-' && absl::ascii_isdigit(text[1])) {
    return Refused(text, absl::StrCat("is negative: ", kAccepted));
  }
  absl::string_view rest = text;
  const absl::string_view whole = TakeDigits(rest);
  absl::string_view fraction;
  bool number = !whole.empty();
  if (!rest.empty() && rest.front() == '.') {
    rest.remove_prefix(1);
    fraction = TakeDigits(rest);
    number = number && !fraction.empty();
  }
  const std::optional<int> shift = ParseUnit(rest);
  if (!number || !shift.has_value()) return Refused(text, absl::StrCat("is no size: ", kAccepted));
  uint64_t units;
  if (!absl::SimpleAtoi(whole, &units) || units > UINT64_MAX >> *shift) {
    return Refused(text, absl::StrCat("is too large: the most is ", UINT64_MAX, " bytes, one less than 16E"));
  }
  const std::optional<uint64_t> bytes = ScaleFraction(fraction, *shift);
  if (!bytes.has_value()) return Refused(text, absl::StrCat("is not a whole number of bytes: ", kAccepted));
  return (units << *shift) + *bytes;
}

std::string FormatSize(uint64_t bytes) {
  size_t power = 0;
  uint64_t count = bytes;
  while (count != 0 && count % 1024 == 0) {
    count /= 1024;
    ++power;
  }
  if (power == 0) return absl::StrCat(count, count == 1 ? " byte" : " bytes");
  return absl::StrCat(count, " ", kUnits.substr(power - 1, 1), "iB");
}

std::string FormatSizeRoughly(uint64_t bytes) {
  size_t power = 0;
  while (power < kUnits.size() && bytes >> (10 * power) >= 1024) ++power;
  const uint64_t unit = uint64_t{1} << (10 * power);
  const uint64_t whole = bytes / unit;
  if (bytes % unit == 0 || whole >= 100) {
    return power == 0 ? FormatSize(bytes) : absl::StrCat(whole, " ", kUnits.substr(power - 1, 1), "iB");
  }
  // Shifted first, so that nothing overflows.
  const uint64_t thousandths = (bytes % unit >> (10 * power - 10)) * 1000 / 1024;
  std::string digits = absl::StrCat(1000 + thousandths).substr(1, whole >= 10 ? 1 : 2);
  return absl::StrCat(whole, ".", digits, " ", kUnits.substr(power - 1, 1), "iB");
}

}  // namespace buse

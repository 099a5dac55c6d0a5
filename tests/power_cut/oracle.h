// SPDX-License-Identifier: Apache-2.0
//
// Oracle: what a device may hold after a power cut. Each unit of it holds, whole, its last durable value or one written after
// that; what was never written is as it was.

#ifndef TESTS_POWER_CUT_ORACLE_H_
#define TESTS_POWER_CUT_ORACLE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "buse/device.h"

namespace buse::testing {

class Oracle {
 public:
  // `unit` is the size of what is never a mixture of two values.
  Oracle(std::vector<std::byte> initial, uint64_t unit) : initial_(std::move(initial)), unit_(unit) {}

  // The device may hold `content` from now on. `what` names it in messages.
  void Write(uint64_t offset, ConstBytes content, const std::string& what) {
    ForEachUnit({offset, content.size()}, [&](Unit& unit, Range part, uint64_t at) {
      std::vector<std::byte> value = unit.values.back().bytes;
      std::memcpy(value.data() + at, content.data() + (part.offset - offset), part.length);
      unit.values.push_back({what, std::move(value)});
    });
  }

  // What was written so far is durable.
  void Flushed() {
    for (auto& [index, unit] : units_) unit.first_allowed = unit.values.size() - 1;
  }

  // What was last written to the range is durable. What lies beside it within its units is as uncertain as before.
  void Durable(Range range) {
    ForEachUnit(range, [](Unit& unit, Range part, uint64_t at) {
      std::vector<Value> with;
      const std::vector<std::byte> last = unit.values.back().bytes;
      for (size_t i = unit.first_allowed; i < unit.values.size(); ++i) {
        Value value = unit.values[i];
        if (value.bytes == last) continue;
        std::memcpy(value.bytes.data() + at, last.data() + at, part.length);
        if (value.bytes == last) continue;
        value.what = absl::StrCat(value.what, " and ", unit.values.back().what);
        with.push_back(std::move(value));
      }
      with.push_back(unit.values.back());
      unit.first_allowed = unit.values.size();
      unit.values.insert(unit.values.end(), with.begin(), with.end());
    });
  }

  // An empty string, or what is wrong with `image`.
  std::string Check(ConstBytes image) const {
    if (image.size() != initial_.size()) {
      return absl::StrCat("the device has ", image.size(), " bytes and had ", initial_.size());
    }
    uint64_t at = 0;
    for (const auto& [index, unit] : units_) {
      const uint64_t begin = index * unit_;
      if (std::string failure = CheckUntouched(image, {at, begin - at}); !failure.empty()) return failure;
      const ConstBytes actual = image.subspan(begin, unit.values[0].bytes.size());
      const auto matches = [&](const Value& value) { return std::equal(actual.begin(), actual.end(), value.bytes.begin()); };
      if (std::none_of(unit.values.begin() + unit.first_allowed, unit.values.end(), matches)) {
        return Explain(begin, unit, actual);
      }
      at = begin + actual.size();
    }
    return CheckUntouched(image, {at, image.size() - at});
  }

 private:
  struct Value {
    std::string what;
    std::vector<std::byte> bytes;
  };
  struct Unit {
    std::vector<Value> values;
    size_t first_allowed = 0;
  };

  // Calls `use` with each unit of the range, the part of the range in it, and where in the unit that begins.
  template <class Use>
  void ForEachUnit(Range range, Use use) {
    for (uint64_t at = range.offset; at < range.end();) {
      const uint64_t begin = at - at % unit_;
      const uint64_t end = std::min<uint64_t>(begin + unit_, initial_.size());
      Unit& unit = units_[begin / unit_];
      if (unit.values.empty()) {
        unit.values.push_back({"what was there at first", {initial_.begin() + begin, initial_.begin() + end}});
      }
      const uint64_t part_end = std::min(end, range.end());
      use(unit, Range{at, part_end - at}, at - begin);
      at = part_end;
    }
  }

  std::string CheckUntouched(ConstBytes image, Range range) const {
    if (range.length == 0 || std::memcmp(image.data() + range.offset, initial_.data() + range.offset, range.length) == 0)
      return "";
    uint64_t at = range.offset;
    while (image[at] == initial_[at]) ++at;
    return absl::StrCat("byte ", at, " changed, which nobody wrote to");
  }

  static std::string Explain(uint64_t begin, const Unit& unit, ConstBytes actual) {
    const auto equals = [&](const Value& value) { return std::equal(actual.begin(), actual.end(), value.bytes.begin()); };
    std::string holds = "something else";
    const auto stale = std::find_if(unit.values.begin(), unit.values.end(), equals);
    if (stale != unit.values.end()) {
      holds = stale->what;
    } else if (std::all_of(actual.begin(), actual.end(), [](std::byte b) { return b == std::byte{0}; })) {
      holds = "zeroes";
    } else {
      const auto made_of = [&](const Value& value) {
        return std::equal(actual.begin(), actual.begin() + 1, value.bytes.begin());
      };
      const auto first = std::find_if(unit.values.rbegin(), unit.values.rend(), made_of);
      if (first != unit.values.rend()) holds = absl::StrCat("a mixture that begins with ", first->what);
    }
    std::string allowed;
    for (size_t i = unit.first_allowed; i < unit.values.size(); ++i) {
      absl::StrAppend(&allowed, allowed.empty() ? "" : ", or ", unit.values[i].what);
    }
    return absl::StrCat("bytes ", begin, "+", actual.size(), " hold ", holds, "; allowed is ", allowed);
  }

  const std::vector<std::byte> initial_;
  const uint64_t unit_;
  std::map<uint64_t, Unit> units_;
};

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_ORACLE_H_

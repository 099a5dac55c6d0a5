// SPDX-License-Identifier: Apache-2.0
//
// Oracle: what a device may hold while it is used by one or more threads, and after a power cut.
//
// A write came before another if it had returned when the other began. Those of which neither came first ran beside each other,
// and may have happened in any order. After a power cut each unit of the device holds, whole, what some of the writes to it
// leave, done in such an order: with each one also those that came before it, and all that are durable. A Flush makes durable
// what had returned when it began, once it returns; a write-through its own bytes, once it returns, and leaves what lies beside
// them in the unit as uncertain as before. What was never written is as it was.

#ifndef TESTS_POWER_CUT_ORACLE_H_
#define TESTS_POWER_CUT_ORACLE_H_

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
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

  // What a thread does next, by number: writes `content` (zeroes if it trims), flushes, or reads. `what` names a write in
  // messages.
  size_t BeginWrite(uint64_t offset, ConstBytes content, bool through, std::string what) {
    return Begin(
        {through ? Kind::kThrough : Kind::kWrite, {offset, content.size()}, {content.begin(), content.end()}, std::move(what)});
  }
  size_t BeginFlush() { return Begin({Kind::kFlush}); }
  size_t BeginRead(Range range) { return Begin({Kind::kRead, range}); }
  // And it returned, with success.
  void End(size_t number) {
    calls_[number].ended = ++now_;
    allowed_.clear();
  }

  // An empty string, or what is wrong with `image`, which was found after a power cut.
  std::string Check(ConstBytes image) const {
    if (image.size() != initial_.size()) {
      return absl::StrCat("the device has ", image.size(), " bytes and had ", initial_.size());
    }
    if (allowed_.empty()) {
      for (const auto& [index, writes] : WritesOfUnits()) allowed_.emplace(index, AllowedAfterCut(index, writes));
    }
    uint64_t at = 0;
    for (const auto& [index, allowed] : allowed_) {
      const uint64_t begin = index * unit_;
      if (std::string failure = CheckUntouched(image, {at, begin - at}); !failure.empty()) return failure;
      const ConstBytes actual = image.subspan(begin, UnitSize(index));
      if (!Matches(allowed, actual, {0, actual.size()})) return Explain(index, actual, allowed);
      at = begin + actual.size();
    }
    return CheckUntouched(image, {at, image.size() - at});
  }

  // The same for what a read returned, beside others or alone. Bytes that a write beside it wrote may be anything.
  std::string CheckRead(size_t number, ConstBytes bytes) const {
    const Call& read = calls_[number];
    std::vector<bool> any(bytes.size());
    std::vector<size_t> before;
    for (size_t i = 0; i < calls_.size(); ++i) {
      const Range common = Intersect(calls_[i].range, read.range);
      if (!calls_[i].IsWrite() || common.length == 0) continue;
      if (calls_[i].ended < read.begun) {
        before.push_back(i);
      } else if (calls_[i].begun < read.ended) {
        std::fill_n(any.begin() + (common.offset - read.range.offset), common.length, true);
      }
    }
    for (uint64_t index = read.range.offset / unit_; index * unit_ < read.range.end(); ++index) {
      std::vector<size_t> writes;
      for (const size_t i : before) {
        if (Intersect(calls_[i].range, UnitRange(index)).length > 0) writes.push_back(i);
      }
      const Values allowed = Outcomes(index, writes);
      const Range common = Intersect(UnitRange(index), read.range);
      for (uint64_t at = common.offset; at < common.end();) {
        uint64_t end = at;
        while (end < common.end() && !any[end - read.range.offset]) ++end;
        const ConstBytes actual = bytes.subspan(at - read.range.offset, end - at);
        if (end > at && !Matches(allowed, actual, {at - index * unit_, end - at})) {
          return absl::StrCat("bytes ", at, "+", end - at, " read as ", Name(actual, {at, end - at}), "; allowed is ",
                              Names(allowed));
        }
        at = end + 1;
      }
    }
    return "";
  }

  // Differs where Check may.
  std::string Fingerprint() const {
    std::string print;
    for (const Call& call : calls_) {
      absl::StrAppend(&print, ";", call.what, call.kind == Kind::kFlush, call.ended != kNever, " ");
      for (const Call& other : calls_) print.push_back(other.ended < call.begun ? '1' : '0');
    }
    return print;
  }

 private:
  static constexpr uint64_t kNever = UINT64_MAX;
  enum class Kind { kWrite, kThrough, kFlush, kRead };
  struct Call {
    Kind kind;
    Range range = {};
    std::vector<std::byte> content = {};
    std::string what = {};
    uint64_t begun = 0;
    uint64_t ended = kNever;

    bool IsWrite() const { return kind == Kind::kWrite || kind == Kind::kThrough; }
  };
  // What a unit may hold, and its name.
  using Values = std::map<std::vector<std::byte>, std::string>;
  using Set = uint64_t;  // of the writes to one unit, by their place in a list

  static Range Intersect(Range a, Range b) {
    const uint64_t begin = std::max(a.offset, b.offset);
    const uint64_t end = std::min(a.end(), b.end());
    return {begin, begin < end ? end - begin : 0};
  }

  size_t Begin(Call call) {
    call.begun = ++now_;
    allowed_.clear();
    calls_.push_back(std::move(call));
    return calls_.size() - 1;
  }

  uint64_t UnitSize(uint64_t index) const { return std::min<uint64_t>(unit_, initial_.size() - index * unit_); }
  Range UnitRange(uint64_t index) const { return {index * unit_, UnitSize(index)}; }

  std::map<uint64_t, std::vector<size_t>> WritesOfUnits() const {
    std::map<uint64_t, std::vector<size_t>> units;
    for (size_t i = 0; i < calls_.size(); ++i) {
      const Range range = calls_[i].range;
      if (!calls_[i].IsWrite()) continue;
      for (uint64_t index = range.offset / unit_; index * unit_ < range.end(); ++index) units[index].push_back(i);
    }
    return units;
  }

  // The writes of a list that came before each.
  std::vector<Set> Earlier(const std::vector<size_t>& writes) const {
    assert(writes.size() <= 64 && "more writes to one unit than a set takes");
    std::vector<Set> earlier(writes.size());
    for (size_t i = 0; i < writes.size(); ++i) {
      for (size_t j = 0; j < writes.size(); ++j) {
        if (calls_[writes[j]].ended < calls_[writes[i]].begun) earlier[i] |= Set{1} << j;
      }
    }
    return earlier;
  }

  // Makes what a set of writes can leave in a unit from what it leaves without its last, whichever that may be.
  class Results {
   public:
    Results(const Oracle& oracle, uint64_t index, const std::vector<size_t>& writes)
        : oracle_(oracle), range_(oracle.UnitRange(index)), writes_(writes), earlier_(oracle.Earlier(writes)) {
      const auto begin = oracle.initial_.begin() + range_.offset;
      known_[0].emplace(std::vector<std::byte>(begin, begin + range_.length), "what was there at first");
    }

    const Values& Of(Set set) {
      if (const auto known = known_.find(set); known != known_.end()) return known->second;
      Values values;
      for (size_t i = 0; i < writes_.size(); ++i) {
        if ((set >> i & 1) == 0 || IsBeforeAny(i, set)) continue;
        const Call& write = oracle_.calls_[writes_[i]];
        const Range common = Intersect(write.range, range_);
        for (const auto& [before, name] : Of(set & ~(Set{1} << i))) {
          std::vector<std::byte> value = before;
          std::memcpy(value.data() + (common.offset - range_.offset),
                      write.content.data() + (common.offset - write.range.offset), common.length);
          values.emplace(std::move(value), write.what);
        }
      }
      return known_[set] = std::move(values);
    }

    const std::vector<Set>& earlier() const { return earlier_; }

   private:
    bool IsBeforeAny(size_t i, Set set) const {
      for (size_t j = 0; j < writes_.size(); ++j) {
        if ((set >> j & 1) != 0 && (earlier_[j] >> i & 1) != 0) return true;
      }
      return false;
    }

    const Oracle& oracle_;
    const Range range_;
    const std::vector<size_t>& writes_;
    const std::vector<Set> earlier_;
    std::map<Set, Values> known_;
  };

  // What all of these writes leave.
  Values Outcomes(uint64_t index, const std::vector<size_t>& writes) const {
    Results results(*this, index, writes);
    return results.Of(writes.empty() ? 0 : ~Set{0} >> (64 - writes.size()));
  }

  Values AllowedAfterCut(uint64_t index, const std::vector<size_t>& writes) const {
    uint64_t flush_begun = 0;  // of the latest that returned
    for (const Call& call : calls_) {
      if (call.kind == Kind::kFlush && call.ended != kNever) flush_begun = std::max(flush_begun, call.begun);
    }
    Set flushed = 0;
    Set through = 0;  // durable by themselves
    Set perhaps = 0;  // not returned yet, and will be
    for (size_t i = 0; i < writes.size(); ++i) {
      const Call& write = calls_[writes[i]];
      if (write.ended < flush_begun) flushed |= Set{1} << i;
      if (write.kind == Kind::kThrough) (write.ended != kNever ? through : perhaps) |= Set{1} << i;
    }
    Results results(*this, index, writes);
    Values allowed;
    std::set<Set> seen = {flushed};
    for (std::vector<Set> next = {flushed}; !next.empty();) {
      const Set set = next.back();
      next.pop_back();
      // With each subset of `perhaps`.
      for (Set some = perhaps;; some = (some - 1) & perhaps) {
        for (const auto& [value, name] : results.Of(set | through | some)) allowed.emplace(value, name);
        if (some == 0) break;
      }
      for (size_t i = 0; i < writes.size(); ++i) {
        const Set more = set | Set{1} << i;
        if ((results.earlier()[i] & ~set) == 0 && seen.insert(more).second) next.push_back(more);
      }
    }
    return allowed;
  }

  // Whether one of the values has these bytes, which lie at `part` of the unit.
  static bool Matches(const Values& allowed, ConstBytes actual, Range part) {
    return std::any_of(allowed.begin(), allowed.end(), [&](const auto& value) {
      return std::memcmp(value.first.data() + part.offset, actual.data(), part.length) == 0;
    });
  }

  std::string CheckUntouched(ConstBytes image, Range range) const {
    if (range.length == 0 || std::memcmp(image.data() + range.offset, initial_.data() + range.offset, range.length) == 0)
      return "";
    uint64_t at = range.offset;
    while (image[at] == initial_[at]) ++at;
    return absl::StrCat("byte ", at, " changed, which nobody wrote to");
  }

  // What the bytes seem to be, for a message.
  std::string Name(ConstBytes actual, Range range) const {
    const auto equals = [&](ConstBytes bytes) { return std::memcmp(bytes.data(), actual.data(), bytes.size()) == 0; };
    if (equals(ConstBytes(initial_).subspan(range.offset, range.length))) return "what was there at first";
    for (const Call& write : calls_) {
      const Range common = Intersect(write.range, range);
      if (!write.IsWrite() || common != range) continue;
      if (equals(ConstBytes(write.content).subspan(range.offset - write.range.offset, range.length))) return write.what;
    }
    if (std::all_of(actual.begin(), actual.end(), [](std::byte b) { return b == std::byte{0}; })) return "zeroes";
    for (size_t i = calls_.size(); i-- > 0;) {
      const Call& write = calls_[i];
      if (!write.IsWrite() || range.offset < write.range.offset || range.offset >= write.range.end()) continue;
      if (write.content[range.offset - write.range.offset] == actual[0])
        return absl::StrCat("a mixture that begins with ", write.what);
    }
    return actual[0] == initial_[range.offset] ? "a mixture that begins with what was there at first" : "something else";
  }

  static std::string Names(const Values& values) {
    std::set<std::string> names;
    for (const auto& [value, name] : values) names.insert(name);
    std::string text;
    for (const std::string& name : names) absl::StrAppend(&text, text.empty() ? "" : ", or ", name);
    return text;
  }

  std::string Explain(uint64_t index, ConstBytes actual, const Values& allowed) const {
    const Range range = UnitRange(index);
    return absl::StrCat("bytes ", range.offset, "+", range.length, " hold ", Name(actual, range), "; allowed is ",
                        Names(allowed));
  }

  const std::vector<std::byte> initial_;
  const uint64_t unit_;
  std::vector<Call> calls_;
  uint64_t now_ = 0;
  mutable std::map<uint64_t, Values> allowed_;  // by unit, after a cut; empty: not made yet
};

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_ORACLE_H_

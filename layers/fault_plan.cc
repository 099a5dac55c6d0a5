// SPDX-License-Identifier: Apache-2.0
//
// Parsing fault plans, and drawing from them.

#include "layers/fault_plan.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "buse/size.h"
#include "layers/splitmix.h"

namespace buse {
namespace {

constexpr std::pair<const char*, Fault::Kind> kKinds[] = {
    {"error", Fault::Kind::kError}, {"short", Fault::Kind::kShort}, {"delay", Fault::Kind::kDelay},
    {"flip", Fault::Kind::kFlip},   {"lost", Fault::Kind::kLost},   {"misdirected", Fault::Kind::kMisdirected},
    {"torn", Fault::Kind::kTorn},
};

bool ChangesBytes(Operation operation) {
  return operation == Operation::kWrite || operation == Operation::kWriteThrough || operation == Operation::kTrim ||
         operation == Operation::kWriteZeroes;
}

// Whether the kind can befall the operation.
bool Concerns(Fault::Kind kind, Operation operation) {
  switch (kind) {
    case Fault::Kind::kError:
    case Fault::Kind::kDelay:
      return true;
    case Fault::Kind::kShort:
      return operation == Operation::kRead || ChangesBytes(operation);
    case Fault::Kind::kFlip:
      return operation == Operation::kRead;
    case Fault::Kind::kLost:
      return operation == Operation::kFlush || ChangesBytes(operation);
    case Fault::Kind::kMisdirected:
    case Fault::Kind::kTorn:
      return ChangesBytes(operation);
  }
  return false;
}

bool Matches(const Fault& fault, Operation operation, Range range) {
  if (fault.operation.has_value() ? *fault.operation != operation : !Concerns(fault.kind, operation)) return false;
  if (fault.kind == Fault::Kind::kLost && operation == Operation::kFlush && !fault.operation.has_value()) return false;
  if (!fault.at.has_value()) return true;
  if (operation == Operation::kFlush || operation == Operation::kResize) return false;
  return range.offset < fault.at->end() && fault.at->offset < range.end();
}

// A flip that is not counted is a property of sectors, not of reads.
bool IsOfSectors(const Fault& fault) { return fault.kind == Fault::Kind::kFlip && fault.nth == 0 && fault.times == 0; }

uint64_t Hash(uint64_t seed, ConstBytes bytes) {
  uint64_t hash = Mix64(seed + bytes.size());
  for (size_t i = 0; i < bytes.size(); i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + i, std::min<size_t>(8, bytes.size() - i));
    hash = Mix64(hash ^ word) + i;
  }
  return hash;
}

absl::Status Bad(absl::string_view item, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("the fault \"", item, "\" ", why));
}

absl::StatusOr<Operation> ParseOperation(absl::string_view word) {
  for (const Operation operation : {Operation::kRead, Operation::kWrite, Operation::kFlush, Operation::kWriteThrough,
                                    Operation::kTrim, Operation::kWriteZeroes, Operation::kPrefetch, Operation::kResize}) {
    if (word == ToString(operation)) return operation;
  }
  return absl::InvalidArgumentError(
      "names no operation: take read, write, flush, write-through, trim, write-zeroes, prefetch or resize");
}

absl::StatusOr<Range> ParseRange(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits('+', 1));
  const absl::StatusOr<uint64_t> offset = ParseSize(parts.first);
  const absl::StatusOr<uint64_t> length = ParseSize(parts.second);
  if (!offset.ok() || !length.ok() || *length == 0 || *length > UINT64_MAX - *offset) {
    return absl::InvalidArgumentError("needs at=OFFSET+LENGTH, for example at=1M+4K");
  }
  return Range{*offset, *length};
}

// Empty: fine. Otherwise what is wrong.
std::string ParseKey(absl::string_view key, absl::string_view value, Fault& fault) {
  if (key == "op") {
    const absl::StatusOr<Operation> operation = ParseOperation(value);
    if (!operation.ok()) return std::string(operation.status().message());
    if (!Concerns(fault.kind, *operation)) return absl::StrCat("cannot befall a ", value);
    fault.operation = *operation;
    return "";
  }
  if (key == "at") {
    const absl::StatusOr<Range> range = ParseRange(value);
    if (!range.ok()) return std::string(range.status().message());
    fault.at = *range;
    return "";
  }
  uint64_t* const number = key == "nth"     ? &fault.nth
                           : key == "times" ? &fault.times
                           : key == "in"    ? &fault.one_in
                           : key == "ms"    ? &fault.milliseconds
                                            : nullptr;
  if (number == nullptr) return absl::StrCat("does not know \"", key, "\": take op, at, nth, times, in or ms");
  if (!absl::SimpleAtoi(value, number) || *number == 0) return absl::StrCat("needs a whole number from 1 on after ", key, "=");
  return "";
}

absl::StatusOr<Fault> ParseFault(absl::string_view item) {
  Fault fault;
  bool first = true;
  for (absl::string_view part : absl::StrSplit(item, ',')) {
    part = absl::StripAsciiWhitespace(part);
    if (std::exchange(first, false)) {
      const auto* const kind =
          std::find_if(std::begin(kKinds), std::end(kKinds), [&](const auto& k) { return part == k.first; });
      if (kind == std::end(kKinds)) {
        return Bad(item, "is of no known kind: take error, short, delay, flip, lost, misdirected or torn");
      }
      fault.kind = kind->second;
      continue;
    }
    const std::pair<absl::string_view, absl::string_view> option = absl::StrSplit(part, absl::MaxSplits('=', 1));
    const std::string wrong = ParseKey(option.first, option.second, fault);
    if (!wrong.empty()) return Bad(item, wrong);
  }
  return fault;
}

}  // namespace

absl::Status FaultPlan::Parse(absl::string_view text) {
  std::vector<Fault> faults;
  for (absl::string_view item : absl::StrSplit(text, ';', absl::SkipWhitespace())) {
    absl::StatusOr<Fault> fault = ParseFault(absl::StripAsciiWhitespace(item));
    if (!fault.ok()) return fault.status();
    faults.push_back(*fault);
  }
  for (const Fault& fault : faults) Add(fault);
  return absl::OkStatus();
}

void FaultPlan::Add(const Fault& fault) {
  std::lock_guard lock(mutex_);
  faults_.push_back({fault});
}

void FaultPlan::Clear() {
  std::lock_guard lock(mutex_);
  faults_.clear();
  bad_.clear();
  strikes_ = flipped_ = 0;
}

void FaultPlan::set_seed(uint64_t seed) {
  std::lock_guard lock(mutex_);
  seed_ = seed;
}

bool FaultPlan::Strikes(Planned& planned, size_t index) {
  const Fault& fault = planned.fault;
  if (++planned.matched < fault.nth) return false;
  const uint64_t times = fault.times != 0 ? fault.times : fault.nth != 0 ? 1 : UINT64_MAX;
  if (planned.struck >= times) return false;
  if (Mix64(Mix64(seed_ + index + 1) + planned.matched) % fault.one_in != 0) return false;
  ++planned.struck;
  return true;
}

std::optional<FaultPlan::Strike> FaultPlan::Next(Operation operation, Range range) {
  std::lock_guard lock(mutex_);
  std::optional<Strike> strike;
  for (size_t i = 0; i < faults_.size(); ++i) {
    Planned& planned = faults_[i];
    if (IsOfSectors(planned.fault) || !Matches(planned.fault, operation, range)) continue;
    // Every fault counts what concerns it, whichever strikes.
    if (!Strikes(planned, i) || strike.has_value()) continue;
    ++strikes_;
    strike = Strike{planned.fault.kind, planned.fault.milliseconds, Mix64(Mix64(seed_ + i) ^ planned.matched)};
  }
  return strike;
}

bool FaultPlan::flips() const {
  std::lock_guard lock(mutex_);
  return !bad_.empty() || std::any_of(faults_.begin(), faults_.end(), [](const Planned& p) { return IsOfSectors(p.fault); });
}

void FaultPlan::Flip(uint64_t number, Bytes sector) {
  std::lock_guard lock(mutex_);
  const uint64_t hash = Hash(Mix64(seed_) + number, sector);
  const auto bad = bad_.find(number);
  bool flip = bad != bad_.end() && bad->second == hash;
  const Range range = {number * kSector, sector.size()};
  for (size_t i = 0; i < faults_.size() && !flip; ++i) {
    const Fault& fault = faults_[i].fault;
    flip = IsOfSectors(fault) && Matches(fault, Operation::kRead, range) && Mix64(hash + i + 1) % fault.one_in == 0;
  }
  if (!flip) return;
  const uint64_t bit = hash % (sector.size() * 8);
  sector[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
  ++flipped_;
}

void FaultPlan::MakeBad(uint64_t number, ConstBytes sector) {
  std::lock_guard lock(mutex_);
  bad_[number] = Hash(Mix64(seed_) + number, sector);
}

uint64_t FaultPlan::strikes() const {
  std::lock_guard lock(mutex_);
  return strikes_;
}

uint64_t FaultPlan::flipped() const {
  std::lock_guard lock(mutex_);
  return flipped_;
}

}  // namespace buse

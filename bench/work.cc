// SPDX-License-Identifier: Apache-2.0

#include "bench/work.h"

#include <array>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace buse::bench {
namespace {

struct Pattern {
  const char* name;
  bool random;
  uint32_t read_percent;
};
constexpr std::array<Pattern, 5> kPatterns = {
    {{"randread", true, 100}, {"randwrite", true, 0}, {"randrw", true, 50}, {"seqread", false, 100}, {"seqwrite", false, 0}}};

// A number from 1 to `max` with a unit k or m, or 0.
uint32_t Number(absl::string_view text, uint64_t max) {
  uint64_t unit = 1;
  if (!text.empty() && (text.back() == 'k' || text.back() == 'm')) {
    unit = text.back() == 'k' ? 1 << 10 : 1 << 20;
    text.remove_suffix(1);
  }
  uint64_t number = 0;
  if (!absl::SimpleAtoi(text, &number) || number == 0 || number > max / unit) return 0;
  return static_cast<uint32_t>(number * unit);
}

}  // namespace

absl::StatusOr<Work> Work::Parse(absl::string_view name) {
  const auto wrong = [name](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", name, "\": ", what, "; a work is BLOCK-PATTERN-dDEPTH[-cCONNECTIONS][-fN], such as 4k-randread-d32"));
  };
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '-');
  if (parts.size() < 3) return wrong("there is a part missing");
  Work work;
  work.block = Number(parts[0], kMaxBlock);
  if (work.block == 0 || work.block % 512 != 0) return wrong("the block is a multiple of 512 bytes, at most 4m");
  bool known = false;
  for (const Pattern& pattern : kPatterns) {
    if (parts[1] != pattern.name) continue;
    known = true;
    work.random = pattern.random;
    work.read_percent = pattern.read_percent;
  }
  if (!known) return wrong("the pattern is one of randread, randwrite, randrw, seqread, seqwrite");
  work.depth = 0;
  for (size_t i = 2; i < parts.size(); ++i) {
    const absl::string_view digits = parts[i].substr(parts[i].empty() ? 0 : 1);
    if (parts[i].substr(0, 1) == "d") {
      if (work.depth = Number(digits, kMaxDepth); work.depth == 0) return wrong("the depth is d1 to d256");
    } else if (parts[i].substr(0, 1) == "c") {
      if (work.connections = Number(digits, kMaxConnections); work.connections == 0) return wrong("connections are c1 to c256");
    } else if (parts[i].substr(0, 1) == "f") {
      if (work.flush_every = Number(digits, 1 << 30); work.flush_every == 0)
        return wrong("a flush comes after f1 or more writes");
      if (work.read_percent == 100) return wrong("reads need no flush");
    } else {
      return wrong(absl::StrCat("\"", parts[i], "\" is unknown"));
    }
  }
  if (work.depth == 0) return wrong("the depth is missing");
  return work;
}

}  // namespace buse::bench

// SPDX-License-Identifier: Apache-2.0
//
// A list of changes in the order they came; see volatile_cache.h for what it means.

#include "layers/volatile_cache.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

namespace buse {
namespace {

// Empty if they have nothing in common.
Range Intersect(Range a, Range b) {
  const uint64_t begin = std::max(a.offset, b.offset);
  const uint64_t end = std::min(a.end(), b.end());
  return {begin, begin < end ? end - begin : 0};
}

ConstBytes Cut(const VolatileCache::Change& change, Range range) {
  if (change.kind != VolatileCache::Kind::kData) return {};
  return ConstBytes(change.data).subspan(range.offset - change.range.offset, range.length);
}

// Does to `out`, which lies at `offset`, what the change did.
void Apply(const VolatileCache::Change& change, uint64_t offset, Bytes out) {
  const Range common = Intersect(change.range, {offset, out.size()});
  if (common.length == 0) return;
  std::byte* to = out.data() + (common.offset - offset);
  if (change.kind == VolatileCache::Kind::kData) {
    std::memcpy(to, change.data.data() + (common.offset - change.range.offset), common.length);
  } else {
    std::memset(to, 0, common.length);
  }
}

}  // namespace

void VolatileCache::Add(Kind kind, Range range, ConstBytes in) {
  Change change = {kind, range, {}};
  if (kind == Kind::kData) change.data.assign(in.begin(), in.end());
  changes_.push_back(std::move(change));
  bytes_ += range.length;
}

void VolatileCache::Overlay(uint64_t offset, Bytes out) const {
  for (const Change& change : changes_) Apply(change, offset, out);
}

absl::Status VolatileCache::ForEach(Range range, absl::FunctionRef<absl::Status(const Part&)> use) const {
  for (const Change& change : changes_) {
    const Range common = Intersect(change.range, range);
    if (common.length == 0) continue;
    if (absl::Status status = use({change.kind, common, Cut(change, common)}); !status.ok()) return status;
  }
  return absl::OkStatus();
}

void VolatileCache::Remove(Range range) {
  std::deque<Change> left;
  for (Change& change : changes_) {
    const Range common = Intersect(change.range, range);
    if (common.length == 0) {
      left.push_back(std::move(change));
      continue;
    }
    bytes_ -= common.length;
    const Range sides[] = {{change.range.offset, common.offset - change.range.offset},
                           {common.end(), change.range.end() - common.end()}};
    for (const Range side : sides) {
      if (side.length == 0) continue;
      const ConstBytes data = Cut(change, side);
      left.push_back({change.kind, side, {data.begin(), data.end()}});
    }
  }
  changes_ = std::move(left);
}

void VolatileCache::RemoveOldest() {
  bytes_ -= changes_.front().range.length;
  changes_.pop_front();
}

void VolatileCache::Clear() {
  changes_.clear();
  bytes_ = 0;
}

absl::StatusOr<std::vector<VolatileCache::Doubt>> VolatileCache::Doubts(
    uint64_t window, uint64_t size, absl::FunctionRef<absl::Status(uint64_t offset, Bytes out)> read) const {
  std::map<uint64_t, std::vector<const Change*>> touched;
  for (const Change& change : changes_) {
    const uint64_t first = change.range.offset / window;
    const uint64_t last = (change.range.end() - 1) / window;
    for (uint64_t index = first; index <= last; ++index) touched[index].push_back(&change);
  }
  std::vector<Doubt> doubts;
  for (const auto& [index, changes] : touched) {
    Doubt doubt;
    doubt.range = {index * window, std::min(window, size - index * window)};
    std::vector<std::byte> value(doubt.range.length);
    if (absl::Status status = read(doubt.range.offset, value); !status.ok()) return status;
    doubt.values.push_back(value);
    for (const Change* change : changes) {
      Apply(*change, doubt.range.offset, value);
      if (std::find(doubt.values.begin(), doubt.values.end(), value) == doubt.values.end()) doubt.values.push_back(value);
    }
    if (doubt.values.size() > 1) doubts.push_back(std::move(doubt));
  }
  return doubts;
}

}  // namespace buse

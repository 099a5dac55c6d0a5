// SPDX-License-Identifier: Apache-2.0
//
// What mirrors are tested with: Agreeing, a mirror that also compares its legs whenever it is read, and WeakLeg.

#ifndef TESTS_MIRROR_LEGS_H_
#define TESTS_MIRROR_LEGS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "layers/mirror.h"
#include "tests/weak_leg.h"

namespace buse::testing {

// Compares `range` on all legs in sync. Empty, or what is different.
template <class Stack>
std::string CompareLegs(typename Stack::State& self, Range range) {
  std::vector<std::vector<std::byte>> bytes;
  std::string failure;
  medium_internal::ForEachBelow<typename Stack::Below>([&]<class Branch>(auto leg, Branch*) {
    if (Stack::Status(self).leg[leg].state != MirrorLegs::State::kInSync) return true;
    bytes.emplace_back(range.length);
    absl::Status status = Branch::Read(std::get<leg>(self.below), self.set.layout().data + range.offset, bytes.back());
    if (!status.ok()) failure = std::string(status.message());
    if (bytes.back() != bytes.front()) {
      failure = absl::StrCat("leg ", size_t{leg}, " differs in ", range.offset, "+", range.length);
    }
    return failure.empty();
  });
  return failure;
}

// What was read once must be what any leg in sync has: or the next read might give something else.
template <class M>
struct Agreeing {
  using Config = typename M::Config;
  using State = typename M::State;

  // Off while other threads may be writing.
  static inline bool compares = true;

  static constexpr uint64_t kBlockSize = M::kBlockSize;
  static constexpr Concurrency kConcurrency = M::kConcurrency;

  static constexpr auto Describe() { return M::Describe(); }
  static absl::Status Open(const Config& config, State& self) { return M::Open(config, self); }
  static uint64_t Size(const State& self) { return M::Size(self); }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    absl::Status status = M::Read(self, offset, out);
    if (!status.ok() || !compares) return status;
    const std::string failure = CompareLegs<M>(self, {offset, out.size()});
    return failure.empty() ? status : absl::DataLossError(failure);
  }
  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) { return M::Write(self, offset, in); }
  static absl::Status Flush(State& self) { return M::Flush(self); }
  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<M> {
    return M::WriteThrough(self, offset, in);
  }
  static absl::Status Trim(State& self, Range range) requires CanTrim<M> { return M::Trim(self, range); }
  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<M> { return M::WriteZeroes(self, range); }
};

}  // namespace buse::testing

#endif  // TESTS_MIRROR_LEGS_H_

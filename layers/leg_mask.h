// SPDX-License-Identifier: Apache-2.0
//
// LegMask: some of the legs of a device that has up to 32.

#ifndef LAYERS_LEG_MASK_H_
#define LAYERS_LEG_MASK_H_

#include <bit>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace buse {

using LegMask = uint32_t;
constexpr LegMask Leg(size_t leg) { return LegMask{1} << leg; }
constexpr bool Has(LegMask mask, size_t leg) { return (mask >> leg & 1) != 0; }
constexpr bool HasMany(LegMask mask) { return (mask & (mask - 1)) != 0; }

// Calls `use` with the number of each leg of the mask, in order.
template <class Use>
void ForEachLeg(LegMask mask, Use use) {
  for (; mask != 0; mask &= mask - 1) use(static_cast<size_t>(std::countr_zero(mask)));
}

// Which legs failed one request, and the first error.
struct LegErrors {
  LegMask failed = 0;
  absl::Status first;

  void Add(size_t leg, const absl::Status& status) {
    if (status.ok()) return;
    failed |= Leg(leg);
    first.Update(status);
  }
};

}  // namespace buse

#endif  // LAYERS_LEG_MASK_H_

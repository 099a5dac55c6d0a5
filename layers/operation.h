// SPDX-License-Identifier: Apache-2.0
//
// Operation: the requests of the contract as values, for what counts, logs or checks them.

#ifndef LAYERS_OPERATION_H_
#define LAYERS_OPERATION_H_

#include <array>
#include <cstddef>

namespace buse {

enum class Operation {
  kRead,
  kWrite,
  kFlush,
  kWriteThrough,
  kTrim,
  kWriteZeroes,
  kExtents,
  kPrefetch,
  kView,
  kResize,
  kResidency,
};

inline constexpr size_t kOperations = 11;

// One lower-case word.
constexpr const char* ToString(Operation operation) {
  constexpr std::array<const char*, kOperations> kNames = {
      "read", "write", "flush", "write-through", "trim", "write-zeroes", "extents", "prefetch", "view", "resize", "residency"};
  return kNames[static_cast<size_t>(operation)];
}

}  // namespace buse

#endif  // LAYERS_OPERATION_H_

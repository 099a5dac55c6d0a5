// SPDX-License-Identifier: Apache-2.0
//
// What layers with legs have in common where a leg is replaced: which one, by an option, and that its new medium is empty.

#ifndef LAYERS_LEG_MEDIA_H_
#define LAYERS_LEG_MEDIA_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "layers/superblock.h"

namespace buse {

// The number in `text`, the option replace-leg of `layer`; `legs`, how many there are, if there is none. kInvalidArgument: anything
// else.
inline absl::StatusOr<size_t> ReplacedLeg(const char* layer, const std::string& text, size_t legs) {
  size_t leg = legs;
  if (text.empty() || (absl::SimpleAtoi(text, &leg) && leg < legs)) return leg;
  return absl::InvalidArgumentError(
      absl::StrCat(layer, ": there is no leg \"", text, "\" to replace: give a number from 0 to ", legs - 1));
}

// kFailedPrecondition: something is on the medium that the layers of `Leg` would be formatted on.
template <Device Leg>
absl::Status CheckEmpty(const char* layer, size_t leg, const typename Leg::Config& config) {
  const auto must_be_empty = [&]<class Leaf>(Leaf*, const typename Leaf::Config&, typename Leaf::State& state) {
    const absl::StatusOr<std::string> contents = Contents<Leaf>(state);
    if (!contents.ok() || contents->empty()) return contents.status();
    return absl::FailedPreconditionError(absl::StrCat(layer, ": what is to replace leg ", leg, " holds ", *contents,
                                                      ", which would be destroyed: give an empty medium"));
  };
  return AskBeforeFormat<Leg>(config, must_be_empty, true);
}

// kInvalidArgument: a medium of `size` bytes is too small to have data up to `end`, and the superblock's copy behind it.
inline absl::Status CheckLargeEnough(const char* layer, size_t leg, uint64_t size, uint64_t end) {
  const uint64_t least = (end + Superblock::kBytes - 1) / Superblock::kBytes * Superblock::kBytes + Superblock::kBytes;
  if (size >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(layer, ": what is to replace leg ", leg, " has ", size, " bytes, and needs ", least, ": make it larger"));
}

}  // namespace buse

#endif  // LAYERS_LEG_MEDIA_H_

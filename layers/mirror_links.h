// SPDX-License-Identifier: Apache-2.0
//
// The legs of a mirror, each with its type, and behind virtual functions for what is compiled once.

#ifndef LAYERS_MIRROR_LINKS_H_
#define LAYERS_MIRROR_LINKS_H_

#include <array>
#include <cstddef>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "buse/device.h"
#include "layers/device_io.h"

namespace buse {

// All legs, in order. What is no open device is never called.
using MirrorLinks = std::span<DeviceIo* const>;

// Those of one call, on its stack. Borrows the states.
template <Device... Legs>
class MirrorLinksOf {
 public:
  explicit MirrorLinksOf(std::tuple<typename Legs::State...>& legs) : MirrorLinksOf(legs, std::index_sequence_for<Legs...>()) {}
  MirrorLinksOf(const MirrorLinksOf&) = delete;
  MirrorLinksOf& operator=(const MirrorLinksOf&) = delete;

  MirrorLinks all() const { return all_; }

 private:
  template <size_t... kLeg>
  MirrorLinksOf(std::tuple<typename Legs::State...>& legs, std::index_sequence<kLeg...>)
      : each_(std::get<kLeg>(legs)...), all_{&std::get<kLeg>(each_)...} {}

  std::tuple<DeviceIoOf<Legs>...> each_;
  std::array<DeviceIo*, sizeof...(Legs)> all_;
};

// Calls `use` with the number of each leg, as a constant, up to the first error.
template <size_t kLegs, class Use>
absl::Status ForEachMirrorLeg(Use use) {
  return [&]<size_t... kLeg>(std::index_sequence<kLeg...>) {
    absl::Status status;
    (void)((status = use(std::integral_constant<size_t, kLeg>())).ok() && ...);
    return status;
  }
  (std::make_index_sequence<kLegs>());
}

// The same where nothing can fail.
template <size_t kLegs, class Use>
void VisitMirrorLegs(Use use) {
  [&]<size_t... kLeg>(std::index_sequence<kLeg...>) { (use(std::integral_constant<size_t, kLeg>()), ...); }
  (std::make_index_sequence<kLegs>());
}

}  // namespace buse

#endif  // LAYERS_MIRROR_LINKS_H_

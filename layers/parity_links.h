// SPDX-License-Identifier: Apache-2.0
//
// The legs of a parity behind virtual functions, for what is compiled once.

#ifndef LAYERS_PARITY_LINKS_H_
#define LAYERS_PARITY_LINKS_H_

#include <array>
#include <cstddef>
#include <span>
#include <utility>

#include "buse/device.h"
#include "layers/device_io.h"

namespace buse {

// All legs, in order. What is no open device is never called.
using ParityLinks = std::span<DeviceIo* const>;

// Those of one call, on its stack. Borrows the states.
template <Device B, size_t kLegs>
class ParityLinksOf {
 public:
  explicit ParityLinksOf(std::array<typename B::State, kLegs>& legs) : ParityLinksOf(legs, std::make_index_sequence<kLegs>()) {}
  ParityLinksOf(const ParityLinksOf&) = delete;
  ParityLinksOf& operator=(const ParityLinksOf&) = delete;

  ParityLinks all() const { return all_; }

 private:
  template <size_t... kLeg>
  ParityLinksOf(std::array<typename B::State, kLegs>& legs, std::index_sequence<kLeg...>)
      : each_{DeviceIoOf<B>(legs[kLeg])...}, all_{&each_[kLeg]...} {}

  std::array<DeviceIoOf<B>, kLegs> each_;
  std::array<DeviceIo*, kLegs> all_;
};

}  // namespace buse

#endif  // LAYERS_PARITY_LINKS_H_

// SPDX-License-Identifier: Apache-2.0
//
// SplitMix64 (Steele, Lea and Flood, 2014): well-mixed 64-bit numbers from any seed, the same on every machine. For the layers
// that misbehave by seed.

#ifndef LAYERS_SPLITMIX_H_
#define LAYERS_SPLITMIX_H_

#include <cstdint>

namespace buse {

// The finalizer: a one-to-one map in which every bit of `x` changes about half of the bits of the result.
constexpr uint64_t Mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

class SplitMix64 {
 public:
  explicit constexpr SplitMix64(uint64_t seed) : state_(seed) {}
  constexpr uint64_t operator()() { return Mix64(state_ += 0x9e3779b97f4a7c15); }

 private:
  uint64_t state_;
};

}  // namespace buse

#endif  // LAYERS_SPLITMIX_H_

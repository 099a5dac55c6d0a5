// SPDX-License-Identifier: Apache-2.0
//
// ParityCode: K pieces of data and M of parity, any K of which give the others back. Reed-Solomon over GF(2^8) with a Cauchy matrix,
// computed by ISA-L. Elements 0 to K-1 are the data as it is, K to K+M-1 the parity. Once open, any calls may run together.

#ifndef LAYERS_PARITY_CODE_H_
#define LAYERS_PARITY_CODE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "layers/leg_mask.h"

namespace buse {

class ParityCode {
 public:
  static constexpr size_t kMostElements = 16;

  // data >= 1, parity >= 1, together at most kMostElements.
  void Open(size_t data, size_t parity);

  size_t data() const { return data_; }
  size_t elements() const { return elements_; }

  // Of each element a pointer to `bytes` bytes: reads the data, writes the parity.
  void Encode(std::byte* const* elements, size_t bytes) const;

  // Writes the elements of `wanted`, from the first K of those in `known`, which has at least K and none of them.
  void Reconstruct(LegMask known, LegMask wanted, std::byte* const* elements, size_t bytes) const;

 private:
  // What a product of each element with each of 256 numbers needs, in the form of ISA-L.
  static constexpr size_t kTable = 32;

  size_t data_ = 0;
  size_t elements_ = 0;
  std::array<unsigned char, kMostElements * kMostElements> matrix_;  // a row of K for each element
  std::vector<unsigned char> tables_;                                // of the rows of parity
};

}  // namespace buse

#endif  // LAYERS_PARITY_CODE_H_

// SPDX-License-Identifier: Apache-2.0
//
// Unsigned numbers as bytes of a medium, the lowest first, at any address and on any machine.

#ifndef LAYERS_LITTLE_ENDIAN_H_
#define LAYERS_LITTLE_ENDIAN_H_

#include <cstddef>
#include <type_traits>

namespace buse {

template <class Number>
void PutLittleEndian(std::byte* at, Number value) {
  static_assert(std::is_unsigned_v<Number>);
  for (size_t i = 0; i < sizeof(value); ++i) at[i] = static_cast<std::byte>(value >> (8 * i));
}

template <class Number>
Number GetLittleEndian(const std::byte* at) {
  static_assert(std::is_unsigned_v<Number>);
  Number value = 0;
  for (size_t i = 0; i < sizeof(value); ++i) value |= static_cast<Number>(static_cast<Number>(at[i]) << (8 * i));
  return value;
}

}  // namespace buse

#endif  // LAYERS_LITTLE_ENDIAN_H_

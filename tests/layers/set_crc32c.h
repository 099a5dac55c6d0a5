// SPDX-License-Identifier: Apache-2.0
//
// SetCrc32c: makes a block have the CRC that is wanted.

#ifndef TESTS_LAYERS_SET_CRC32C_H_
#define TESTS_LAYERS_SET_CRC32C_H_

#include <cstdint>
#include <cstring>

#include "buse/device.h"
#include "layers/checksum_hash.h"

namespace buse::testing {

// Changes the last four bytes of the block so that Crc32c::Compute gives `wanted`. The register before them is known, as is
// that after them; the 32 steps between the two are taken backwards.
inline void SetCrc32c(uint32_t wanted, uint64_t salt, uint64_t block, Bytes bytes) {
  uint32_t before;
  Crc32c::Compute(salt, block, bytes.first(bytes.size() - 4), reinterpret_cast<std::byte*>(&before));
  uint32_t value = ~wanted;
  for (int bit = 0; bit < 32; ++bit) value = (value >> 31) != 0 ? (value ^ 0x82f63b78) << 1 | 1 : value << 1;
  value ^= ~before;
  std::memcpy(bytes.data() + bytes.size() - 4, &value, 4);
}

}  // namespace buse::testing

#endif  // TESTS_LAYERS_SET_CRC32C_H_

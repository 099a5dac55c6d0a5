// SPDX-License-Identifier: Apache-2.0
//
// CRC-32C (Castagnoli) by ISA-L, whose function leaves the inversions at both ends to its caller.

#ifndef LAYERS_CRC32C_H_
#define LAYERS_CRC32C_H_

#include <cstddef>
#include <cstdint>

#include "buse/device.h"
#include "isa-l/crc.h"

namespace buse {

// Of bytes that follow those of which `crc` is the CRC, 0 for none.
inline uint32_t ExtendCrc32c(uint32_t crc, ConstBytes bytes) {
  auto* data = reinterpret_cast<unsigned char*>(const_cast<std::byte*>(bytes.data()));
  return ~crc32_iscsi(data, static_cast<int>(bytes.size()), ~crc);
}

}  // namespace buse

#endif  // LAYERS_CRC32C_H_

// SPDX-License-Identifier: Apache-2.0
//
// CRC-32C (Castagnoli), as fast as the processor can: by ISA-L, and where there are AVX-512 and VPCLMULQDQ, eight sectors at once.

#ifndef LAYERS_CRC32C_H_
#define LAYERS_CRC32C_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "buse/device.h"

namespace buse {

// Of bytes that follow those of which `crc` is the CRC, 0 for none.
uint32_t ExtendCrc32c(uint32_t crc, ConstBytes bytes);

// The same for eight sectors of 512 bytes that lie one after the other, each with a `crc` of its own.
inline constexpr size_t kCrcSectors = 8;
using SectorCrcs = std::array<uint32_t, kCrcSectors>;
void ExtendCrc32cOfSectors(const std::byte* sectors, SectorCrcs& crcs);

}  // namespace buse

#endif  // LAYERS_CRC32C_H_

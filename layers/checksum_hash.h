// SPDX-License-Identifier: Apache-2.0
//
// The hashes that Checksum can use, and the sum of a block.
//
// The sum of a block of zeroes is zero, so that a fresh medium needs no sums, and that of any other block is not. It is bound
// to the number of the block and to the salt of the medium: the same bytes elsewhere, or on another medium, have another sum.
//
// A hash is a type with
//   kBytes   of its value: 4, 8, 16 or 32
//   kName    lower case, for fingerprints
//   static void Compute(uint64_t salt, uint64_t block, ConstBytes bytes, std::byte* out)   `out` has kBytes
// and, if it can tell this of up to 512 consecutive blocks in less time than their sums take,
//   static bool AllMatch(uint64_t salt, uint64_t first, ConstBytes bytes, uint64_t block_size, const std::byte* sums)
// False: some may not have their sums.

#ifndef LAYERS_CHECKSUM_HASH_H_
#define LAYERS_CHECKSUM_HASH_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "buse/device.h"

namespace buse {

// CRC-32C (Castagnoli); detects every error of up to 32 adjacent bits, and 5 wrong bits anywhere in a block of up to
// 512 bytes; of other damage one in 2^32 passes. AllMatch is one CRC over all blocks (crc32c_run.h): of damage to several of
// them it lets as little pass, but of wrong bits that are far from each other in several blocks it surely detects 3.
struct Crc32c {
  static constexpr size_t kBytes = 4;
  static constexpr const char* kName = "crc32c";
  static void Compute(uint64_t salt, uint64_t block, ConstBytes bytes, std::byte* out);
  static bool AllMatch(uint64_t salt, uint64_t first, ConstBytes bytes, uint64_t block_size, const std::byte* sums);
};

// XXH3, 64 bits: of any damage, one in 2^64 passes. Not made against somebody who chooses what is written.
struct Xxh3 {
  static constexpr size_t kBytes = 8;
  static constexpr const char* kName = "xxh3";
  static void Compute(uint64_t salt, uint64_t block, ConstBytes bytes, std::byte* out);
};

// SHA-256 by OpenSSL: nobody can write two contents of one sum. There is no secret in it: who can write the medium can write
// a sum that matches.
struct Sha256 {
  static constexpr size_t kBytes = 32;
  static constexpr const char* kName = "sha256";
  static void Compute(uint64_t salt, uint64_t block, ConstBytes bytes, std::byte* out);
};

// At least 16 bytes.
inline bool IsZero(ConstBytes bytes) {
  uint64_t first[2];
  std::memcpy(first, bytes.data(), sizeof(first));
  return (first[0] | first[1]) == 0 && std::memcmp(bytes.data(), bytes.data() + 16, bytes.size() - 16) == 0;
}

namespace checksum_internal {

// Makes the hash of a block its sum.
template <class Hash>
void Distinguish(ConstBytes block, std::byte* sum) {
  static constexpr std::array<std::byte, Hash::kBytes> kZero = {};
  if (IsZero(block)) {
    std::memcpy(sum, kZero.data(), Hash::kBytes);
  } else if (std::memcmp(sum, kZero.data(), Hash::kBytes) == 0) {
    sum[0] = std::byte{1};
  }
}

}  // namespace checksum_internal

// The sums of consecutive blocks, the first of which has the number `first`.
template <class Hash>
void SumBlocks(uint64_t salt, uint64_t first, ConstBytes bytes, uint64_t block_size, std::byte* out) {
  const uint64_t count = bytes.size() / block_size;
  for (uint64_t i = 0; i < count; ++i) {
    const ConstBytes block = bytes.subspan(i * block_size, block_size);
    Hash::Compute(salt, first + i, block, out + i * Hash::kBytes);
    checksum_internal::Distinguish<Hash>(block, out + i * Hash::kBytes);
  }
}

using SumFunction = void (*)(uint64_t salt, uint64_t first, ConstBytes bytes, uint64_t block_size, std::byte* out);

// A hash for what is compiled once and not for each.
struct HashFunctions {
  size_t bytes;
  SumFunction sum;
  bool (*all_match)(uint64_t salt, uint64_t first, ConstBytes bytes, uint64_t block_size, const std::byte* sums) = nullptr;
};

template <class Hash>
inline constexpr HashFunctions kHashFunctions = [] {
  HashFunctions functions = {Hash::kBytes, SumBlocks<Hash>};
  if constexpr (requires { &Hash::AllMatch; }) functions.all_match = Hash::AllMatch;
  return functions;
}();

}  // namespace buse

#endif  // LAYERS_CHECKSUM_HASH_H_

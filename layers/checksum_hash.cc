// SPDX-License-Identifier: Apache-2.0
//
// The hashes, each by its library.

#include "layers/checksum_hash.h"

// SHA256_Update and its like allocate nothing, in contrast to what is to replace them.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <bit>

#include "layers/crc32c.h"
#include "layers/crc32c_run.h"
#include "layers/splitmix.h"
#include "xxhash.h"

namespace buse {

namespace {

// Of two initial values that differ, no content makes the same sum; and the blocks of the first 2^32 all have their own.
uint32_t SeedOf(uint64_t salt, uint64_t block) {
  return static_cast<uint32_t>(block) * 0x9e3779b1u ^ static_cast<uint32_t>(block >> 32) * 0x85ebca6bu ^
         static_cast<uint32_t>(salt);
}

}  // namespace

void Crc32c::Compute(uint64_t salt, uint64_t block, ConstBytes bytes, std::byte* out) {
  const uint32_t sum = ExtendCrc32c(SeedOf(salt, block), bytes);
  std::memcpy(out, &sum, sizeof(sum));
}

bool Crc32c::AllMatch(uint64_t salt, uint64_t first, ConstBytes bytes, uint64_t block_size, const std::byte* sums) {
  static const bool supported = Crc32cRun::Supported();
  static const std::array<Crc32cRun, 4> runs = {Crc32cRun(512), Crc32cRun(1024), Crc32cRun(2048), Crc32cRun(4096)};
  if (!supported) return false;
  const Crc32cRun& run = runs[std::countr_zero(block_size / 512)];
  const size_t count = bytes.size() / block_size;
  uint64_t parts = 0;
  std::array<uint32_t, 64> crcs;
  std::array<uint32_t, 64> seeds;
  for (size_t done = 0; done < count;) {
    const size_t n = std::min(count - done, crcs.size());
    std::memcpy(crcs.data(), sums + done * kBytes, n * kBytes);
    for (size_t i = 0; i < n; ++i) {
      // Zeroes have the sum 0. Another block with that CRC has the sum 1, and does not match: rare enough.
      const uint32_t of_zeroes = crcs[i] == 0 ? ~uint32_t{0} : 0;
      seeds[i] = SeedOf(salt, first + done + i) | of_zeroes;
      crcs[i] |= of_zeroes;
    }
    done += n;
    parts ^= run.Part(seeds.data(), crcs.data(), n, count - done);
  }
  return Crc32cRun::Matches(bytes, parts);
}

// Its own seed would cost more than the hash: it derives 192 bytes from it for each call.
void Xxh3::Compute(uint64_t salt, uint64_t block, ConstBytes bytes, std::byte* out) {
  const uint64_t sum = Mix64(XXH3_64bits(bytes.data(), bytes.size()) + Mix64(salt ^ Mix64(block)));
  std::memcpy(out, &sum, sizeof(sum));
}

void Sha256::Compute(uint64_t salt, uint64_t block, ConstBytes bytes, std::byte* out) {
  const uint64_t prefix[2] = {salt, block};
  SHA256_CTX context;
  SHA256_Init(&context);
  SHA256_Update(&context, prefix, sizeof(prefix));
  SHA256_Update(&context, bytes.data(), bytes.size());
  SHA256_Final(reinterpret_cast<unsigned char*>(out), &context);
}

}  // namespace buse

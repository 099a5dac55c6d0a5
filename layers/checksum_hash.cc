// SPDX-License-Identifier: Apache-2.0
//
// The hashes, each by its library.

#include "layers/checksum_hash.h"

// SHA256_Update and its like allocate nothing, in contrast to what is to replace them.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include "layers/crc32c.h"
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

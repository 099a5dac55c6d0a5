// SPDX-License-Identifier: Apache-2.0
//
// In the register of this CRC the lowest bit is the highest power. The register after bytes D from the value R is
// R * x^(8 |D|) + D * x^32, and a CRC inverts it before and after.

#include "layers/crc32c_run.h"

#include <cassert>
#include <span>

#include "isa-l/crc.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace buse {
namespace {

uint32_t Advance(uint32_t value, ConstBytes bytes) {
  return crc32_iscsi(reinterpret_cast<unsigned char*>(const_cast<std::byte*>(bytes.data())), static_cast<int>(bytes.size()),
                     value);
}

}  // namespace

Crc32cRun::Crc32cRun(uint64_t block_size) {
  assert(block_size <= 4096);
  static constexpr std::array<std::byte, 4096> kZeroes = {};
  powers_[kMostBlocks] = 0x80000000;  // 1
  for (size_t i = kMostBlocks; i-- > 0;) powers_[i] = Advance(powers_[i + 1], ConstBytes(kZeroes).first(block_size));
}

// A product begins at the lowest power and has 63 bits; shifted by one it is a register of 64. That of the run has the lowest
// 32 powers. The difference is multiplied by x^32, as hashing it does.
bool Crc32cRun::Matches(ConstBytes run, uint64_t parts) {
  const uint64_t difference = parts << 1 ^ static_cast<uint64_t>(Advance(0, run)) << 32;
  return Advance(0, std::as_bytes(std::span(&difference, 1))) == 0;
}

#if defined(__x86_64__)

bool Crc32cRun::Supported() { return __builtin_cpu_supports("pclmul"); }

[[gnu::target("pclmul")]] uint64_t Crc32cRun::Part(const uint32_t* seeds, const uint32_t* crcs, size_t count,
                                                   size_t behind) const {
  assert(count > 0 && count + behind <= kMostBlocks);
  const uint32_t* const powers = powers_.data() + kMostBlocks - behind - count;  // of what begins with block i
  const auto multiply = [](uint32_t a, uint32_t b) __attribute__((target("pclmul"))) {
    return _mm_clmulepi64_si128(_mm_cvtsi64_si128(a), _mm_cvtsi64_si128(b), 0);
  };
  // Where a block begins, the register is not what the block before it made of it: the difference goes on from there.
  __m128i sum = multiply(~seeds[0], powers[0]) ^ multiply(~crcs[count - 1], powers[count]);
  size_t i = 1;
  for (; i + 4 <= count; i += 4) {
    const auto load = [](const uint32_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); };
    const __m128i difference = load(crcs + i - 1) ^ load(seeds + i);
    const __m128i power = load(powers + i);
    const __m128i odd = _mm_srli_epi64(difference, 32);
    const __m128i odd_power = _mm_srli_epi64(power, 32);
    const __m128i even = difference ^ _mm_slli_epi64(odd, 32);
    const __m128i even_power = power ^ _mm_slli_epi64(odd_power, 32);
    sum ^= _mm_clmulepi64_si128(even, even_power, 0x00) ^ _mm_clmulepi64_si128(even, even_power, 0x11) ^
           _mm_clmulepi64_si128(odd, odd_power, 0x00) ^ _mm_clmulepi64_si128(odd, odd_power, 0x11);
  }
  for (; i < count; ++i) sum ^= multiply(crcs[i - 1] ^ seeds[i], powers[i]);
  return static_cast<uint64_t>(_mm_cvtsi128_si64(sum));
}

#else

bool Crc32cRun::Supported() { return false; }

uint64_t Crc32cRun::Part(const uint32_t*, const uint32_t*, size_t, size_t) const { return 0; }

#endif

}  // namespace buse

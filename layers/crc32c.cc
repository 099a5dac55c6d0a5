// SPDX-License-Identifier: Apache-2.0
//
// How eight sectors are done at once: five by carry-less multiplication, 64 bytes with each instruction, and three by the
// instruction crc32, 8 bytes with each. The processor has units of its own for both, and either alone keeps only one busy.
//
// The first way folds: 16 bytes with the value a(x) that lie n bits before others are congruent, modulo the polynomial, to what
// a(x) x^n leaves, so that they can be multiplied and added to those. In the end 16 bytes are left, which crc32 reduces.

#include "layers/crc32c.h"

#include "isa-l/crc.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace buse {
namespace {

constexpr size_t kSector = 512;

// Inverted at both ends, which ISA-L leaves to its caller.
uint32_t ByLibrary(uint32_t inverted, const std::byte* bytes, size_t size) {
  return crc32_iscsi(reinterpret_cast<unsigned char*>(const_cast<std::byte*>(bytes)), static_cast<int>(size), inverted);
}

#ifdef __x86_64__

// What multiplies the lower (n + 32) and the upper (n - 32) half of 16 bytes: x^n modulo the polynomial, with its bits in the
// reversed order of this CRC.
constexpr uint64_t Power(int n) {
  uint32_t power = 1;
  for (int i = 0; i < n; ++i) power = power << 1 ^ (power >> 31 != 0 ? 0x1edc6f41u : 0u);
  uint64_t reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= uint64_t{power >> i & 1} << (32 - i);
  return reversed;
}

struct alignas(16) Factors {
  uint64_t low;
  uint64_t high;
};
constexpr Factors Over(int bits) { return {Power(bits + 32), Power(bits - 32)}; }

constexpr Factors kOver256Bytes = Over(2048);
constexpr Factors kOver192Bytes = Over(1536);
constexpr Factors kOver128Bytes = Over(1024);
constexpr Factors kOver64Bytes = Over(512);
// The four 16 bytes of 64, onto the last of them.
struct alignas(64) LaneFactors {
  Factors lanes[4];
};
constexpr LaneFactors kOntoLastLane = {{Over(384), Over(256), Over(128), {0, 0}}};

#define BUSE_CRC_TARGET __attribute__((target("avx512f,avx512vl,avx512bw,vpclmulqdq,pclmul,sse4.2")))

// The forms with a mask of all ones, since g++ 12 warns of what the others leave undefined in its own headers.
BUSE_CRC_TARGET inline __m512i Everywhere(const Factors& factors) {
  return _mm512_maskz_broadcast_i32x4(0xffff, _mm_load_si128(reinterpret_cast<const __m128i*>(&factors)));
}

BUSE_CRC_TARGET inline __m512i Load(const std::byte* from) { return _mm512_loadu_si512(from); }

// `onto` plus `bytes` moved over as many bits as the factors say.
BUSE_CRC_TARGET inline __m512i Fold(__m512i bytes, __m512i factors, __m512i onto) {
  constexpr int kSumOfThree = 0x96;
  return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(bytes, factors, 0x00),
                                   _mm512_clmulepi64_epi128(bytes, factors, 0x11), onto, kSumOfThree);
}

BUSE_CRC_TARGET inline uint32_t Reduce(__m512i bytes) {
  const __m512i factors = _mm512_load_si512(&kOntoLastLane);
  const __m512i moved =
      _mm512_xor_si512(_mm512_clmulepi64_epi128(bytes, factors, 0x00), _mm512_clmulepi64_epi128(bytes, factors, 0x11));
  const __m128i two =
      _mm_xor_si128(_mm512_maskz_extracti32x4_epi32(0xf, bytes, 3), _mm512_maskz_extracti32x4_epi32(0xf, moved, 0));
  const __m128i other_two =
      _mm_xor_si128(_mm512_maskz_extracti32x4_epi32(0xf, moved, 1), _mm512_maskz_extracti32x4_epi32(0xf, moved, 2));
  const __m128i rest = _mm_xor_si128(two, other_two);
  const uint64_t low = static_cast<uint64_t>(_mm_cvtsi128_si64(rest));
  const uint64_t high = static_cast<uint64_t>(_mm_extract_epi64(rest, 1));
  return static_cast<uint32_t>(_mm_crc32_u64(_mm_crc32_u64(0, low), high));
}

// Inverted at both ends. The two ways alternate in the order of instructions, so that the processor has both at hand.
BUSE_CRC_TARGET void EightSectors(const std::byte* sectors, SectorCrcs& crcs) {
  const __m512i over256 = Everywhere(kOver256Bytes);
  const __m512i over192 = Everywhere(kOver192Bytes);
  const __m512i over128 = Everywhere(kOver128Bytes);
  const __m512i over64 = Everywhere(kOver64Bytes);
  uint64_t scalar[3] = {crcs[0], crcs[1], crcs[2]};
  const auto* words = reinterpret_cast<const long long*>(sectors);
  const auto word = [&](int sector, int at)
                        BUSE_CRC_TARGET { return static_cast<uint64_t>(words[sector * (kSector / 8) + at]); };
  const auto next = [&](int at) BUSE_CRC_TARGET {
    scalar[0] = _mm_crc32_u64(scalar[0], word(0, at));
    scalar[1] = _mm_crc32_u64(scalar[1], word(1, at));
    scalar[2] = _mm_crc32_u64(scalar[2], word(2, at));
  };
  int at = 0;
  for (size_t i = 3; i < kCrcSectors; ++i, at += 12) {
    const std::byte* sector = sectors + i * kSector;
    const __m512i begin = _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(crcs[i])));
    const __m512i first = Fold(_mm512_xor_si512(Load(sector), begin), over256, Load(sector + 256));
    next(at), next(at + 1), next(at + 2);
    const __m512i second = Fold(Load(sector + 64), over256, Load(sector + 320));
    next(at + 3), next(at + 4), next(at + 5);
    const __m512i third = Fold(Load(sector + 128), over256, Load(sector + 384));
    next(at + 6), next(at + 7), next(at + 8);
    __m512i last = Fold(Load(sector + 192), over256, Load(sector + 448));
    next(at + 9), next(at + 10), next(at + 11);
    last = Fold(first, over192, last);
    last = Fold(second, over128, last);
    last = Fold(third, over64, last);
    crcs[i] = Reduce(last);
  }
  for (; at < static_cast<int>(kSector / 8); ++at) next(at);
  for (size_t i = 0; i < 3; ++i) crcs[i] = static_cast<uint32_t>(scalar[i]);
}

bool HasWideInstructions() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("sse4.2");
}

#else

void EightSectors(const std::byte*, SectorCrcs&) {}
bool HasWideInstructions() { return false; }

#endif

}  // namespace

uint32_t ExtendCrc32c(uint32_t crc, ConstBytes bytes) { return ~ByLibrary(~crc, bytes.data(), bytes.size()); }

void ExtendCrc32cOfSectors(const std::byte* sectors, SectorCrcs& crcs) {
  static const bool kWide = HasWideInstructions();
  for (uint32_t& crc : crcs) crc = ~crc;
  if (kWide) {
    EightSectors(sectors, crcs);
  } else {
    for (size_t i = 0; i < kCrcSectors; ++i) crcs[i] = ByLibrary(crcs[i], sectors + i * kSector, kSector);
  }
  for (uint32_t& crc : crcs) crc = ~crc;
}

}  // namespace buse

// SPDX-License-Identifier: Apache-2.0
//
// What a device keeps in memory, as Cache tells it, and as the layers above pass it on.

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "buse/gather.h"
#include "gtest/gtest.h"
#include "layers/align.h"
#include "layers/cache.h"
#include "layers/checksum.h"
#include "layers/concat.h"
#include "layers/contract.h"
#include "layers/delay.h"
#include "layers/log.h"
#include "layers/memory.h"
#include "layers/mirror.h"
#include "layers/offset.h"
#include "layers/partition.h"
#include "layers/passthrough.h"
#include "layers/range_lock.h"
#include "layers/rate_limit.h"
#include "layers/read_only.h"
#include "layers/recording.h"
#include "layers/retry.h"
#include "layers/serialize.h"
#include "layers/stats.h"
#include "layers/stripe.h"
#include "tests/leaves.h"

namespace buse {
namespace {

using testing::Bare;
using testing::Full;
using testing::Full512;

// Tells of every sector something else, at most three with one call.
template <uint64_t kBlock>
struct BasicMarked : testing::BasicFull<kBlock, Concurrency::kParallel> {
  using State = typename testing::BasicFull<kBlock, Concurrency::kParallel>::State;
  static constexpr uint64_t kSector = 512;

  static Resident Of(uint64_t sector) { return {{sector * kSector, kSector}, sector % 2 == 1, sector % 4 == 3}; }
  static absl::Status Residency(State& self, Range range, EmitResident emit) {
    if (absl::Status status = self.script->Next("Residency", range); !status.ok()) return status;
    uint64_t at = range.offset;
    for (int told = 0; told < 3 && at < range.end(); ++told) {
      Resident resident = Of(at / kSector);
      const uint64_t end = std::min(resident.range.end(), range.end());
      resident.range = {at, end - at};
      if (!emit(resident)) break;
      at = end;
    }
    return absl::OkStatus();
  }
};

using Marked = BasicMarked<1>;
using MarkedBlocks = BasicMarked<512>;

// Who passes it on, and who does not: a transform keeps bytes elsewhere, or in another form; Align does not.
template <class D>
constexpr bool kTells = CanResidency<D>;
static_assert(kTells<Passthrough<Marked>> && kTells<Log<Marked>> && kTells<Delay<Marked>> && kTells<Stats<Marked>> &&
              kTells<RateLimit<Marked>> && kTells<ReadOnly<Marked>> && kTells<Retry<Marked>> && kTells<RangeLock<Marked>> &&
              kTells<Serialize<Marked>> && kTells<Contract<Marked>>);
static_assert(kTells<Offset<Marked>> && kTells<Partition<Marked>> && kTells<Stripe<2, Marked>> &&
              kTells<Concat<Marked, Marked>>);
static_assert(kTells<Align<Marked>>);
static_assert(!kTells<Concat<Marked, Full>> && !kTells<Mirror<Marked, Marked>> && !kTells<Checksum<Marked>>);
static_assert(!kTells<Full> && !kTells<Passthrough<Full>> && !kTells<Offset<Full>> && !kTells<Stripe<2, Full>>);
// Recording counts in blocks of 512.
static_assert(kTells<Recording<Cache<Full512>>> && !kTells<Recording<Marked>>);
static_assert(kTells<Cache<Bare>> && kTells<Log<Offset<Cache<Full>>>>);

// All that a device tells of a range, by as many calls as it takes; neighbours that are alike are one.
template <Device D>
std::vector<Resident> Told(typename D::State& state, Range range) {
  std::vector<Resident> all;
  for (uint64_t at = range.offset; at < range.end();) {
    const uint64_t before = at;
    const absl::Status status = D::Residency(state, {at, range.end() - at}, [&](const Resident& resident) {
      EXPECT_EQ(resident.range.offset, at);
      EXPECT_GT(resident.range.length, 0u);
      at = resident.range.end();
      if (!all.empty() && all.back().AlikeIn(resident)) {
        all.back().range.length += resident.range.length;
      } else {
        all.push_back(resident);
      }
      return true;
    });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_LE(at, range.end());
    if (at == before) break;
  }
  return all;
}

// By sectors, of a device that shows sector `shown(i)` of a Marked as its sector i.
template <Device D, class Shown>
void ExpectShows(typename D::State& state, Shown shown) {
  const uint64_t sectors = D::Size(state) / Marked::kSector;
  ASSERT_GT(sectors, 3u);
  for (uint64_t from : {uint64_t{0}, uint64_t{3}}) {
    uint64_t at = from;
    for (const Resident& resident : Told<D>(state, {from * Marked::kSector, D::Size(state) - from * Marked::kSector})) {
      for (uint64_t end = resident.range.end() / Marked::kSector; at < end; ++at) {
        ASSERT_TRUE(resident.AlikeIn(Marked::Of(shown(at)))) << "sector " << at;
      }
    }
    EXPECT_EQ(at, sectors);
  }
  // Who has enough is not told more.
  int calls = 0;
  EXPECT_TRUE(D::Residency(state, {0, D::Size(state)}, [&](const Resident&) { return ++calls < 2; }).ok());
  EXPECT_LE(calls, 2);
}

template <class D>
class ObserverResidencyTest : public ::testing::Test {};
using Observers = ::testing::Types<Passthrough<Marked>, Stats<Marked>, ReadOnly<Marked>, Retry<Marked>, RangeLock<Marked>,
                                   Serialize<Marked>, Contract<Marked>, Contract<Passthrough<Contract<Marked>>>>;
TYPED_TEST_SUITE(ObserverResidencyTest, Observers);

TYPED_TEST(ObserverResidencyTest, IsThatOfTheDeviceBelow) {
  auto state = std::make_unique<typename TypeParam::State>();
  ASSERT_TRUE(TypeParam::Open({}, *state).ok());
  ExpectShows<TypeParam>(*state, [](uint64_t sector) { return sector; });
}

TEST(ResidencyTest, OffsetTranslates) {
  using D = Contract<Offset<Marked>>;
  auto state = std::make_unique<D::State>();
  ASSERT_TRUE(D::Open({.below = {.start = 1024, .length = 20480}}, *state).ok());
  ExpectShows<D>(*state, [](uint64_t sector) { return sector + 2; });
}

TEST(ResidencyTest, StripeTranslates) {
  using D = Contract<Stripe<2, Marked, 2048>>;
  auto state = std::make_unique<D::State>();
  ASSERT_TRUE(D::Open({}, *state).ok());
  ExpectShows<D>(*state, [](uint64_t sector) { return sector / 8 * 4 + sector % 4; });
}

TEST(ResidencyTest, ConcatTranslates) {
  using D = Contract<Concat<Marked, Marked>>;
  auto state = std::make_unique<D::State>();
  D::Config config;
  std::get<0>(config.below.below).size = 512 * 5;
  std::get<1>(config.below.below).size = 512 * 7;
  ASSERT_TRUE(D::Open(config, *state).ok());
  ExpectShows<D>(*state, [](uint64_t sector) { return sector < 5 ? sector : sector - 5; });
}

TEST(ResidencyTest, AlignWidensAndCuts) {
  using D = Contract<Align<Contract<MarkedBlocks>>>;
  auto state = std::make_unique<D::State>();
  ASSERT_TRUE(D::Open({}, *state).ok());
  ExpectShows<D>(*state, [](uint64_t sector) { return sector; });
  EXPECT_EQ(Told<D>(*state, {600, 1000}),
            (std::vector<Resident>{{{600, 424}, true, false}, {{1024, 512}}, {{1536, 64}, true, true}}));
}

TEST(ResidencyTest, PartitionTranslates) {
  using D = Contract<Partition<Marked>>;
  std::array<std::byte, 512> mbr = {};
  mbr[446 + 4] = std::byte{0x83};
  mbr[446 + 8] = std::byte{3};
  mbr[446 + 12] = std::byte{20};
  mbr[510] = std::byte{0x55};
  mbr[511] = std::byte{0xaa};
  testing::Script script;
  script.medium.assign(64 << 10, std::byte{});
  std::copy(mbr.begin(), mbr.end(), script.medium.begin());
  auto state = std::make_unique<D::State>();
  ASSERT_TRUE(D::Open({.below = {.partition = 1, .below = {.size = 64 << 10, .script = &script}}}, *state).ok());
  ExpectShows<D>(*state, [](uint64_t sector) { return sector + 3; });
}

TEST(ResidencyTest, AFailureBelowIsPassedOn) {
  using D = Passthrough<Marked>;
  auto state = std::make_unique<D::State>();
  testing::Script script;
  script.fail_at = 0;
  ASSERT_TRUE(D::Open({.below = {.script = &script}}, *state).ok());
  EXPECT_EQ(D::Residency(*state, {0, 512}, [](const Resident&) { return true; }), script.error);
}

// ---- Cache.

// Without Contract, which reads what was trimmed.
using Cached = Cache<Memory>;

struct OpenCache {
  explicit OpenCache(bool write_through = false) {
    EXPECT_TRUE(
        Cached::Open({.size = 64 << 10, .write_through = write_through, .read_ahead = 0, .below = {.size = 1 << 20}}, state)
            .ok());
  }
  void Write(uint64_t offset, size_t length) {
    EXPECT_TRUE(Cached::Write(state, offset, std::vector<std::byte>(length, std::byte{1})).ok());
  }
  void Read(uint64_t offset, size_t length) {
    std::vector<std::byte> out(length);
    EXPECT_TRUE(Cached::Read(state, offset, out).ok());
  }
  std::vector<Resident> Of(Range range) { return Told<Cached>(state, range); }

  Cached::State state;
};

TEST(CacheResidencyTest, TellsWhatIsCachedAndWhatIsDirtyBySectors) {
  OpenCache cache;
  EXPECT_EQ(cache.Of({0, 1 << 20}), (std::vector<Resident>{{{0, 1 << 20}}})) << "at first nothing";
  cache.Read(8192, 100);
  cache.Write(4096 + 1024, 512);
  cache.Write(65536, 4096);
  EXPECT_EQ(cache.Of({0, 1 << 20}), (std::vector<Resident>{{{0, 5120}},
                                                           {{5120, 512}, true, true},
                                                           {{5632, 2560}},
                                                           {{8192, 4096}, true, false},
                                                           {{12288, 53248}},
                                                           {{65536, 4096}, true, true},
                                                           {{69632, (1 << 20) - 69632}}}));
  EXPECT_EQ(cache.Of({5200, 3000}),
            (std::vector<Resident>{{{5200, 432}, true, true}, {{5632, 2560}}, {{8192, 8}, true, false}}))
      << "from and to anywhere";
  ASSERT_TRUE(Cached::Flush(cache.state).ok());
  EXPECT_EQ(cache.Of({65536, 4096}), (std::vector<Resident>{{{65536, 4096}, true, false}})) << "clean, and still there";
  ASSERT_TRUE(Cached::Trim(cache.state, {65536, 4096}).ok());
  EXPECT_EQ(cache.Of({65536, 4096}), (std::vector<Resident>{{{65536, 4096}}})) << "forgotten";
}

TEST(CacheResidencyTest, WithWriteThroughNothingIsDirty) {
  OpenCache cache(true);
  cache.Write(0, 4096);
  EXPECT_EQ(cache.Of({0, 8192}), (std::vector<Resident>{{{0, 4096}, true, false}, {{4096, 4096}}}));
}

TEST(CacheResidencyTest, WhatWasEvictedIsNotThere) {
  OpenCache cache;
  for (uint64_t page = 0; page < 64; ++page) cache.Read(page * 4096, 4096);
  uint64_t cached = 0;
  for (const Resident& resident : cache.Of({0, 1 << 20})) cached += resident.cached ? resident.range.length : 0;
  EXPECT_EQ(cached, uint64_t{64} << 10) << "as much as fits";
}

}  // namespace
}  // namespace buse

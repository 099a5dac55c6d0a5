// SPDX-License-Identifier: Apache-2.0
//
// Every layer there is, for lists of stacks to test, and a TestConfig for each that needs one. A layer that is missing here fails
// layers_test.

#ifndef TESTS_MODEL_LAYERS_H_
#define TESTS_MODEL_LAYERS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>

#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "gtest/gtest.h"
#include "layers/align.h"
#include "layers/cache.h"
#include "layers/checksum.h"
#include "layers/concat.h"
#include "layers/contract.h"
#include "layers/delay.h"
#include "layers/faulty.h"
#include "layers/journal.h"
#include "layers/log.h"
#include "layers/maintain.h"
#include "layers/memory.h"
#include "layers/mirror.h"
#include "layers/offset.h"
#include "layers/parity.h"
#include "layers/partition.h"
#include "layers/passthrough.h"
#include "layers/power_cut.h"
#include "layers/range_lock.h"
#include "layers/rate_limit.h"
#include "layers/read_only.h"
#include "layers/recording.h"
#include "layers/retry.h"
#include "layers/serialize.h"
#include "layers/stats.h"
#include "layers/stripe.h"
#include "layers/verify.h"
#include "tests/model/test_config.h"

namespace buse::testing {

// ---- Layers of several branches, or with needs of their own, over one device.

template <Device B>
using ConcatOver = Concat<B, Memory>;
template <Device B>
using MirrorOver = Mirror<B, B>;
template <Device B>
using ParityOver = Parity<2, 1, B, 4096>;
template <Device B>
using MaintainOver = Maintain<ParityOver<B>>;
template <Device B>
using StripeOver = Stripe<3, B, 4096>;
template <Device B>
using VerifyOver = Verify<B, B>;

template <Device... B>
struct TestConfig<Concat<B...>> {
  static constexpr uint64_t kBlock = Concat<B...>::kBlockSize;
  static constexpr bool kPersists = (TestConfig<B>::kPersists && ...);
  static constexpr uint64_t kSize = ((TestConfig<B>::kSize / kBlock * kBlock) + ...);
  static typename Concat<B...>::Config Make(Media& media) { return {.below = {TestConfig<B>::Make(media)...}}; }
};

template <Device B, uint64_t kChunk>
struct TestConfig<Stripe<3, B, kChunk>> {
  static constexpr bool kPersists = TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = TestConfig<B>::kSize / kChunk * kChunk * 3;
  static typename Stripe<3, B, kChunk>::Config Make(Media& media) {
    return {.below = {TestConfig<B>::Make(media), TestConfig<B>::Make(media), TestConfig<B>::Make(media)}};
  }
};

// Makes an MBR with one partition, which begins at sector 3 and ends before the end, on a device that has none.
template <Device B>
struct Formatted : Passthrough<B> {
  static constexpr uint64_t kSectors = TestConfig<B>::kSize / 512 - 7;
  static absl::Status Open(const typename Passthrough<B>::Config& config, typename Passthrough<B>::State& self) {
    if (absl::Status status = B::Open(config.below, self.below); !status.ok()) return status;
    std::array<std::byte, 512> sector;
    absl::Status status = B::Read(self.below, 0, sector);
    if (!status.ok() || (sector[510] == std::byte{0x55} && sector[511] == std::byte{0xaa})) return status;
    sector = {};
    sector[446 + 4] = std::byte{0x83};
    sector[446 + 8] = std::byte{3};
    sector[446 + 12] = std::byte{kSectors % 256};
    sector[446 + 13] = std::byte{kSectors / 256};
    sector[510] = std::byte{0x55};
    sector[511] = std::byte{0xaa};
    return B::Write(self.below, 0, sector);
  }
};
template <Device B>
using PartitionOver = Partition<Formatted<B>>;

template <Device B>
struct TestConfig<Partition<Formatted<B>>> {
  static constexpr bool kPersists = TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = Formatted<B>::kSectors * 512;
  static typename Partition<Formatted<B>>::Config Make(Media& media) {
    return {.partition = 1, .below = {.below = TestConfig<B>::Make(media)}};
  }
};

// Leaves out what is no whole sector at the end, which Recording refuses.
template <Device B>
struct Sectors : Passthrough<B> {
  static constexpr uint64_t kTail = TestConfig<B>::kSize % 512;
  static absl::Status Resize(typename Passthrough<B>::State& self, uint64_t size) requires CanResize<B> {
    if (absl::Status status = B::Resize(self.below, size + kTail); !status.ok()) return status;
    // It may show again, and was part of a block before.
    if constexpr (kTail > 0) return buse::Zero<B>(self.below, {size, kTail});
    return absl::OkStatus();
  }
  static uint64_t Size(const typename Passthrough<B>::State& self) { return B::Size(self.below) / 512 * 512; }
};
template <Device B>
using RecordingOver = Recording<Sectors<B>>;

template <Device B>
struct TestConfig<Sectors<B>> {
  static constexpr bool kPersists = TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = TestConfig<B>::kSize / 512 * 512;
  static typename Sectors<B>::Config Make(Media& media) { return {.below = TestConfig<B>::Make(media)}; }
};

// In memory: a log file must not exist when the stack is opened again.
template <Device B>
struct TestConfig<Recording<B>> {
  static constexpr bool kPersists = TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = TestConfig<B>::kSize;
  static typename Recording<B>::Config Make(Media& media) {
    return {.record = media.NewRecord(), .below = TestConfig<B>::Make(media)};
  }
};

// The cache is too small for all that comes between two flushes.
template <Device B>
struct TestConfig<PowerCut<B>> {
  static constexpr bool kPersists = TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = TestConfig<B>::kSize;
  static typename PowerCut<B>::Config Make(Media& media) { return {.cache = 262144, .below = TestConfig<B>::Make(media)}; }
};

// Without waiting.
template <Device B>
struct TestConfig<Retry<B>> {
  static constexpr bool kPersists = TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = TestConfig<B>::kSize;
  static typename Retry<B>::Config Make(Media& media) { return {.delay = 0, .below = TestConfig<B>::Make(media)}; }
};

// As small as can be.
template <Device B>
struct TestConfig<Checksum<B>> {
  static constexpr bool kPersists = TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = TestConfig<B>::kSize / 8192 * 4096;  // or more
  static typename Checksum<B>::Config Make(Media& media) {
    typename Checksum<B>::Config config = {
        .log = 16384, .stage = 32768, .table_cache = 8192, .below = TestConfig<B>::Make(media)};
    if (absl::Status status = FormatStack<Checksum<B>>(config, [](uint64_t, uint64_t) {}); !status.ok()) {
      std::fprintf(stderr, "cannot format: %s\n", status.ToString().c_str());
      std::abort();
    }
    return config;
  }
};

template <Device B>
using JournalOver = Journal<B, 4096>;

// As small as can be.
template <Device B>
struct TestConfig<Journal<B, 4096>> {
  using Stack = Journal<B, 4096>;
  static constexpr bool kPersists = TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = TestConfig<B>::kSize / 4096 * 4096 - 40960;  // or more
  static typename Stack::Config Make(Media& media) {
    typename Stack::Config config = {.log = 24576, .below = TestConfig<B>::Make(media)};
    if (absl::Status status = FormatStack<Stack>(config, [](uint64_t, uint64_t) {}); !status.ok()) {
      std::fprintf(stderr, "cannot format: %s\n", status.ToString().c_str());
      std::abort();
    }
    return config;
  }
};

// Regions are small, so that there are many. A leg that failed does not end the test.
template <Device... B>
struct TestConfig<Mirror<B...>> {
  static constexpr bool kPersists = (TestConfig<B>::kPersists && ...);
  static constexpr uint64_t kSize = std::min({TestConfig<B>::kSize...}) - 32768;  // or more
  static typename Mirror<B...>::Config Make(Media& media) {
    typename Mirror<B...>::Config config = {.region_size = 4096,
                                            .degraded = true,
                                            .idle_flushes = 2,
                                            .flush_step = 65536,
                                            .below = {TestConfig<B>::Make(media)...}};
    if (absl::Status status = FormatStack<Mirror<B...>>(config, [](uint64_t, uint64_t) {}); !status.ok()) {
      std::fprintf(stderr, "cannot format: %s\n", status.ToString().c_str());
      std::abort();
    }
    return config;
  }
};

// As small as can be. A leg that failed does not end the test, and is rebuilt with the next Flush.
template <Device B>
struct TestConfig<Parity<2, 1, B, 4096>> {
  using Stack = Parity<2, 1, B, 4096>;
  static constexpr bool kPersists = TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = TestConfig<B>::kSize / 8192 * 8192;  // or more
  static typename Stack::Config Make(Media& media) {
    typename Stack::Config config = {
        .log = 65536,
        .stage = 65536,
        .degraded = true,
        .flush_step = 1 << 20,
        .below = {TestConfig<B>::Make(media), TestConfig<B>::Make(media), TestConfig<B>::Make(media)}};
    if (absl::Status status = FormatStack<Stack>(config, [](uint64_t, uint64_t) {}); !status.ok()) {
      std::fprintf(stderr, "cannot format: %s\n", status.ToString().c_str());
      std::abort();
    }
    return config;
  }
};

// It only looks on: what calls a device when is not to depend on a thread.
template <Device B>
struct TestConfig<Maintain<B>> {
  static constexpr bool kPersists = TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = TestConfig<B>::kSize;
  static typename Maintain<B>::Config Make(Media& media) { return {.rebuild_rate = 0, .below = TestConfig<B>::Make(media)}; }
};

// ---- The list. X(name, template over one device, what it must be able to stand over).

#define BUSE_EVERY_LAYER(X)                                                                                     \
  X(Align, Align, true)                                                                                         \
  X(Cache, Cache, true)                                                                                         \
  X(Checksum, Checksum, CanWrite<B>&& TestConfig<B>::kPersists)                                                 \
  X(Concat, ConcatOver, true)                                                                                   \
  X(Contract, Contract, true)                                                                                   \
  X(Delay, Delay, true)                                                                                         \
  X(Faulty, Faulty, true)                                                                                       \
  X(Journal, JournalOver, CanWrite<B>&& TestConfig<B>::kPersists)                                               \
  X(Log, Log, true)                                                                                             \
  X(Maintain, MaintainOver, CanWrite<B>&& TestConfig<B>::kPersists&& B::kConcurrency == Concurrency::kParallel) \
  X(Mirror, MirrorOver, CanWrite<B>&& TestConfig<B>::kPersists)                                                 \
  X(Offset, Offset, true)                                                                                       \
  X(Parity, ParityOver, CanWrite<B>&& TestConfig<B>::kPersists)                                                 \
  X(Partition, PartitionOver, CanWrite<B>)                                                                      \
  X(Passthrough, Passthrough, true)                                                                             \
  X(PowerCut, PowerCut, true)                                                                                   \
  X(RangeLock, RangeLock, B::kConcurrency != Concurrency::kSerial)                                              \
  X(RateLimit, RateLimit, true)                                                                                 \
  X(ReadOnly, ReadOnly, true)                                                                                   \
  X(Recording, RecordingOver, true)                                                                             \
  X(Retry, Retry, true)                                                                                         \
  X(Serialize, Serialize, true)                                                                                 \
  X(Stats, Stats, true)                                                                                         \
  X(Stripe, StripeOver, true)                                                                                   \
  X(Verify, VerifyOver, true)

// A layer as a type: a template that takes devices only cannot be passed to another (g++ 12).
#define BUSE_LAYER_TAG(name, over, takes)       \
  struct name##Tag {                            \
    static constexpr const char* kName = #name; \
    template <class B>                          \
    static constexpr bool kStandsOver = takes;  \
    template <class B>                          \
    using Over = over<B>;                       \
  };
BUSE_EVERY_LAYER(BUSE_LAYER_TAG)
#undef BUSE_LAYER_TAG

template <class... Tag>
struct Layers {
  static constexpr size_t kCount = sizeof...(Tag);
  static constexpr std::array<const char*, kCount> kNames = {Tag::kName...};
};

// Without the empty one at the end.
template <class... Tag>
struct WithoutLast;
template <class Last, class... Tag>
struct WithoutLast<Layers<Tag...>, Last> {
  using Type = Layers<Tag...>;
};
template <class... Done, class First, class Second, class... Rest>
struct WithoutLast<Layers<Done...>, First, Second, Rest...> : WithoutLast<Layers<Done..., First>, Second, Rest...> {};

#define BUSE_LAYER_IN_LIST(name, over, takes) name##Tag,
using EveryLayer = WithoutLast<Layers<>, BUSE_EVERY_LAYER(BUSE_LAYER_IN_LIST) void>::Type;
#undef BUSE_LAYER_IN_LIST

// ---- Lists of stacks.

template <class A, class B>
struct Joined;
template <class... A, class... B>
struct Joined<::testing::Types<A...>, ::testing::Types<B...>> {
  using Type = ::testing::Types<A..., B...>;
};

// The layer over B in a list of one; or an empty list.
template <class Tag, class B, bool kFits = Tag::template kStandsOver<B>>
struct Over {
  using Type = ::testing::Types<>;
};
template <class Tag, class B>
struct Over<Tag, B, true> {
  using Type = ::testing::Types<typename Tag::template Over<B>>;
};

// Every layer over one leaf, watched by Contract from both sides.
template <class List, class Leaf>
struct EveryLayerOver;
template <class Leaf>
struct EveryLayerOver<Layers<>, Leaf> {
  using Type = ::testing::Types<>;
};
template <class Types>
struct Watched;
template <class... Stack>
struct Watched<::testing::Types<Stack...>> {
  using Type = ::testing::Types<Contract<Stack>...>;
};
template <class First, class... Rest, class Leaf>
struct EveryLayerOver<Layers<First, Rest...>, Leaf> {
  using Type = typename Joined<typename Watched<typename Over<First, Contract<Leaf>>::Type>::Type,
                               typename EveryLayerOver<Layers<Rest...>, Leaf>::Type>::Type;
};

// One layer over every layer over one leaf, watched by Contract in between.
template <class Outer, class List, class Leaf>
struct OverEveryLayer;
template <class Outer, class Leaf>
struct OverEveryLayer<Outer, Layers<>, Leaf> {
  using Type = ::testing::Types<>;
};
template <class Outer, class Inner, class Leaf, bool kFits = Inner::template kStandsOver<Leaf>>
struct Pair {
  using Type = ::testing::Types<>;
};
template <class Outer, class Inner, class Leaf>
struct Pair<Outer, Inner, Leaf, true> : Over<Outer, Contract<typename Inner::template Over<Leaf>>> {};
template <class Outer, class First, class... Rest, class Leaf>
struct OverEveryLayer<Outer, Layers<First, Rest...>, Leaf> {
  using Type = typename Joined<typename Pair<Outer, First, Leaf>::Type,
                               typename OverEveryLayer<Outer, Layers<Rest...>, Leaf>::Type>::Type;
};

// The part of all pairs whose outer layer's place in the list is `part` modulo `parts`.
template <class List, class Leaf, size_t kPart, size_t kParts, size_t kPlace = 0>
struct PairsOf;
template <class Leaf, size_t kPart, size_t kParts, size_t kPlace>
struct PairsOf<Layers<>, Leaf, kPart, kParts, kPlace> {
  using Type = ::testing::Types<>;
};
template <class First, class... Rest, class Leaf, size_t kPart, size_t kParts, size_t kPlace>
struct PairsOf<Layers<First, Rest...>, Leaf, kPart, kParts, kPlace> {
  using Here = OverEveryLayer<First, std::conditional_t<kPlace % kParts == kPart, EveryLayer, Layers<>>, Leaf>;
  using Type =
      typename Joined<typename Here::Type, typename PairsOf<Layers<Rest...>, Leaf, kPart, kParts, kPlace + 1>::Type>::Type;
};

}  // namespace buse::testing

#endif  // TESTS_MODEL_LAYERS_H_

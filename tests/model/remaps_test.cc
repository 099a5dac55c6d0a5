// SPDX-License-Identifier: Apache-2.0
//
// The layers that put bytes elsewhere, over memory, files and blocks, and over each other. Their borders lie so that requests
// cross them all the time.

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "buse/device.h"
#include "gtest/gtest.h"
#include "layers/concat.h"
#include "layers/contract.h"
#include "layers/file_backed.h"
#include "layers/memory.h"
#include "layers/offset.h"
#include "layers/partition.h"
#include "layers/passthrough.h"
#include "layers/stripe.h"
#include "tests/leaves.h"
#include "tests/model/suite.h"

namespace buse::testing {

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

// Makes an MBR with one partition, sectors 3 to 507, on a device that has none.
template <Device B>
struct Formatted : Passthrough<B> {
  static constexpr uint64_t kSectors = 505;
  static absl::Status Open(const typename Passthrough<B>::Config& config, typename Passthrough<B>::State& self) {
    if (absl::Status status = B::Open(config.below, self.below); !status.ok()) return status;
    std::array<std::byte, 512> sector;
    absl::Status status = B::Read(self.below, 0, sector);
    if (!status.ok() || sector[510] == std::byte{0x55}) return status;
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
struct TestConfig<Partition<Formatted<B>>> {
  static constexpr bool kPersists = TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = Formatted<B>::kSectors * 512;
  static typename Partition<Formatted<B>>::Config Make(Media& media) {
    return {.partition = 1, .below = {.below = TestConfig<B>::Make(media)}};
  }
};

namespace {

template <Device... B>
using Watched = Contract<Concat<Contract<B>...>>;
template <Device B, uint64_t kChunk = 4096>
using WatchedStripe = Contract<Stripe<3, Contract<B>, kChunk>>;
template <Device B>
using WatchedPartition = Contract<Partition<Formatted<Contract<B>>>>;

using Concats = ::testing::Types<Watched<Memory>, Watched<Memory, Memory>, Watched<FileBacked, Memory, FileBacked>,
                                 Watched<Full512, Memory, Full>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Concats, ModelTest, Concats, StackNames);

using Stripes = ::testing::Types<WatchedStripe<Memory>, WatchedStripe<FileBacked>, WatchedStripe<Full, 64>,
                                 WatchedStripe<Full512, 512>, WatchedStripe<BasicFull<512, Concurrency::kDisjoint>, 1024>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Stripes, ModelTest, Stripes, StackNames);

using Partitions = ::testing::Types<WatchedPartition<Memory>, WatchedPartition<FileBacked>, WatchedPartition<Full512>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Partitions, ModelTest, Partitions, StackNames);

using OverEachOther =
    ::testing::Types<Watched<Stripe<3, Memory, 4096>, Offset<Full512>>, WatchedStripe<Concat<Memory, Full512>, 512>,
                     Contract<Offset<Concat<Memory, Memory>>>, WatchedPartition<Concat<Memory, FileBacked>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(OverEachOther, ModelTest, OverEachOther, StackNames);

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// Maintain: passes on what the set below has, and rebuilds and scrubs it beside its users.

#include "layers/maintain.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "buse/medium.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/mirror.h"
#include "layers/parity.h"
#include "tests/leaves.h"

template struct buse::Maintain<buse::Mirror<buse::testing::Full, buse::testing::Full>>;
template struct buse::Maintain<buse::Parity<2, 1, buse::testing::Full>>;

namespace buse::testing {
namespace {

using Pair = Mirror<Full, Full>;
using Set = Parity<2, 1, Full, 4096>;

static_assert(kCapabilities<Maintain<Pair>> == kCapabilities<Pair>);
static_assert(kCapabilities<Maintain<Mirror<Writer, Writer>>> == Capabilities{.write = true});
static_assert(kCapabilities<Maintain<Set>> == Capabilities{.write = true});
static_assert(CanMaintain<Pair> && CanMaintain<Set> && !CanMaintain<Full> && !CanMaintain<Mirror<Full, Bare>>);

constexpr uint64_t kLeg = 1 << 20;

template <class S>
std::vector<std::byte> ReadAll(typename S::State& self) {
  std::vector<std::byte> bytes(S::Size(self));
  EXPECT_EQ(S::Read(self, 0, bytes), absl::OkStatus());
  return bytes;
}

// Loses a leg, and has it rebuilt and scrubbed while others write.
template <class Below>
void ExpectHealsBesideWriters(typename Below::Config below, Script& lost) {
  using S = Maintain<Below>;
  typename S::Config config = {.rebuild_rate = 4 << 20, .scrub_rate = 64 << 20, .below = below};
  ASSERT_EQ(FormatStack<S>(config, [](uint64_t, uint64_t) {}), absl::OkStatus());
  lost.medium.clear();
  config.below.replace_leg = "1";
  auto state = std::make_unique<typename S::State>();
  ASSERT_EQ(S::Open(config, *state), absl::OkStatus());
  std::atomic<bool> ends = false;
  std::vector<std::thread> writers;
  for (uint64_t number = 0; number < 2; ++number) {
    writers.emplace_back([&, number] {
      for (uint64_t i = 0; !ends; ++i) {
        const std::vector<std::byte> in(512, static_cast<std::byte>(i % 255 + 1));
        const uint64_t at = (i * 2 + number) * 512 % (S::Size(*state) - 512) / 1024 * 1024 + number * 512;
        EXPECT_EQ(S::Write(*state, at, in), absl::OkStatus());
        EXPECT_TRUE(i % 8 != 0 || S::Flush(*state).ok());
      }
    });
  }
  // Rebuilt by the thread, not by flushes, and then scrubbed.
  const auto scrubs = [&] {
    const LegsStatus status = Below::Status(state->below);
    return status.Count(LegState::kInSync) == status.legs && status.bytes_to_scrub < status.bytes_of_leg;
  };
  for (int i = 0; i < 600 && !scrubs(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_TRUE(scrubs());
  ends = true;
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(S::Flush(*state), absl::OkStatus());
  EXPECT_EQ(Below::Status(state->below).mismatched, 0u);
  const std::vector<std::byte> all = ReadAll<S>(*state);
  // The leg that was new makes up for another.
  EXPECT_EQ(Below::Fail(state->below, 0), absl::OkStatus());
  EXPECT_EQ(ReadAll<S>(*state), all);
}

TEST(MaintainTest, HealsAMirrorBesideItsWriters) {
  Script a, b;
  ExpectHealsBesideWriters<Pair>({.flush_step = 0, .below = {{.size = kLeg, .script = &a}, {.size = kLeg, .script = &b}}}, b);
}

TEST(MaintainTest, HealsAParityBesideItsWriters) {
  Script a, b, c;
  ExpectHealsBesideWriters<Set>(
      {.log = ParityLayout::kSlots * ParityLayout::kLeastSlot,
       .flush_step = 0,
       .below = {{.size = kLeg, .script = &a}, {.size = kLeg, .script = &b}, {.size = kLeg, .script = &c}}},
      b);
}

// For whoever only looks at it.
TEST(MaintainTest, KeptStillItDoesNothing) {
  Script a, b;
  using S = Maintain<Pair>;
  S::Config config = {.scrub_rate = 64 << 20,
                      .status = "/no/such/folder/status",
                      .below = {.below = {{.size = kLeg, .script = &a}, {.size = kLeg, .script = &b}}}};
  ASSERT_EQ(FormatStack<S>(config, [](uint64_t, uint64_t) {}), absl::OkStatus());
  EXPECT_FALSE(S::Open(config, *std::make_unique<S::State>()).ok());
  KeepStill<S>(config);
  auto state = std::make_unique<S::State>();
  ASSERT_EQ(S::Open(config, *state), absl::OkStatus());
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const LegsStatus status = Pair::Status(state->below);
  EXPECT_EQ(status.bytes_to_scrub, status.bytes_of_leg);
}

}  // namespace
}  // namespace buse::testing

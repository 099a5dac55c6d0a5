// SPDX-License-Identifier: Apache-2.0
//
// Stripe: every byte lies on the leg the formula says, discards reach each leg with one call, extents are those of the bytes,
// sizes round down per leg, and nothing wraps beyond 2 TiB.

#include "layers/stripe.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/gather.h"
#include "buse/operations.h"
#include "buse/options.h"
#include "gtest/gtest.h"
#include "layers/faulty.h"
#include "layers/memory.h"
#include "layers/null.h"
#include "layers/passthrough.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"

template struct buse::Stripe<3, buse::testing::Full, 16>;

namespace buse::testing {
namespace {

constexpr Capabilities kEverythingButResize = {true, true, true, true, true, true, true, true, false, true, true, true};
static_assert(kCapabilities<Stripe<2, Full>> == kEverythingButResize);
static_assert(kCapabilities<Stripe<2, Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Stripe<2, Bare>> == kNothing);
static_assert(Stripe<2, Full512>::kBlockSize == 512);
static_assert(Stripe<2, BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);

static_assert(sizeof(Stripe<3, Full>::State) == 3 * sizeof(Full::State) + 8, "the legs and the size");

using Stack = Stripe<3, Full, 16>;

// Three legs of 100 bytes, so of 6 chunks, each with a script of its own.
struct Three {
  std::array<Script, 3> scripts;
  Stack::State state;

  Three() {
    EXPECT_TRUE(Stack::Open({.below = {{.size = 100, .script = &scripts[0]},
                                       {.size = 100, .script = &scripts[1]},
                                       {.size = 100, .script = &scripts[2]}}},
                            state)
                    .ok());
  }

  // The calls of all legs, and forgets them.
  std::vector<std::vector<Call>> Calls() {
    std::vector<std::vector<Call>> calls;
    for (Script& script : scripts) {
      calls.push_back(script.calls);
      script.calls.clear();
    }
    return calls;
  }

  // Where byte `at` of the device lies, by the definition of a stripe.
  std::byte& At(uint64_t at) { return scripts[at / 16 % 3].medium[at / 48 * 16 + at % 16]; }
};

using Calls = std::vector<std::vector<Call>>;

std::vector<std::byte> Pattern(size_t length) {
  std::vector<std::byte> bytes(length);
  for (size_t i = 0; i < length; ++i) bytes[i] = static_cast<std::byte>(i % 251 + 1);
  return bytes;
}

TEST(StripeTest, ChunksGoToTheLegsInTurn) {
  Three three;
  ASSERT_EQ(Stack::Size(three.state), 288u);
  const std::vector<std::byte> bytes = Pattern(288);
  ASSERT_TRUE(Stack::Write(three.state, 0, bytes).ok());
  for (uint64_t at = 0; at < 288; ++at) ASSERT_EQ(three.At(at), bytes[at]) << at;
  // Nothing behind the last chunk of a leg.
  for (const Script& script : three.scripts) {
    for (uint64_t at = 96; at < 100; ++at) EXPECT_EQ(script.medium[at], std::byte{0});
  }
  std::vector<std::byte> out(288);
  ASSERT_TRUE(Stack::Read(three.state, 0, out).ok());
  EXPECT_EQ(out, bytes);
}

TEST(StripeTest, EveryRangeReadsAndViewsAsItsBytes) {
  Three three;
  const std::vector<std::byte> bytes = Pattern(288);
  ASSERT_TRUE(Stack::Write(three.state, 0, bytes).ok());
  auto gather = std::make_unique<Gather>();
  for (uint64_t offset = 0; offset < 288; ++offset) {
    for (uint64_t length = 1; length <= 288 - offset; length += 1 + length / 7) {
      const std::vector<std::byte> want(bytes.begin() + offset, bytes.begin() + offset + length);
      std::vector<std::byte> out(length);
      ASSERT_TRUE(Stack::Read(three.state, offset, out).ok());
      ASSERT_EQ(out, want) << offset << "+" << length;
      ASSERT_TRUE(Stack::View(three.state, {offset, length}, *gather).ok());
      out.clear();
      for (const iovec& piece : gather->pieces()) {
        const auto* begin = static_cast<const std::byte*>(piece.iov_base);
        out.insert(out.end(), begin, begin + piece.iov_len);
      }
      gather->Release();
      ASSERT_EQ(out, want) << offset << "+" << length;
    }
  }
}

TEST(StripeTest, AReadOrWriteIsOneCallPerChunk) {
  Three three;
  std::array<std::byte, 60> bytes{};
  const auto chunks = [](const char* operation) {
    return Calls{{{operation, {16, 16}}}, {{operation, {16, 16}}}, {{operation, {4, 12}}, {operation, {16, 16}}}};
  };
  ASSERT_TRUE(Stack::Read(three.state, 36, bytes).ok());
  EXPECT_EQ(three.Calls(), chunks("Read"));
  ASSERT_TRUE(Stack::Write(three.state, 36, bytes).ok());
  EXPECT_EQ(three.Calls(), chunks("Write"));
  ASSERT_TRUE(Stack::WriteThrough(three.state, 36, bytes).ok());
  EXPECT_EQ(three.Calls(), chunks("WriteThrough"));
  ASSERT_TRUE(Stack::TryRead(three.state, 36, bytes));
  EXPECT_EQ(three.Calls(), chunks("TryRead"));
  ASSERT_TRUE(Stack::TryWrite(three.state, 36, bytes));
  EXPECT_EQ(three.Calls(), chunks("TryWrite"));
  Gather gather;
  ASSERT_TRUE(Stack::View(three.state, {36, 60}, gather).ok());
  EXPECT_EQ(three.Calls(), chunks("View"));
  three.scripts[0].fail_at = 0;
  EXPECT_FALSE(Stack::TryRead(three.state, 36, bytes)) << "one that cannot is enough";
}

TEST(StripeTest, AWriteInPlaceReachesEveryByteAndEveryLeg) {
  Three three;
  const std::vector<std::byte> bytes = Pattern(60);
  Scatter scatter;
  ASSERT_TRUE(Stack::Place(three.state, {36, 60}, scatter).ok());
  EXPECT_EQ(scatter.bytes(), 60u);
  scatter.Fill(bytes);
  three.Calls();
  three.scripts[0].fail_at = 0;
  EXPECT_FALSE(Stack::Placed(three.state, {36, 60}).ok());
  EXPECT_EQ(three.Calls(), (Calls{{{"Placed", {16, 16}}}, {{"Placed", {16, 16}}}, {{"Placed", {4, 28}}}}));
  three.scripts[0].fail_at = -1;
  std::vector<std::byte> out(60);
  ASSERT_TRUE(Stack::Read(three.state, 36, out).ok());
  EXPECT_EQ(out, bytes);
}

TEST(StripeTest, DiscardsReachEachLegTheyConcernWithOneCall) {
  Three three;
  const auto shares = [](const char* operation) {
    return Calls{{{operation, {16, 36}}}, {{operation, {16, 32}}}, {{operation, {4, 44}}}};
  };
  ASSERT_TRUE(Stack::Trim(three.state, {36, 112}).ok());
  EXPECT_EQ(three.Calls(), shares("Trim"));
  ASSERT_TRUE(Stack::WriteZeroes(three.state, {36, 112}).ok());
  EXPECT_EQ(three.Calls(), shares("WriteZeroes"));
  ASSERT_TRUE(Stack::Prefetch(three.state, {36, 112}).ok());
  EXPECT_EQ(three.Calls(), shares("Prefetch"));
  ASSERT_TRUE(Stack::Trim(three.state, {64, 16}).ok());
  EXPECT_EQ(three.Calls(), (Calls{{}, {{"Trim", {16, 16}}}, {}}));
  ASSERT_TRUE(Stack::Trim(three.state, {30, 4}).ok());
  EXPECT_EQ(three.Calls(), (Calls{{}, {{"Trim", {14, 2}}}, {{"Trim", {0, 2}}}}));
  ASSERT_TRUE(Stack::Trim(three.state, {0, 288}).ok());
  EXPECT_EQ(three.Calls(), (Calls{{{"Trim", {0, 96}}}, {{"Trim", {0, 96}}}, {{"Trim", {0, 96}}}}));
}

TEST(StripeTest, EveryTrimClearsItsBytesAndNoOthers) {
  for (uint64_t offset = 0; offset < 60; ++offset) {
    for (uint64_t length = 1; length <= 120; ++length) {
      Three three;
      for (uint64_t at = 0; at < 288; ++at) three.At(at) = std::byte{7};
      ASSERT_TRUE(Stack::Trim(three.state, {offset, length}).ok());
      for (uint64_t at = 0; at < 288; ++at) {
        const bool trimmed = at >= offset && at < offset + length;
        ASSERT_EQ(three.At(at), trimmed ? std::byte{0} : std::byte{7}) << offset << "+" << length << " at " << at;
      }
    }
  }
}

TEST(StripeTest, FlushReachesAllLegsAndReturnsTheFirstError) {
  Three three;
  ASSERT_TRUE(Stack::Flush(three.state).ok());
  EXPECT_EQ(three.Calls(), (Calls{{{"Flush", {}}}, {{"Flush", {}}}, {{"Flush", {}}}}));
  three.scripts[0].fail_at = 0;
  three.scripts[0].error = absl::DataLossError("first");
  three.scripts[2].fail_at = 0;
  EXPECT_EQ(Stack::Flush(three.state), absl::DataLossError("first"));
  EXPECT_EQ(three.Calls(), (Calls{{{"Flush", {}}}, {{"Flush", {}}}, {{"Flush", {}}}}));
}

TEST(StripeTest, BackingIsThereWhereTheRangeLiesInOneChunk) {
  Three three;
  const std::optional<FileRange> backing = Stack::Backing(three.state, {68, 12});
  ASSERT_TRUE(backing.has_value());
  EXPECT_EQ(backing->fd, Full::kBackingFd);
  EXPECT_EQ(backing->offset, 20u);
  EXPECT_FALSE(Stack::Backing(three.state, {68, 13}).has_value());
}

std::vector<Extent> Collect(Stack::State& state, Range range, size_t most = SIZE_MAX) {
  std::vector<Extent> extents;
  EXPECT_TRUE(Stack::Extents(state, range, [&](const Extent& extent) {
                extents.push_back(extent);
                return extents.size() < most;
              }).ok());
  return extents;
}

// What the extents of the bytes are, by looking at each.
std::vector<Extent> Expected(Three& three, Range range) {
  std::vector<Extent> extents;
  for (uint64_t at = range.offset; at < range.end(); ++at) {
    const Extent::Kind kind = three.At(at) == std::byte{0} ? Extent::Kind::kHole : Extent::Kind::kData;
    if (!extents.empty() && extents.back().kind == kind) {
      ++extents.back().range.length;
    } else {
      extents.push_back({{at, 1}, kind});
    }
  }
  return extents;
}

TEST(StripeTest, ExtentsAreThoseOfTheBytesMergedOverChunks) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    SCOPED_TRACE(round);
    Three three;
    for (int i = static_cast<int>(random() % 8); i > 0; --i) {
      const uint64_t begin = random() % 288;
      const uint64_t end = begin + 1 + random() % (288 - begin);
      const std::byte value{static_cast<unsigned char>(random() % 2)};
      for (uint64_t at = begin; at < end; ++at) three.At(at) = value;
    }
    const uint64_t offset = random() % 288;
    const Range range = {offset, 1 + random() % (288 - offset)};
    const std::vector<Extent> want = Expected(three, range);
    ASSERT_EQ(Collect(three.state, range), want);
    ASSERT_EQ(Collect(three.state, range, 1), std::vector(want.begin(), want.begin() + 1));
  }
}

TEST(StripeTest, ExtentsAskALegAgainOnlyPastWhatItSaidLast) {
  Three three;
  EXPECT_EQ(Collect(three.state, {0, 288}), (std::vector<Extent>{{{0, 288}, Extent::Kind::kHole}}));
  EXPECT_EQ(three.Calls(), (Calls{{{"Extents", {0, 96}}}, {{"Extents", {0, 96}}}, {{"Extents", {0, 96}}}}));
}

TEST(StripeTest, TheSizeIsThatOfTheSmallestLegInWholeChunks) {
  std::array<Script, 3> scripts;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {{.size = 1000, .script = &scripts[0]},
                                     {.size = 47, .script = &scripts[1]},
                                     {.size = 64, .script = &scripts[2]}}},
                          state)
                  .ok());
  EXPECT_EQ(Stack::Size(state), 3u * 32);
  ASSERT_TRUE(Stack::Trim(state, {0, 96}).ok());
  for (const Script& script : scripts) EXPECT_EQ(script.calls, (std::vector<Call>{{"Trim", {0, 32}}}));
}

TEST(StripeTest, ALegSmallerThanAChunkIsRefusedWithItsNumbers) {
  Stack::State state;
  const absl::Status status = Stack::Open({.below = {{.size = 100}, {.size = 15}, {.size = 100}}}, state);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const std::string message(status.message());
  for (const char* word : {"leg 2", "15 bytes", "16"}) EXPECT_NE(message.find(word), std::string::npos) << message;
}

TEST(StripeTest, MoreThan64BitsIsRefusedWithItsNumbers) {
  constexpr uint64_t kLeg = uint64_t{1} << 62;
  using Large = Stripe<4, Null>;
  Large::State too_large;
  const absl::Status status =
      Large::Open({.below = {{.size = kLeg}, {.size = kLeg}, {.size = kLeg}, {.size = kLeg}}}, too_large);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find(std::to_string(kLeg - 65536)), std::string::npos) << status.message();
  // The limit that the message names, and one chunk less.
  Large::State limit;
  EXPECT_EQ(Large::Open({.below = {{.size = kLeg - 65536}, {.size = kLeg}, {.size = kLeg}, {.size = kLeg}}}, limit).code(),
            absl::StatusCode::kInvalidArgument);
  constexpr uint64_t kFits = kLeg - 2 * 65536;
  Large::State fits;
  ASSERT_TRUE(Large::Open({.below = {{.size = kFits}, {.size = kLeg}, {.size = kLeg}, {.size = kLeg}}}, fits).ok());
  EXPECT_EQ(Large::Size(fits), 4 * kFits);
}

TEST(StripeTest, BeyondTwoTebibytesEveryByteIsWhereItBelongs) {
  using Large = Stripe<3, Memory>;
  constexpr uint64_t kLeg = (uint64_t{3} << 40) + 5 * 65536 + 123;
  constexpr uint64_t kSize = 3 * ((uint64_t{3} << 40) + 5 * 65536);
  Large::State state;
  ASSERT_TRUE(Large::Open({.below = {{.size = kLeg}, {.size = kLeg + 999}, {.size = kLeg + 7}}}, state).ok());
  ASSERT_EQ(Large::Size(state), kSize);
  const std::vector<std::byte> bytes = Pattern(200000);
  const std::vector<uint64_t> offsets = {0,
                                         (uint64_t{1} << 31) - 100000,
                                         (uint64_t{1} << 32) - 100000,
                                         3ull << 32,
                                         (uint64_t{1} << 41) - 100000,
                                         (uint64_t{1} << 42) - 100000,
                                         (uint64_t{1} << 43) + 5,
                                         kSize - 200000};
  for (uint64_t offset : offsets) ASSERT_TRUE(Large::Write(state, offset, bytes).ok()) << offset;
  for (uint64_t offset : offsets) {
    std::vector<std::byte> out(bytes.size());
    ASSERT_TRUE(Large::Read(state, offset, out).ok());
    ASSERT_EQ(out, bytes) << offset;
    // The same bytes by the definition of a stripe.
    for (uint64_t at = offset; at < offset + bytes.size(); at += 1009) {
      std::array<std::byte, 1> one;
      ASSERT_TRUE(Memory::Read(state.below[at / 65536 % 3], at / 196608 * 65536 + at % 65536, one).ok());
      ASSERT_EQ(one[0], bytes[at - offset]) << at;
    }
  }
  uint64_t data = 0;
  uint64_t next = 0;
  ASSERT_TRUE(Large::Extents(state, {0, kSize}, [&](const Extent& extent) {
                EXPECT_EQ(extent.range.offset, next);
                next = extent.range.end();
                if (extent.kind == Extent::Kind::kData) data += extent.range.length;
                return true;
              }).ok());
  EXPECT_EQ(next, kSize);
  EXPECT_GE(data, offsets.size() * bytes.size());
  EXPECT_LT(data, offsets.size() * (bytes.size() + 8 * 4096));
  ASSERT_TRUE(Large::Trim(state, {0, kSize}).ok());
  for (auto& leg : state.below) EXPECT_EQ(leg.bytes.allocated_bytes(), 0u);
}

TEST(StripeTest, AnErrorOfOpenBelowIsPassedOnAndEndsOpening) {
  using Nested = Stripe<2, Memory>;
  Nested::State state;
  EXPECT_FALSE(Nested::Open({.below = {{.size = 0}, {.size = 65536}}}, state).ok());
  EXPECT_EQ(state.below[1].bytes.size(), 0u) << "opened after the error";
}

template <size_t kLeg>
void FailEachCall() {
  const auto configure = [](Script& script) {
    Stack::Config config{.below = {{.size = 100}, {.size = 100}, {.size = 100}}};
    std::get<kLeg>(config.below).script = &script;
    return config;
  };
  constexpr Range kRange = {36, 112};
  std::array<std::byte, 112> bytes{};
  // The share of a leg, in chunks.
  constexpr int kChunks = kLeg == 1 ? 2 : 3;
  EXPECT_EQ(FailNth<Stack>(configure, kRange, [&](auto& state) { return Stack::Write(state, 36, bytes); }), kChunks);
  EXPECT_EQ(FailNth<Stack>(configure, kRange, [&](auto& state) { return Stack::WriteThrough(state, 36, bytes); }), kChunks);
  EXPECT_EQ(FailNth<Stack>(configure, kRange, [&](auto& state) { return Stack::Trim(state, kRange); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, kRange, [&](auto& state) { return Stack::WriteZeroes(state, kRange); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Flush(state); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Read(state, 36, bytes); }), kChunks);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Prefetch(state, kRange); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {},
                           [&](auto& state) {
                             Gather gather;
                             return Stack::View(state, kRange, gather);
                           }),
            kChunks);
  EXPECT_EQ(FailNth<Stack>(configure, {},
                           [&](auto& state) { return Stack::Extents(state, kRange, [](const Extent&) { return true; }); }),
            1);
}

TEST(StripeTest, EveryErrorBelowSurfacesAndSparesTheRest) {
  FailEachCall<0>();
  FailEachCall<1>();
  FailEachCall<2>();
}

TEST(StripeTest, ARequestEndsWithTheFirstError) {
  Three three;
  three.scripts[1].fail_at = 0;
  std::array<std::byte, 48> bytes{};
  EXPECT_EQ(Stack::Write(three.state, 0, bytes), three.scripts[1].error);
  EXPECT_EQ(three.Calls(), (Calls{{{"Write", {0, 16}}}, {{"Write", {0, 16}}}, {}}));
}

TEST(StripeTest, ALegThatIsLostTakesTheDeviceWithIt) {
  using Stack = Stripe<2, Faulty<Full>, 16>;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {{.below = {.size = 160}}, {.faults = "error", .below = {.size = 160}}}}, state).ok());
  for (uint64_t at = 0; at + 32 <= 320; ++at) {
    std::array<std::byte, 32> bytes;
    EXPECT_FALSE(Stack::Read(state, at, bytes).ok()) << at;
  }
}

TEST(StripeTest, NothingOnTheMediaSaysTheirOrderOrTheChunk) {
  std::array<Script, 2> scripts;
  const auto read = [&]<class Stack>(Stack, Script& first, Script& second) {
    auto state = std::make_unique<typename Stack::State>();
    EXPECT_TRUE(Stack::Open({.below = {{.size = 32, .script = &first}, {.size = 32, .script = &second}}}, *state).ok());
    std::vector<std::byte> out(64);
    EXPECT_TRUE(Stack::Read(*state, 0, out).ok());
    return out;
  };
  scripts[0].medium = Pattern(32);
  scripts[1].medium.resize(32);
  const std::vector<std::byte> right = read(Stripe<2, Full, 16>(), scripts[0], scripts[1]);
  std::vector<std::byte> swapped = read(Stripe<2, Full, 16>(), scripts[1], scripts[0]);
  EXPECT_NE(swapped, right);
  for (size_t row = 0; row < 64; row += 32) {
    std::rotate(swapped.begin() + row, swapped.begin() + row + 16, swapped.begin() + row + 32);
  }
  EXPECT_EQ(swapped, right);
  EXPECT_NE(read(Stripe<2, Full, 32>(), scripts[0], scripts[1]), right);
}

struct Locked : Passthrough<Full> {
  static bool Writable(const State& self) { return Full::Size(self.below) != 99; }
};

TEST(StripeTest, OneLegThatIsReadOnlyMakesAllOfItReadOnly) {
  using Mixed = Stripe<2, Locked, 16>;
  Mixed::State writable;
  ASSERT_TRUE(Mixed::Open({.below = {{.below = {.size = 100}}, {.below = {.size = 100}}}}, writable).ok());
  EXPECT_TRUE(buse::Writable<Mixed>(writable));
  Mixed::State locked;
  ASSERT_TRUE(Mixed::Open({.below = {{.below = {.size = 100}}, {.below = {.size = 99}}}}, locked).ok());
  EXPECT_FALSE(buse::Writable<Mixed>(locked));
}

TEST(StripeTest, ItIsDescribedWithAllItsLegs) {
  Stack::Config config;
  const std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
  ASSERT_EQ(layers.size(), 4u);
  EXPECT_EQ(layers[0].name, "stripe");
  EXPECT_EQ(layers[3].depth, 1);
}

}  // namespace
}  // namespace buse::testing

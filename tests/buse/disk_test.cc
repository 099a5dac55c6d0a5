// SPDX-License-Identifier: Apache-2.0

#include "buse/disk.h"

#include <array>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/leaves.h"

template class buse::Disk<buse::testing::Full>;

namespace buse::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A stack that could be written, opened read-only.
struct ReadOnly : Full512 {
  static bool Writable(const State&) { return false; }
};

template <class D>
inline constexpr bool kDiskWrites = requires(Disk<D> disk, ConstBytes in) {
  disk.Write(0, in);
};
template <class D>
inline constexpr bool kDiskWritesThrough = requires(Disk<D> disk, ConstBytes in) {
  disk.WriteThrough(0, in);
};
template <class D>
inline constexpr bool kDiskFlushes = requires(Disk<D> disk) {
  disk.Flush();
};
template <class D>
inline constexpr bool kDiskZeroes = requires(Disk<D> disk) {
  disk.WriteZeroes({});
};
template <class D>
inline constexpr bool kDiskTrims = requires(Disk<D> disk) {
  disk.Trim({});
};

static_assert(kDiskWrites<Full> && kDiskWritesThrough<Full> && kDiskFlushes<Full> && kDiskZeroes<Full> && kDiskTrims<Full>);
static_assert(kDiskWrites<Writer> && kDiskWritesThrough<Writer> && kDiskFlushes<Writer> && kDiskZeroes<Writer>);
static_assert(!kDiskTrims<Writer>);
static_assert(!kDiskWrites<Bare> && !kDiskWritesThrough<Bare> && !kDiskFlushes<Bare> && !kDiskZeroes<Bare>);
static_assert(Disk<Full512>::block_size() == 512);
static_assert(std::is_nothrow_move_constructible_v<Disk<Full>> && !std::is_copy_constructible_v<Disk<Full>>);

bool Ignore(const Extent&) { return true; }

TEST(DiskTest, EveryOperationReachesTheStack) {
  Script script;
  auto disk = Disk<Full>::Open({.size = 4096, .script = &script});
  ASSERT_TRUE(disk.ok()) << disk.status();
  std::array<std::byte, 16> bytes{};
  EXPECT_EQ(disk->size(), 4096u);
  EXPECT_TRUE(disk->writable());
  EXPECT_TRUE(disk->Read(1, bytes).ok());
  EXPECT_TRUE(disk->Write(2, bytes).ok());
  EXPECT_TRUE(disk->WriteThrough(3, bytes).ok());
  EXPECT_TRUE(disk->Flush().ok());
  EXPECT_TRUE(disk->Trim({4, 5}).ok());
  EXPECT_TRUE(disk->WriteZeroes({6, 7}).ok());
  EXPECT_TRUE(disk->Extents({8, 9}, Ignore).ok());
  EXPECT_TRUE(disk->Prefetch({10, 11}).ok());
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Read", {1, 16}},
                                             {"Write", {2, 16}},
                                             {"WriteThrough", {3, 16}},
                                             {"Flush", {}},
                                             {"Trim", {4, 5}},
                                             {"WriteZeroes", {6, 7}},
                                             {"Extents", {8, 9}},
                                             {"Prefetch", {10, 11}}}));
}

TEST(DiskTest, WhatTheStackLeavesOutIsMadeUpFor) {
  Script script;
  auto disk = Disk<Writer>::Open({.size = 4096, .script = &script});
  ASSERT_TRUE(disk.ok()) << disk.status();
  std::array<std::byte, 16> bytes{};
  std::vector<Extent> extents;
  EXPECT_TRUE(disk->WriteThrough(3, bytes).ok());
  EXPECT_TRUE(disk->WriteZeroes({6, 7}).ok());
  EXPECT_TRUE(disk->Prefetch({10, 11}).ok());
  EXPECT_TRUE(disk->Extents({8, 9}, [&](const Extent& extent) { return extents.push_back(extent), true; }).ok());
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Write", {3, 16}}, {"Flush", {}}, {"Write", {6, 7}}}));
  EXPECT_EQ(extents, (std::vector<Extent>{{{8, 9}, Extent::Kind::kData}}));

  auto bare = Disk<Bare>::Open({});
  ASSERT_TRUE(bare.ok());
  EXPECT_FALSE(bare->writable());
}

TEST(DiskTest, MovingKeepsTheState) {
  auto opened = Disk<Full>::Open({});
  ASSERT_TRUE(opened.ok());
  Disk<Full> disk = *std::move(opened);
  const Full::State* state = &disk.state();
  std::array<std::byte, 4> in = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  ASSERT_TRUE(disk.Write(100, in).ok());
  Disk<Full> other = std::move(disk);
  EXPECT_EQ(&other.state(), state);
  std::array<std::byte, 4> out{};
  ASSERT_TRUE(other.Read(100, out).ok());
  EXPECT_EQ(out, in);
}

// All operations on one range, each with the status it returned.
template <class D>
std::vector<absl::Status> TryAll(Disk<D>& disk, Range range) {
  std::vector<std::byte> bytes(range.length <= 65536 ? range.length : 0);
  std::vector<absl::Status> all = {disk.Trim(range), disk.WriteZeroes(range), disk.Extents(range, Ignore),
                                   disk.Prefetch(range)};
  if (bytes.size() == range.length) {
    all.push_back(disk.Read(range.offset, bytes));
    all.push_back(disk.Write(range.offset, bytes));
    all.push_back(disk.WriteThrough(range.offset, bytes));
  }
  return all;
}

TEST(DiskTest, RangesPastTheEndAreRefusedWithTheNumbers) {
  Script script;
  auto disk = Disk<Full512>::Open({.size = 4096, .script = &script});
  ASSERT_TRUE(disk.ok());
  for (const Range range : {Range{4096, 512}, Range{3584, 1024}, Range{0, 8192}, Range{8192, 512}, Range{UINT64_MAX - 511, 512},
                            Range{512, UINT64_MAX - 511}, Range{1024, UINT64_MAX - 511}}) {
    for (const absl::Status& status : TryAll(*disk, range)) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
      EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(std::to_string(range.offset)), HasSubstr("4096 bytes"),
                                                       HasSubstr(std::to_string(range.length)), HasSubstr("past the end")));
    }
  }
  EXPECT_TRUE(script.calls.empty());
  for (const absl::Status& status : TryAll(*disk, {3584, 512})) EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(script.calls.size(), 7u);
}

TEST(DiskTest, RangesThatAreNotAlignedAreRefusedWithTheNumbers) {
  Script script;
  auto disk = Disk<Full512>::Open({.size = 4096, .script = &script});
  ASSERT_TRUE(disk.ok());
  for (const Range range : {Range{1, 512}, Range{512, 511}, Range{513, 1023}}) {
    for (const absl::Status& status : TryAll(*disk, range)) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
      EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(std::to_string(range.offset)), HasSubstr("multiples of 512"),
                                                       HasSubstr(std::to_string(range.length))));
    }
  }
  EXPECT_TRUE(script.calls.empty());
}

TEST(DiskTest, EmptyRangesDoNothing) {
  Script script;
  auto disk = Disk<Full512>::Open({.size = 4096, .script = &script});
  ASSERT_TRUE(disk.ok());
  for (const uint64_t offset : {uint64_t{0}, uint64_t{4096}, uint64_t{7}, UINT64_MAX}) {
    for (const absl::Status& status : TryAll(*disk, {offset, 0})) EXPECT_TRUE(status.ok()) << status;
  }
  EXPECT_TRUE(script.calls.empty());
}

TEST(DiskTest, AReadOnlyDeviceRefusesChangesAndNothingElse) {
  Script script;
  auto disk = Disk<ReadOnly>::Open({.size = 4096, .script = &script});
  ASSERT_TRUE(disk.ok());
  EXPECT_FALSE(disk->writable());
  std::array<std::byte, 512> bytes{};
  for (const absl::Status& status :
       {disk->Write(512, bytes), disk->WriteThrough(512, bytes), disk->Trim({512, 512}), disk->WriteZeroes({512, 512})}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("of 512 bytes at offset 512: the device was opened read-only"));
  }
  EXPECT_TRUE(script.calls.empty());
  EXPECT_TRUE(disk->Read(512, bytes).ok());
  EXPECT_TRUE(disk->Flush().ok());
  EXPECT_TRUE(disk->Prefetch({0, 512}).ok());
  EXPECT_EQ(script.calls.size(), 3u);
}

TEST(DiskTest, EachErrorOfTheStackSurfacesOnce) {
  bool fired = true;
  for (int64_t n = 0; fired; ++n) {
    Script script;
    script.fail_at = n;
    auto disk = Disk<Full512>::Open({.size = 4096, .script = &script});
    ASSERT_TRUE(disk.ok());
    int failed = 0;
    for (const absl::Status& status : TryAll(*disk, {512, 1024})) failed += status == script.error ? 1 : 0;
    failed += disk->Flush() == script.error ? 1 : 0;
    fired = n < static_cast<int64_t>(script.calls.size());
    EXPECT_EQ(failed, fired ? 1 : 0) << n;
  }
}

struct Broken : Full {
  static absl::Status Open(const Config&, State&) { return absl::NotFoundError("no such disk"); }
};

TEST(DiskTest, AFailedOpenIsItsError) { EXPECT_EQ(Disk<Broken>::Open({}).status(), absl::NotFoundError("no such disk")); }

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// The superblock: what is written is read, damage is noticed, and each refusal names both sides.

#include "layers/superblock.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "buse/medium.h"
#include "gtest/gtest.h"
#include "layers/concat.h"
#include "layers/passthrough.h"
#include "layers/power_cut.h"
#include "layers/splitmix.h"
#include "layers/stripe.h"
#include "tests/formatted.h"
#include "tests/leaves.h"

template struct buse::testing::Formatted<buse::testing::Full>;

namespace buse::testing {
namespace {

using absl::StatusCode;

constexpr uint64_t kMedium = 65536;
constexpr uint64_t kCopyAt = kMedium - Superblock::kBytes;

Superblock Example() {
  Superblock superblock = {.kind = "checksum", .version = 3, .uuid = NewUuid(), .set_uuid = NewUuid(), .leg = 1, .legs = 4};
  superblock.medium_size = kMedium;
  superblock.size = 40960;
  superblock.block_size = 512;
  superblock.fingerprint = "checksum(crc32c,512) stripe(65536)[2]";
  superblock.fields = {{"data", 4096}, {"table", UINT64_MAX}};
  return superblock;
}

SuperblockWanted WantedBy(const Superblock& superblock) {
  return {.kind = superblock.kind,
          .oldest_version = superblock.version,
          .newest_version = superblock.version,
          .block_size = superblock.block_size,
          .fingerprint = superblock.fingerprint,
          .leg = superblock.leg,
          .legs = superblock.legs,
          .set_uuid = superblock.set_uuid};
}

// A leaf with a superblock on it.
class SuperblockTest : public ::testing::Test {
 protected:
  void SetUp() override { OpenLeaf(kMedium); }

  void OpenLeaf(uint64_t size) { ASSERT_TRUE(Full::Open({.size = size, .script = &script_}, leaf_).ok()); }

  void Write(const Superblock& superblock) { ASSERT_TRUE(WriteSuperblock<Full>(leaf_, superblock).ok()); }

  absl::StatusOr<Superblock> Read(const SuperblockWanted& wanted) { return ReadSuperblock<Full>(leaf_, wanted); }

  void ExpectRefused(const SuperblockWanted& wanted, StatusCode code, const std::vector<std::string>& says) {
    const absl::StatusOr<Superblock> found = Read(wanted);
    ASSERT_FALSE(found.ok());
    EXPECT_EQ(found.status().code(), code) << found.status().ToString();
    for (const std::string& part : says) {
      EXPECT_NE(std::string(found.status().message()).find(part), std::string::npos) << "not said: " << part << "\n"
                                                                                     << found.status().ToString();
    }
  }

  void Put(uint64_t offset, absl::string_view bytes) { std::memcpy(&script_.medium[offset], bytes.data(), bytes.size()); }
  void Clear(uint64_t offset, uint64_t length) { std::memset(&script_.medium[offset], 0, length); }
  void Flip(uint64_t bit) { script_.medium[bit / 8] ^= static_cast<std::byte>(1 << bit % 8); }

  Script script_;
  Full::State leaf_;
};

TEST_F(SuperblockTest, WhatIsWrittenIsRead) {
  const Superblock written = Example();
  Write(written);
  const absl::StatusOr<Superblock> read = Read(WantedBy(written));
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  EXPECT_EQ(*read, written);
  EXPECT_EQ(*read->Field("table"), UINT64_MAX);
  EXPECT_EQ(read->Field("log").status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(read->Field("log").status().message(), "checksum: the superblock has no field \"log\"");
}

TEST_F(SuperblockTest, TheCopyIsWrittenFirstAndEachIsDurableBeforeTheNext) {
  Write(Example());
  const std::vector<Call> expected = {
      {"Flush", {}}, {"Write", {kCopyAt, 4096}}, {"Flush", {}}, {"Write", {0, 4096}}, {"Flush", {}}};
  EXPECT_EQ(script_.calls, expected);
}

TEST_F(SuperblockTest, TheLayoutIsWhatTheHeaderSays) {
  Superblock superblock = Example();
  superblock.uuid = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff};
  superblock.set_uuid = superblock.uuid;
  superblock.fields = {{"data", 4096}};
  const auto bytes = Encode(superblock);
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::string lines =
      "kind checksum\nversion 3\nuuid 00010203-0405-0607-0809-0a0b0c0d0eff\nset 00010203-0405-0607-0809-0a0b0c0d0eff\nleg 1\n"
      "legs 4\nmedium-size 65536\nsize 40960\nblock-size 512\nfingerprint checksum(crc32c,512) stripe(65536)[2]\n"
      "field.data 4096\n";
  EXPECT_EQ(text.substr(0, 16),
            std::string("BUSE\r\n\x1a\n\1\0\0\0", 12) + static_cast<char>(lines.size()) + std::string("\0\0\0", 3));
  EXPECT_EQ(text.substr(20, lines.size()), lines);
  for (size_t at = 512; at < text.size(); at += 8) ASSERT_EQ(text.substr(at, 8), "BUSE\r\n\x1a\n");
  // The sum, by a CRC-32C of the plainest kind.
  uint32_t crc = ~0u;
  for (size_t i = 0; i < text.size(); ++i) {
    crc ^= i >= 16 && i < 20 ? 0 : static_cast<uint8_t>(text[i]);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  crc = ~crc;
  EXPECT_EQ(text.substr(16, 4), std::string({static_cast<char>(crc), static_cast<char>(crc >> 8), static_cast<char>(crc >> 16),
                                             static_cast<char>(crc >> 24)}));
}

TEST(UuidTest, TextAndBack) {
  const Uuid uuid = NewUuid();
  const std::string text = FormatUuid(uuid);
  EXPECT_EQ(text.size(), 36u);
  EXPECT_EQ(text[14], '4') << "random, as RFC 4122 marks it: " << text;
  EXPECT_EQ(*ParseUuid(text), uuid);
  EXPECT_NE(NewUuid(), uuid);
  for (const char* bad : {"", "00010203-0405-0607-0809-0a0b0c0d0ef", "00010203-0405-0607-0809-0a0b0c0d0eff0",
                          "0001020304050607080900a0b0c0d0e0effff", "00010203-0405-0607-0809-0a0b0c0d0eFF",
                          "00010203-0405-0607-0809-0a0b0c0d0efg", "00010203-0405-0607-0809_0a0b0c0d0eff"}) {
    EXPECT_EQ(ParseUuid(bad).status().code(), StatusCode::kInvalidArgument) << bad;
  }
}

TEST_F(SuperblockTest, EverySingleFlippedBitIsNoticedAndTheCopyUsed) {
  const Superblock written = Example();
  Write(written);
  for (uint64_t bit = 0; bit < 8 * Superblock::kBytes; ++bit) {
    Flip(bit);
    const ConstBytes first(script_.medium.data(), Superblock::kBytes);
    ASSERT_FALSE(Decode(first).ok()) << "bit " << bit;
    const absl::StatusOr<Superblock> read = Read(WantedBy(written));
    ASSERT_TRUE(read.ok()) << "bit " << bit << ": " << read.status().ToString();
    ASSERT_EQ(*read, written) << "bit " << bit;
    const std::vector<std::string> flaws = SuperblockFlaws<Full>(leaf_, *read);
    ASSERT_EQ(flaws.size(), 1u);
    ASSERT_EQ(flaws[0].find("the superblock at offset 0 is damaged: "), 0u) << flaws[0];
    Flip(bit);
  }
  EXPECT_TRUE(SuperblockFlaws<Full>(leaf_, written).empty());
}

TEST_F(SuperblockTest, EverySingleFlippedBitOfTheCopyIsAFlaw) {
  const Superblock written = Example();
  Write(written);
  for (uint64_t bit = 0; bit < 8 * Superblock::kBytes; ++bit) {
    Flip(8 * kCopyAt + bit);
    ASSERT_TRUE(Read(WantedBy(written)).ok());
    const std::vector<std::string> flaws = SuperblockFlaws<Full>(leaf_, written);
    ASSERT_EQ(flaws.size(), 1u);
    ASSERT_EQ(flaws[0].find("the copy of the superblock at offset 61440 is damaged: "), 0u) << flaws[0];
    Flip(8 * kCopyAt + bit);
  }
}

TEST_F(SuperblockTest, AnySpoiltSectorIsBorneByTheCopy) {
  const Superblock written = Example();
  SplitMix64 random(1);
  for (uint64_t sector = 0; sector < 8; ++sector) {
    Write(written);
    for (uint64_t i = 0; i < 512; ++i) script_.medium[sector * 512 + i] = static_cast<std::byte>(random());
    EXPECT_TRUE(Read(WantedBy(written)).ok()) << "sector " << sector;
    Clear(sector * 512, 512);
    EXPECT_TRUE(Read(WantedBy(written)).ok()) << "sector " << sector;
  }
}

TEST_F(SuperblockTest, ACopyOfAnotherMediumIsAFlaw) {
  const Superblock written = Example();
  Write(written);
  Superblock other = written;
  other.uuid = NewUuid();
  const auto bytes = Encode(other);
  std::copy(bytes.begin(), bytes.end(), script_.medium.begin() + kCopyAt);
  EXPECT_EQ(
      SuperblockFlaws<Full>(leaf_, written).at(0),
      absl::StrCat("the copy of the superblock at offset 61440 is that of another medium, UUID ", FormatUuid(other.uuid)));
}

TEST_F(SuperblockTest, WhatCannotBeReadIsReadFromTheCopyOrReported) {
  const Superblock written = Example();
  Write(written);
  script_.calls.clear();
  script_.fail_at = 0;
  ASSERT_TRUE(Read(WantedBy(written)).ok()) << "the copy serves";
  EXPECT_EQ(script_.calls.size(), 2u);

  // Both: the system's own error, not a claim about the bytes.
  Clear(kCopyAt, Superblock::kBytes);
  script_.calls.clear();
  ExpectRefused(WantedBy(written), StatusCode::kInternal, {"injected failure"});
}

TEST_F(SuperblockTest, EveryFailureOfWritingSurfaces) {
  for (int n = 0; n < 5; ++n) {
    script_.calls.clear();
    script_.fail_at = n;
    EXPECT_EQ(WriteSuperblock<Full>(leaf_, Example()), script_.error) << n;
    EXPECT_EQ(script_.calls.size(), static_cast<size_t>(n + 1)) << "nothing is done after a failure";
  }
  for (int n = 0; n < 3; ++n) {
    script_.calls.clear();
    script_.fail_at = n;
    EXPECT_EQ(EraseSuperblock<Full>(leaf_), script_.error) << n;
  }
}

TEST_F(SuperblockTest, BothDamagedIsDataLoss) {
  const Superblock written = Example();
  Write(written);
  Flip(8 * 100);
  Flip(8 * (kCopyAt + 100));
  ExpectRefused(WantedBy(written), StatusCode::kDataLoss,
                {"checksum: the superblock is damaged (its checksum is ",
                 "and so is its copy at offset 61440 (its checksum is ", "restore one of them from a backup"});
}

// ---- Refusals.

TEST_F(SuperblockTest, AnEmptyMediumWasNeverFormatted) {
  ExpectRefused(WantedBy(Example()), StatusCode::kFailedPrecondition,
                {"checksum: the medium was never formatted: it begins with zeroes. Use `format` first"});
}

TEST_F(SuperblockTest, TooSmallForAnySuperblock) {
  OpenLeaf(8191);
  ExpectRefused(WantedBy(Example()), StatusCode::kFailedPrecondition,
                {"the medium has 8191 bytes, but a superblock and its copy alone need 8192"});
  OpenLeaf(0);
  ExpectRefused(WantedBy(Example()), StatusCode::kFailedPrecondition, {"the medium has 0 bytes"});
}

TEST_F(SuperblockTest, WhatBelongsToSomebodyElseIsNamed) {
  const std::pair<std::pair<uint64_t, absl::string_view>, const char*> rows[] = {
      {{1080, "\x53\xef"}, "an ext2, ext3 or ext4 file system"},
      {{0, "XFSB"}, "an XFS file system"},
      {{0, "LUKS\xba\xbe"}, "a LUKS volume"},
      {{510, "\x55\xaa"}, "an MBR partition table"},
      {{512, "EFI PART"}, "a GPT partition table"},
      {{512, "LABELONE"}, "an LVM physical volume"},
      {{4086, "SWAPSPACE2"}, "swap space"},
      {{32769, "CD001"}, "an ISO 9660 file system"},
  };
  for (const auto& [signature, name] : rows) {
    Clear(0, kMedium);
    Put(signature.first, signature.second);
    ExpectRefused(WantedBy(Example()), StatusCode::kFailedPrecondition,
                  {absl::StrCat("the medium holds ", name), "no superblock of checksum", "destroys what it holds"});
  }
  Clear(0, kMedium);
  Put(0, "hello wo");
  ExpectRefused(WantedBy(Example()), StatusCode::kFailedPrecondition,
                {"the medium holds something unknown, which begins with the bytes 68656c6c6f20776f"});
}

// A copy says that the medium was ours once: what lies at its beginning now may be somebody's.
TEST_F(SuperblockTest, TheCopyIsNotUsedWhereSomethingElseTookTheFirstPlace) {
  const Superblock written = Example();
  const std::pair<std::pair<uint64_t, absl::string_view>, const char*> rows[] = {
      {{0, ""}, "begins with zeroes and not with its superblock"},
      {{0, "something"}, "begins with something unknown and not"},
      {{1080, "\x53\xef"}, "begins with an ext2, ext3 or ext4 file system and not"},
  };
  for (const auto& [signature, says] : rows) {
    Write(written);
    Clear(0, Superblock::kBytes);
    Put(signature.first, signature.second);
    ExpectRefused(WantedBy(written), StatusCode::kFailedPrecondition, {says, "the copy at offset 61440 is sound"});
  }
  // A file system that leaves some of the superblock where it was.
  Write(written);
  Clear(0, 2048);
  Put(1080, "\x53\xef");
  ExpectRefused(WantedBy(written), StatusCode::kFailedPrecondition, {"begins with an ext2, ext3 or ext4 file system"});
  // As the message says: the copy at offset 0 restores the medium.
  std::copy_n(script_.medium.begin() + kCopyAt, Superblock::kBytes, script_.medium.begin());
  EXPECT_TRUE(Read(WantedBy(written)).ok());
}

TEST_F(SuperblockTest, RefusalsNameBothSides) {
  struct Row {
    std::function<void(SuperblockWanted&)> want;
    std::vector<std::string> says;
  };
  const Superblock written = Example();
  const Uuid other = NewUuid();
  const Row rows[] = {
      {[](SuperblockWanted& wanted) { wanted.kind = "encrypt"; },
       {"encrypt: the medium was formatted by the layer checksum and not by encrypt"}},
      {[](SuperblockWanted& wanted) { wanted.oldest_version = 4, wanted.newest_version = 6; },
       {"version 3 of the format of checksum", "knows 4 to 6", "too old", "older program"}},
      {[](SuperblockWanted& wanted) { wanted.oldest_version = 1, wanted.newest_version = 2; },
       {"version 3 of the format of checksum", "knows 1 to 2", "too new", "newer program"}},
      {[](SuperblockWanted& wanted) { wanted.block_size = 4096; }, {"blocks of 512 bytes", "those of 4096"}},
      {[](SuperblockWanted& wanted) { wanted.fingerprint = "checksum(crc32c,512)"; },
       {"formatted for the layers \"checksum(crc32c,512) stripe(65536)[2]\"", "this program has \"checksum(crc32c,512)\""}},
      {[](SuperblockWanted& wanted) { wanted.legs = 3; }, {"one of 4 that belong together, but 3 are given"}},
      {[](SuperblockWanted& wanted) { wanted.leg = 2; }, {"the medium is leg 1 of 4, but is given as leg 2"}},
      {[&](SuperblockWanted& wanted) { wanted.set_uuid = other; },
       {"given as leg 1 belongs to the set " + FormatUuid(written.set_uuid), "those before it to " + FormatUuid(other)}},
  };
  Write(written);
  for (const Row& row : rows) {
    SuperblockWanted wanted = WantedBy(written);
    row.want(wanted);
    ExpectRefused(wanted, StatusCode::kFailedPrecondition, row.says);
  }
  // What a medium claims does not reach a terminal as it is.
  Superblock rude = written;
  rude.kind = "\x1b[2J";
  Write(rude);
  ExpectRefused(WantedBy(written), StatusCode::kFailedPrecondition, {"formatted by the layer \\033[2J and not by checksum"});
  Write(written);
  SuperblockWanted any_set = WantedBy(written);
  any_set.set_uuid = absl::nullopt;
  any_set.block_size = 0;
  EXPECT_TRUE(Read(any_set).ok());
}

TEST_F(SuperblockTest, AnotherSizeIsRefused) {
  const Superblock written = Example();
  Write(written);
  OpenLeaf(kMedium - 4096);
  ExpectRefused(WantedBy(written), StatusCode::kFailedPrecondition,
                {"has 61440 bytes, but had 65536 when it was formatted: it is too small"});
  OpenLeaf(kMedium + 1);
  ExpectRefused(WantedBy(written), StatusCode::kFailedPrecondition,
                {"has 65537 bytes, but had 65536 when it was formatted: it is too large"});
}

// Gives the medium a superblock whose bytes were changed and summed up again.
void Resum(std::array<std::byte, Superblock::kBytes>& bytes) {
  std::memset(&bytes[16], 0, 4);
  uint32_t crc = ~0u;
  for (std::byte byte : bytes) {
    crc ^= static_cast<uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  crc = ~crc;
  for (int i = 0; i < 4; ++i) bytes[16 + i] = static_cast<std::byte>(crc >> 8 * i);
}

TEST_F(SuperblockTest, ASuperblockOfAnotherVersionOrWithoutSenseIsRefused) {
  const Superblock written = Example();
  const std::pair<std::function<void(char*)>, const char*> rows[] = {
      {[](char* bytes) { bytes[8] = 2; },
       "its superblock has version 2, and this program knows version 1: use a newer program"},
      {[](char* bytes) { bytes[8] = 0; }, "has version 0, and this program knows version 1: use an older program"},
      {[](char* bytes) { std::memset(bytes + 12, 0xff, 4); }, "its text of 4294967295 bytes does not fit"},
      {[](char* bytes) { *std::strchr(std::strstr(bytes, "\nversion ") + 2, '3') = 'x'; }, "\"version x\" makes no sense"},
      {[](char* bytes) { std::strstr(bytes, "uuid ")[5] = 'x'; }, "is no UUID"},
  };
  for (const auto& [spoil, says] : rows) {
    auto bytes = Encode(written);
    spoil(
        reinterpret_cast<char*>(bytes.data()) +
        (std::string(says).find("makes") != std::string::npos || std::string(says).find("UUID") != std::string::npos ? 20 : 0));
    Resum(bytes);
    std::copy(bytes.begin(), bytes.end(), script_.medium.begin());
    ExpectRefused(WantedBy(written), StatusCode::kFailedPrecondition, {"checksum: the medium is not understood: ", says});
  }
}

TEST_F(SuperblockTest, LinesOfOtherNamesArePassedOver) {
  const Superblock written = Example();
  auto bytes = Encode(written);
  char* text = reinterpret_cast<char*>(bytes.data());
  std::memcpy(std::strstr(text + 20, "field.data"), "extra.data", 10);
  Resum(bytes);
  const absl::StatusOr<Superblock> read = Decode(bytes);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->fields, (decltype(read->fields){{"table", UINT64_MAX}}));
}

TEST_F(SuperblockTest, ContentsSayWhatAFormatWouldDestroy) {
  EXPECT_EQ(*Contents<Full>(leaf_), "");
  script_.medium[131000 % kMedium] = std::byte{1};
  EXPECT_EQ(*Contents<Full>(leaf_), absl::StrCat("data of an unknown kind (at offset ", 131000 % kMedium, ")"));
  const Superblock written = Example();
  Write(written);
  const std::string ours = "a medium of checksum, 40 KiB, UUID " + FormatUuid(written.uuid);
  EXPECT_EQ(*Contents<Full>(leaf_), ours);
  Clear(0, 4096);
  EXPECT_EQ(*Contents<Full>(leaf_), ours + ", whose superblock is damaged");
  Put(1080, "\x53\xef");
  Clear(kCopyAt, 4096);
  EXPECT_EQ(*Contents<Full>(leaf_), "an ext2, ext3 or ext4 file system");
  // The end of a large medium is looked at, its middle is not.
  OpenLeaf(1 << 20);
  Clear(0, 1 << 20);
  script_.medium[500000] = std::byte{1};
  EXPECT_EQ(*Contents<Full>(leaf_), "");
  script_.medium[(1 << 20) - 512] = std::byte{1};
  EXPECT_EQ(*Contents<Full>(leaf_), "data of an unknown kind (at offset 1048064)");
  OpenLeaf(100);
  EXPECT_EQ(*Contents<Full>(leaf_), "") << "a medium too small to hold anything";
}

// ---- Power cuts.

// Every way to tear the two writes of a superblock, at 512-byte sectors: until the copy is whole the medium is refused; from
// then on it opens as what was written, or is refused.
TEST_F(SuperblockTest, ATornWriteLeavesAMediumThatOpensAsWrittenOrNotAtAll) {
  const Superblock written = Example();
  const auto bytes = Encode(written);
  const auto survive = [&](uint64_t at, unsigned sectors) {
    Clear(at, Superblock::kBytes);
    for (uint64_t sector = 0; sector < 8; ++sector) {
      if ((sectors >> sector & 1) == 0) continue;
      std::copy_n(bytes.begin() + sector * 512, 512, script_.medium.begin() + at + sector * 512);
    }
  };
  for (unsigned copy = 0; copy < 256; ++copy) {
    survive(0, 0);
    survive(kCopyAt, copy);
    EXPECT_EQ(Read(WantedBy(written)).status().code(), StatusCode::kFailedPrecondition) << "sectors of the copy: " << copy;
  }
  for (unsigned first = 0; first < 256; ++first) {
    survive(kCopyAt, 255);
    survive(0, first);
    const absl::StatusOr<Superblock> read = Read(WantedBy(written));
    EXPECT_EQ(read.ok(), first != 0) << "sectors of the first: " << first;
    EXPECT_TRUE(!read.ok() || *read == written);
  }
}

// A format over an old medium, cut at every change, with 20 draws of what survives each: the old device with all its data, or an
// empty one, or none.
TEST_F(SuperblockTest, AnInterruptedFormatLeavesTheOldDeviceANewOneOrNone) {
  using Cut = Formatted<PowerCut<Full>>;
  using Plain = Formatted<Full>;
  constexpr uint64_t kSmall = 16384;
  const auto no_progress = [](uint64_t, uint64_t) {};
  std::set<std::string> outcomes;
  bool ended = false;
  for (uint64_t cut_at = 0; !ended; ++cut_at) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      SCOPED_TRACE(absl::StrCat("cut at ", cut_at, ", seed ", seed));
      Script script;
      const Plain::Config plain = {.below = {.size = kSmall, .script = &script}};
      ASSERT_TRUE(FormatStack<Plain>(plain, no_progress).ok());
      std::vector<std::byte> old;
      {
        Plain::State state;
        ASSERT_TRUE(Plain::Open(plain, state).ok());
        old.assign(Plain::Size(state), std::byte{0x42});
        ASSERT_TRUE(Plain::Write(state, 0, old).ok());
      }
      Power power = {.cut_at = cut_at};
      VolatileCache held;
      PowerCut<Full>::State cut;
      ASSERT_TRUE(PowerCut<Full>::Open({.power = &power, .held = &held, .below = plain.below}, cut).ok());
      ended = Cut::Format({}, cut, no_progress).ok();
      SplitMix64 random(seed);
      ASSERT_TRUE(PowerCut<Full>::Crash(cut, [&](uint64_t n) { return random() % n; }).ok());

      Plain::State state;
      const absl::Status opened = Plain::Open(plain, state);
      if (!opened.ok()) {
        EXPECT_FALSE(ended);
        EXPECT_TRUE(absl::IsFailedPrecondition(opened) || absl::IsDataLoss(opened)) << opened.ToString();
        outcomes.insert("none");
        continue;
      }
      std::vector<std::byte> now(Plain::Size(state));
      ASSERT_TRUE(Plain::Read(state, 0, now).ok());
      const bool is_old = now == old;
      EXPECT_TRUE(is_old || now == std::vector<std::byte>(now.size())) << "neither the old device nor an empty one";
      outcomes.insert(is_old ? "old" : "new");
      EXPECT_FALSE(ended && is_old);
    }
  }
  EXPECT_EQ(outcomes, (std::set<std::string>{"new", "none", "old"}));
}

// ---- Stacks.

TEST(FingerprintTest, NamesWhatTheMediumDependsOn) {
  EXPECT_EQ(Fingerprint<Full>(), "");
  EXPECT_EQ(Fingerprint<Passthrough<Full>>(), "");
  EXPECT_EQ(Fingerprint<Formatted<Full>>(), "formatted(512)");
  EXPECT_EQ((Fingerprint<Passthrough<Formatted<Passthrough<Full>>>>()), "formatted(512)");
  EXPECT_EQ((Fingerprint<Formatted<Formatted<Full, 1, 4096>>>()), "formatted(512) formatted(4096)");
  EXPECT_EQ((Fingerprint<Formatted<Concat<Full, Passthrough<Full>, Full>>>()), "formatted(512) concat[3]");
  EXPECT_EQ((Fingerprint<Concat<Formatted<Full>, Full>>()), "concat[formatted(512) | ]");
  EXPECT_EQ((Fingerprint<Formatted<Stripe<2, Full>>>()), "formatted(512) stripe(65536)[2]");
  EXPECT_EQ((Fingerprint<Stripe<2, Formatted<Full>, 4096>>()), "stripe(4096)[formatted(512) | formatted(512)]");
}

static_assert(!kFormats<Full> && !kChecks<Full> && !kFormats<Passthrough<Full>>);
static_assert(kFormats<Formatted<Full>> && kChecks<Passthrough<Formatted<Full>>>);
static_assert(kFormats<Concat<Full, Formatted<Full>>>);
static_assert(!CanFormat<Passthrough<Formatted<Full>>>);

TEST(FormatStackTest, FormatsInnermostFirstAndChecksOutermostFirst) {
  using Stack = Passthrough<Formatted<Concat<Formatted<Full>, Passthrough<Full>, Formatted<Full>>>>;
  Script scripts[3];
  Stack::Config config;
  auto& legs = config.below.below.below;
  std::get<0>(legs) = {.below = {.size = 16384, .script = &scripts[0]}};
  std::get<1>(legs) = {.below = {.size = 4096, .script = &scripts[1]}};
  std::get<2>(legs) = {.below = {.size = 16384, .script = &scripts[2]}};
  {
    auto state = std::make_unique<Stack::State>();
    EXPECT_EQ(Stack::Open(config, *state).code(), StatusCode::kFailedPrecondition);
  }
  // What lies inside a medium that is formatted is not asked for: it goes with it.
  std::vector<const void*> asked;
  EXPECT_TRUE(AskBeforeFormat<Stack>(config, [&](auto* device, const auto&, auto& state) {
                using Asked = std::remove_pointer_t<decltype(device)>;
                if constexpr (std::is_same_v<Asked, Full>) {
                  asked.push_back(state.script);
                } else {
                  static_assert(std::is_same_v<Asked, Passthrough<Full>>);
                  asked.push_back(state.below.script);
                }
                return absl::OkStatus();
              }).ok());
  EXPECT_EQ(asked, (std::vector<const void*>{&scripts[0], &scripts[1], &scripts[2]}));
  EXPECT_EQ(AskBeforeFormat<Stack>(config, [](auto*, const auto&, auto&) { return absl::CancelledError("no"); }).message(),
            "no");
  EXPECT_EQ(std::count_if(scripts[0].calls.begin(), scripts[0].calls.end(),
                          [](const Call& call) { return call.operation != "Read"; }),
            0);

  uint64_t progressed = 0;
  const absl::Status formatted = FormatStack<Stack>(config, [&](uint64_t done, uint64_t total) {
    EXPECT_LE(done, total);
    ++progressed;
  });
  ASSERT_TRUE(formatted.ok()) << formatted.ToString();
  EXPECT_GT(progressed, 0u);
  auto state = std::make_unique<Stack::State>();
  const absl::Status opened = Stack::Open(config, *state);
  ASSERT_TRUE(opened.ok()) << opened.ToString();

  scripts[2].medium[4096 + 512] = Formatted<Full>::kBad;
  std::vector<std::string> seen;
  const CheckReport report = {
      .damaged = [&](Range range,
                     absl::string_view why) { seen.push_back(absl::StrCat(range.offset, "+", range.length, ": ", why)); },
      .flawed = [&](absl::string_view what) { seen.push_back(std::string(what)); },
      .progress = [](uint64_t, uint64_t) {}};
  const auto begins = [&](absl::string_view name, uint64_t size) { seen.push_back(absl::StrCat(name, " ", size)); };
  ASSERT_TRUE(CheckStack<Stack>(*state, begins, report).ok());
  EXPECT_EQ(seen, (std::vector<std::string>{"formatted 12288", "8704+512: formatted: the block at 512 is bad", "formatted 8192",
                                            "formatted 8192", "512+512: begins with 0xbd"}));
  // A check that cannot be carried out ends.
  scripts[0].calls.clear();
  scripts[0].fail_at = 3;
  scripts[0].error = absl::UnavailableError("not now");
  EXPECT_EQ(CheckStack<Stack>(*state, begins, report), scripts[0].error);
}

}  // namespace
}  // namespace buse::testing

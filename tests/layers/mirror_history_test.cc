// SPDX-License-Identifier: Apache-2.0
//
// Random histories of mirrors whose legs rot, refuse, die, come back, vanish for a while and lose their power. What is read is right
// or an error, never wrong, and what was read once stays. In the end, with all legs well again, all hold the same.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "gtest/gtest.h"
#include "layers/mirror.h"
#include "tests/bad_leg.h"

namespace buse::testing {
namespace {

using Sector = BadDisk::Sector;
constexpr uint64_t kSector = BadDisk::kSector;

// What the device may hold: of each sector the value it must have, or none while that is open.
class Expected {
 public:
  explicit Expected(uint64_t sectors) : values_(sectors, Sector{}) {}

  void Wrote(uint64_t sector, const Sector& value, bool durable) {
    values_[sector] = value;
    if (durable) {
      unflushed_.erase(sector);
    } else {
      unflushed_[sector] = true;
    }
  }
  void Unspecified(uint64_t sector) {
    values_[sector].reset();
    unflushed_[sector] = true;
  }
  // The first look decides.
  bool Read(uint64_t sector, const Sector& value) {
    if (!values_[sector]) values_[sector] = value;
    return *values_[sector] == value;
  }
  void Flushed() { unflushed_.clear(); }
  void LostUnflushed() {
    for (const auto& [sector, unused] : unflushed_) values_[sector].reset();
  }

 private:
  std::vector<std::optional<Sector>> values_;
  std::map<uint64_t, bool> unflushed_;
};

struct Totals {
  uint64_t histories = 0, reads = 0, read_errors = 0, writes = 0, write_errors = 0, opens = 0, opens_refused = 0, apart = 0,
           repaired = 0, rebuilt = 0, lost = 0, replaced = 0;
};

template <Device M>
class History {
 public:
  static constexpr size_t kLegs = std::tuple_size_v<typename M::Below>;
  static constexpr uint64_t kSectors = 12;
  static constexpr uint64_t kDisk = MirrorLayout::kBitmapAt + 4096 + kSectors * kSector + 2048 + 4096;

  History(uint64_t seed, Totals& totals) : random_(seed), totals_(totals) {
    for (size_t leg = 0; leg < kLegs; ++leg) {
      disks_.push_back(std::make_unique<BadDisk>(kDisk));
      disks_.back()->random.seed(seed * 16 + leg);
    }
    ++totals_.histories;
  }

  // Empty, or what is wrong.
  std::string Run(int steps) {
    if (!FormatStack<M>(Config(), [](uint64_t, uint64_t) {}).ok()) return "format failed";
    std::string failure = Open();
    for (int i = 0; i < steps && failure.empty() && !apart_; ++i) failure = Step();
    if (failure.empty() && !apart_) failure = End();
    return failure.empty() ? "" : absl::StrCat(failure, "\n", log_);
  }

 private:
  uint64_t Below(uint64_t n) { return random_() % n; }
  bool Maybe(uint64_t one_in) { return Below(one_in) == 0; }
  template <class... Text>
  void Log(const Text&... text) {
    absl::StrAppend(&log_, "  ", text..., "\n");
  }

  typename M::Config Config() {
    typename M::Config config = {.region_size = 1024, .degraded = true, .idle_flushes = 1 + Below(3), .flush_step = 2048};
    [&]<size_t... kLeg>(std::index_sequence<kLeg...>) { ((std::get<kLeg>(config.below).disk = disks_[kLeg].get()), ...); }
    (std::make_index_sequence<kLegs>());
    return config;
  }

  std::string Open() {
    state_ = std::make_unique<typename M::State>();
    ++totals_.opens;
    absl::Status status = M::Open(Config(), *state_);
    if (status.ok()) {
      Log("opened, ", States());
      return "";
    }
    ++totals_.opens_refused;
    Log("Open: ", status.message());
    // A leg may be so bad that it does not know; then it is repaired, and tried again.
    for (auto& disk : disks_) {
      disk->dead = disk->missing = false;
      disk->fails_one_in = 0;
    }
    state_ = std::make_unique<typename M::State>();
    status = M::Open(Config(), *state_);
    if (!status.ok() && absl::StrContains(status.message(), "apart from each other")) {
      apart_ = true;
      ++totals_.apart;
      return "";
    }
    return status.ok() ? "" : absl::StrCat("Open with all legs well: ", status.ToString());
  }

  std::string States() const {
    std::string text;
    for (size_t leg = 0; leg < kLegs; ++leg) {
      text += "SRF"[static_cast<int>(M::Status(*state_).leg[leg].state)];
    }
    return text;
  }

  void Count() {
    totals_.repaired += M::Status(*state_).repaired;
    totals_.rebuilt += M::Status(*state_).rebuilt;
  }

  std::string Read(uint64_t sector, uint64_t n) {
    std::vector<std::byte> bytes(n * kSector);
    ++totals_.reads;
    absl::Status status = M::Read(*state_, sector * kSector, bytes);
    Log("read ", sector, "+", n, " ", status.message(), " ", States());
    totals_.read_errors += !status.ok();
    for (uint64_t i = 0; i < n && status.ok(); ++i) {
      Sector value;
      std::memcpy(value.data(), bytes.data() + i * kSector, kSector);
      if (!expected_.Read(sector + i, value)) return absl::StrCat("sector ", sector + i, " reads wrong");
    }
    return "";
  }

  void Write(uint64_t sector, uint64_t n) {
    const uint64_t how = Below(4);  // Write, Write, WriteThrough, Trim
    std::vector<std::byte> bytes(n * kSector);
    if (how != 3) {
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_() | 1);
    }
    ++totals_.writes;
    absl::Status status = how == 3   ? M::Trim(*state_, {sector * kSector, bytes.size()})
                          : how == 2 ? M::WriteThrough(*state_, sector * kSector, bytes)
                                     : M::Write(*state_, sector * kSector, bytes);
    totals_.write_errors += !status.ok();
    Log(how == 3 ? "trim " : how == 2 ? "write-through " : "write ", sector, "+", n, " ", status.message(), " ", States());
    for (uint64_t i = 0; i < n; ++i) {
      Sector value;
      std::memcpy(value.data(), bytes.data() + i * kSector, kSector);
      if (status.ok()) {
        expected_.Wrote(sector + i, value, how == 2);
      } else {
        expected_.Unspecified(sector + i);
      }
    }
  }

  void Flush() {
    absl::Status status = M::Flush(*state_);
    Log("flush ", status.message(), " ", States());
    if (status.ok()) {
      expected_.Flushed();
    } else {
      expected_.LostUnflushed();
    }
  }

  // Puts a new disk in place of a leg that failed, while it is open.
  std::string Replace(size_t leg) {
    if (M::Status(*state_).leg[leg].state != LegState::kFailed) return "";
    auto disk = std::make_unique<BadDisk>(kDisk);
    disk->random.seed(random_());
    absl::Status status;
    medium_internal::ForEachBelow<typename M::Below>([&]<class Branch>(auto number, Branch*) {
      if (number == leg) status = M::template Replace<number>(*state_, {disk.get()});
      return true;
    });
    Log("leg ", leg, " replaced ", status.message(), " ", States());
    if (!status.ok()) return absl::StrCat("replacing leg ", leg, ": ", status.ToString());
    disks_[leg] = std::move(disk);
    ++totals_.replaced;
    return "";
  }

  // Closes, lets things happen, and opens again: with a leg among them that has everything and works.
  std::string Reopen() {
    LegMask in_sync = 0;
    for (size_t leg = 0; leg < kLegs; ++leg) {
      if (M::Status(*state_).leg[leg].state == MirrorLegs::State::kInSync) in_sync |= Leg(leg);
    }
    Count();
    state_ = nullptr;
    if (Maybe(2)) {
      Log("the power goes");
      for (auto& disk : disks_) disk->LoseSome();
      expected_.LostUnflushed();
      expected_.Flushed();  // what is seen from now on is durable
    }
    for (auto& disk : disks_) disk->missing = Maybe(4);
    // With only stale legs the mirror would be a stale one, as it was told to go on degraded.
    BadDisk& keeper = *disks_[static_cast<size_t>(std::countr_zero(in_sync))];
    keeper.missing = keeper.dead = false;
    keeper.fails_one_in = 0;
    for (size_t leg = 0; leg < kLegs; ++leg) {
      if (disks_[leg]->missing) Log("leg ", leg, " is missing");
    }
    return Open();
  }

  std::string Step() {
    const uint64_t n = 1 + Below(4);
    const uint64_t sector = Below(kSectors - n + 1);
    const size_t leg = Below(kLegs);
    BadDisk& disk = *disks_[leg];
    switch (Below(17)) {
      case 0:
      case 1:
      case 2:
      case 3:
        return Read(sector, n);
      case 4:
      case 5:
      case 6:
      case 7:
        Write(sector, n);
        return "";
      case 8:
      case 9:
        Flush();
        return "";
      case 10: {
        // Of the metadata only the bitmap rots, and one copy of a head.
        const uint64_t rotten = !Maybe(8) ? kData + sector : Maybe(2) ? MirrorLayout::kBitmapAt / kSector : 4096 / kSector;
        if (rotten != 4096 / kSector || leg == 0) disk.rotten[rotten] = true;
        Log("leg ", leg, " rots at ", rotten);
        return "";
      }
      case 11:
        disk.fails_one_in = Maybe(2) ? 1 + Below(12) : 0;
        Log("leg ", leg, " fails one in ", disk.fails_one_in);
        return "";
      case 12:
        disk.dead = Maybe(3);
        Log("leg ", leg, disk.dead ? " died" : " lives");
        return "";
      case 13:
        M::Rebuild(*state_, kSector + Below(8192)).status().IgnoreError();
        Log("resync ", States());
        return "";
      case 15:
        return Replace(leg);
      case 14:
        M::Scrub(*state_, kSector + Below(8192)).status().IgnoreError();
        Log("scrub ", States());
        return "";
      default:
        return Reopen();
    }
  }

  // Everything works again; what no leg could read is written.
  std::string End() {
    for (auto& disk : disks_) {
      disk->dead = disk->missing = false;
      disk->fails_one_in = 0;
    }
    Count();
    state_ = nullptr;
    if (std::string failure = Open(); !failure.empty() || apart_) return failure;
    for (uint64_t sector = 0; sector < kSectors; ++sector) {
      Sector value;
      if (!M::Read(*state_, sector * kSector, value).ok()) {
        ++totals_.lost;
        if (absl::Status status = M::Write(*state_, sector * kSector, value); !status.ok())
          return "writing what was lost failed";
        expected_.Wrote(sector, value, false);
      } else if (!expected_.Read(sector, value)) {
        return absl::StrCat("sector ", sector, " reads wrong in the end");
      }
    }
    for (int i = 0; i < 100; ++i) {
      absl::StatusOr<uint64_t> left = M::Rebuild(*state_, 1 << 20);
      if (!left.ok()) return absl::StrCat("resync: ", left.status().ToString());
      if (*left == 0) break;
    }
    if (!M::Flush(*state_).ok()) return "flush failed";
    for (int round = 0; round < 2; ++round) {
      if (absl::StatusOr<uint64_t> left = M::Scrub(*state_, 1 << 20); !left.ok() || *left != 0) return "scrub failed";
    }
    if (M::Status(*state_).mismatched != 0) return "legs differed that were in sync";
    Count();
    return CompareDisks();
  }

  std::string CompareDisks() {
    for (size_t leg = 0; leg < kLegs; ++leg) {
      if (M::Status(*state_).leg[leg].state != MirrorLegs::State::kInSync) return absl::StrCat("leg ", leg, " is not in sync");
      for (uint64_t sector = 0; sector < M::Size(*state_) / kSector; ++sector) {
        if (disks_[leg]->rotten[kData + sector]) return absl::StrCat("sector ", sector, " of leg ", leg, " is still rotten");
        if (disks_[leg]->sectors[kData + sector] != disks_[0]->sectors[kData + sector]) {
          return absl::StrCat("sector ", sector, " of leg ", leg, " differs");
        }
        if (sector < kSectors && !expected_.Read(sector, disks_[leg]->sectors[kData + sector])) {
          return absl::StrCat("sector ", sector, " of leg ", leg, " is wrong");
        }
      }
    }
    std::string damage;
    const CheckReport report = {.damaged = [&](Range, absl::string_view why) { damage = std::string(why); },
                                .flawed = [](absl::string_view) {},
                                .progress = [](uint64_t, uint64_t) {}};
    return M::Check(*state_, report).ok() ? damage : "check failed";
  }

  static constexpr uint64_t kData = (MirrorLayout::kBitmapAt + 4096) / kSector;

  std::mt19937_64 random_;
  Totals& totals_;
  std::vector<std::unique_ptr<BadDisk>> disks_;
  std::unique_ptr<typename M::State> state_;
  Expected expected_{kSectors};
  bool apart_ = false;
  std::string log_;
};

uint64_t Histories() {
  const char* histories = std::getenv("BUSE_TEST_SEEDS");
  return histories != nullptr ? std::strtoull(histories, nullptr, 10) : 3000;
}

template <Device M>
std::string RunHistories(Totals& totals) {
  for (uint64_t seed = 1; seed <= Histories(); ++seed) {
    const std::string failure = History<M>(seed, totals).Run(40);
    if (!failure.empty()) return absl::StrCat("seed ", seed, ": ", failure);
  }
  return "";
}

void Print(const Totals& t) {
  std::printf(
      "%llu histories; %llu reads, %llu of them errors; %llu writes, %llu of them errors; %llu opens, %llu of them refused, "
      "%llu "
      "for good; %llu bytes repaired, %llu rebuilt, %llu sectors lost; %llu legs replaced\n",
      static_cast<unsigned long long>(t.histories), static_cast<unsigned long long>(t.reads),
      static_cast<unsigned long long>(t.read_errors), static_cast<unsigned long long>(t.writes),
      static_cast<unsigned long long>(t.write_errors), static_cast<unsigned long long>(t.opens),
      static_cast<unsigned long long>(t.opens_refused), static_cast<unsigned long long>(t.apart),
      static_cast<unsigned long long>(t.repaired), static_cast<unsigned long long>(t.rebuilt),
      static_cast<unsigned long long>(t.lost), static_cast<unsigned long long>(t.replaced));
}

template <Device M>
void ExpectRight() {
  Totals totals;
  const std::string failure = RunHistories<M>(totals);
  Print(totals);
  EXPECT_TRUE(failure.empty()) << failure;
  EXPECT_LT(totals.apart * 50, totals.histories) << "too many mirrors are given up";
  EXPECT_LT(totals.read_errors, totals.reads / 4);
}

TEST(MirrorHistoryTest, TwoLegsGiveTheRightBytesOrAnError) { ExpectRight<Mirror<BadLeg, BadLeg>>(); }

TEST(MirrorHistoryTest, ThreeLegsGiveTheRightBytesOrAnError) { ExpectRight<Mirror<BadLeg, BadLeg, BadLeg>>(); }

}  // namespace
}  // namespace buse::testing

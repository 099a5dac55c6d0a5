// SPDX-License-Identifier: Apache-2.0
//
// Random histories of parities of which up to M legs at a time rot, refuse, die, come back and vanish, while the power of all goes at
// any moment, also in the middle of a commit or of recovery. Every request but one that the power interrupts succeeds, and what
// is read is right. When the legs are well again and rebuilt, all agree; and then any M of them can be taken away.

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
#include "layers/parity.h"
#include "tests/bad_leg.h"

namespace buse::testing {
namespace {

using Sector = BadDisk::Sector;
constexpr uint64_t kSector = BadDisk::kSector;
constexpr uint64_t kChunk = 4096;
constexpr uint64_t kLog = ParityLayout::kSlots * ParityLayout::kLeastSlot;
constexpr uint64_t kStripes = 3;
constexpr uint64_t kDisk = ParityLayout::kLogAt + kLog + kStripes * kChunk + Superblock::kBytes;

// What the device may hold: of each sector the values that it may have, the last one first.
class Expected {
 public:
  explicit Expected(uint64_t sectors) : values_(sectors, {Sector{}}) {}

  void Wrote(uint64_t sector, const Sector& value) {
    values_[sector].insert(values_[sector].begin(), value);
    open_.erase(sector);
  }
  // Perhaps.
  void MayHaveWritten(uint64_t sector, const Sector& value) {
    values_[sector].insert(values_[sector].begin() + 1, value);
    open_[sector] = false;
  }
  // The first look decides, where it is open.
  bool Read(uint64_t sector, const Sector& value) {
    std::vector<Sector>& values = values_[sector];
    if (const auto open = open_.find(sector); open != open_.end()) {
      const auto found = std::find(values.begin(), values.end(), value);
      if (found == values.end()) return false;
      std::rotate(values.begin(), found, found + 1);
      if (open->second) values.resize(1);
      open_.erase(open);
    }
    return values.front() == value;
  }
  void Flushed() {
    for (uint64_t sector = 0; sector < values_.size(); ++sector) {
      if (!open_.contains(sector)) values_[sector].resize(1);
    }
  }
  // Opened again: each sector is what was flushed, or what was written later, and stays that.
  void Reopened() {
    for (uint64_t sector = 0; sector < values_.size(); ++sector) {
      if (values_[sector].size() > 1) open_[sector] = true;
    }
  }

 private:
  std::vector<std::vector<Sector>> values_;
  std::map<uint64_t, bool> open_;  // and whether what is read is durable
};

struct Totals {
  uint64_t histories = 0, reads = 0, writes = 0, flushes = 0, cuts = 0, opens = 0, opens_cut = 0, apart = 0, repaired = 0,
           rebuilt = 0, failed_legs = 0;
};

template <size_t kData, size_t kParity>
class History {
 public:
  using P = Parity<kData, kParity, BadLeg, kChunk>;
  static constexpr size_t kLegs = kData + kParity;
  static constexpr uint64_t kSectors = kStripes * kChunk * kData / kSector;

  History(uint64_t seed, Totals& totals) : random_(seed), totals_(totals) {
    for (size_t leg = 0; leg < kLegs; ++leg) {
      disks_.push_back(std::make_unique<BadDisk>(kDisk));
      disks_.back()->random.seed(seed * 16 + leg);
      disks_.back()->power = &power_;
    }
    ++totals_.histories;
  }

  // Empty, or what is wrong.
  std::string Run(int steps) {
    if (!FormatStack<P>(Config(), [](uint64_t, uint64_t) {}).ok()) return "format failed";
    std::string failure = Open();
    for (int i = 0; i < steps && failure.empty() && !apart_; ++i) {
      if (i % 20 == 0) failure = ChooseBadLegs();
      if (failure.empty() && !apart_) failure = Step();
    }
    if (failure.empty() && !apart_) failure = End();
    return failure.empty() ? "" : absl::StrCat(failure, "\n", log_);
  }

 private:
  static constexpr uint64_t kForEver = uint64_t{1} << 60;

  uint64_t Below(uint64_t n) { return random_() % n; }
  bool Maybe(uint64_t one_in) { return Below(one_in) == 0; }
  template <class... Text>
  void Log(const Text&... text) {
    absl::StrAppend(&log_, "  ", text..., "\n");
  }
  bool PowerIsOff() const { return power_ == 0; }

  typename P::Config Config() {
    typename P::Config config = {
        .log = kLog, .stage = ParitySet::kLeastStage, .degraded = true, .flush_step = Maybe(2) ? 0 : Below(8192)};
    [&]<size_t... kLeg>(std::index_sequence<kLeg...>) { ((std::get<kLeg>(config.below).disk = disks_[kLeg].get()), ...); }
    (std::make_index_sequence<kLegs>());
    return config;
  }

  std::string States() const {
    std::string text;
    for (size_t leg = 0; leg < kLegs; ++leg) text += "SRF"[static_cast<int>(P::Status(*state_).leg[leg].state)];
    return text;
  }

  // What is wrong with an answer, which may be an error only if the power went.
  std::string Judge(const std::string& what, const absl::Status& status) {
    Log(what, " ", status.ok() ? "" : status.message(), " ", States());
    if (status.ok() || PowerIsOff()) return "";
    return absl::StrCat(what, ": ", status.ToString());
  }

  // The power comes back, as often as it goes while the stack is opened.
  std::string Open() {
    for (;;) {
      if (PowerIsOff()) {
        ++totals_.cuts;
        for (auto& disk : disks_) disk->LoseSome();
        power_ = Maybe(3) ? 1 + Below(40) : kForEver;
      }
      state_ = std::make_unique<typename P::State>();
      ++totals_.opens;
      absl::Status status = P::Open(Config(), *state_);
      if (status.ok()) break;
      Log("Open: ", status.message());
      if (absl::StrContains(status.message(), "apart from each other")) {
        apart_ = true;
        ++totals_.apart;
        return "";
      }
      if (!PowerIsOff()) return absl::StrCat("Open: ", status.ToString());
      ++totals_.opens_cut;
    }
    Log("opened, ", States());
    expected_.Reopened();
    if (!PowerIsOff()) return "";
    return Open();
  }

  void Close() {
    totals_.repaired += P::Status(*state_).repaired;
    totals_.rebuilt += P::Status(*state_).rebuilt;
    for (size_t leg = 0; leg < kLegs; ++leg) {
      totals_.failed_legs += P::Status(*state_).leg[leg].state == ParityLegs::State::kFailed;
    }
    state_ = nullptr;
  }

  std::string Reopen() {
    Close();
    for (const size_t leg : bad_) {
      disks_[leg]->missing = Maybe(3);
      if (disks_[leg]->missing) Log("leg ", leg, " is missing");
    }
    return Open();
  }

  std::string Read(uint64_t sector, uint64_t n) {
    std::vector<std::byte> bytes(n * kSector);
    ++totals_.reads;
    absl::Status status = P::Read(*state_, sector * kSector, bytes);
    if (std::string failure = Judge(absl::StrCat("read ", sector, "+", n), status); !failure.empty()) return failure;
    for (uint64_t i = 0; i < n && status.ok(); ++i) {
      Sector value;
      std::memcpy(value.data(), bytes.data() + i * kSector, kSector);
      if (!expected_.Read(sector + i, value)) return absl::StrCat("sector ", sector + i, " reads wrong");
    }
    return "";
  }

  std::string Write(uint64_t sector, uint64_t n) {
    std::vector<std::byte> bytes(n * kSector);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_() | 1);
    ++totals_.writes;
    absl::Status status = P::Write(*state_, sector * kSector, bytes);
    for (uint64_t i = 0; i < n; ++i) {
      Sector value;
      std::memcpy(value.data(), bytes.data() + i * kSector, kSector);
      if (status.ok()) {
        expected_.Wrote(sector + i, value);
      } else {
        expected_.MayHaveWritten(sector + i, value);
      }
    }
    return Judge(absl::StrCat("write ", sector, "+", n), status);
  }

  std::string Flush() {
    ++totals_.flushes;
    absl::Status status = P::Flush(*state_);
    if (status.ok()) expected_.Flushed();
    return Judge("flush", status);
  }

  // All legs are well, rebuilt and scrubbed.
  std::string Heal() {
    for (auto& disk : disks_) {
      disk->dead = disk->missing = false;
      disk->fails_one_in = 0;
    }
    power_ = PowerIsOff() ? 0 : kForEver;
    Close();
    if (std::string failure = Open(); !failure.empty() || apart_) return failure;
    power_ = kForEver;
    if (std::string failure = Read(0, kSectors); !failure.empty()) return failure;
    for (int i = 0; i < 100; ++i) {
      absl::StatusOr<uint64_t> left = P::Rebuild(*state_, 1 << 20);
      if (!left.ok()) return absl::StrCat("rebuild: ", left.status().ToString());
      if (*left == 0) break;
    }
    if (std::string failure = Flush(); !failure.empty()) return failure;
    for (int round = 0; round < 2; ++round) {
      if (absl::StatusOr<uint64_t> left = P::Scrub(*state_, 1 << 20); !left.ok() || *left != 0) return "scrub failed";
    }
    if (P::Status(*state_).mismatched != 0) return "legs contradict each other";
    for (size_t leg = 0; leg < kLegs; ++leg) {
      if (P::Status(*state_).leg[leg].state != ParityLegs::State::kInSync) return absl::StrCat("leg ", leg, " is not in sync");
    }
    Log("all is well, ", States());
    return "";
  }

  std::string ChooseBadLegs() {
    if (std::string failure = Heal(); !failure.empty() || apart_) return failure;
    bad_.clear();
    std::vector<size_t> all(kLegs);
    for (size_t leg = 0; leg < kLegs; ++leg) all[leg] = leg;
    std::shuffle(all.begin(), all.end(), random_);
    bad_.assign(all.begin(), all.begin() + kParity);
    for (const size_t leg : bad_) Log("leg ", leg, " goes bad");
    return "";
  }

  std::string Step() {
    if (PowerIsOff()) {
      Log("the power went");
      return Reopen();
    }
    const uint64_t n = 1 + Below(Maybe(4) ? 24 : 3);
    const uint64_t sector = Below(kSectors - n + 1);
    const size_t leg = bad_[Below(bad_.size())];
    BadDisk& disk = *disks_[leg];
    switch (Below(18)) {
      case 0:
      case 1:
      case 2:
        return Read(sector, n);
      case 3:
      case 4:
      case 5:
      case 6:
      case 7:
        return Write(sector, n);
      case 8:
      case 9:
      case 10:
        return Flush();
      case 11: {
        // Anything but the copy of the superblock, which nobody writes again.
        const uint64_t rotten = Maybe(3) ? Below(kLogEnd) : kLogEnd + Below(kStripes * kChunk / kSector);
        disk.rotten[rotten] = true;
        Log("leg ", leg, " rots at ", rotten);
        return "";
      }
      case 12:
        disk.fails_one_in = Maybe(2) ? 1 + Below(12) : 0;
        Log("leg ", leg, " fails one in ", disk.fails_one_in);
        return "";
      case 13:
        disk.dead = Maybe(3);
        Log("leg ", leg, disk.dead ? " died" : " lives");
        return "";
      case 14:
        P::Rebuild(*state_, kSector + Below(8192)).status().IgnoreError();
        Log("rebuild ", States());
        return "";
      case 15:
        P::Scrub(*state_, kSector + Below(8192)).status().IgnoreError();
        Log("scrub ", States());
        return "";
      case 16:
        power_ = 1 + Below(30);
        Log("the power will go");
        return "";
      default:
        return Reopen();
    }
  }

  // Takes away every M legs in turn.
  std::string End() {
    if (std::string failure = Heal(); !failure.empty() || apart_) return failure;
    Close();
    std::vector<BadDisk> well;
    for (const auto& disk : disks_) well.push_back(*disk);
    for (LegMask away = 0; away < Leg(kLegs); ++away) {
      if (static_cast<size_t>(std::popcount(away)) != kParity) continue;
      for (size_t leg = 0; leg < kLegs; ++leg) {
        *disks_[leg] = well[leg];
        disks_[leg]->missing = Has(away, leg);
      }
      if (std::string failure = Open(); !failure.empty()) return failure;
      if (std::string failure = Read(0, kSectors); !failure.empty()) return failure;
      state_ = nullptr;
    }
    return "";
  }

  static constexpr uint64_t kLogEnd = (ParityLayout::kLogAt + kLog) / kSector;

  std::mt19937_64 random_;
  Totals& totals_;
  uint64_t power_ = kForEver;
  std::vector<std::unique_ptr<BadDisk>> disks_;
  std::vector<size_t> bad_;
  std::unique_ptr<typename P::State> state_;
  Expected expected_{kSectors};
  bool apart_ = false;
  std::string log_;
};

uint64_t Histories() {
  const char* histories = std::getenv("BUSE_TEST_SEEDS");
  return histories != nullptr ? std::strtoull(histories, nullptr, 10) : 1000;
}

template <size_t kData, size_t kParity>
void ExpectRight() {
  Totals totals;
  for (uint64_t seed = 1; seed <= Histories(); ++seed) {
    const std::string failure = History<kData, kParity>(seed, totals).Run(80);
    ASSERT_TRUE(failure.empty()) << "seed " << seed << ": " << failure;
  }
  const auto number = [](uint64_t n) { return static_cast<unsigned long long>(n); };
  std::printf(
      "%llu histories; %llu reads, %llu writes, %llu flushes, %llu power cuts; %llu opens, %llu of them cut, %llu refused for "
      "good; %llu bytes repaired, %llu rebuilt; %llu legs were given up\n",
      number(totals.histories), number(totals.reads), number(totals.writes), number(totals.flushes), number(totals.cuts),
      number(totals.opens), number(totals.opens_cut), number(totals.apart), number(totals.repaired), number(totals.rebuilt),
      number(totals.failed_legs));
  EXPECT_LE(totals.apart, totals.histories / 50) << "too many sets are given up";
}

TEST(ParityHistoryTest, TwoAndOneLegs) { ExpectRight<2, 1>(); }
TEST(ParityHistoryTest, ThreeAndTwoLegs) { ExpectRight<3, 2>(); }
TEST(ParityHistoryTest, FourAndTwoLegs) { ExpectRight<4, 2>(); }

}  // namespace
}  // namespace buse::testing

// SPDX-License-Identifier: Apache-2.0
//
// BadLeg: a leaf over a BadDisk, which rots, refuses, dies, is missing, and loses what was not flushed.

#ifndef TESTS_BAD_LEG_H_
#define TESTS_BAD_LEG_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/device.h"

namespace buse::testing {

// A disk with all that is wrong with it; outlives the device.
struct BadDisk {
  static constexpr uint64_t kSector = 512;
  using Sector = std::array<std::byte, kSector>;

  std::vector<Sector> sectors;
  std::vector<bool> rotten;              // kDataLoss, until written
  std::map<uint64_t, Sector> unflushed;  // what was there before
  bool dead = false;                     // nothing works
  uint64_t fails_one_in = 0;
  bool missing = false;
  uint64_t* power = nullptr;  // of several disks: how many changes and flushes there are until it goes; none: for ever
  std::mt19937_64 random{1};

  explicit BadDisk(uint64_t size) : sectors(size / kSector), rotten(size / kSector) {}

  bool Off() const { return dead || (power != nullptr && *power == 0); }
  bool Fails() { return Off() || (fails_one_in != 0 && random() % fails_one_in == 0); }
  // The same of a change or flush, in the middle of which the power may go.
  bool FailsToChange() {
    const bool was_off = Off();
    if (power != nullptr && *power != 0) --*power;
    return was_off || Fails();
  }

  // Of what was not flushed some is lost.
  void LoseSome() {
    for (const auto& [number, before] : unflushed) {
      if (random() % 2 == 0) sectors[number] = before;
    }
    unflushed.clear();
  }
};

struct BadLeg {
  static constexpr uint64_t kSector = BadDisk::kSector;
  using Sector = BadDisk::Sector;

  struct Config {
    BadDisk* disk = nullptr;
  };
  struct State {
    BadDisk* disk = nullptr;
  };

  static constexpr uint64_t kBlockSize = kSector;
  static constexpr Concurrency kConcurrency = Concurrency::kSerial;

  static constexpr Description<Config> Describe() { return {"bad-leg", "a bad disk, for tests", Family::kLeaf}; }

  static absl::Status Open(const Config& config, State& self) {
    self.disk = config.disk;
    return self.disk->missing ? absl::InternalError("missing") : absl::OkStatus();
  }
  static uint64_t Size(const State& self) { return self.disk->sectors.size() * kSector; }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    if (self.disk->Fails()) return absl::InternalError("read failed");
    absl::Status status;
    for (uint64_t at = 0; at < out.size(); at += kSector) {
      const uint64_t number = (offset + at) / kSector;
      if (self.disk->rotten[number]) status = absl::DataLossError("rotten");
      std::memcpy(out.data() + at, self.disk->sectors[number].data(), kSector);
    }
    return status;
  }
  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    return Put(self, {offset, in.size()}, false,
               [&](uint64_t at, Sector& sector) { std::memcpy(sector.data(), in.data() + at, kSector); });
  }
  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) {
    return Put(self, {offset, in.size()}, true,
               [&](uint64_t at, Sector& sector) { std::memcpy(sector.data(), in.data() + at, kSector); });
  }
  static absl::Status Trim(State& self, Range range) {
    return Put(self, range, false, [](uint64_t, Sector& sector) { sector = {}; });
  }
  static absl::Status Flush(State& self) {
    const bool was_off = self.disk->Off();
    if (self.disk->FailsToChange()) {
      if (!was_off && !self.disk->Off()) self.disk->LoseSome();
      return absl::InternalError("flush failed");
    }
    self.disk->unflushed.clear();
    return absl::OkStatus();
  }

 private:
  // One that fails has written some sectors of it.
  template <class Fill>
  static absl::Status Put(State& self, Range range, bool durable, Fill fill) {
    BadDisk& disk = *self.disk;
    const bool was_off = disk.Off();
    const bool fails = disk.FailsToChange();
    const uint64_t done = fails ? was_off ? 0 : disk.random() % (range.length / kSector + 1) : range.length / kSector;
    for (uint64_t i = 0; i < done; ++i) {
      const uint64_t number = range.offset / kSector + i;
      if (durable && !fails) {
        disk.unflushed.erase(number);
      } else {
        disk.unflushed.emplace(number, disk.sectors[number]);
      }
      fill(i * kSector, disk.sectors[number]);
      disk.rotten[number] = false;
    }
    return fails ? absl::InternalError("write failed") : absl::OkStatus();
  }
};

}  // namespace buse::testing

#endif  // TESTS_BAD_LEG_H_

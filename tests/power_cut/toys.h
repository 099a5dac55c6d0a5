// SPDX-License-Identifier: Apache-2.0
//
// Small layers for proving the power-cut test kit: each has one deliberate mistake that loses data, or, where it takes a
// parameter, none without it. Only what the proof needs: the mandatory operations, and WriteThrough where it matters.

#ifndef TESTS_POWER_CUT_TOYS_H_
#define TESTS_POWER_CUT_TOYS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/operations.h"
#include "layers/splitmix.h"

namespace buse::testing {

enum class Mistake {
  kNone,
  kFlushDropped,          // Flush does nothing
  kFlushLate,             // Flush returns, and flushes before the next operation
  kWriteThroughIsWrite,   // WriteThrough only writes
  kAcknowledgedEarly,     // a Write is acknowledged and done before the next operation; Flush does not know of it
  kReorderedAcrossFlush,  // a write-back cache flushes what is below and then writes its own
  kClearsBlock,           // a Write clears the 4096 bytes around its bytes before it writes all of them
};

// A layer with one mistake.
template <Mistake kMistake, Device B>
struct Toy {
  using Below = B;
  struct Config {
    typename Below::Config below;
  };
  struct State {
    typename Below::State below;
    bool flush_due = false;
    std::map<uint64_t, std::vector<std::byte>> held;
  };

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Concurrency::kSerial;

  static absl::Status Open(const Config& config, State& self) { return Below::Open(config.below, self.below); }

  static uint64_t Size(const State& self) { return Below::Size(self.below); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    absl::Status status = Due(self);
    return status.ok() ? Below::Read(self.below, offset, out) : status;
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    if (absl::Status status = Due(self); !status.ok()) return status;
    switch (kMistake) {
      case Mistake::kAcknowledgedEarly:
      case Mistake::kReorderedAcrossFlush:
        self.held[offset].assign(in.begin(), in.end());
        return absl::OkStatus();
      case Mistake::kClearsBlock:
        return WriteAround(self, offset, in);
      default:
        return Below::Write(self.below, offset, in);
    }
  }

  static absl::Status Flush(State& self) {
    switch (kMistake) {
      case Mistake::kFlushDropped:
        return absl::OkStatus();
      case Mistake::kFlushLate:
        self.flush_due = true;
        return absl::OkStatus();
      case Mistake::kReorderedAcrossFlush: {
        absl::Status status = Below::Flush(self.below);
        return status.ok() ? WriteHeld(self) : status;
      }
      default:
        return Below::Flush(self.below);
    }
  }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) {
    if (absl::Status status = Due(self); !status.ok()) return status;
    if (kMistake == Mistake::kWriteThroughIsWrite) return Below::Write(self.below, offset, in);
    return buse::WriteThrough<Below>(self.below, offset, in);
  }

 private:
  static absl::Status WriteHeld(State& self) {
    while (!self.held.empty()) {
      const auto& [offset, bytes] = *self.held.begin();
      if (absl::Status status = Below::Write(self.below, offset, bytes); !status.ok()) return status;
      self.held.erase(self.held.begin());
    }
    return absl::OkStatus();
  }

  // What an earlier operation left for later.
  static absl::Status Due(State& self) {
    if (absl::Status status = WriteHeld(self); !status.ok() || !self.flush_due) return status;
    self.flush_due = false;
    return Below::Flush(self.below);
  }

  static absl::Status WriteAround(State& self, uint64_t offset, ConstBytes in) {
    const uint64_t begin = offset / 4096 * 4096;
    const uint64_t end = (offset + in.size() + 4095) / 4096 * 4096;
    std::vector<std::byte> bytes(end - begin);
    if (absl::Status status = Below::Read(self.below, begin, bytes); !status.ok()) return status;
    if (absl::Status status = buse::WriteZeroes<Below>(self.below, {begin, end - begin}); !status.ok()) return status;
    std::memcpy(bytes.data() + (offset - begin), in.data(), in.size());
    return Below::Write(self.below, begin, bytes);
  }
};

enum class JournalMistake {
  kNone,
  kNoFlushAfterJournal,   // the block is written in place before its copy in the journal is durable
  kNoFlushBeforeReuse,    // the journal is overwritten before the block in place is durable
  kNoChecksum,            // a torn record is believed
  kForgetsBeforeFlushed,  // recovery erases the record before what it restored is durable
};

// Blocks of 1024 bytes that are written whole or not at all, on a disk of sectors of 512. On the medium: the blocks, and after
// them the journal, one record: a sector that says where and with what checksum, and the block.
template <JournalMistake kMistake, Device B>
struct ToyJournal {
  using Below = B;
  struct Config {
    typename Below::Config below;
  };
  struct State {
    typename Below::State below;
  };

  static constexpr uint64_t kBlockSize = 1024;
  static constexpr Concurrency kConcurrency = Concurrency::kSerial;
  static constexpr uint64_t kRecord = 512 + kBlockSize;

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = Below::Open(config.below, self.below); !status.ok()) return status;
    Record record;
    if (absl::Status status = Below::Read(self.below, Size(self), record); !status.ok()) return status;
    Header header;
    std::memcpy(&header, record.data(), sizeof(header));
    if (header.magic != kMagic) return absl::OkStatus();
    if (kMistake != JournalMistake::kNoChecksum && header.checksum != Checksum(header.offset, record)) return absl::OkStatus();
    absl::Status status = Below::Write(self.below, header.offset, ConstBytes(record).subspan(512));
    if (status.ok() && kMistake != JournalMistake::kForgetsBeforeFlushed) status = Below::Flush(self.below);
    if (status.ok()) status = buse::WriteZeroes<Below>(self.below, {Size(self), 512});
    if (status.ok()) status = Below::Flush(self.below);
    return status;
  }

  static uint64_t Size(const State& self) { return (Below::Size(self.below) - kRecord) / kBlockSize * kBlockSize; }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) { return Below::Read(self.below, offset, out); }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    for (uint64_t at = 0; at < in.size(); at += kBlockSize) {
      const ConstBytes block = in.subspan(at, kBlockSize);
      Record record{};
      std::memcpy(record.data() + 512, block.data(), kBlockSize);
      const Header header = {kMagic, offset + at, Checksum(offset + at, record)};
      std::memcpy(record.data(), &header, sizeof(header));
      absl::Status status;
      if (kMistake != JournalMistake::kNoFlushBeforeReuse) status = Below::Flush(self.below);
      if (status.ok()) status = Below::Write(self.below, Size(self), record);
      if (status.ok() && kMistake != JournalMistake::kNoFlushAfterJournal) status = Below::Flush(self.below);
      if (status.ok()) status = Below::Write(self.below, offset + at, block);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  static absl::Status Flush(State& self) { return Below::Flush(self.below); }

 private:
  using Record = std::array<std::byte, kRecord>;
  struct Header {
    uint64_t magic;
    uint64_t offset;
    uint64_t checksum;
  };
  static constexpr uint64_t kMagic = 0x6c616e72756f6a79;

  static uint64_t Checksum(uint64_t offset, const Record& record) {
    uint64_t sum = Mix64(offset + 1);
    for (size_t i = 512; i < record.size(); i += 8) {
      uint64_t word;
      std::memcpy(&word, record.data() + i, 8);
      sum = Mix64(sum ^ word);
    }
    return sum;
  }
};

// A format of two sectors that are rewritten in place with every write, and must agree when it is opened.
template <Device B>
struct ToyTwinHeader {
  using Below = B;
  struct Config {
    typename Below::Config below;
  };
  struct State {
    typename Below::State below;
    uint64_t writes = 0;
  };

  static constexpr uint64_t kBlockSize = 512;
  static constexpr Concurrency kConcurrency = Concurrency::kSerial;

  static absl::Status Format(const typename Below::Config& config) {
    typename Below::State below;
    if (absl::Status status = Below::Open(config, below); !status.ok()) return status;
    const std::vector<std::byte> header(1024, std::byte{1});
    absl::Status status = Below::Write(below, 0, header);
    return status.ok() ? Below::Flush(below) : status;
  }

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = Below::Open(config.below, self.below); !status.ok()) return status;
    std::array<std::byte, 1024> header;
    if (absl::Status status = Below::Read(self.below, 0, header); !status.ok()) return status;
    if (header[0] == std::byte{0}) return absl::InvalidArgumentError("not formatted");
    if (header[0] != header[512]) return absl::DataLossError("the two sectors of the header disagree");
    self.writes = std::to_integer<uint64_t>(header[0]);
    return absl::OkStatus();
  }

  static uint64_t Size(const State& self) { return Below::Size(self.below) - 1024; }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) { return Below::Read(self.below, 1024 + offset, out); }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    self.writes = self.writes % 255 + 1;
    const std::vector<std::byte> header(1024, static_cast<std::byte>(self.writes));
    if (absl::Status status = Below::Write(self.below, 0, header); !status.ok()) return status;
    return Below::Write(self.below, 1024 + offset, in);
  }

  static absl::Status Flush(State& self) { return Below::Flush(self.below); }
};

// Two disks of one size, one after the other. Forgetful: Flush reaches only the first.
template <bool kForgetful, Device B>
struct ToyConcat {
  using Below = std::tuple<B, B>;
  struct Config {
    std::tuple<typename B::Config, typename B::Config> below;
  };
  struct State {
    std::tuple<typename B::State, typename B::State> below;
  };

  static constexpr uint64_t kBlockSize = B::kBlockSize;
  static constexpr Concurrency kConcurrency = Concurrency::kSerial;

  static absl::Status Open(const Config& config, State& self) {
    absl::Status status = B::Open(std::get<0>(config.below), std::get<0>(self.below));
    return status.ok() ? B::Open(std::get<1>(config.below), std::get<1>(self.below)) : status;
  }

  static uint64_t Size(const State& self) { return 2 * Half(self); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    const uint64_t first = First(self, offset, out.size());
    absl::Status status;
    if (first > 0) status = B::Read(std::get<0>(self.below), offset, out.subspan(0, first));
    if (!status.ok() || first == out.size()) return status;
    return B::Read(std::get<1>(self.below), offset + first - Half(self), out.subspan(first));
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    const uint64_t first = First(self, offset, in.size());
    absl::Status status;
    if (first > 0) status = B::Write(std::get<0>(self.below), offset, in.subspan(0, first));
    if (!status.ok() || first == in.size()) return status;
    return B::Write(std::get<1>(self.below), offset + first - Half(self), in.subspan(first));
  }

  static absl::Status Flush(State& self) {
    absl::Status status = B::Flush(std::get<0>(self.below));
    return status.ok() && !kForgetful ? B::Flush(std::get<1>(self.below)) : status;
  }

 private:
  static uint64_t Half(const State& self) { return B::Size(std::get<0>(self.below)); }
  // How much of a request the first disk gets.
  static uint64_t First(const State& self, uint64_t offset, uint64_t length) {
    return offset >= Half(self) ? 0 : std::min(length, Half(self) - offset);
  }
};

}  // namespace buse::testing

#endif  // TESTS_POWER_CUT_TOYS_H_

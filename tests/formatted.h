// SPDX-License-Identifier: Apache-2.0
//
// Formatted: the least layer with a format of its own: a superblock, the data, the superblock's copy. Its check takes a block for
// damaged that begins with the byte 0xbd, and a second byte of 0xee as a flaw; a read of a damaged block is kDataLoss.

#ifndef TESTS_FORMATTED_H_
#define TESTS_FORMATTED_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "buse/operations.h"
#include "layers/superblock.h"

namespace buse::testing {

template <Device B, uint32_t kVersion = 1, uint64_t kBlock = 512>
struct Formatted {
  using Below = B;

  struct Config {
    uint64_t slack = 0;  // bytes left unused: an option that only a format needs
    typename Below::Config below;
  };

  struct State {
    typename Below::State below;
    Superblock superblock;
  };

  static constexpr uint64_t kBlockSize = kBlock;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;
  static constexpr uint64_t kData = Superblock::kBytes;
  static constexpr std::byte kBad{0xbd};
  static constexpr std::byte kFlawed{0xee};

  static constexpr Description<Config, 1> Describe() {
    return {"formatted",
            "has a format of its own",
            Family::kRemap,
            {{{.field = &Config::slack, .name = "slack", .help = "bytes that a format leaves unused", .unit = Unit::kBytes}}}};
  }

  static std::string FormatName() { return absl::StrCat("formatted(", kBlock, ")"); }

  static absl::Status Format(const Config& config, typename Below::State& below, Progress progress) {
    const uint64_t medium = Below::Size(below);
    if (medium < kSmallestMedium + kBlock + config.slack) {
      return absl::InvalidArgumentError(absl::StrCat("formatted: the medium has ", medium, " bytes: make it larger"));
    }
    if (absl::Status status = EraseSuperblock<Below>(below); !status.ok()) return status;
    Superblock superblock = {.kind = "formatted", .version = kVersion, .uuid = NewUuid()};
    superblock.set_uuid = superblock.uuid;
    superblock.medium_size = medium;
    superblock.size = (SuperblockCopyAt(medium) - kData - config.slack) / kBlock * kBlock;
    superblock.block_size = kBlock;
    superblock.fingerprint = Fingerprint<Formatted>();
    superblock.fields = {{"data", kData}};
    for (uint64_t done = 0; done < superblock.size; done += kBlock) {
      if (absl::Status status = buse::WriteZeroes<Below>(below, {kData + done, kBlock}); !status.ok()) return status;
      progress(done + kBlock, superblock.size);
    }
    return WriteSuperblock<Below>(below, superblock);
  }

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = Below::Open(config.below, self.below); !status.ok()) return status;
    absl::StatusOr<Superblock> superblock = ReadSuperblock<Below>(self.below, {.kind = "formatted",
                                                                               .oldest_version = kVersion,
                                                                               .newest_version = kVersion,
                                                                               .block_size = kBlock,
                                                                               .fingerprint = Fingerprint<Formatted>()});
    if (!superblock.ok()) return superblock.status();
    self.superblock = *std::move(superblock);
    return absl::OkStatus();
  }

  static absl::Status Check(State& self, const CheckReport& report) {
    for (const std::string& flaw : SuperblockFlaws<Below>(self.below, self.superblock)) report.flawed(flaw);
    std::array<std::byte, kBlock> block;
    for (uint64_t at = 0; at < Size(self); at += kBlock) {
      block = {};
      absl::Status status = Below::Read(self.below, kData + at, block);
      if (absl::IsUnavailable(status)) return status;
      if (!status.ok()) report.damaged({at, kBlock}, status.message());
      if (status.ok() && block[0] == kBad) report.damaged({at, kBlock}, "begins with 0xbd");
      if (block[1] == kFlawed) report.flawed(absl::StrCat("block ", at / kBlock, " is flawed"));
      report.progress(at + kBlock, Size(self));
    }
    return absl::OkStatus();
  }

  static uint64_t Size(const State& self) { return self.superblock.size; }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    absl::Status status = Below::Read(self.below, kData + offset, out);
    for (uint64_t at = 0; status.ok() && at < out.size(); at += kBlock) {
      if (out[at] == kBad) return absl::DataLossError(absl::StrCat("formatted: the block at ", offset + at, " is bad"));
    }
    return status;
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    return Below::Write(self.below, kData + offset, in);
  }

  static absl::Status Flush(State& self) requires CanFlush<Below> { return Below::Flush(self.below); }
};

}  // namespace buse::testing

#endif  // TESTS_FORMATTED_H_

// SPDX-License-Identifier: Apache-2.0
//
// A layer of one's own and its server: every byte of the disk is flipped by a key on its way to the device below. This hides
// nothing from anyone who looks; it shows what a layer that changes bytes has to say.
//
//   xor --key 17 1G /dev/nbd0

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/server.h"
#include "layers/memory.h"

// clang-format off
// [layer]
template <buse::Device B>
struct Xor {
  using Below = B;
  struct Config { uint64_t key = 0x5a; typename Below::Config below; };
  struct State { typename Below::State below; std::byte key; };
  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr buse::Concurrency kConcurrency = Below::kConcurrency;
  static constexpr buse::Description<Config, 1> Describe() {
    return {"xor",
            "flips the bits of every byte that a key names",
            buse::Family::kTransform,
            {{{.field = &Config::key, .name = "key", .help = "the bits to flip, as a number", .max = 255}}}};
  }
  static absl::Status Open(const Config& config, State& self) {
    self.key = static_cast<std::byte>(config.key);
    return Below::Open(config.below, self.below);
  }
  static uint64_t Size(const State& self) { return Below::Size(self.below); }
  static absl::Status Read(State& self, uint64_t offset, buse::Bytes out) {
    absl::Status status = Below::Read(self.below, offset, out);
    for (std::byte& b : out) b ^= self.key;
    return status;
  }
  static absl::Status Write(State& self, uint64_t offset, buse::ConstBytes in) requires buse::CanWrite<Below> {
    std::array<std::byte, 4096> piece;  // the caller's bytes are not ours to change
    static_assert(sizeof(piece) % kBlockSize == 0, "a piece is whole blocks");
    absl::Status status;
    for (size_t at = 0; at < in.size() && status.ok(); at += piece.size()) {
      const buse::ConstBytes part = in.subspan(at, std::min(piece.size(), in.size() - at));
      std::transform(part.begin(), part.end(), piece.begin(), [&](std::byte b) { return b ^ self.key; });
      status = Below::Write(self.below, offset + at, {piece.data(), part.size()});
    }
    return status;
  }
  static absl::Status Flush(State& self) requires buse::CanFlush<Below> { return Below::Flush(self.below); }
};
// [/layer]
// clang-format on

// [main]
int main(int argc, char** argv) { return buse::Server<Xor<buse::Memory>>::Main(argc, argv); }
// [/main]

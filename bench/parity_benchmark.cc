// SPDX-License-Identifier: Apache-2.0
//
// What Parity costs beside what it is made of, in turns, so that whatever else the machine does concerns both: its arithmetic beside
// the same calls of ISA-L, and rebuild and scrub of Parity<4, 2, FileBacked> beside a copy of a file. Prints the medians of the
// rounds and their ratios (1.00: as fast).
//
//   bazel run -c opt //bench:parity_benchmark -- [DIRECTORY [ROUNDS]]

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "isa-l/erasure_code.h"
#include "layers/file_backed.h"
#include "layers/leg_mask.h"
#include "layers/mapped_array.h"
#include "layers/parity.h"
#include "layers/parity_code.h"
#include "layers/splitmix.h"

namespace buse {
namespace {

constexpr size_t kData = 4, kParity = 2, kElements = kData + kParity;
constexpr size_t kChunk = 65536;
constexpr uint64_t kLeg = 128 << 20;
constexpr uint64_t kPiece = 1 << 20;
using Stack = Parity<kData, kParity, FileBacked>;

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

template <class Work>
double Seconds(Work work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void Print(const char* what, double bytes, const std::vector<double>& beside, const std::vector<double>& ours) {
  std::printf("%-44s %8.0f %8.0f %6.2f\n", what, bytes / Median(beside) / 1e6, bytes / Median(ours) / 1e6,
              Median(beside) / Median(ours));
}

// ---- Arithmetic, in the caches of a CPU.

struct Elements {
  Elements() {
    Check(memory.Open(kElements * kChunk));
    SplitMix64 random(1);
    for (size_t i = 0; i < kElements; ++i) at[i] = memory.span().data() + i * kChunk;
    for (std::byte& b : memory.span().first(kData * kChunk)) b = static_cast<std::byte>(random());
  }
  unsigned char** bytes() { return reinterpret_cast<unsigned char**>(at.data()); }

  MappedArray<std::byte> memory;
  std::array<std::byte*, kElements> at;
};

void MeasureArithmetic(int rounds) {
  constexpr int kTimes = 2000;
  Elements elements;
  std::array<unsigned char, kElements * kData> matrix;
  std::array<unsigned char, 32 * kData * kParity> tables;
  gf_gen_cauchy1_matrix(matrix.data(), kElements, kData);
  ec_init_tables(kData, kParity, matrix.data() + kData * kData, tables.data());
  ParityCode code;
  code.Open(kData, kParity);
  std::vector<double> library, encode, reconstruct;
  for (int round = 0; round < rounds; ++round) {
    library.push_back(Seconds([&] {
      for (int i = 0; i < kTimes; ++i) {
        ec_encode_data(kChunk, kData, kParity, tables.data(), elements.bytes(), elements.bytes() + kData);
      }
    }));
    encode.push_back(Seconds([&] {
      for (int i = 0; i < kTimes; ++i) code.Encode(elements.at.data(), kChunk);
    }));
    // As many pieces of data, from two others and the parity.
    reconstruct.push_back(Seconds([&] {
      for (int i = 0; i < kTimes; ++i) code.Reconstruct(LegMask{0b111100}, LegMask{0b000011}, elements.at.data(), kChunk);
    }));
  }
  const double bytes = double{kTimes} * kData * kChunk;
  Print("parity of 4 + 2 chunks of 64 KiB", bytes, library, encode);
  Print("two chunks of data from the other four", bytes, library, reconstruct);
}

// ---- Rebuild and scrub, of legs in the page cache; flushed at the end.

class Files {
 public:
  explicit Files(std::string prefix) : prefix_(std::move(prefix)) {}
  ~Files() {
    for (const std::string& path : paths_) unlink(path.c_str());
  }
  const std::string& New() { return paths_.emplace_back(prefix_ + std::to_string(paths_.size())); }

 private:
  const std::string prefix_;
  std::vector<std::string> paths_;
};

void CopyFile(FileBacked::State& from, FileBacked::State& to) {
  std::vector<std::byte> piece(kPiece);
  for (uint64_t at = 0; at < kLeg; at += kPiece) {
    Check(FileBacked::Read(from, at, piece));
    Check(FileBacked::Write(to, at, piece));
  }
  Check(FileBacked::Flush(to));
}

void ReadFile(FileBacked::State& from) {
  std::vector<std::byte> piece(kPiece);
  for (uint64_t at = 0; at < kLeg; at += kPiece) Check(FileBacked::Read(from, at, piece));
}

// Repeats a step of Rebuild or Scrub until nothing is left.
template <class Step>
void Finish(Step step) {
  for (;;) {
    const absl::StatusOr<uint64_t> left = step();
    Check(left.status());
    if (*left == 0) return;
  }
}

void MeasureMaintenance(const std::string& directory, int rounds) {
  Files files(directory + "/parity-benchmark-" + std::to_string(getpid()) + "-");
  Stack::Config config;
  std::apply([&](auto&... leg) { ((leg = FileBacked::Config{.path = files.New(), .create = kLeg}), ...); }, config.below);
  Check(FormatStack<Stack>(config, [](uint64_t, uint64_t) {}));
  auto state = std::make_unique<Stack::State>();
  Check(Stack::Open(config, *state));
  std::vector<std::byte> piece(kPiece);
  SplitMix64 random(1);
  for (std::byte& b : piece) b = static_cast<std::byte>(random());
  for (uint64_t at = 0; at + kPiece <= Stack::Size(*state); at += kPiece) Check(Stack::Write(*state, at, piece));
  Check(Stack::Flush(*state));

  FileBacked::State plain;
  Check(FileBacked::Open({.path = files.New(), .create = kLeg}, plain));
  for (uint64_t at = 0; at < kLeg; at += kPiece) Check(FileBacked::Write(plain, at, piece));
  Check(FileBacked::Flush(plain));
  std::vector<double> copy, rebuild, read, scrub;
  for (int round = 0; round < rounds; ++round) {
    FileBacked::State to;
    Check(FileBacked::Open({.path = files.New(), .create = kLeg}, to));
    copy.push_back(Seconds([&] { CopyFile(plain, to); }));
    read.push_back(Seconds([&] {
      for (size_t leg = 0; leg < kElements; ++leg) ReadFile(plain);
    }));
    scrub.push_back(Seconds([&] { Finish([&] { return Stack::Scrub(*state, kPiece); }); }));
    const size_t leg = static_cast<size_t>(round) % kElements;
    Check(Stack::Fail(*state, leg));
    Check(Stack::Replace(*state, leg, {.path = files.New(), .create = kLeg}));
    rebuild.push_back(Seconds([&] {
      Finish([&] { return Stack::Rebuild(*state, kPiece); });
      Check(Stack::Flush(*state));
    }));
  }
  Print("rebuild of a leg, beside a copy of a file", kLeg, copy, rebuild);
  Print("scrub of all legs, beside reads of as much", kElements * kLeg, read, scrub);
}

}  // namespace
}  // namespace buse

int main(int argc, char** argv) {
  const std::string directory = argc > 1 ? argv[1] : "/var/tmp";
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 9;
  std::printf("%-44s %8s %8s %6s   MB/s\n", "", "beside", "ours", "ratio");
  buse::MeasureArithmetic(rounds);
  buse::MeasureMaintenance(directory, rounds);
}

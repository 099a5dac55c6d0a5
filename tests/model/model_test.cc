// SPDX-License-Identifier: Apache-2.0
//
// The model suite is itself tested: layers with one mistake each must be caught, and reported well.

#include "tests/model/model.h"

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "layers/cache.h"
#include "layers/memory.h"
#include "layers/passthrough.h"
#include "tests/leaves.h"
#include "tests/model/choices.h"

namespace buse::testing {
namespace {

constexpr uint64_t kOperations = 300;

template <Device B>
struct TrimForgetsTheLastByte : Passthrough<B> {
  static absl::Status Trim(typename Passthrough<B>::State& self, Range range) {
    return range.length == 1 ? absl::OkStatus() : B::Trim(self.below, {range.offset, range.length - 1});
  }
};

template <Device B>
struct ReadLeavesTheEnd : Passthrough<B> {
  static absl::Status Read(typename Passthrough<B>::State& self, uint64_t offset, Bytes out) {
    return out.size() < 4096 ? B::Read(self.below, offset, out) : B::Read(self.below, offset, out.first(out.size() - 1));
  }
};

template <Device B>
struct WriteGoesPastTheEnd : Passthrough<B> {
  static absl::Status Write(typename Passthrough<B>::State& self, uint64_t offset, ConstBytes in) {
    const uint64_t end = offset + in.size();
    if (end % 4096 == 4095 && end < B::Size(self.below)) (void)B::Write(self.below, end, in.first(1));
    return B::Write(self.below, offset, in);
  }
};

template <Device B>
struct ViewMissesAPiece : Passthrough<B> {
  static absl::Status View(typename Passthrough<B>::State& self, Range range, Gather& gather) {
    return range.length < 2 ? B::View(self.below, range, gather)
                            : B::View(self.below, {range.offset, range.length - 1}, gather);
  }
};

// Its buffer is overwritten by the next View or Read.
template <Device B>
struct ViewIsNotPinned {
  using Below = B;
  using Config = typename Passthrough<B>::Config;
  struct State {
    typename B::State below;
    std::vector<std::byte> buffer;
  };
  static constexpr uint64_t kBlockSize = B::kBlockSize;
  static constexpr Concurrency kConcurrency = Concurrency::kSerial;
  static constexpr auto Describe() { return Passthrough<B>::Describe(); }
  static absl::Status Open(const Config& config, State& self) {
    absl::Status status = B::Open(config.below, self.below);
    self.buffer.resize(B::Size(self.below));
    return status;
  }
  static uint64_t Size(const State& self) { return B::Size(self.below); }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    absl::Status status = B::Read(self.below, offset, {self.buffer.data(), out.size()});
    std::copy_n(self.buffer.begin(), out.size(), out.begin());
    return status;
  }
  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) { return B::Write(self.below, offset, in); }
  static absl::Status Flush(State& self) { return B::Flush(self.below); }
  static absl::Status View(State& self, Range range, Gather& gather) {
    gather.Append({self.buffer.data(), range.length});
    return B::Read(self.below, range.offset, {self.buffer.data(), range.length});
  }
};

template <Device B>
struct ExtentsTakeDataForHoles : Passthrough<B> {
  static absl::Status Extents(typename Passthrough<B>::State&, Range range, EmitExtent emit) {
    emit({range, Extent::Kind::kHole});
    return absl::OkStatus();
  }
};

template <Device B>
struct ExtentsGoOn : Passthrough<B> {
  static absl::Status Extents(typename Passthrough<B>::State&, Range range, EmitExtent emit) {
    for (uint64_t at = range.offset; at < range.end(); ++at) emit({{at, 1}, Extent::Kind::kData});
    return absl::OkStatus();
  }
};

template <Device B>
struct ExtentsAreNone : Passthrough<B> {
  static absl::Status Extents(typename Passthrough<B>::State&, Range, EmitExtent) { return absl::OkStatus(); }
};

template <Device B>
struct WriteThroughFails : Passthrough<B> {
  static absl::Status WriteThrough(typename Passthrough<B>::State&, uint64_t, ConstBytes) {
    return absl::InternalError("on purpose");
  }
};

template <Device B>
struct ResizeForgets : Passthrough<B> {
  static absl::Status Resize(typename Passthrough<B>::State& self, uint64_t size) {
    const uint64_t before = B::Size(self.below);
    absl::Status status = B::Resize(self.below, size);
    const std::byte stale{1};
    return status.ok() && size > before ? B::Write(self.below, before, {&stale, 1}) : status;
  }
};

template <Device B>
struct ResidencySkipsWhatIsNotThere : Passthrough<B> {
  static absl::Status Residency(typename Passthrough<B>::State& self, Range range, EmitResident emit) {
    return B::Residency(self.below, range, [&](const Resident& resident) { return !resident.cached || emit(resident); });
  }
};

template <Device B>
struct ResidencyGoesOn : Passthrough<B> {
  static absl::Status Residency(typename Passthrough<B>::State& self, Range range, EmitResident emit) {
    return B::Residency(self.below, range, [&](const Resident& resident) {
      (void)emit(resident);
      return true;
    });
  }
};

template <Device B>
struct ResidencyIsNone : Passthrough<B> {
  static absl::Status Residency(typename Passthrough<B>::State&, Range, EmitResident) { return absl::OkStatus(); }
};

template <Device B>
struct WhatIsCachedIsDirty : Passthrough<B> {
  static absl::Status Residency(typename Passthrough<B>::State& self, Range range, EmitResident emit) {
    return B::Residency(self.below, range, [&](const Resident& resident) {
      return emit({resident.range, resident.cached, resident.cached});
    });
  }
};

// So that writes stay dirty.
template <Device B>
struct FlushIsForgotten : Passthrough<B> {
  static absl::Status Flush(typename Passthrough<B>::State&) { return absl::OkStatus(); }
};

// Forgets the first page when it is opened.
template <Device B>
struct OpenForgets : Passthrough<B> {
  static absl::Status Open(const typename Passthrough<B>::Config& config, typename Passthrough<B>::State& self) {
    absl::Status status = B::Open(config.below, self.below);
    return status.ok() ? B::Trim(self.below, {0, 4096}) : status;
  }
};

// Threads get each other's bytes. No data race, so that ThreadSanitizer lets it pass.
template <Device B>
struct ReadSharesABuffer : Passthrough<B> {
  static absl::Status Read(typename Passthrough<B>::State& self, uint64_t offset, Bytes out) {
    static std::mutex mutex;
    static std::vector<std::byte> buffer;
    absl::Status status;
    {
      std::lock_guard lock(mutex);
      buffer.resize(std::max(buffer.size(), out.size()));
      status = B::Read(self.below, offset, {buffer.data(), out.size()});
    }
    std::this_thread::yield();
    std::lock_guard lock(mutex);
    std::copy_n(buffer.begin(), out.size(), out.begin());
    return status;
  }
};

// The first of a few seeds that fails, reported.
template <Device Stack>
std::string Report() {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    if (std::string report = RunSeed<Stack>(seed, kOperations); !report.empty()) return report;
  }
  return "";
}

template <class Stack>
class MistakeTest : public ::testing::Test {};
using Mistakes =
    ::testing::Types<TrimForgetsTheLastByte<Memory>, ReadLeavesTheEnd<Memory>, WriteGoesPastTheEnd<Memory>,
                     ViewMissesAPiece<Memory>, ViewIsNotPinned<Memory>, ExtentsTakeDataForHoles<Memory>, ExtentsGoOn<Memory>,
                     ExtentsAreNone<Memory>, WriteThroughFails<Memory>, ResizeForgets<Full>, OpenForgets<Full>,
                     ResidencySkipsWhatIsNotThere<Cache<Memory>>, ResidencyGoesOn<Cache<Memory>>,
                     ResidencyIsNone<Cache<Memory>>, WhatIsCachedIsDirty<Cache<Memory>>, FlushIsForgotten<Cache<Memory>>>;
TYPED_TEST_SUITE(MistakeTest, Mistakes);

TYPED_TEST(MistakeTest, IsCaught) { EXPECT_NE(Report<TypeParam>(), ""); }

TEST(ModelTest, ALayerWithoutAMistakePasses) {
  EXPECT_EQ(Report<Passthrough<Memory>>(), "");
  EXPECT_EQ(Report<Passthrough<Full>>(), "");
  EXPECT_EQ(Report<Passthrough<Cache<Memory>>>(), "");
}

TEST(ModelTest, AReadOnlyDevicePasses) {
  struct ReadOnlyMemory : Passthrough<Memory> {
    static absl::Status Write() = delete;
    static absl::Status Flush() = delete;
    static absl::Status WriteThrough() = delete;
    static absl::Status Trim() = delete;
    static absl::Status Place() = delete;
    static absl::Status Placed() = delete;
  };
  static_assert(!CanWrite<ReadOnlyMemory>);
  EXPECT_EQ(RunSeed<ReadOnlyMemory>(1, kOperations), "");
}

TEST(ModelTest, AFailureIsReportedWithItsSeedAndTheFewestOperations) {
  using Broken = TrimForgetsTheLastByte<Memory>;
  const std::string report = RunSeed<Broken>(1, kOperations);
  unsigned long count = 0;
  ASSERT_EQ(std::sscanf(report.c_str(), "seed 1, %lu operations: ", &count), 1) << report;
  EXPECT_NE(report.find("trim"), std::string::npos) << report;
  SeededChoices again(1);
  EXPECT_NE(RunModel<Broken>(again, count), "");
  SeededChoices fewer(1);
  EXPECT_EQ(RunModel<Broken>(fewer, count - 1), "");
}

TEST(ModelTest, ThreadsThatDisturbEachOtherAreCaught) {
  using Broken = ReadSharesABuffer<Memory>;
  EXPECT_EQ(RunSeed<Broken>(1, kOperations), "") << "one thread does not notice";
  bool caught = false;
  for (uint64_t seed = 1; seed <= 20 && !caught; ++seed) caught = !RunThreads<Broken>(seed, 300, 3).empty();
  EXPECT_TRUE(caught);
}

}  // namespace
}  // namespace buse::testing

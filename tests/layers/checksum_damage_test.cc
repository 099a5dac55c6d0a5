// SPDX-License-Identifier: Apache-2.0
//
// Checksum over media that lie: every single bit of a small medium flipped, and 10^5 lost, misdirected and torn writes. A read
// gives what was written or kDataLoss, and kDataLoss only for blocks that the damage can concern.
//
// Outside of this, as layers/checksum.h says: several losses that agree with each other, and a loss together with a power cut. One
// write can be several losses: one that is misdirected onto the log, just where the sums of its own blocks are, or a
// page of sums, mostly zeroes, onto the very blocks that it is about.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "gtest/gtest.h"
#include "layers/checksum.h"
#include "layers/fault_plan.h"
#include "layers/faulty.h"
#include "layers/observer.h"
#include "layers/operation.h"
#include "layers/splitmix.h"
#include "layers/superblock.h"
#include "tests/leaves.h"

namespace buse::testing {
namespace {

constexpr uint64_t kBlock = 512;

void IgnoreProgress(uint64_t, uint64_t) {}

std::vector<std::byte> Random(uint64_t size, SplitMix64& random) {
  std::vector<std::byte> bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random() % 255 + 1);
  return bytes;
}

// What a block may be read as: one of some contents. Damage is an error.
enum class Verdict { kRight, kDataLoss, kWrong };

template <class S>
Verdict JudgeBlock(typename S::State& state, uint64_t block, ConstBytes expected) {
  std::vector<std::byte> out(kBlock);
  const absl::Status status = S::Read(state, block * kBlock, out);
  if (!status.ok()) return absl::IsDataLoss(status) ? Verdict::kDataLoss : Verdict::kWrong;
  return std::equal(out.begin(), out.end(), expected.begin()) ? Verdict::kRight : Verdict::kWrong;
}

// ---- Flips.

// A medium in which everything occurs: sums in the table, settled ones in the log, content in the log, zeroes, and blocks that were
// never written. The stage is empty, so that its end is a clean one.
class ChecksumFlipTest : public ::testing::Test {
 protected:
  using Stack = Checksum<Full>;

  Stack::Config Config() {
    return {.log = 32768,
            .stage = 32768,
            .table_cache = 8192,
            .inline_commits = true,  // so that no thread is started for each of many flips
            .below = {.size = 73728, .script = &script_}};
  }

  std::unique_ptr<Stack::State> Open(absl::Status& status) {
    auto state = std::make_unique<Stack::State>();
    status = Stack::Open(Config(), *state);
    return state;
  }

  void SetUp() override {
    ASSERT_TRUE(FormatStack<Stack>(Config(), IgnoreProgress).ok());
    absl::Status status;
    auto state = Open(status);
    ASSERT_TRUE(status.ok());
    geometry_ = state->store.geometry();
    expected_.resize(Stack::Size(*state));
    SplitMix64 random(1);
    const auto write = [&](uint64_t block, uint64_t count) {
      const std::vector<std::byte> bytes = Random(count * kBlock, random);
      ASSERT_TRUE(Stack::Write(*state, block * kBlock, bytes).ok());
      std::copy(bytes.begin(), bytes.end(), expected_.begin() + block * kBlock);
    };
    const auto trim = [&](uint64_t block, uint64_t count) {
      ASSERT_TRUE(Stack::Trim(*state, {block * kBlock, count * kBlock}).ok());
      std::fill_n(expected_.begin() + block * kBlock, count * kBlock, std::byte{0});
    };
    write(0, 32);
    ASSERT_TRUE(Stack::Flush(*state).ok());
    state = Open(status);  // a checkpoint
    ASSERT_TRUE(status.ok());
    write(4, 9);  // two pages: sums in the log, and settled
    ASSERT_TRUE(Stack::Flush(*state).ok());
    write(16, 3);  // one page: content in the log
    trim(20, 2);
    ASSERT_TRUE(Stack::Flush(*state).ok());
    write(17, 1);  // newer content over older
    ASSERT_TRUE(Stack::Flush(*state).ok());
    trim(24, 6);   // zeroes in the log
    write(26, 1);  // content over zeroes
    ASSERT_TRUE(Stack::Flush(*state).ok());
    logged_ = {4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 17, 18, 20, 21, 24, 25, 26, 27, 28, 29};
  }

  // Whether the byte of the medium may concern the block.
  bool Concerns(uint64_t byte, uint64_t block) const {
    const auto in = [&](uint64_t begin, uint64_t length) { return byte >= begin && byte < begin + length; };
    if (in(geometry_.OffsetOf(block), kBlock) || in(geometry_.table + block * 4, 4)) return true;
    return in(geometry_.log, geometry_.slots * 4096) && std::count(logged_.begin(), logged_.end(), block) > 0;
  }

  Script script_;
  ChecksumGeometry geometry_;
  std::vector<std::byte> expected_;
  std::vector<uint64_t> logged_;
};

TEST_F(ChecksumFlipTest, EveryFlippedBitIsFoundAndHarmsNothingElse) {
  const std::vector<std::byte> medium = script_.medium;
  uint64_t found = 0;
  uint64_t harmless = 0;
  for (uint64_t bit = 0; bit < medium.size() * 8; ++bit) {
    const uint64_t byte = bit / 8;
    script_.medium = medium;
    script_.calls.clear();
    script_.medium[byte] ^= static_cast<std::byte>(1 << bit % 8);
    absl::Status status;
    auto state = Open(status);
    ASSERT_TRUE(status.ok()) << "bit " << bit << ": " << status.ToString();
    std::vector<std::byte> all(expected_.size());
    status = Stack::Read(*state, 0, all);
    if (status.ok()) {
      ASSERT_EQ(all, expected_) << "bit " << bit;
      ++harmless;
      continue;
    }
    ASSERT_TRUE(absl::IsDataLoss(status)) << status.ToString();
    ++found;
    for (uint64_t block = 0; block < expected_.size() / kBlock; ++block) {
      const Verdict verdict = JudgeBlock<Stack>(*state, block, ConstBytes(expected_).subspan(block * kBlock, kBlock));
      ASSERT_NE(verdict, Verdict::kWrong) << "bit " << bit << " block " << block;
      ASSERT_TRUE(verdict == Verdict::kRight || Concerns(byte, block)) << "bit " << bit << " alarms block " << block;
    }
  }
  std::printf("%llu flips found, %llu without effect\n", static_cast<unsigned long long>(found),
              static_cast<unsigned long long>(harmless));
  // All data that is not in the log with its content, and its sums.
  EXPECT_GE(found, (expected_.size() - 11 * kBlock) * 8);
}

// Sums that were logged and not settled: then each block is one of several, and a damaged one none.
TEST_F(ChecksumFlipTest, DamageIsNoneOfWhatABlockMayBe) {
  absl::Status status;
  auto state = Open(status);
  ASSERT_TRUE(status.ok());
  SplitMix64 random(2);
  // More than a stage of four pages: the first four are committed, and nothing is flushed.
  const std::vector<std::byte> bytes = Random(expected_.size() / 4096 * 4096, random);
  ASSERT_GE(bytes.size(), 5 * 4096u);
  ASSERT_TRUE(Stack::Write(*state, 0, bytes).ok());
  const std::vector<std::byte> medium = script_.medium;
  for (uint64_t block = 0; block < 32; ++block) {
    for (uint64_t bit : {uint64_t{0}, random() % 4096, uint64_t{4095}}) {
      script_.medium = medium;
      script_.medium[geometry_.OffsetOf(block) + bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      state = Open(status);
      ASSERT_TRUE(status.ok());
      for (uint64_t other = 0; other < 32; ++other) {
        const ConstBytes written = ConstBytes(bytes).subspan(other * kBlock, kBlock);
        EXPECT_EQ(JudgeBlock<Stack>(*state, other, written), other == block ? Verdict::kDataLoss : Verdict::kRight);
      }
    }
  }
}

// ---- Lost, misdirected and torn writes.

// Which write went wrong.
struct Miss {
  const FaultPlan* plan = nullptr;
  const Script* script = nullptr;
  Range intended = {};
  Range landed = {};  // empty: it was lost
};

struct MissHook {
  template <class BelowConfig>
  struct Config {
    Miss* miss = nullptr;
    BelowConfig below;
  };
  struct State {
    Miss* miss = nullptr;
  };
  template <class Config>
  static constexpr Description<Config> Describe() {
    return {"miss", "sees which write went wrong", Family::kObserver};
  }
  template <class Config>
  static absl::Status Open(const Config& config, State& hook) {
    hook.miss = config.miss;
    return absl::OkStatus();
  }
  template <class Next>
  static absl::Status Around(State& hook, const Request& request, Next&& next) {
    Miss& miss = *hook.miss;
    const uint64_t strikes = miss.plan->strikes();
    const size_t calls = miss.script->calls.size();
    absl::Status status = next();
    if (miss.plan->strikes() == strikes) return status;
    miss.intended = request.range;
    if (miss.script->calls.size() > calls) miss.landed = miss.script->calls.back().range;
    return status;
  }
};

// Runs a random workload in which one call to the medium goes wrong without an error, ends it cleanly and opens it again.
class Trial {
 public:
  using Stack = Checksum<Observer<MissHook, Faulty<Full>>>;

  explicit Trial(const std::vector<std::byte>& formatted) {
    script_.medium = formatted;
    miss_.plan = &plan_;
    miss_.script = &script_;
  }

  static std::vector<std::byte> Formatted() {
    Trial trial{std::vector<std::byte>(kMedium)};
    EXPECT_TRUE(FormatStack<Stack>(trial.Config(), IgnoreProgress).ok());
    return trial.script_.medium;
  }

  // Whether something passed that this is not about.
  bool outside() const { return outside_; }

  // Returns what is wrong, or nothing. `struck` counts writes that went wrong, `alarms` blocks that gave kDataLoss.
  std::string Run(uint64_t seed, uint64_t& struck, uint64_t& alarms) {
    SplitMix64 random(seed);
    if (std::string failure = Open(); !failure.empty()) return failure;
    expected_.assign(Stack::Size(*state_), std::byte{0});
    written_.assign(expected_.size() / kBlock, false);
    script_.calls.clear();
    const Fault::Kind kKinds[] = {Fault::Kind::kLost, Fault::Kind::kMisdirected, Fault::Kind::kTorn};
    plan_.set_seed(seed);
    const Operation kChanges[] = {Operation::kWrite, Operation::kWrite, Operation::kWrite, Operation::kWriteThrough,
                                  Operation::kTrim};
    plan_.Add({.kind = kKinds[random() % 3], .operation = kChanges[random() % 5], .nth = 1 + random() % 6});
    const uint64_t steps = 3 + random() % 5;
    for (uint64_t i = 0; i < steps; ++i) {
      if (std::string failure = Step(random); !failure.empty()) return failure;
      // Whatever happened, no read is wrong at any time.
      if (random() % 2 == 0) {
        if (std::string failure = Judge(nullptr); !failure.empty()) return failure;
      }
    }
    if (absl::Status status = Stack::Flush(*state_); !status.ok()) return status.ToString();
    struck += plan_.strikes();
    const bool had_damage = plan_.strikes() > 0;
    plan_.Clear();
    if (std::string failure = Judge(nullptr); !failure.empty()) return failure;
    if (std::string failure = Open(); !failure.empty()) return LandedOnTheSuperblock() ? "" : failure;
    uint64_t here = 0;
    std::string failure = Judge(&here);
    alarms += here;
    if (failure.empty() && here > 0 && !had_damage) failure = "an alarm where nothing went wrong";
    return failure;
  }

 private:
  static constexpr uint64_t kMedium = 65536;

  Stack::Config Config() {
    return {.log = 16384,
            .stage = 16384,
            .table_cache = 8192,
            .inline_commits = true,  // so that a seed always does the same, and the last call is that which went wrong
            .below = {.miss = &miss_, .below = {.plan = &plan_, .below = {.size = kMedium, .script = &script_}}}};
  }

  std::string Open() {
    state_ = std::make_unique<Stack::State>();
    const absl::Status status = Stack::Open(Config(), *state_);
    return status.ok() ? "" : status.ToString();
  }

  // A write that was misdirected onto the first superblock can make the medium look like somebody else's: then it is refused.
  bool LandedOnTheSuperblock() const { return miss_.landed.length > 0 && miss_.landed.offset < Superblock::kBytes; }

  std::string Step(SplitMix64& random) {
    const uint64_t blocks = written_.size();
    const uint64_t block = random() % blocks;
    const uint64_t count = 1 + random() % std::min<uint64_t>(blocks - block, 20);
    absl::Status status;
    switch (random() % 8) {
      case 0:
        status = Stack::Trim(*state_, {block * kBlock, count * kBlock});
        std::fill_n(expected_.begin() + block * kBlock, count * kBlock, std::byte{0});
        break;
      case 1:
      case 2:
        status = Stack::Flush(*state_);
        return status.ok() ? "" : status.ToString();
      default: {
        const std::vector<std::byte> bytes = Random(count * kBlock, random);
        status = Stack::Write(*state_, block * kBlock, bytes);
        std::copy(bytes.begin(), bytes.end(), expected_.begin() + block * kBlock);
      }
    }
    std::fill_n(written_.begin() + block, count, true);
    return status.ok() ? "" : status.ToString();
  }

  // How many of these the write that went wrong hit or missed: what the block consists of, its sum in the table, and, if it was
  // written to, the log and its head.
  int Concerned(uint64_t block) const {
    const ChecksumGeometry& geometry = state_->store.geometry();
    const auto hit = [&](uint64_t at, uint64_t length) {
      const auto in = [&](Range range) { return range.length > 0 && range.offset < at + length && at < range.end(); };
      return in(miss_.intended) || in(miss_.landed);
    };
    return hit(geometry.OffsetOf(block), kBlock) + hit(geometry.table + block * 4, 4) +
           (written_[block] && hit(geometry.log, geometry.slots * 4096)) +
           (written_[block] && (hit(geometry.heads[0], 512) || hit(geometry.heads[1], 512)));
  }

  std::string Judge(uint64_t* alarms) {
    for (uint64_t block = 0; block < written_.size(); ++block) {
      switch (JudgeBlock<Stack>(*state_, block, ConstBytes(expected_).subspan(block * kBlock, kBlock))) {
        case Verdict::kRight:
          break;
        case Verdict::kDataLoss:
          if (Concerned(block) == 0) return absl::StrCat("block ", block, " is a false alarm");
          if (alarms != nullptr) ++*alarms;
          break;
        case Verdict::kWrong:
          // One that destroys two of them at once.
          if (Concerned(block) < 2) return absl::StrCat("block ", block, " is wrong");
          outside_ = true;
          break;
      }
    }
    return "";
  }

  Script script_;
  FaultPlan plan_;
  Miss miss_;
  std::unique_ptr<Stack::State> state_;
  std::vector<std::byte> expected_;
  std::vector<bool> written_;
  bool outside_ = false;
};

TEST(ChecksumFaultTest, NoWriteThatGoesWrongPasses) {
  const char* seeds = std::getenv("BUSE_TEST_SEEDS");
  const uint64_t wanted = seeds != nullptr ? std::strtoull(seeds, nullptr, 10) * 1000 : 100000;
  const std::vector<std::byte> formatted = Trial::Formatted();
  uint64_t struck = 0;
  uint64_t alarms = 0;
  uint64_t outside = 0;
  uint64_t seed = 0;
  while (struck < wanted) {
    ++seed;
    Trial trial(formatted);
    const std::string failure = trial.Run(seed, struck, alarms);
    ASSERT_EQ(failure, "") << "seed " << seed;
    outside += trial.outside();
  }
  std::printf("%llu writes went wrong in %llu workloads; %llu blocks gave kDataLoss; %llu writes were several losses\n",
              static_cast<unsigned long long>(struck), static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(alarms), static_cast<unsigned long long>(outside));
  // On a medium of which two fifths are not data.
  EXPECT_LT(outside, struck / 50);
  EXPECT_GT(alarms, struck / 10);
}

}  // namespace
}  // namespace buse::testing

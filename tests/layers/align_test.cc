// SPDX-License-Identifier: Apache-2.0
//
// Align: any offset and length against a byte model, what arrives below, failures, and threads that share blocks.

#include "layers/align.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "buse/description.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "gtest/gtest.h"
#include "layers/contract.h"
#include "layers/observer.h"
#include "layers/operation.h"
#include "tests/every_operation.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"

template struct buse::Align<buse::testing::Full>;
template struct buse::Align<buse::testing::Full512>;

namespace buse::testing {
namespace {

template <uint64_t kBlock, Concurrency kRunsTogether>
using Blocks = BasicFull<kBlock, kRunsTogether>;

static_assert(kCapabilities<Align<Full512>> == Capabilities{.write = true,
                                                            .write_through = true,
                                                            .trim = true,
                                                            .write_zeroes = true,
                                                            .extents = true,
                                                            .prefetch = true,
                                                            .resize = true});
static_assert(kCapabilities<Align<Full>> == kEverything, "nothing to convert");
static_assert(kCapabilities<Align<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Align<BasicWriter<512, Concurrency::kParallel>>> == Capabilities{.write = true});
static_assert(kCapabilities<Align<Bare>> == kNothing);
static_assert(kCapabilities<Align<BasicBare<512, Concurrency::kParallel>>> == kNothing);
static_assert(Align<Full512>::kBlockSize == 1);
static_assert(Align<Blocks<512, Concurrency::kParallel>>::kConcurrency == Concurrency::kParallel);
static_assert(Align<Blocks<512, Concurrency::kDisjoint>>::kConcurrency == Concurrency::kDisjoint);
static_assert(Align<Blocks<512, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);
// What needs no lock has none.
static_assert(sizeof(Align<Full>::State) == sizeof(Full::State));
static_assert(sizeof(Align<Align<Full>>::State) == sizeof(Full::State));
static_assert(sizeof(Align<Blocks<512, Concurrency::kSerial>>::State) == sizeof(Full512::State));

TEST(AlignTest, WithNothingToConvertEveryOperationArrivesUnchanged) {
  using Stack = Align<Full>;
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 4096, .script = &script}}, state).ok());
  CallEveryOperation<Stack>(state);
  EXPECT_EQ(script.calls, kEveryCall);
  script.calls.clear();
  CallServerOperations<Stack>(state);
  EXPECT_EQ(script.calls, kServerCalls);
  EXPECT_EQ(Stack::Backing(state, {14, 15})->offset, 14u);
}

// Device and model side by side; contracts watch both sides of the layer.
template <uint64_t kBlock, Concurrency kRunsTogether>
class Model {
 public:
  using Stack = Contract<Align<Contract<Blocks<kBlock, kRunsTogether>>>>;

  explicit Model(uint64_t size) : model_(size) {
    EXPECT_TRUE(Stack::Open({.below = {.below = {.below = {.size = size, .script = &script_}}}}, state_).ok());
  }

  // Every operation on one range, each checked against the model.
  void Exercise(Range range) {
    SCOPED_TRACE(std::to_string(range.offset) + "+" + std::to_string(range.length));
    Fill(range);
    EXPECT_TRUE(Stack::Write(state_, range.offset, ConstBytes(model_).subspan(range.offset, range.length)).ok());
    Check(range);
    Fill(range);
    script_.calls.clear();
    EXPECT_TRUE(Stack::WriteThrough(state_, range.offset, ConstBytes(model_).subspan(range.offset, range.length)).ok());
    EXPECT_TRUE(std::none_of(script_.calls.begin(), script_.calls.end(), [](const Call& c) { return c.operation == "Write"; }));
    Check(range);
    EXPECT_TRUE(Stack::Prefetch(state_, range).ok());
    EXPECT_TRUE(Stack::Trim(state_, range).ok());
    std::fill_n(model_.begin() + range.offset, range.length, std::byte{0});
    Check(range);
    Fill(range);
    EXPECT_TRUE(Stack::Write(state_, range.offset, ConstBytes(model_).subspan(range.offset, range.length)).ok());
    EXPECT_TRUE(Stack::WriteZeroes(state_, range).ok());
    std::fill_n(model_.begin() + range.offset, range.length, std::byte{0});
    Check(range);
  }

 private:
  void Fill(Range range) {
    for (uint64_t i = range.offset; i < range.end(); ++i) model_[i] = static_cast<std::byte>(++counter_ % 255 + 1);
  }

  void Check(Range range) {
    EXPECT_EQ(script_.medium, model_);
    std::vector<std::byte> out(range.length);
    EXPECT_TRUE(Stack::Read(state_, range.offset, out).ok());
    EXPECT_TRUE(std::equal(out.begin(), out.end(), model_.begin() + range.offset));
    uint64_t end = range.offset;
    const auto check_extent = [&](const Extent& extent) {
      end = extent.range.end();
      const auto begin = model_.begin() + extent.range.offset;
      const bool zero = std::all_of(begin, begin + extent.range.length, [](std::byte b) { return b == std::byte{0}; });
      EXPECT_TRUE(extent.kind == Extent::Kind::kData || zero);
      return true;
    };
    EXPECT_TRUE(Stack::Extents(state_, range, check_extent).ok());
    EXPECT_EQ(end, range.end());
  }

  std::vector<std::byte> model_;
  uint64_t counter_ = 0;
  Script script_;
  typename Stack::State state_;
};

TEST(AlignTest, EveryRangeOfSmallBlocksMatchesTheModel) {
  Model<8, Concurrency::kParallel> model(40);
  for (uint64_t offset = 0; offset < 40; ++offset) {
    for (uint64_t length = 1; length <= 40 - offset; ++length) model.Exercise({offset, length});
  }
}

// A block size need not be a power of two: a stripe over three devices has none.
TEST(AlignTest, EveryRangeOfOddBlocksMatchesTheModel) {
  Model<6, Concurrency::kDisjoint> model(24);
  for (uint64_t offset = 0; offset < 24; ++offset) {
    for (uint64_t length = 1; length <= 24 - offset; ++length) model.Exercise({offset, length});
  }
}

TEST(AlignTest, EveryEdgeOfSectorsMatchesTheModel) {
  constexpr uint64_t kSize = 2560;
  std::vector<uint64_t> edges;
  for (uint64_t block = 0; block <= kSize; block += 512) {
    for (int64_t delta : {-256, -2, -1, 0, 1, 2}) {
      const int64_t at = static_cast<int64_t>(block) + delta;
      if (at >= 0 && at <= static_cast<int64_t>(kSize)) edges.push_back(at);
    }
  }
  Model<512, Concurrency::kParallel> parallel(kSize);
  Model<512, Concurrency::kDisjoint> disjoint(kSize);
  Model<512, Concurrency::kSerial> serial(kSize);
  for (uint64_t begin : edges) {
    for (uint64_t end : edges) {
      if (begin >= end) continue;
      parallel.Exercise({begin, end - begin});
      disjoint.Exercise({begin, end - begin});
      serial.Exercise({begin, end - begin});
    }
  }
}

TEST(AlignTest, WholeBlocksGoBelowInOnePiece) {
  using Stack = Align<Full512>;
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 8192, .script = &script}}, state).ok());
  std::vector<std::byte> bytes(2048 + 20);
  ASSERT_TRUE(Stack::Write(state, 512, ConstBytes(bytes).first(2048)).ok());
  ASSERT_TRUE(Stack::Trim(state, {502, 2068}).ok());
  ASSERT_TRUE(Stack::Read(state, 502, bytes).ok());
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Write", {512, 2048}},
                                             {"Read", {0, 512}},
                                             {"Write", {0, 512}},
                                             {"Trim", {512, 2048}},
                                             {"Read", {2560, 512}},
                                             {"Write", {2560, 512}},
                                             {"Read", {0, 512}},
                                             {"Read", {512, 2048}},
                                             {"Read", {2560, 512}}}));
}

TEST(AlignTest, ExtentsAreClippedToTheRangeAndMayEndEarly) {
  using Stack = Align<Full512>;
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 8192, .script = &script}}, state).ok());
  std::fill_n(script.medium.begin() + 1024, 512, std::byte{1});
  std::vector<Extent> extents;
  const auto keep = [&](const Extent& extent) {
    extents.push_back(extent);
    return extents.size() < 3;
  };
  ASSERT_TRUE(Stack::Extents(state, {100, 3000}, keep).ok());
  EXPECT_EQ(extents,
            (std::vector<Extent>{
                {{100, 924}, Extent::Kind::kHole}, {{1024, 512}, Extent::Kind::kData}, {{1536, 1564}, Extent::Kind::kHole}}));
  extents.clear();
  ASSERT_TRUE(Stack::Extents(state, {1030, 5}, keep).ok());
  EXPECT_EQ(extents, (std::vector<Extent>{{{1030, 5}, Extent::Kind::kData}}));
}

TEST(AlignTest, ASizeThatIsNoMultipleOfTheBlocksIsRefused) {
  using Stack = Align<Full512>;
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open({.below = {.size = 8192, .script = &script}}, state).ok());
  const absl::Status status = Stack::Resize(state, 1000);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("1000"), std::string::npos) << status.message();
  EXPECT_TRUE(script.calls.empty());
  EXPECT_TRUE(Stack::Resize(state, 1024).ok());
  EXPECT_EQ(Stack::Size(state), 1024u);
}

TEST(AlignTest, EveryErrorBelowSurfacesAndSparesTheRest) {
  using Stack = Align<Full512>;
  const auto configure = [](Script& script) { return Stack::Config{.below = {.size = 8192, .script = &script}}; };
  const Range range = {700, 2000};
  std::vector<std::byte> bytes(range.length, std::byte{0xee});
  // Read and write one block at each end, and hand on the whole blocks between.
  EXPECT_EQ(FailNth<Stack>(configure, range, [&](auto& state) { return Stack::Write(state, 700, bytes); }), 5);
  EXPECT_EQ(FailNth<Stack>(configure, range, [&](auto& state) { return Stack::WriteThrough(state, 700, bytes); }), 5);
  EXPECT_EQ(FailNth<Stack>(configure, range, [&](auto& state) { return Stack::Trim(state, range); }), 5);
  EXPECT_EQ(FailNth<Stack>(configure, range, [&](auto& state) { return Stack::WriteZeroes(state, range); }), 5);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Read(state, 700, bytes); }), 3);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Flush(state); }), 1);
  EXPECT_EQ(FailNth<Stack>(configure, {}, [&](auto& state) { return Stack::Prefetch(state, range); }), 1);
  const auto extents = [&](auto& state) { return Stack::Extents(state, range, [](const Extent&) { return true; }); };
  EXPECT_EQ(FailNth<Stack>(configure, {}, extents), 1);
}

// ---- Threads.

// Lets other threads run before and after each call, where a race has its window.
struct YieldHook {
  template <class BelowConfig>
  struct Config {
    BelowConfig below;
  };
  struct State {};
  template <class Config>
  static constexpr Description<Config> Describe() {
    return {"yield", "lets other threads run around each call", Family::kObserver};
  }
  template <class Config>
  static absl::Status Open(const Config&, State&) {
    return absl::OkStatus();
  }
  template <class Next>
  static absl::Status Around(State&, const Request&, Next&& next) {
    std::this_thread::yield();
    absl::Status status = next();
    std::this_thread::yield();
    return status;
  }
};

// The contracts die where calls meet in a block that must not, the race detector where bytes do.
template <Concurrency kRunsTogether>
using Watched = Contract<Align<Contract<Observer<YieldHook, Blocks<512, kRunsTogether>>>>>;

template <class Stack>
std::unique_ptr<typename Stack::State> OpenWatched(Script& script, uint64_t size) {
  auto state = std::make_unique<typename Stack::State>();
  EXPECT_TRUE(Stack::Open({.below = {.below = {.below = {.below = {.size = size, .script = &script}}}}}, *state).ok());
  return state;
}

// Threads own cells of 96 bytes in turn, five to a block and some across two, and use them in all ways.
template <Concurrency kRunsTogether>
void ExerciseCells() {
  using Stack = Watched<kRunsTogether>;
  constexpr uint64_t kCell = 96;
  constexpr uint64_t kThreads = 4;
  constexpr uint64_t kCells = 20;
  constexpr int kRounds = 500;
  Script script;
  auto state = OpenWatched<Stack>(script, 2048);
  std::vector<std::byte> model(2048);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      uint64_t random = t + 1;
      std::array<std::byte, kCell> bytes;
      for (int i = 0; i < kRounds; ++i) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        const uint64_t cell = (random >> 33) % (kCells / kThreads) * kThreads + t;
        const Range range = {cell * kCell, kCell};
        std::byte* const mine = model.data() + range.offset;
        switch ((random >> 60) % 6) {
          case 0:
            std::memset(mine, i % 255 + 1, kCell);
            EXPECT_TRUE(Stack::Write(*state, range.offset, ConstBytes(mine, kCell)).ok());
            break;
          case 1:
            std::memset(mine, i % 255 + 1, kCell);
            EXPECT_TRUE(Stack::WriteThrough(*state, range.offset, ConstBytes(mine, kCell)).ok());
            break;
          case 2:
            std::memset(mine, 0, kCell);
            EXPECT_TRUE(Stack::Trim(*state, range).ok());
            break;
          case 3:
            std::memset(mine, 0, kCell);
            EXPECT_TRUE(Stack::WriteZeroes(*state, range).ok());
            break;
          case 4:
            EXPECT_TRUE(Stack::Extents(*state, range, [](const Extent&) { return true; }).ok());
            EXPECT_TRUE(Stack::Prefetch(*state, range).ok());
            break;
          default:
            EXPECT_TRUE(Stack::Read(*state, range.offset, bytes).ok());
            EXPECT_EQ(std::memcmp(bytes.data(), mine, kCell), 0);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(script.medium, model);
}

TEST(AlignConcurrencyTest, NeighboursInABlockKeepTheirBytesParallel) { ExerciseCells<Concurrency::kParallel>(); }
TEST(AlignConcurrencyTest, NeighboursInABlockKeepTheirBytesDisjoint) { ExerciseCells<Concurrency::kDisjoint>(); }

// Runs a function after the first read.
struct AfterReadHook {
  struct Once {
    std::function<void()> run;
    std::atomic<bool> done{false};
  };
  template <class BelowConfig>
  struct Config {
    Once* once = nullptr;
    BelowConfig below;
  };
  struct State {
    Once* once = nullptr;
  };
  template <class Config>
  static constexpr Description<Config> Describe() {
    return {"after-read", "runs a function after the first read", Family::kObserver};
  }
  template <class Config>
  static absl::Status Open(const Config& config, State& hook) {
    hook.once = config.once;
    return absl::OkStatus();
  }
  template <class Next>
  static absl::Status Around(State& hook, const Request& request, Next&& next) {
    absl::Status status = next();
    if (request.operation == Operation::kRead && !hook.once->done.exchange(true)) hook.once->run();
    return status;
  }
};

// Under kParallel calls may overlap; only the bytes they have in common are unspecified. A whole block is written between the
// read and the write of one that changes a part of it.
TEST(AlignConcurrencyTest, AWholeBlockWrittenMeanwhileIsNotUndone) {
  using Stack = Contract<Align<Contract<Observer<AfterReadHook, Full512>>>>;
  using Change = std::function<absl::Status(Stack::State&)>;
  std::array<std::byte, 512> whole;
  whole.fill(std::byte{7});
  std::array<std::byte, 10> part;
  part.fill(std::byte{9});
  const std::vector<Change> parts = {
      [&](auto& state) { return Stack::Write(state, 100, part); },
      [&](auto& state) { return Stack::WriteThrough(state, 100, part); },
      [&](auto& state) {
        return Stack::Trim(state, {100, 10});
      },
      [&](auto& state) {
        return Stack::WriteZeroes(state, {100, 10});
      },
  };
  const std::vector<std::pair<std::byte, Change>> wholes = {
      {std::byte{7}, [&](auto& state) { return Stack::Write(state, 0, whole); }},
      {std::byte{7}, [&](auto& state) { return Stack::WriteThrough(state, 0, whole); }},
      {std::byte{0},
       [&](auto& state) {
         return Stack::Trim(state, {0, 512});
       }},
      {std::byte{0},
       [&](auto& state) {
         return Stack::WriteZeroes(state, {0, 512});
       }},
  };
  for (size_t i = 0; i < parts.size(); ++i) {
    for (size_t j = 0; j < wholes.size(); ++j) {
      SCOPED_TRACE(std::to_string(i) + " " + std::to_string(j));
      const std::byte left = wholes[j].first;
      const Change& change_whole = wholes[j].second;
      Script script;
      script.medium.assign(512, std::byte{1});
      Stack::State state;
      std::thread other;
      AfterReadHook::Once once;
      once.run = [&] {
        other = std::thread([&] { EXPECT_TRUE(change_whole(state).ok()); });
        // Time enough to be done, if nothing held it back.
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      };
      Stack::Config config{.below = {.below = {.below = {.once = &once, .below = {.size = 512, .script = &script}}}}};
      ASSERT_TRUE(Stack::Open(config, state).ok());
      EXPECT_TRUE(parts[i](state).ok());
      other.join();
      const auto right = [left](std::byte b) { return b == left; };
      EXPECT_TRUE(std::all_of(script.medium.begin(), script.medium.begin() + 100, right));
      EXPECT_TRUE(std::all_of(script.medium.begin() + 110, script.medium.end(), right));
    }
  }
}

TEST(AlignConcurrencyTest, AReadSeesItsOtherBytesWhileAPartOfTheBlockChanges) {
  using Stack = Watched<Concurrency::kParallel>;
  Script script;
  script.medium.assign(1024, std::byte{1});
  auto state = OpenWatched<Stack>(script, 1024);
  std::array<std::byte, 10> part;
  part.fill(std::byte{9});
  std::thread writer([&] {
    for (int i = 0; i < 500; ++i) EXPECT_TRUE(Stack::Write(*state, 500 + i % 20, part).ok());
  });
  std::array<std::byte, 1024> all;
  for (int i = 0; i < 500; ++i) {
    EXPECT_TRUE(Stack::Read(*state, 0, all).ok());
    const auto untouched = [](std::byte b) { return b == std::byte{1}; };
    EXPECT_TRUE(std::all_of(all.begin(), all.begin() + 500, untouched));
    EXPECT_TRUE(std::all_of(all.begin() + 530, all.end(), untouched));
  }
  writer.join();
}

}  // namespace
}  // namespace buse::testing

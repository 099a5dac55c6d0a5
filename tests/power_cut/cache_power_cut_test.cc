// SPDX-License-Identifier: Apache-2.0
//
// Cache across power cuts: caches of four pages over disks of more, so that pages are evicted and writes must make room.

#include <cstdint>
#include <vector>

#include "buse/device.h"
#include "gtest/gtest.h"
#include "layers/cache.h"
#include "layers/operation.h"
#include "tests/power_cut/explore.h"

namespace buse::testing {
namespace {

constexpr uint64_t kDisk = 6 * 4096;

// Two dirty pages are the limit, so that the third write of a page writes one back; parts of pages, and ranges that dirty more
// pages than may be.
std::vector<Step> Steps(uint64_t block) {
  std::vector<Step> steps = {{Operation::kWrite, {0, 4096}},
                             {Operation::kWrite, {block < 4096 ? 3584u : 4096u, 4096 + block}},
                             {Operation::kWrite, {8192, 3 * 4096}},
                             {Operation::kFlush},
                             {Operation::kWriteThrough, {0, 8192}},
                             {Operation::kTrim, {4096, 8192}},
                             {Operation::kWriteZeroes, {8192, block < 4096 ? 512u : 4096u}}};
  if (block == 1) {
    steps.push_back({Operation::kWrite, {8100, 200}});
    steps.push_back({Operation::kWriteThrough, {4000, 200}});
  }
  return steps;
}

template <Device Disk>
void ExpectCacheSurvives(bool write_through) {
  using Stack = Cache<Disk>;
  ExpectSurvivesPowerCuts<Stack>(
      {.configure =
           [=](Rack& rack) {
             return typename Stack::Config{
                 .size = 4 * 4096, .write_through = write_through, .read_ahead = 0, .below = rack.Disk<Disk>(kDisk)};
           },
       .steps = Steps(Disk::kBlockSize),
       .random_steps = 16,
       .states_per_cut = 64});
}

TEST(CachePowerCutTest, WriteBackOverBytes) { ExpectCacheSurvives<CutDisk<>>(false); }
TEST(CachePowerCutTest, WriteBackOverSectors) { ExpectCacheSurvives<CutDisk<512>>(false); }
TEST(CachePowerCutTest, WriteBackOverPages) { ExpectCacheSurvives<CutDisk<4096>>(false); }
TEST(CachePowerCutTest, WriteBackWithoutShortcutsBelow) { ExpectCacheSurvives<CutDisk<1, false>>(false); }
TEST(CachePowerCutTest, WriteThroughOverBytes) { ExpectCacheSurvives<CutDisk<>>(true); }
TEST(CachePowerCutTest, WriteThroughOverSectors) { ExpectCacheSurvives<CutDisk<512>>(true); }
TEST(CachePowerCutTest, WriteThroughOverPages) { ExpectCacheSurvives<CutDisk<4096>>(true); }

// The steps of the kit, which touch few sectors, so that all states can be enumerated.
TEST(CachePowerCutTest, FewSectors) {
  using Stack = Cache<CutDisk<>>;
  ExpectSurvivesPowerCuts<Stack>(
      {.configure = [](Rack& rack) { return Stack::Config{.size = 4 * 4096, .below = rack.Disk(8192)}; }});
}

}  // namespace
}  // namespace buse::testing

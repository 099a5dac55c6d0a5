// SPDX-License-Identifier: Apache-2.0

#include "layers/page_set.h"

#include <cstdint>
#include <optional>
#include <set>

#include "gtest/gtest.h"
#include "layers/splitmix.h"

namespace buse::testing {
namespace {

TEST(PageSetTest, BehavesLikeASet) {
  PageSet pages;
  ASSERT_TRUE(pages.Open(200).ok());
  std::set<uint64_t> model;
  SplitMix64 random(1);
  for (int i = 0; i < 100000; ++i) {
    // Dense at first, then spread over all numbers.
    const uint64_t page = i < 50000 ? random() % 300 : random() % 300 << 40;
    ASSERT_EQ(pages.Contains(page), model.count(page) == 1);
    if (model.count(page) == 1) {
      pages.Erase(page);
      model.erase(page);
    } else {
      ASSERT_EQ(pages.Insert(page), model.size() < 200);
      if (model.size() < 200) model.insert(page);
    }
    ASSERT_EQ(pages.size(), model.size());
    const auto next = model.lower_bound(page);
    ASSERT_EQ(pages.Next(page), next == model.end() ? std::nullopt : std::optional<uint64_t>(*next));
  }
}

TEST(PageSetTest, HoldsNothingWithoutCapacity) {
  PageSet pages;
  ASSERT_TRUE(pages.Open(0).ok());
  EXPECT_FALSE(pages.Insert(1));
  EXPECT_EQ(pages.Next(0), std::nullopt);
}

}  // namespace
}  // namespace buse::testing

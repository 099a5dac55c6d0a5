// SPDX-License-Identifier: Apache-2.0

#include "bench/histogram.h"

#include "gtest/gtest.h"

namespace buse::bench {
namespace {

TEST(LatencyHistogramTest, AQuantileIsNeverTooSmallAndAtMostAThirtySecondTooLarge) {
  for (uint64_t value = 0; value < uint64_t{1} << 58; value += value / 20 + 1) {
    LatencyHistogram histogram;
    histogram.Record(value);
    histogram.Record(UINT64_MAX);
    ASSERT_GE(histogram.Quantile(0.5), value);
    ASSERT_LE(histogram.Quantile(0.5), value + value / 32);
  }
}

TEST(LatencyHistogramTest, QuantilesAreThoseOfTheSortedValues) {
  LatencyHistogram histogram;
  for (uint64_t value = 1; value <= 30; ++value) histogram.Record(value);
  EXPECT_EQ(histogram.Quantile(0), 1u);
  EXPECT_EQ(histogram.Quantile(0.5), 15u);
  EXPECT_EQ(histogram.Quantile(0.9), 27u);
  EXPECT_EQ(histogram.Quantile(1), 30u);
  EXPECT_EQ(histogram.max(), 30u);
}

TEST(LatencyHistogramTest, TheMaximumIsExact) {
  LatencyHistogram histogram;
  histogram.Record(1'000'003);
  EXPECT_EQ(histogram.max(), 1'000'003u);
  EXPECT_EQ(histogram.Quantile(0.99), 1'000'003u);
}

TEST(LatencyHistogramTest, MergedIsAsIfCountedInOne) {
  LatencyHistogram a, b, both;
  for (uint64_t value = 1; value < 100'000; value = value * 3 / 2 + 1) {
    (value % 2 == 0 ? a : b).Record(value);
    both.Record(value);
  }
  a.Merge(b);
  EXPECT_EQ(a.count(), both.count());
  EXPECT_EQ(a.max(), both.max());
  for (const double q : {0.1, 0.5, 0.9, 0.99}) EXPECT_EQ(a.Quantile(q), both.Quantile(q));
}

TEST(LatencyHistogramTest, NothingCountedIsZero) { EXPECT_EQ(LatencyHistogram().Quantile(0.5), 0u); }

}  // namespace
}  // namespace buse::bench

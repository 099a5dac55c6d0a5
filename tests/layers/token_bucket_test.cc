// SPDX-License-Identifier: Apache-2.0
//
// TokenBucket: by a clock of its own, so that every time is exact.

#include "layers/token_bucket.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace buse {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using Time = TokenBucket::Time;

constexpr Time kNow = hours(1000);

TEST(TokenBucketTest, WithoutARateNothingWaits) {
  TokenBucket bucket;
  EXPECT_TRUE(bucket.unlimited());
  EXPECT_EQ(bucket.Take(kNow, UINT64_MAX), kNow);
  EXPECT_EQ(bucket.Take(kNow, 1), kNow);
}

TEST(TokenBucketTest, ABurstPassesAtOnceAndTheRestAtTheRate) {
  TokenBucket bucket;
  bucket.Start(1000, milliseconds(10));
  EXPECT_FALSE(bucket.unlimited());
  for (int i = 0; i < 11; ++i) EXPECT_LE(bucket.Take(kNow, 1), kNow) << "10 tokens, and one is borrowed";
  for (int i = 1; i <= 5; ++i) EXPECT_EQ(bucket.Take(kNow, 1), kNow + milliseconds(i));
}

TEST(TokenBucketTest, WithoutABurstOneFollowsTheOther) {
  TokenBucket bucket;
  bucket.Start(1000, Time(0));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(bucket.Take(kNow, 1), kNow + milliseconds(i));
}

TEST(TokenBucketTest, MoreThanTheBurstIsBorrowed) {
  TokenBucket bucket;
  bucket.Start(1000, milliseconds(10));
  EXPECT_LE(bucket.Take(kNow, 100), kNow);
  EXPECT_EQ(bucket.Take(kNow, 1), kNow + milliseconds(90)) << "when the 90 are paid for";
}

TEST(TokenBucketTest, APauseFillsTheBucketAndNoMore) {
  TokenBucket bucket;
  bucket.Start(1000, milliseconds(10));
  EXPECT_LE(bucket.Take(kNow, 110), kNow);
  EXPECT_EQ(bucket.Take(kNow + milliseconds(105), 5), kNow + milliseconds(100)) << "5 had flowed in";
  const Time later = kNow + hours(1);
  EXPECT_LE(bucket.Take(later, 10), later);
  EXPECT_LE(bucket.Take(later, 1), later);
  EXPECT_EQ(bucket.Take(later, 1), later + milliseconds(1));
}

TEST(TokenBucketTest, TheRateIsExactOverManyTokens) {
  TokenBucket bucket;
  bucket.Start(3 << 20, Time(0));
  for (int i = 0; i < 1024; ++i) bucket.Take(kNow, 4096);
  const auto passed = static_cast<double>((bucket.Take(kNow, 1) - kNow).count());
  EXPECT_NEAR(passed, 1e9 * 4 / 3, 2048) << "4 MiB at 3 MiB a second, rounded up to nanoseconds";
}

// The guarantee of RateLimit, over every interval between two requests: what began before the second is no more than what
// flowed in meanwhile, and the burst.
TEST(TokenBucketTest, NoIntervalHasMoreThanTheRateAndTheBurst) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 100; ++round) {
    SCOPED_TRACE(round);
    const uint64_t rate = 1 + random() % 100000;
    const Time burst = milliseconds(random() % 200);
    TokenBucket bucket;
    bucket.Start(rate, burst);
    Time now = kNow;
    std::vector<Time> begins;
    std::vector<uint64_t> before = {0};  // tokens taken before each, and after the last
    for (int i = 0; i < 200; ++i) {
      now += Time(random() % (random() % 10 == 0 ? 1000000000 : 1000000));
      const uint64_t tokens = 1 + random() % (rate / 50 + 1);
      begins.push_back(std::max(now, bucket.Take(now, tokens)));
      before.push_back(before.back() + tokens);
    }
    EXPECT_TRUE(std::is_sorted(begins.begin(), begins.end())) << "they go on in the order they came";
    for (size_t i = 0; i < begins.size(); ++i) {
      for (size_t j = i + 1; j < begins.size(); ++j) {
        const double seconds = std::chrono::duration<double>(begins[j] - begins[i] + burst).count();
        ASSERT_LE(static_cast<double>(before[j] - before[i]), static_cast<double>(rate) * seconds + 1e-3) << i << " " << j;
      }
    }
  }
}

TEST(TokenBucketTest, NoAmountOverflows) {
  TokenBucket bucket;
  bucket.Start(1, Time(0));
  Time before = bucket.Take(kNow, UINT64_MAX);
  for (int i = 0; i < 1000; ++i) {
    const Time start = bucket.Take(kNow, UINT64_MAX);
    ASSERT_GE(start, before);
    before = start;
  }
  EXPECT_GT(before, kNow + hours(24 * 365));
}

TEST(TokenBucketTest, ThreadsGetEachTokenOnce) {
  constexpr int kEach = 5000;
  TokenBucket bucket;
  bucket.Start(1000, Time(0));
  std::vector<std::vector<Time>> times(4);
  std::vector<std::thread> threads;
  for (std::vector<Time>& mine : times) {
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) mine.push_back(bucket.Take(kNow, 1));
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<Time> all;
  for (const std::vector<Time>& mine : times) {
    EXPECT_TRUE(std::is_sorted(mine.begin(), mine.end())) << "in the order they came";
    all.insert(all.end(), mine.begin(), mine.end());
  }
  std::sort(all.begin(), all.end());
  for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], kNow + milliseconds(i));
}

}  // namespace
}  // namespace buse

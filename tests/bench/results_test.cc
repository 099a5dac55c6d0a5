// SPDX-License-Identifier: Apache-2.0

#include "bench/results.h"

#include <string>

#include "bench/contestant.h"
#include "bench/subjects.h"
#include "gtest/gtest.h"

namespace buse::bench {
namespace {

const Subject kFloor = {"floor", "", Kind::kFloor, Medium::kOwn, {"floor"}, {}};
const Subject kFirst = {"first", "", Kind::kOurs, Medium::kOwn, {"first"}, {}};
const Subject kSecond = {"second", "", Kind::kOurs, Medium::kOwn, {"second"}, {}};
const Subject kSlowPeer = {"slow", "", Kind::kPeer, Medium::kOwn, {"slow"}, {}};
const Subject kFastPeer = {"fast", "", Kind::kPeer, Medium::kOwn, {"fast"}, {}};
const Group kGroup = {"memory", "", {}};

Result Rates(const Subject& subject, std::vector<double> rates) {
  Result result = {&subject, {}};
  for (size_t i = 0; i < rates.size(); ++i) {
    result.samples[static_cast<int>(i)] = {{"requests_per_second", rates[i]}, {"server_cpu_us_per_request", 2}};
  }
  return result;
}

Row RowOf(size_t runs) {
  const auto few = [runs](std::vector<double> rates) {
    rates.resize(runs);
    return rates;
  };
  Row row = {"memory/4k-randread-d32", &kGroup, {}, {}};
  // The second run met a bad mood of the machine, for everyone.
  row.results = {Rates(kFloor, few({800, 400, 800, 800, 800})), Rates(kFirst, few({600, 300, 600, 600, 600})),
                 Rates(kSecond, few({500, 250, 500, 500, 500})), Rates(kSlowPeer, few({100, 50, 100, 100, 100})),
                 Rates(kFastPeer, few({200, 100, 200, 200, 200}))};
  return row;
}

TEST(SpreadTest, IsMedianAndExtremes) {
  EXPECT_EQ(SpreadOf({5, 1, 9}).median, 5);
  EXPECT_EQ(SpreadOf({5, 1, 9}).min, 1);
  EXPECT_EQ(SpreadOf({5, 1, 9}).max, 9);
  EXPECT_EQ(SpreadOf({4, 1, 9, 2}).median, 3);
}

TEST(RatioTest, IsTheMedianOfRatiosWithinRuns) {
  const Row row = RowOf(5);
  const auto ratio = Row::Ratio(row.results[1], row.results[0], "requests_per_second");
  ASSERT_TRUE(ratio.has_value());
  EXPECT_EQ(ratio->median, 0.75);
  EXPECT_EQ(ratio->min, 0.75) << "the bad mood was everyone's";
}

TEST(RatioTest, TakesFiveRunsOfBoth) {
  const Row row = RowOf(5);
  Result fewer = row.results[0];
  fewer.samples.erase(2);
  EXPECT_FALSE(Row::Ratio(row.results[1], fewer, "requests_per_second").has_value());
  EXPECT_FALSE(Row::Ratio(fewer, row.results[1], "requests_per_second").has_value());
  EXPECT_FALSE(Row::Ratio(row.results[1], row.results[0], "memory_bytes").has_value());
}

TEST(RowTest, OursAreHeldAgainstTheFloorTheFastestPeerAndTheFirstOfOurs) {
  const Row row = RowOf(5);
  std::vector<std::string> marks;
  for (const Result* mark : row.MarksFor(row.results[2])) marks.push_back(mark->subject->name);
  EXPECT_EQ(marks, (std::vector<std::string>{"floor", "fast", "first"}));
  EXPECT_TRUE(row.MarksFor(row.results[3]).empty()) << "a peer's figure speaks for itself";
}

TEST(ReportTest, FewRunsTellNoRatios) {
  for (const size_t runs : {4, 5}) {
    Report report;
    report.runs = static_cast<int>(runs);
    report.rows = {RowOf(runs)};
    const bool told = runs >= 5;
    EXPECT_EQ(report.ToText().find("0.75 x floor") != std::string::npos, told) << report.ToText();
    EXPECT_EQ(report.ToText().find("No ratios from 4 runs: they take 5") == std::string::npos, told);
    EXPECT_EQ(report.ToJson().find("\"ratio\"") != std::string::npos, told) << report.ToJson();
  }
}

TEST(ReportTest, AFailureIsTold) {
  Report report;
  report.runs = 1;
  report.rows = {RowOf(1)};
  report.rows[0].results[4].samples.clear();
  report.rows[0].results[4].failure = "it ended: out of \"paper\"";
  EXPECT_NE(report.ToText().find("failed: it ended: out of \"paper\""), std::string::npos);
  EXPECT_NE(report.ToJson().find("\"failure\": \"it ended: out of \\\"paper\\\"\""), std::string::npos);
}

}  // namespace
}  // namespace buse::bench

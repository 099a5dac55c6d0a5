// SPDX-License-Identifier: Apache-2.0
//
// The benchmark works from end to end. What it measures here is worth nothing, and it says so.

#include <fstream>
#include <iterator>
#include <string>

#include "gtest/gtest.h"
#include "tests/process.h"

namespace buse {
namespace {

using testing::Result;
using testing::Runfile;
using testing::RunToEnd;

const std::string kBench = Runfile("bench/bench");

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

void ExpectContains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "no \"" << part << "\" in\n" << text;
}

TEST(BenchTest, AQuickRunMeasuresEveryKindOfRowAndItsReportIsMade) {
  const std::string json = ::testing::TempDir() + "/quick.json";
  const std::string page = ::testing::TempDir() + "/quick.html";
  const std::string rows =
      "memory/4k-randread-d4,memory/4k-randread-d1,memory/4k-randread-d2,4k-randwrite-d4-c2-f8,memory/idle,memory/"
      "footprint,file/64k-seqread-d2,stacks/4k-randrw-d1-f4,"
      "stacks/4k-randread-d1-c2";
  const Result run = RunToEnd({kBench, "--quick", "--rows", rows, "--subjects",
                               "floor,buse,buse-stats,classic,nbdkit-t1,file,cache-quarter,checksum", "--folder",
                               ::testing::TempDir(), "--json", json});
  ASSERT_EQ(run.exit_code, 0) << run.output;
  ExpectContains(run.output, "No ratios from 1 run: they take 5.");
  EXPECT_EQ(run.output.find("failed:"), std::string::npos) << run.output;
  const std::string text = ReadFile(json);
  for (const char* part :
       {"\"format\": \"buse-bench 1\"", "\"kernel\": \"Linux", "\"cpus\": \"", "\"quick\": true", "\"runs\": 1",
        "\"name\": \"memory/4k-randread-d4\"", "\"name\": \"memory/4k-randwrite-d4-c2-f8\"",
        "\"name\": \"stacks/4k-randrw-d1-f4\"", "\"requests_per_second\": {", "\"server_cpu_us_per_request\": {",
        "\"latency_p99.9_us\": {", "\"memory_bytes\": {", "\"server_cpu_us_per_second\": {",
        "\"below_bytes_written_per_write\": {", "\"below_flushes_per_write\": {"}) {
    ExpectContains(text, part);
  }
  EXPECT_EQ(text.find("\"ratio\":"), std::string::npos) << "a ratio from one run";
  const Result report = RunToEnd({Runfile("bench/report"), json, page});
  ASSERT_EQ(report.exit_code, 0) << report.output;
  const std::string html = ReadFile(page);
  ExpectContains(html, "<svg");
  ExpectContains(html, "Too few runs for ratios");
  ExpectContains(html, "memory/footprint");
  EXPECT_EQ(html.find("src="), std::string::npos) << "the page needs nothing from elsewhere";
  EXPECT_EQ(html.find("<script"), std::string::npos);
  const Result picture = RunToEnd({Runfile("bench/report"), json, ::testing::TempDir() + "/quick.svg"});
  EXPECT_EQ(picture.exit_code, 1);
  ExpectContains(picture.output, "--rows layers");
}

TEST(BenchTest, ThePictureOfEmptyLayersStandsAlone) {
  const std::string json = ::testing::TempDir() + "/layers.json";
  const std::string picture = ::testing::TempDir() + "/layers.svg";
  const Result run = RunToEnd({kBench, "--quick", "--rows", "layers", "--subjects", "buse-0,buse-32,nbdkit-0,nbdkit-32", "--folder",
                               ::testing::TempDir(), "--json", json});
  ASSERT_EQ(run.exit_code, 0) << run.output;
  const Result report = RunToEnd({Runfile("bench/report"), json, picture});
  ASSERT_EQ(report.exit_code, 0) << report.output;
  const std::string svg = ReadFile(picture);
  EXPECT_EQ(svg.rfind("<svg xmlns=", 0), 0u) << svg.substr(0, 100);
  ExpectContains(svg, "<style>");
  ExpectContains(svg, "buse: 32 layers: ");
  ExpectContains(svg, "nbdkit: 32 layers: ");
}

TEST(BenchTest, FiveRunsTellRatios) {
  const Result run = RunToEnd({kBench, "--rows", "512-randread-d8", "--subjects", "floor,buse", "--runs", "5", "--seconds",
                               "0.02", "--warmup", "0.01", "--size", "16M", "--folder", ::testing::TempDir()});
  ASSERT_EQ(run.exit_code, 0) << run.output;
  ExpectContains(run.output, " x floor (CPU ");
}

TEST(BenchTest, NothingIsLeftBehind) {
  const std::string folder = ::testing::TempDir() + "/empty";
  ASSERT_EQ(testing::Shell("mkdir -p " + folder).exit_code, 0);
  const Result run = RunToEnd({kBench, "--quick", "--rows", "file/4k-randread-d1,stacks/4k-randread-d1", "--subjects",
                               "buse,file", "--folder", folder});
  ASSERT_EQ(run.exit_code, 0) << run.output;
  EXPECT_EQ(testing::Shell("ls -A " + folder).output, "");
}

TEST(BenchTest, RowsOfKernelDevicesAreLeftOutWithTheReason) {
  if (testing::Shell("[ -e /sys/block/nbd0 ]").exit_code == 0) GTEST_SKIP() << "this kernel has nbd";
  const std::string reason = "kernel/4k-randread-d1: no nbd in this kernel";
  const Result both = RunToEnd({kBench, "--quick", "--rows", "kernel/4k-randread-d1,memory/4k-randread-d1", "--subjects",
                                "buse", "--folder", ::testing::TempDir()});
  EXPECT_EQ(both.exit_code, 0) << both.output;
  ExpectContains(both.output, reason);
  ExpectContains(both.output, "\nmemory/4k-randread-d1\n");
  const Result alone = RunToEnd({kBench, "--quick", "--rows", "kernel/4k-randread-d1", "--folder", ::testing::TempDir()});
  EXPECT_EQ(alone.exit_code, 1) << alone.output;
  ExpectContains(alone.output, reason);
}

TEST(BenchTest, ErrorsTeach) {
  const Result row = RunToEnd({kBench, "--rows", "memory/4k-randread"});
  EXPECT_EQ(row.exit_code, 2);
  ExpectContains(row.output, "such as 4k-randread-d32");
  const Result group = RunToEnd({kBench, "--rows", "disk/4k-randread-d1"});
  EXPECT_EQ(group.exit_code, 2);
  ExpectContains(group.output, "--list");
  const Result subject = RunToEnd({kBench, "--subjects", "nobody"});
  EXPECT_EQ(subject.exit_code, 2);
  ExpectContains(subject.output, "\"nobody\"");
  EXPECT_EQ(RunToEnd({kBench, "--size", "17"}).exit_code, 2);
  EXPECT_EQ(RunToEnd({kBench, "--folder", "/nowhere", "--rows", "idle"}).exit_code, 1);
  ExpectContains(RunToEnd({kBench, "--list"}).output, "nbd-server");
  ExpectContains(RunToEnd({kBench, "--help"}).output, "--rows");
  const Result report = RunToEnd({Runfile("bench/report"), kBench});
  EXPECT_EQ(report.exit_code, 1);
}

TEST(ClientTest, SaysWhyItCannotConnect) {
  const Result run = RunToEnd({Runfile("bench/client"), "/nowhere/socket", "4k-randread-d1"});
  EXPECT_EQ(run.exit_code, 1);
  ExpectContains(run.output, "connecting to /nowhere/socket");
}

}  // namespace
}  // namespace buse

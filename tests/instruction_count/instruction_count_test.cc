// SPDX-License-Identifier: Apache-2.0
//
// Layers that do nothing cost nothing, and a read costs what it did: the instructions that a request takes, counted by
// callgrind.

#include <cstdint>
#include <cstdlib>
#include <string>

#include "gtest/gtest.h"
#include "tests/process.h"

namespace buse {
namespace {

using testing::Result;
using testing::Runfile;
using testing::RunToEnd;

uint64_t Instructions(const std::string& stack, uint64_t requests) {
  const Result result = RunToEnd({"valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
                                  Runfile("tests/instruction_count/request_loop"), stack, std::to_string(requests)});
  EXPECT_EQ(result.exit_code, 0) << result.output << "\n(no valgrind: run tools/setup)";
  const std::string label = "Collected : ";
  const size_t at = result.output.find(label);
  if (at == std::string::npos) {
    ADD_FAILURE() << "callgrind told no count:\n" << result.output;
    return 0;
  }
  return std::strtoull(result.output.c_str() + at + label.size(), nullptr, 10);
}

// Of the requests alone, without what it takes to start and end.
uint64_t InstructionsOfRequests(const std::string& stack, uint64_t requests) {
  return Instructions(stack, 2 * requests) - Instructions(stack, requests);
}

TEST(RequestLoopTest, ServingAllocatesNothing) {
  for (const char* stack : {"memory", "passthrough8", "read", "structured", "extended"}) {
    EXPECT_EQ(RunToEnd({Runfile("tests/instruction_count/request_loop"), stack, "1000000"}).exit_code, 0) << stack;
  }
}

TEST(InstructionCountTest, EightPassthroughAddNothing) {
  constexpr uint64_t kRequests = 40000;
  const double bare = InstructionsOfRequests("memory", kRequests);
  const double deep = InstructionsOfRequests("passthrough8", kRequests);
  std::printf("instructions per request: %.3f over memory, %.3f through eight layers more\n", bare / kRequests,
              deep / kRequests);
  RecordProperty("instructions_per_request", std::to_string(bare / kRequests));
  EXPECT_GT(bare / kRequests, 20) << "nothing was served";
  EXPECT_NEAR(deep / bare, 1, 3e-6);
}

// A request to read 4 KiB of memory, all but the system calls. Where a change makes it cheaper, or is worth what it costs, the
// number printed becomes the recorded one.
TEST(InstructionCountTest, AReadCostsWhatItDid) {
  constexpr char kCompiler[] = "g++ 12.2.0";
  constexpr double kRecorded = 202;
  constexpr double kBound = 1.02;
  const std::string compiler = RunToEnd({Runfile("tests/instruction_count/request_loop"), "compiler"}).output;
  constexpr uint64_t kRequests = 40000;
  const double each = InstructionsOfRequests("read", kRequests) / static_cast<double>(kRequests);
  std::printf("instructions per read: %.3f, compiled by %s", each, compiler.c_str());
  RecordProperty("instructions_per_read", std::to_string(each));
  EXPECT_GT(each, 20) << "nothing was served";
  if (compiler != std::string(kCompiler) + "\n") {
    GTEST_SKIP() << "what a read may cost is recorded for " << kCompiler << ", and this was compiled by " << compiler;
  }
  EXPECT_LE(each, kRecorded * kBound) << "reading from memory takes more instructions than were recorded";
}

}  // namespace
}  // namespace buse

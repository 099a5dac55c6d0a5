// SPDX-License-Identifier: Apache-2.0
//
// For layers that hand operations on unchanged: each called once, and what must then have arrived at the leaf.

#ifndef TESTS_EVERY_OPERATION_H_
#define TESTS_EVERY_OPERATION_H_

#include <array>
#include <vector>

#include "buse/device.h"
#include "buse/gather.h"
#include "buse/scatter.h"
#include "gtest/gtest.h"
#include "tests/leaves.h"

namespace buse::testing {

// Calls every operation of `Stack`, a layer over one that has them all, on a device of 4096 bytes that becomes one of 8192.
template <Device Stack>
void CallEveryOperation(typename Stack::State& state) {
  std::array<std::byte, 16> bytes{};
  Gather gather;
  EXPECT_EQ(Stack::Size(state), 4096u);
  EXPECT_TRUE(Stack::Read(state, 1, bytes).ok());
  EXPECT_TRUE(Stack::Write(state, 2, bytes).ok());
  EXPECT_TRUE(Stack::WriteThrough(state, 3, bytes).ok());
  EXPECT_TRUE(Stack::Flush(state).ok());
  EXPECT_TRUE(Stack::Trim(state, {4, 5}).ok());
  EXPECT_TRUE(Stack::WriteZeroes(state, {6, 7}).ok());
  EXPECT_TRUE(Stack::Extents(state, {8, 9}, [](const Extent&) { return true; }).ok());
  EXPECT_TRUE(Stack::Prefetch(state, {10, 11}).ok());
  EXPECT_TRUE(Stack::View(state, {12, 13}, gather).ok());
  EXPECT_EQ(gather.bytes(), 13u);
  EXPECT_TRUE(Stack::Resize(state, 8192).ok());
  EXPECT_EQ(Stack::Size(state), 8192u);
}

// The same for those that are there for a server, which not every such layer passes on.
template <Device Stack>
void CallServerOperations(typename Stack::State& state) {
  std::array<std::byte, 16> bytes{};
  Scatter scatter;
  EXPECT_TRUE(Stack::TryRead(state, 16, bytes));
  EXPECT_TRUE(Stack::TryWrite(state, 17, bytes));
  EXPECT_TRUE(Stack::Place(state, {14, 15}, scatter).ok());
  EXPECT_EQ(scatter.bytes(), 15u);
  EXPECT_TRUE(Stack::Placed(state, {14, 15}).ok());
}
inline const std::vector<Call> kServerCalls = {
    {"TryRead", {16, 16}}, {"TryWrite", {17, 16}}, {"Place", {14, 15}}, {"Placed", {14, 15}}};

// What the calls of CallEveryOperation are below a layer that changes none of them.
inline const std::vector<Call> kEveryCall = {
    {"Read", {1, 16}},       {"Write", {2, 16}},  {"WriteThrough", {3, 16}}, {"Flush", {}},      {"Trim", {4, 5}},
    {"WriteZeroes", {6, 7}}, {"Extents", {8, 9}}, {"Prefetch", {10, 11}},    {"View", {12, 13}}, {"Resize", {0, 8192}}};

}  // namespace buse::testing

#endif  // TESTS_EVERY_OPERATION_H_

// SPDX-License-Identifier: Apache-2.0
//
// FailNth: runs one operation of a stack again and again and fails the first call that reaches its leaf, then the second, and
// so on, until the operation makes no further call.
//
//   EXPECT_EQ(FailNth<Align<Full512>>([](Script& script) { return Align<Full512>::Config{.below = {.size = 4096, .script =
//   &script}}; },
//                                     {.offset = 700, .length = 100},
//                                     [&](auto& state) { return Align<Full512>::Write(state, 700, bytes); }),
//             2);  // the read and the write of one block

#ifndef TESTS_FAIL_NTH_H_
#define TESTS_FAIL_NTH_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "buse/device.h"
#include "gtest/gtest.h"
#include "tests/leaves.h"

namespace buse::testing {

// Opens a fresh `Stack` over a leaf that runs by the script that `configure` gets, fills it with a pattern if it can be
// written, and has `run(state)` do the operation, which may change `changes` and nothing else. Expects that each injected error
// comes back with its code, that every byte outside `changes` is what it was, and that the operation then succeeds when
// repeated. Returns the number of calls that were failed.
template <Device Stack, class Configure, class Run>
int FailNth(Configure configure, Range changes, Run run) {
  for (int n = 0;; ++n) {
    SCOPED_TRACE("call " + std::to_string(n) + " fails");
    Script script;
    script.error = absl::DataLossError("injected failure");
    auto state = std::make_unique<typename Stack::State>();
    if (absl::Status status = Stack::Open(configure(script), *state); !status.ok()) {
      ADD_FAILURE() << "Open: " << status.ToString();
      return n;
    }
    std::vector<std::byte> before(Stack::Size(*state));
    if constexpr (CanWrite<Stack>) {
      for (size_t i = 0; i < before.size(); ++i) before[i] = static_cast<std::byte>(i % 251 + 1);
      EXPECT_TRUE(Stack::Write(*state, 0, before).ok());
    }
    EXPECT_TRUE(Stack::Read(*state, 0, before).ok());
    const auto expect_unchanged = [&] {
      std::vector<std::byte> after(Stack::Size(*state));
      if (absl::Status status = Stack::Read(*state, 0, after); !status.ok()) {
        ADD_FAILURE() << "a later read: " << status.ToString();
        return;
      }
      for (size_t i = 0; i < std::min(before.size(), after.size()); ++i) {
        if (i >= changes.offset && i < changes.end()) continue;
        if (after[i] != before[i]) {
          ADD_FAILURE() << "byte " << i << " changed, outside of " << changes.offset << "+" << changes.length;
          return;
        }
      }
    };

    script.calls.clear();
    script.fail_at = n;
    const absl::Status status = run(*state);
    const bool fired = script.calls.size() > static_cast<size_t>(n);
    script.fail_at = -1;
    EXPECT_EQ(status.code(), fired ? script.error.code() : absl::StatusCode::kOk) << status.ToString();
    expect_unchanged();
    if (!fired) return n;
    if (absl::Status again = run(*state); !again.ok()) ADD_FAILURE() << "repeated: " << again.ToString();
    expect_unchanged();
    // A stack that swallows calls would go on for ever.
    if (n == 10000) {
      ADD_FAILURE() << "more than 10000 calls";
      return n;
    }
  }
}

}  // namespace buse::testing

#endif  // TESTS_FAIL_NTH_H_

// SPDX-License-Identifier: Apache-2.0
//
// Every layer over a device whose Nth call fails, for every N and every operation: either the layer copes, and then the operation
// did what it is for, or the error comes back. Nothing outside its range changes, the operation succeeds when repeated, and after
// a Flush all of it is there when the stack is opened again.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "buse/operations.h"
#include "gtest/gtest.h"
#include "tests/leaves.h"
#include "tests/model/layers.h"

namespace buse::testing {
namespace {

using Contents = std::vector<std::byte>;

template <class Stack>
class FailuresTest : public ::testing::Test {
 protected:
  using State = typename Stack::State;

  struct Operation {
    std::string name;
    Range range;  // that it changes
    std::byte value;
    std::function<absl::Status(State&)> run;  // fails the test where it says OK and that is wrong
  };

  // Of no whole blocks and no whole chunks, as far as the stack takes that.
  static constexpr Range kRange =
      Stack::kBlockSize == 1 ? Range{700, 9300} : Range{5 * Stack::kBlockSize, 18 * Stack::kBlockSize};

  static bool IsAll(ConstBytes bytes, std::byte value) {
    return std::all_of(bytes.begin(), bytes.end(), [&](std::byte b) { return b == value; });
  }

  std::vector<Operation> Operations() {
    std::vector<Operation> operations;
    operations.push_back({"read", {}, {}, [](State& state) {
                            Contents out(kRange.length);
                            absl::Status status = Stack::Read(state, kRange.offset, out);
                            EXPECT_TRUE(!status.ok() || IsAll(out, kBefore));
                            return status;
                          }});
    operations.push_back({"prefetch", {}, {}, [](State& state) { return buse::Prefetch<Stack>(state, kRange); }});
    operations.push_back({"extents", {}, {}, [](State& state) {
                            return buse::Extents<Stack>(state, kRange, [](const Extent& extent) {
                              EXPECT_EQ(extent.kind, Extent::Kind::kData);
                              return true;
                            });
                          }});
    if constexpr (CanView<Stack>) {
      operations.push_back({"view", {}, {}, [](State& state) {
                              const auto gather = std::make_unique<Gather>();
                              absl::Status status = Stack::View(state, kRange, *gather);
                              if (!status.ok() || gather->overflowed()) return status;
                              EXPECT_EQ(gather->bytes(), kRange.length);
                              for (const iovec& piece : gather->pieces()) {
                                EXPECT_TRUE(IsAll({static_cast<const std::byte*>(piece.iov_base), piece.iov_len}, kBefore));
                              }
                              return status;
                            }});
    }
    if constexpr (CanWrite<Stack>) {
      static const Contents in(kRange.length, std::byte{7});
      operations.push_back(
          {"write", kRange, std::byte{7}, [](State& state) { return Stack::Write(state, kRange.offset, in); }});
      operations.push_back({"write-through", kRange, std::byte{7},
                            [](State& state) { return buse::WriteThrough<Stack>(state, kRange.offset, in); }});
      operations.push_back({"trim", kRange, {}, [](State& state) { return buse::Zero<Stack>(state, kRange); }});
      operations.push_back({"write-zeroes", kRange, {}, [](State& state) { return buse::WriteZeroes<Stack>(state, kRange); }});
      operations.push_back({"write and flush", kRange, std::byte{7}, [](State& state) {
                              absl::Status status = Stack::Write(state, kRange.offset, in);
                              return status.ok() ? Stack::Flush(state) : status;
                            }});
    }
    return operations;
  }

  // What the device holds everywhere.
  static constexpr std::byte kBefore{3};

  void ExpectContents(State& state, const Operation& operation, bool changed) {
    Contents out(Stack::Size(state));
    const absl::Status status = Stack::Read(state, 0, out);
    ASSERT_TRUE(status.ok()) << status.ToString();
    Contents expected(out.size(), kBefore);
    if (changed) std::fill_n(expected.begin() + operation.range.offset, operation.range.length, operation.value);
    EXPECT_EQ(std::mismatch(out.begin(), out.end(), expected.begin()).first - out.begin(), static_cast<ptrdiff_t>(out.size()));
  }

  // Returns whether a call failed.
  bool RunOnce(const typename Stack::Config& config, Script& script, const Operation& operation, int n) {
    auto state = std::make_unique<State>();
    absl::Status status = Stack::Open(config, *state);
    EXPECT_TRUE(status.ok()) << status.ToString();
    if (!status.ok()) return false;
    if constexpr (CanWrite<Stack>) {
      EXPECT_TRUE(Stack::Write(*state, 0, Contents(Stack::Size(*state), kBefore)).ok());
      EXPECT_TRUE(Stack::Flush(*state).ok());
    }
    script.calls.clear();
    script.fail_at = n;
    status = operation.run(*state);
    const bool fired = script.calls.size() > static_cast<size_t>(n);
    script.fail_at = -1;
    EXPECT_TRUE(fired || status.ok()) << status.ToString();
    if (!status.ok()) {
      status = operation.run(*state);
      EXPECT_TRUE(status.ok()) << "repeated: " << status.ToString();
    }
    ExpectContents(*state, operation, true);
    if constexpr (CanWrite<Stack>) {
      EXPECT_TRUE(Stack::Flush(*state).ok());
    }
    state = std::make_unique<State>();
    status = Stack::Open(config, *state);
    EXPECT_TRUE(status.ok()) << status.ToString();
    if (status.ok() && TestConfig<Stack>::kPersists) ExpectContents(*state, operation, true);
    return fired;
  }
};

TYPED_TEST_SUITE_P(FailuresTest);

TYPED_TEST_P(FailuresTest, AFailureOfAnyCallBelowSurfacesOrIsCopedWith) {
  for (const auto& operation : this->Operations()) {
    SCOPED_TRACE(operation.name);
    Media media;
    const auto config = TestConfig<TypeParam>::Make(media);
    if (!CanWrite<TypeParam>) {
      for (auto& script : media.scripts()) std::fill(script->medium.begin(), script->medium.end(), this->kBefore);
    }
    for (size_t device = 0; device < media.scripts().size(); ++device) {
      for (int n = 0;; ++n) {
        SCOPED_TRACE("call " + std::to_string(n) + " to device " + std::to_string(device) + " fails");
        ASSERT_LT(n, 1000);
        if (!this->RunOnce(config, *media.scripts()[device], operation, n)) break;
        if (this->HasFailure()) return;
      }
    }
  }
}

REGISTER_TYPED_TEST_SUITE_P(FailuresTest, AFailureOfAnyCallBelowSurfacesOrIsCopedWith);

using Stacks = EveryLayerOver<EveryLayer, Full512>::Type;
INSTANTIATE_TYPED_TEST_SUITE_P(EveryLayer, FailuresTest, Stacks, StackNames);

}  // namespace
}  // namespace buse::testing

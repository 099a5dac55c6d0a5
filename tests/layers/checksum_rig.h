// SPDX-License-Identifier: Apache-2.0
//
// ChecksumRig: a stack with Checksum on top, opened on a medium in a script, and what its calls to that medium were.

#ifndef TESTS_LAYERS_CHECKSUM_RIG_H_
#define TESTS_LAYERS_CHECKSUM_RIG_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "gtest/gtest.h"
#include "layers/checksum.h"
#include "tests/leaves.h"

namespace buse::testing {

// No byte is zero, and blocks differ.
inline std::vector<std::byte> Pattern(uint64_t size, uint64_t seed) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>((i + 512 * seed) % 251 + 1);
  return bytes;
}

inline void IgnoreProgress(uint64_t, uint64_t) {}

template <class S>
class ChecksumRig {
 public:
  using Config = typename S::Config;

  explicit ChecksumRig(Config config = {.log = 65536, .stage = 65536, .table_cache = 8192, .below = {.size = 1 << 20}})
      : config_(config) {
    config_.inline_commits = true;  // so that each step is over when it returns
    config_.below.script = &script_;
    if constexpr (CanFormat<S>) Format();
  }

  void Format() {
    const absl::Status status = FormatStack<S>(config_, IgnoreProgress);
    EXPECT_TRUE(status.ok()) << status.ToString();
    Open();
  }
  absl::Status TryOpen() {
    state_ = std::make_unique<typename S::State>();
    return S::Open(config_, *state_);
  }
  void Open() {
    const absl::Status status = TryOpen();
    EXPECT_TRUE(status.ok()) << status.ToString();
    script_.calls.clear();
  }

  typename S::State& state() { return *state_; }
  Script& script() { return script_; }
  Config& config() { return config_; }
  const ChecksumGeometry& geometry() { return state_->store.geometry(); }
  uint64_t size() { return S::Size(*state_); }
  std::byte* data() { return script_.medium.data() + geometry().data; }

  absl::Status Write(uint64_t offset, ConstBytes in) { return S::Write(*state_, offset, in); }
  absl::Status Flush() { return S::Flush(*state_); }
  absl::Status Read(uint64_t offset, uint64_t length) {
    read_.assign(length, std::byte{0xee});
    return S::Read(*state_, offset, read_);
  }
  // Whether the bytes there can be read and are these.
  ::testing::AssertionResult Holds(uint64_t offset, ConstBytes bytes) {
    const absl::Status status = Read(offset, bytes.size());
    if (!status.ok()) return ::testing::AssertionFailure() << status.ToString();
    const auto wrong = std::mismatch(bytes.begin(), bytes.end(), read_.begin());
    if (wrong.first == bytes.end()) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "byte " << offset + (wrong.first - bytes.begin()) << " differs";
  }

  // Calls of the leaf that touch the range.
  size_t Calls(const std::string& operation, Range range = {0, UINT64_MAX / 2}) {
    return std::count_if(script_.calls.begin(), script_.calls.end(), [&](const Call& call) {
      return call.operation == operation && call.range.offset < range.end() && range.offset < call.range.end();
    });
  }
  // Those of all kinds that change something, as one word each.
  std::vector<std::string> Changes() {
    std::vector<std::string> changes;
    for (const Call& call : script_.calls) {
      if (call.operation == "Read" || call.operation == "Extents") continue;
      const uint64_t at = call.range.offset;
      const char* where = call.operation == "Flush"  ? ""
                          : at < geometry().log      ? " head"
                          : at < geometry().table    ? " log"
                          : at < geometry().data     ? " table"
                          : at < geometry().heads[1] ? " data"
                                                     : " head";
      changes.push_back(absl::StrCat(call.operation, where));
    }
    return changes;
  }

 private:
  Script script_;
  Config config_;
  std::unique_ptr<typename S::State> state_;
  std::vector<std::byte> read_;
};

}  // namespace buse::testing

#endif  // TESTS_LAYERS_CHECKSUM_RIG_H_

// SPDX-License-Identifier: Apache-2.0
//
// TestConfig<Stack>: a configuration of a stack for tests, and a name. Each layer adds to that of the device below; a layer
// whose options have usable defaults needs no specialisation here.

#ifndef TESTS_MODEL_TEST_CONFIG_H_
#define TESTS_MODEL_TEST_CONFIG_H_

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "buse/device.h"
#include "gtest/gtest.h"
#include "layers/cache.h"
#include "layers/file_backed.h"
#include "layers/log.h"
#include "layers/memory.h"
#include "layers/offset.h"
#include "layers/recording.h"
#include "layers/verify.h"
#include "tests/leaves.h"

namespace buse::testing {

// What a device keeps its bytes in: outlives it, and is the same when it is opened again.
class Media {
 public:
  Media() = default;
  Media(const Media&) = delete;
  Media& operator=(const Media&) = delete;
  ~Media() {
    for (const std::string& path : paths_) unlink(path.c_str());
  }

  // The path of a file that does not exist.
  std::string NewFile() {
    static std::atomic<int> number = 0;
    paths_.push_back(absl::StrCat(::testing::TempDir(), "/model-", getpid(), "-", number++));
    return paths_.back();
  }

  // With something on its medium, always the same.
  Script* NewScript(uint64_t size) {
    Script* const script = scripts_.emplace_back(std::make_unique<Script>()).get();
    script->medium.resize(size);
    for (uint64_t i = 0; i < size; ++i) script->medium[i] = static_cast<std::byte>(i * 7 + i / 4096);
    return script;
  }

  // In the order in which they were made.
  const std::vector<std::unique_ptr<Script>>& scripts() const { return scripts_; }

  Record* NewRecord() { return records_.emplace_back(std::make_unique<Record>()).get(); }

 private:
  std::vector<std::string> paths_;
  std::vector<std::unique_ptr<Script>> scripts_;
  std::vector<std::unique_ptr<Record>> records_;
};

// Content for 64 pages and a few blocks, so that the end lies off the larger borders.
template <Device Leaf>
inline constexpr uint64_t kTestSize = 262144 + 3 * Leaf::kBlockSize;

// A layer's. Has static Make(Media&), kSize with the size of the device, and kPersists where contents outlive the State.
template <Device Stack>
struct TestConfig {
  using Below = typename Stack::Below;
  static constexpr bool kPersists = TestConfig<Below>::kPersists;
  static constexpr uint64_t kSize = TestConfig<Below>::kSize;
  static typename Stack::Config Make(Media& media) { return {.below = TestConfig<Below>::Make(media)}; }
};

template <>
struct TestConfig<Memory> {
  static constexpr bool kPersists = false;
  static constexpr uint64_t kSize = kTestSize<Memory>;
  static Memory::Config Make(Media&) { return {.size = kSize}; }
};

template <uint64_t kBlock>
struct TestConfig<BasicFileBacked<kBlock>> {
  using Leaf = BasicFileBacked<kBlock>;
  static constexpr bool kPersists = true;
  static constexpr uint64_t kSize = kTestSize<Leaf>;
  static typename Leaf::Config Make(Media& media) { return {.path = media.NewFile(), .create = kSize}; }
};

template <uint64_t kBlock, Concurrency kRunsTogether>
struct TestConfig<BasicFull<kBlock, kRunsTogether>> {
  using Leaf = BasicFull<kBlock, kRunsTogether>;
  static constexpr bool kPersists = true;
  static constexpr uint64_t kSize = kTestSize<Leaf>;
  static typename Leaf::Config Make(Media& media) { return {.size = kSize, .script = media.NewScript(kSize)}; }
};

template <Device B>
struct TestConfig<Offset<B>> {
  static constexpr bool kPersists = TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = TestConfig<B>::kSize - 12 * B::kBlockSize;
  static typename Offset<B>::Config Make(Media& media) {
    return {.start = 5 * B::kBlockSize, .length = kSize, .below = TestConfig<B>::Make(media)};
  }
};

template <Device B>
struct TestConfig<Log<B>> {
  static constexpr bool kPersists = TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = TestConfig<B>::kSize;
  static typename Log<B>::Config Make(Media& media) {
    static const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    return {.fd = null, .below = TestConfig<B>::Make(media)};
  }
};

// Small, so that pages come and go.
template <Device B>
struct TestConfig<Cache<B>> {
  static constexpr bool kPersists = TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = TestConfig<B>::kSize;
  static typename Cache<B>::Config Make(Media& media) {
    return {.size = 65536, .dirty = 24576, .read_ahead = 16384, .below = TestConfig<B>::Make(media)};
  }
};

template <Device A, Device B>
struct TestConfig<Verify<A, B>> {
  static constexpr bool kPersists = TestConfig<A>::kPersists && TestConfig<B>::kPersists;
  static constexpr uint64_t kSize = TestConfig<A>::kSize;
  static typename Verify<A, B>::Config Make(Media& media) {
    return {.below = {TestConfig<A>::Make(media), TestConfig<B>::Make(media)}};
  }
};

template <Device Stack>
std::string StackName();

template <class... Branch>
std::string BranchNames(std::type_identity<std::tuple<Branch...>>) {
  return absl::StrJoin({StackName<Branch>()...}, "_and_");
}

// "offset_memory", "verify_memory_and_file", and "leaf512" for a leaf with blocks.
template <Device Stack>
std::string StackName() {
  std::string name = Stack::Describe().name;
  if constexpr (requires { std::tuple_size<typename Stack::Below>::value; }) {
    return absl::StrCat(name, "_", BranchNames(std::type_identity<typename Stack::Below>()));
  } else if constexpr (requires { typename Stack::Below; }) {
    return absl::StrCat(name, "_", StackName<typename Stack::Below>());
  } else {
    static constexpr const char* kConcurrencies[] = {"_serial", "_disjoint", ""};
    if (Stack::kBlockSize != 1) absl::StrAppend(&name, Stack::kBlockSize);
    return name + kConcurrencies[static_cast<int>(Stack::kConcurrency)];
  }
}

// For INSTANTIATE_TYPED_TEST_SUITE_P.
struct StackNames {
  template <class Stack>
  static std::string GetName(int) {
    return StackName<Stack>();
  }
};

}  // namespace buse::testing

#endif  // TESTS_MODEL_TEST_CONFIG_H_

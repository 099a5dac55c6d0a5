// SPDX-License-Identifier: Apache-2.0
//
// The model of a device is a vector of bytes. Random operations run on both and must give the same, with their offsets near
// edges more often than not. RunModel is deterministic in its choices, so that a failure is found again from its seed, and
// reported as the shortest sequence of operations that fails.

#ifndef TESTS_MODEL_MODEL_H_
#define TESTS_MODEL_MODEL_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "buse/operations.h"
#include "tests/model/choices.h"
#include "tests/model/test_config.h"

namespace buse::testing {

// A region of an open device beside its model. Each function returns an empty string, or what went wrong.
template <Device Stack>
class Model {
 public:
  using State = typename Stack::State;

  // The region must be aligned, and nobody else may write it. The log, if given, takes a word for each operation.
  Model(Choices& choices, std::vector<std::string>* log) : choices_(choices), log_(log) {}

  // Takes what the device holds as given.
  std::string Start(State& self, Range region) {
    region_ = region;
    bytes_.resize(region.length);
    return Explain("first read", Stack::Read(self, region.offset, bytes_));
  }

  // One random operation.
  std::string Step(State& self) {
    const Range range = PickRange();
    switch (choices_.Below(16)) {
      case 0:
      case 1:
      case 2:
        return Read(self, range);
      case 3:
      case 4:
        return View(self, range);
      case 5:
        return Extents(self, range);
      case 6:
        return Prefetch(self, range);
      default:
        break;
    }
    if constexpr (CanWrite<Stack>) {
      switch (choices_.Below(9)) {
        case 0:
          return Flush(self);
        case 1:
          return Change(self, "write-through", range, true, [](State& self, Range range, ConstBytes in) {
            return buse::WriteThrough<Stack>(self, range.offset, in);
          });
        case 2:
          return Change(self, "write-zeroes", range, false,
                        [](State& self, Range range, ConstBytes) { return buse::WriteZeroes<Stack>(self, range); });
        case 3:
        case 4:
          return Change(self, CanTrim<Stack> ? "trim" : "zero", range, false,
                        [](State& self, Range range, ConstBytes) { return buse::Zero<Stack>(self, range); });
        default:
          return Change(self, "write", range, true,
                        [](State& self, Range range, ConstBytes in) { return Stack::Write(self, range.offset, in); });
      }
    }
    return "";
  }

  std::string Flush(State& self) {
    if constexpr (CanFlush<Stack>) {
      return Explain(Log("flush"), Stack::Flush(self));
    }
    return "";
  }

  // For a region that is the whole device.
  std::string Resize(State& self) {
    const uint64_t blocks = bytes_.size() / Stack::kBlockSize;
    return Resize(self, (blocks / 2 + 1 + choices_.Below(blocks)) * Stack::kBlockSize);
  }
  std::string Resize(State& self, uint64_t size) {
    if constexpr (CanResize<Stack>) {
      const std::string name = Log(absl::StrCat("resize ", size));
      if (std::string failure = CheckView(); !failure.empty()) return failure;
      const absl::Status status = Stack::Resize(self, size);
      // A size that only run time can refuse.
      if (status.code() != absl::StatusCode::kInvalidArgument) {
        if (!status.ok()) return Explain(name, status);
        bytes_.resize(size);
      }
      region_.length = Stack::Size(self);
      if (region_.length != bytes_.size()) return absl::StrCat(name, ": the size is ", region_.length);
    }
    return "";
  }

  // Everything.
  std::string Compare(State& self) {
    if (std::string failure = CheckView(); !failure.empty()) return failure;
    return Read(self, {0, bytes_.size()});
  }

 private:
  // Ranges of the model begin at 0.
  Range OnDevice(Range range) const { return {region_.offset + range.offset, range.length}; }

  std::string Log(std::string operation) {
    if (log_ != nullptr) log_->push_back(operation);
    return operation;
  }
  std::string Log(const char* operation, Range range) {
    return Log(absl::StrCat(operation, " ", region_.offset + range.offset, "+", range.length));
  }

  static std::string Explain(const std::string& operation, const absl::Status& status) {
    return status.ok() ? "" : absl::StrCat(operation, ": ", status.ToString());
  }

  std::string Differs(const std::string& operation, uint64_t offset, const std::byte* bytes, uint64_t length) const {
    if (length == 0 || std::memcmp(bytes, bytes_.data() + offset, length) == 0) return "";
    const uint64_t at = std::mismatch(bytes, bytes + length, bytes_.data() + offset).first - bytes;
    return absl::StrFormat("%s: byte %d is 0x%02x, should be 0x%02x", operation, region_.offset + offset + at,
                           std::to_integer<int>(bytes[at]), std::to_integer<int>(bytes_[offset + at]));
  }

  std::string Read(State& self, Range range) {
    const std::string name = Log("read", range);
    // Every byte is wrong until it is read. A heap block of its own, so that a sanitizer sees what goes past it.
    std::vector<std::byte> out(range.length);
    std::transform(bytes_.begin() + range.offset, bytes_.begin() + range.end(), out.begin(), [](std::byte b) { return ~b; });
    const absl::Status status = Stack::Read(self, OnDevice(range).offset, out);
    return status.ok() ? Differs(name, range.offset, out.data(), out.size()) : Explain(name, status);
  }

  // What is lent stays, and stays right, while other ranges change.
  std::string View(State& self, Range range) {
    if constexpr (CanView<Stack>) {
      if (std::string failure = CheckView(); !failure.empty()) return failure;
      const std::string name = Log("view", range);
      gather_->AppendZeroes(1);  // a view of something else
      if (const absl::Status status = Stack::View(self, OnDevice(range), *gather_); !status.ok()) return Explain(name, status);
      if (gather_->overflowed()) {
        gather_->Release();
        return "";
      }
      viewed_ = range;
      return CompareView(name);
    } else {
      return Read(self, range);
    }
  }

  std::string CheckView() {
    if (viewed_.length == 0) return "";
    std::string failure = CompareView("an earlier view");
    gather_->Release();
    viewed_ = {};
    return failure;
  }

  std::string CompareView(const std::string& name) {
    if (gather_->bytes() != viewed_.length + 1) return absl::StrCat(name, ": appended ", gather_->bytes() - 1, " bytes");
    uint64_t at = viewed_.offset;
    for (const iovec& piece : gather_->pieces().subspan(1)) {
      std::string failure = Differs(name, at, static_cast<const std::byte*>(piece.iov_base), piece.iov_len);
      if (!failure.empty()) return failure;
      at += piece.iov_len;
    }
    return "";
  }

  std::string Extents(State& self, Range range) {
    const std::string name = Log("extents", range);
    const uint64_t wanted = choices_.Below(4) == 0 ? 1 : UINT64_MAX;
    uint64_t count = 0;
    uint64_t at = range.offset;
    std::string failure;
    const absl::Status status = buse::Extents<Stack>(self, OnDevice(range), [&](const Extent& extent) {
      const uint64_t length = extent.range.length;
      const std::string what = absl::StrCat(name, ": extent ", extent.range.offset, "+", length);
      if (!failure.empty()) return false;
      if (++count > wanted) {
        failure = absl::StrCat(what, " after it was told to stop");
      } else if (extent.range.offset != region_.offset + at) {
        failure = absl::StrCat(what, " should begin at ", region_.offset + at);
      } else if (length == 0 || length > range.end() - at || length % Stack::kBlockSize != 0) {
        failure = absl::StrCat(what, " is empty, not aligned or too long");
      } else if (extent.kind != Extent::Kind::kData) {
        failure = Differs(absl::StrCat(what, " says zeroes"), at, std::vector<std::byte>(length).data(), length);
      }
      at += length;
      return count < wanted;
    });
    if (!status.ok()) return Explain(name, status);
    if (failure.empty() && count == 0) failure = absl::StrCat(name, ": there was no extent");
    return failure;
  }

  std::string Prefetch(State& self, Range range) {
    return Explain(Log("prefetch", range), buse::Prefetch<Stack>(self, OnDevice(range)));
  }

  // Fills the range in the model, with zeroes unless `random`, and on the device.
  template <class Apply>
  std::string Change(State& self, const char* operation, Range range, bool random, Apply apply) {
    const std::string name = Log(operation, range);
    if (viewed_.offset < range.end() && range.offset < viewed_.end()) {
      if (std::string failure = CheckView(); !failure.empty()) return failure;
    }
    std::vector<std::byte> in(range.length);
    if (random && choices_.Below(8) != 0) FillUniquely(in);
    std::copy(in.begin(), in.end(), bytes_.begin() + range.offset);
    return Explain(name, apply(self, OnDevice(range), ConstBytes(in)));
  }

  // With bytes that tell where they belong and when they were written.
  void FillUniquely(Bytes bytes) {
    uint64_t state = ++writes_ << 32 ^ region_.offset;
    for (size_t at = 0; at < bytes.size(); at += sizeof(state)) {
      state = state * 6364136223846793005 + 1442695040888963407;
      const uint64_t mixed = state ^ state >> 33;
      std::memcpy(bytes.data() + at, &mixed, std::min(sizeof(mixed), bytes.size() - at));
    }
  }

  static uint64_t Aligned(uint64_t n) { return n - n % Stack::kBlockSize; }

  // An aligned position in the region or its end, near an edge more often than not.
  uint64_t PickEdge() {
    const uint64_t any = choices_.Below(bytes_.size());
    uint64_t edge = any;
    switch (choices_.Below(4)) {
      case 0:
        edge = 0;
        break;
      case 1:
        edge = bytes_.size();
        break;
      case 2:
        edge = any - std::min(any, (region_.offset + any) % 4096);
        break;
      default:
        break;
    }
    edge = Aligned(edge);
    const uint64_t shift = choices_.Below(4);
    if (shift == 1 && edge >= Stack::kBlockSize) edge -= Stack::kBlockSize;
    if (shift == 2 && edge < bytes_.size()) edge += Stack::kBlockSize;
    return edge;
  }

  Range PickRange() {
    const uint64_t offset = std::min(PickEdge(), bytes_.size() - Stack::kBlockSize);
    uint64_t length = Stack::kBlockSize;
    switch (choices_.Below(4)) {
      case 0:
        length *= 1 + choices_.Below(8);
        break;
      case 1:
        length += choices_.Below(3 * 4096);
        break;
      case 2:
        length = std::max(PickEdge(), offset) - offset;
        break;
      default:
        break;
    }
    length = std::max(Aligned(length), Stack::kBlockSize);
    return {offset, std::min(length, bytes_.size() - offset)};
  }

  Choices& choices_;
  std::vector<std::string>* const log_;
  Range region_;
  std::vector<std::byte> bytes_;
  std::unique_ptr<Gather> gather_ = std::make_unique<Gather>();
  Range viewed_;  // what the gather holds; empty: nothing
  uint64_t writes_ = 0;
};

// Opens a new device, runs random operations on it, and compares all its contents; where they persist, also after opening it
// again. Returns an empty string, or what went wrong.
template <Device Stack>
std::string RunModel(Choices& choices, uint64_t operations, std::vector<std::string>* log = nullptr) {
  Media media;
  const typename Stack::Config config = TestConfig<Stack>::Make(media);
  auto self = std::make_unique<typename Stack::State>();
  Model<Stack> model(choices, log);
  if (absl::Status status = Stack::Open(config, *self); !status.ok()) return absl::StrCat("open: ", status.ToString());
  std::string failure = model.Start(*self, {0, Stack::Size(*self)});
  const uint64_t size = Stack::Size(*self);

  const auto reopen = [&]() -> std::string {
    // The configuration may name the size.
    if (std::string failure = Stack::Size(*self) != size ? model.Resize(*self, size) : ""; !failure.empty()) return failure;
    if (std::string failure = model.Flush(*self); !failure.empty()) return failure;
    if (std::string failure = model.Compare(*self); !failure.empty()) return failure;
    if constexpr (TestConfig<Stack>::kPersists) {
      if (log != nullptr) log->push_back("reopen");
      self = nullptr;
      self = std::make_unique<typename Stack::State>();
      if (absl::Status status = Stack::Open(config, *self); !status.ok()) return absl::StrCat("reopen: ", status.ToString());
      return model.Compare(*self);
    }
    return "";
  };
  for (uint64_t i = 0; i < operations && failure.empty(); ++i) {
    switch (choices.Below(64)) {
      case 0:
        failure = reopen();
        break;
      case 1:
        failure = model.Resize(*self);
        break;
      default:
        failure = model.Step(*self);
        break;
    }
  }
  return failure.empty() ? reopen() : failure;
}

// RunModel from a seed. A failure is reported with a number of operations of which one less would not fail.
template <Device Stack>
std::string RunSeed(uint64_t seed, uint64_t operations) {
  const auto run = [&](uint64_t count, std::vector<std::string>* log) {
    SeededChoices choices(seed);
    return RunModel<Stack>(choices, count, log);
  };
  if (run(operations, nullptr).empty()) return "";
  uint64_t count = operations;
  for (uint64_t least = 0; least < count;) {
    const uint64_t middle = least + (count - least) / 2;
    if (run(middle, nullptr).empty()) {
      least = middle + 1;
    } else {
      count = middle;
    }
  }
  std::vector<std::string> log;
  const std::string failure = run(count, &log);
  return absl::StrCat("seed ", seed, ", ", count, " operations: ", failure.empty() ? "failed, and not again" : failure,
                      "\nThe operations: ", absl::StrJoin(log, ", "));
}

// Threads on regions of their own, whose borders are where the contract permits them.
template <Device Stack>
std::string RunThreads(uint64_t seed, uint64_t operations, uint64_t threads) {
  static_assert(Stack::kConcurrency != Concurrency::kSerial);
  Media media;
  auto self = std::make_unique<typename Stack::State>();
  if (absl::Status status = Stack::Open(TestConfig<Stack>::Make(media), *self); !status.ok()) return status.ToString();
  const uint64_t length = Stack::Size(*self) / threads / Stack::kBlockSize * Stack::kBlockSize;
  std::vector<std::string> failures(threads);
  std::vector<std::thread> running;
  for (uint64_t thread = 0; thread < threads; ++thread) {
    running.emplace_back([&, thread] {
      SeededChoices choices(seed * threads + thread);
      Model<Stack> model(choices, nullptr);
      std::string& failure = failures[thread];
      failure = model.Start(*self, {thread * length, length});
      for (uint64_t i = 0; i < operations && failure.empty(); ++i) failure = model.Step(*self);
      if (failure.empty()) failure = model.Compare(*self);
    });
  }
  for (std::thread& thread : running) thread.join();
  for (const std::string& failure : failures) {
    if (!failure.empty()) return absl::StrCat("seed ", seed, ", ", threads, " threads: ", failure);
  }
  return "";
}

}  // namespace buse::testing

#endif  // TESTS_MODEL_MODEL_H_

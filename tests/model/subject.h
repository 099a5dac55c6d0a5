// SPDX-License-Identifier: Apache-2.0
//
// Subject: a device under test behind virtual functions, with its configuration and medium, so that the model is compiled once
// and not for each of many stacks.

#ifndef TESTS_MODEL_SUBJECT_H_
#define TESTS_MODEL_SUBJECT_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "buse/operations.h"
#include "buse/scatter.h"
#include "tests/model/test_config.h"

namespace buse::testing {

// The operations of the contract. Those that have a fallback are always there.
class Subject {
 public:
  const uint64_t block_size;
  const bool can_write;
  const bool can_view;
  const bool can_resize;
  const bool can_residency;
  const bool persists;

  virtual ~Subject() = default;
  // Opens the device, or opens it again.
  virtual absl::Status Open() = 0;
  virtual uint64_t Size() = 0;
  virtual absl::Status Read(uint64_t offset, Bytes out) = 0;
  virtual absl::Status Write(uint64_t offset, ConstBytes in) = 0;
  // As a server does it: by TryRead and TryWrite where they do, else by Read and Write.
  virtual absl::Status TryOrRead(uint64_t offset, Bytes out) = 0;
  virtual absl::Status TryOrWrite(uint64_t offset, ConstBytes in) = 0;
  virtual absl::Status Flush() = 0;
  virtual absl::Status WriteThrough(uint64_t offset, ConstBytes in) = 0;
  virtual absl::Status Zero(Range range) = 0;
  virtual absl::Status WriteZeroes(Range range) = 0;
  virtual absl::Status Extents(Range range, EmitExtent emit) = 0;
  virtual absl::Status Residency(Range range, EmitResident emit) = 0;
  virtual absl::Status Prefetch(Range range) = 0;
  virtual absl::Status View(Range range, Gather& gather) = 0;
  // Writes in place, or by Write where the device cannot do so now.
  virtual absl::Status WriteInPlace(uint64_t offset, ConstBytes in) = 0;
  virtual absl::Status Resize(uint64_t size) = 0;

 protected:
  Subject(uint64_t block_size, bool can_write, bool can_view, bool can_resize, bool can_residency, bool persists)
      : block_size(block_size),
        can_write(can_write),
        can_view(can_view),
        can_resize(can_resize),
        can_residency(can_residency),
        persists(persists) {}
};

template <Device Stack>
class SubjectOf final : public Subject {
 public:
  SubjectOf()
      : Subject(Stack::kBlockSize, CanWrite<Stack>, CanView<Stack>, CanResize<Stack>, CanResidency<Stack>,
                TestConfig<Stack>::kPersists),
        config_(TestConfig<Stack>::Make(media_)) {}

  absl::Status Open() override {
    self_ = nullptr;
    self_ = std::make_unique<typename Stack::State>();
    return Stack::Open(config_, *self_);
  }
  uint64_t Size() override { return Stack::Size(*self_); }
  absl::Status Read(uint64_t offset, Bytes out) override { return Stack::Read(*self_, offset, out); }
  absl::Status Write(uint64_t offset, ConstBytes in) override {
    if constexpr (CanWrite<Stack>) return Stack::Write(*self_, offset, in);
    return Absent();
  }
  absl::Status TryOrRead(uint64_t offset, Bytes out) override {
    return buse::TryRead<Stack>(*self_, offset, out) ? absl::OkStatus() : Read(offset, out);
  }
  absl::Status TryOrWrite(uint64_t offset, ConstBytes in) override {
    return buse::TryWrite<Stack>(*self_, offset, in) ? absl::OkStatus() : Write(offset, in);
  }
  absl::Status Flush() override {
    if constexpr (CanFlush<Stack>) return Stack::Flush(*self_);
    return Absent();
  }
  absl::Status WriteThrough(uint64_t offset, ConstBytes in) override {
    if constexpr (CanWrite<Stack>) return buse::WriteThrough<Stack>(*self_, offset, in);
    return Absent();
  }
  absl::Status Zero(Range range) override {
    if constexpr (CanWrite<Stack>) return buse::Zero<Stack>(*self_, range);
    return Absent();
  }
  absl::Status WriteZeroes(Range range) override {
    if constexpr (CanWrite<Stack>) return buse::WriteZeroes<Stack>(*self_, range);
    return Absent();
  }
  absl::Status Extents(Range range, EmitExtent emit) override { return buse::Extents<Stack>(*self_, range, emit); }
  absl::Status Residency(Range range, EmitResident emit) override {
    if constexpr (CanResidency<Stack>) return Stack::Residency(*self_, range, emit);
    return Absent();
  }
  absl::Status Prefetch(Range range) override { return buse::Prefetch<Stack>(*self_, range); }
  absl::Status View(Range range, Gather& gather) override {
    if constexpr (CanView<Stack>) return Stack::View(*self_, range, gather);
    return Absent();
  }
  absl::Status WriteInPlace(uint64_t offset, ConstBytes in) override {
    if constexpr (CanPlace<Stack>) {
      const Range range = {offset, in.size()};
      Scatter scatter;
      if (absl::Status status = Stack::Place(*self_, range, scatter); !status.ok()) return status;
      if (!scatter.overflowed()) {
        if (scatter.bytes() != in.size()) return absl::InternalError(absl::StrCat("Place lent ", scatter.bytes(), " bytes"));
        scatter.Fill(in);
        return Stack::Placed(*self_, range);
      }
    }
    return Write(offset, in);
  }
  absl::Status Resize(uint64_t size) override {
    if constexpr (CanResize<Stack>) return Stack::Resize(*self_, size);
    return Absent();
  }

 private:
  static absl::Status Absent() { return absl::UnimplementedError("absent"); }

  Media media_;
  const typename Stack::Config config_;
  std::unique_ptr<typename Stack::State> self_;
};

}  // namespace buse::testing

#endif  // TESTS_MODEL_SUBJECT_H_

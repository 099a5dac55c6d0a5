// SPDX-License-Identifier: Apache-2.0

#include "tests/model/model.h"

#include <algorithm>
#include <barrier>
#include <cstddef>
#include <cstring>
#include <thread>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "buse/gather.h"

namespace buse::testing {
namespace {

// A region of an open device beside its model.
class Model {
 public:
  // The region is aligned, and nobody else writes it. Takes what the device holds as given.
  Model(Subject& subject, Range region, Choices& choices, std::vector<std::string>* log)
      : subject_(subject),
        block_(subject.block_size),
        choices_(choices),
        log_(log),
        region_(region),
        bytes_(region.length),
        unflushed_(region.length) {}

  // Before anything else.
  std::string Start() { return Explain("first read", subject_.Read(region_.offset, bytes_)); }

  // One random operation.
  std::string Step();
  std::string Flush();
  // For a region that is the whole device.
  std::string Resize();
  std::string Resize(uint64_t size);
  std::string Reopen();
  // Everything.
  std::string Compare();

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

  std::string Differs(const std::string& operation, uint64_t offset, const std::byte* bytes, uint64_t length) const;
  std::string Read(Range range);
  std::string View(Range range);
  std::string CheckView();
  std::string CompareView(const std::string& name);
  std::string Extents(Range range);
  std::string Residency(Range range, uint64_t wanted);
  std::string CheckDirty(const std::string& what, Range range);
  struct How {
    bool random = false;   // and not with zeroes
    bool durably = false;  // no Flush is needed
  };
  std::string Change(const char* operation, Range range, How how, absl::FunctionRef<absl::Status(Range, ConstBytes)> apply);
  void FillUniquely(Bytes bytes);
  uint64_t PickEdge();
  Range PickRange();

  Subject& subject_;
  const uint64_t block_;
  Choices& choices_;
  std::vector<std::string>* const log_;
  Range region_;
  std::vector<std::byte> bytes_;
  std::vector<bool> unflushed_;  // bytes that were written and are not known to be durable
  std::unique_ptr<Gather> gather_ = std::make_unique<Gather>();
  Range viewed_;  // what the gather holds; empty: nothing
  uint64_t writes_ = 0;
};

std::string Model::Step() {
  const Range range = PickRange();
  const auto write = [&](Range at, ConstBytes in) {
    return choices_.Below(2) == 0 ? subject_.TryOrWrite(at.offset, in) : subject_.Write(at.offset, in);
  };
  const auto write_in_place = [&](Range at, ConstBytes in) { return subject_.WriteInPlace(at.offset, in); };
  const auto write_through = [&](Range at, ConstBytes in) { return subject_.WriteThrough(at.offset, in); };
  const auto write_zeroes = [&](Range at, ConstBytes) { return subject_.WriteZeroes(at); };
  const auto zero = [&](Range at, ConstBytes) { return subject_.Zero(at); };
  switch (choices_.Below(subject_.can_write ? 16 : 7)) {
    case 0:
    case 1:
    case 2:
      return Read(range);
    case 3:
    case 4:
      return View(range);
    case 5:
      if (!subject_.can_residency || choices_.Below(2) == 0) return Extents(range);
      return Residency(range, choices_.Below(4) == 0 ? 1 : UINT64_MAX);
    case 6:
      return Explain(Log("prefetch", range), subject_.Prefetch(OnDevice(range)));
    case 7:
      return Flush();
    case 8:
      return Change("write-through", range, {.random = true, .durably = true}, write_through);
    case 9:
      return Change("write-zeroes", range, {}, write_zeroes);
    case 10:
    case 11:
      return Change("trim", range, {}, zero);
    case 12:
      return Change("write-in-place", range, {.random = true}, write_in_place);
    default:
      return Change("write", range, {.random = true}, write);
  }
}

// What a Flush leaves dirty came from others, and there are none where the region is the whole device.
std::string Model::Flush() {
  if (!subject_.can_write) return "";
  std::string failure = Explain(Log("flush"), subject_.Flush());
  unflushed_.assign(unflushed_.size(), false);
  return failure.empty() && subject_.can_residency ? Residency({0, bytes_.size()}, UINT64_MAX) : failure;
}

std::string Model::Resize() {
  const uint64_t blocks = bytes_.size() / block_;
  return Resize((blocks / 2 + 1 + choices_.Below(blocks)) * block_);
}

std::string Model::Resize(uint64_t size) {
  if (!subject_.can_resize) return "";
  const std::string name = Log(absl::StrCat("resize ", size));
  if (std::string failure = CheckView(); !failure.empty()) return failure;
  const absl::Status status = subject_.Resize(size);
  // What only run time can refuse.
  if (status.code() != absl::StatusCode::kInvalidArgument) {
    if (!status.ok()) return Explain(name, status);
    bytes_.resize(size);
    unflushed_.resize(size);
  }
  region_.length = subject_.Size();
  return region_.length != bytes_.size() ? absl::StrCat(name, ": the size is ", region_.length) : "";
}

std::string Model::Reopen() {
  if (std::string failure = CheckView(); !failure.empty()) return failure;
  const std::string name = Log("reopen");
  const absl::Status status = subject_.Open();
  if (!status.ok()) return Explain(name, status);
  return subject_.Size() != bytes_.size() ? absl::StrCat(name, ": the size is ", subject_.Size()) : "";
}

std::string Model::Compare() {
  if (std::string failure = CheckView(); !failure.empty()) return failure;
  return Read({0, bytes_.size()});
}

std::string Model::Differs(const std::string& operation, uint64_t offset, const std::byte* bytes, uint64_t length) const {
  if (length == 0 || std::memcmp(bytes, bytes_.data() + offset, length) == 0) return "";
  const uint64_t at = std::mismatch(bytes, bytes + length, bytes_.data() + offset).first - bytes;
  return absl::StrFormat("%s: byte %d is 0x%02x, should be 0x%02x", operation, region_.offset + offset + at,
                         std::to_integer<int>(bytes[at]), std::to_integer<int>(bytes_[offset + at]));
}

std::string Model::Read(Range range) {
  const std::string name = Log("read", range);
  // Every byte is wrong until it is read. A heap block of its own, so that a sanitizer sees what goes past it.
  std::vector<std::byte> out(range.length);
  std::transform(bytes_.begin() + range.offset, bytes_.begin() + range.end(), out.begin(), [](std::byte b) { return ~b; });
  const uint64_t offset = OnDevice(range).offset;
  const absl::Status status = choices_.Below(2) == 0 ? subject_.TryOrRead(offset, out) : subject_.Read(offset, out);
  return status.ok() ? Differs(name, range.offset, out.data(), out.size()) : Explain(name, status);
}

// What is lent stays, and stays right, while other ranges change.
std::string Model::View(Range range) {
  if (!subject_.can_view) return Read(range);
  if (std::string failure = CheckView(); !failure.empty()) return failure;
  const std::string name = Log("view", range);
  gather_->AppendZeroes(1);  // a view of something else
  const absl::Status status = subject_.View(OnDevice(range), *gather_);
  if (!status.ok() || gather_->overflowed()) {
    gather_->Release();
    return Explain(name, status);
  }
  viewed_ = range;
  return CompareView(name);
}

std::string Model::CheckView() {
  if (viewed_.length == 0) return "";
  std::string failure = CompareView("an earlier view");
  gather_->Release();
  viewed_ = {};
  return failure;
}

std::string Model::CompareView(const std::string& name) {
  if (gather_->bytes() != viewed_.length + 1) return absl::StrCat(name, ": appended ", gather_->bytes() - 1, " bytes");
  uint64_t at = viewed_.offset;
  for (const iovec& piece : gather_->pieces().subspan(1)) {
    std::string failure = Differs(name, at, static_cast<const std::byte*>(piece.iov_base), piece.iov_len);
    if (!failure.empty()) return failure;
    at += piece.iov_len;
  }
  return "";
}

std::string Model::Extents(Range range) {
  const std::string name = Log("extents", range);
  const uint64_t wanted = choices_.Below(4) == 0 ? 1 : UINT64_MAX;
  uint64_t count = 0;
  uint64_t at = range.offset;
  std::string failure;
  const absl::Status status = subject_.Extents(OnDevice(range), [&](const Extent& extent) {
    if (!failure.empty()) return false;
    const uint64_t length = extent.range.length;
    const std::string what = absl::StrCat(name, ": extent ", extent.range.offset, "+", length);
    if (++count > wanted) {
      failure = absl::StrCat(what, " after it was told to stop");
    } else if (extent.range.offset != region_.offset + at) {
      failure = absl::StrCat(what, " should begin at ", region_.offset + at);
    } else if (length == 0 || length > range.end() - at || length % block_ != 0) {
      failure = absl::StrCat(what, " is empty, not aligned or too long");
    } else if (extent.kind != Extent::Kind::kData) {
      failure = Differs(absl::StrCat(what, " says zeroes"), at, std::vector<std::byte>(length).data(), length);
    }
    at += length;
    return failure.empty() && count < wanted;
  });
  if (!status.ok()) return Explain(name, status);
  return failure.empty() && count == 0 ? absl::StrCat(name, ": there was no extent") : failure;
}

// By as many calls as it takes, or until it is told that `wanted` are enough.
std::string Model::Residency(Range range, uint64_t wanted) {
  const std::string name = Log("residency", range);
  uint64_t count = 0;
  for (uint64_t at = range.offset; at < range.end() && count < wanted;) {
    const uint64_t begin = at;
    std::string failure;
    const Range rest = {at, range.end() - at};
    const absl::Status status = subject_.Residency(OnDevice(rest), [&](const Resident& resident) {
      if (!failure.empty()) return false;
      const uint64_t length = resident.range.length;
      const std::string what = absl::StrCat(name, ": resident ", resident.range.offset, "+", length);
      if (++count > wanted) {
        failure = absl::StrCat(what, " after it was told to stop");
      } else if (resident.range.offset != region_.offset + at) {
        failure = absl::StrCat(what, " should begin at ", region_.offset + at);
      } else if (length == 0 || length > range.end() - at || length % block_ != 0) {
        failure = absl::StrCat(what, " is empty, not aligned or too long");
      } else if (resident.dirty) {
        failure = resident.cached ? CheckDirty(what, {at, length}) : absl::StrCat(what, " is dirty, and not cached");
      }
      at += length;
      return failure.empty() && count < wanted;
    });
    if (!status.ok()) return Explain(name, status);
    if (!failure.empty()) return failure;
    if (at == begin) return absl::StrCat(name, ": there was no resident");
  }
  return "";
}

// In every sector that is dirty something was written, and was not flushed.
std::string Model::CheckDirty(const std::string& what, Range range) {
  if (region_ != Range{0, subject_.Size()}) return "";  // others write in the same sectors
  const uint64_t sector = std::max<uint64_t>(512, block_);
  for (uint64_t at = range.offset; at < range.end();) {
    const uint64_t from = at - std::min(at, sector - 1), to = std::min(at + sector, unflushed_.size());
    const auto found = std::find(unflushed_.begin() + from, unflushed_.begin() + to, true);
    if (found == unflushed_.begin() + to) return absl::StrCat(what, " is dirty, and nothing was written at ", at);
    at = static_cast<uint64_t>(found - unflushed_.begin()) + sector;
  }
  return "";
}

// Fills the range in the model and on the device.
std::string Model::Change(const char* operation, Range range, How how,
                          absl::FunctionRef<absl::Status(Range, ConstBytes)> apply) {
  if (viewed_.offset < range.end() && range.offset < viewed_.end()) {
    if (std::string failure = CheckView(); !failure.empty()) return failure;
  }
  const std::string name = Log(operation, range);
  std::vector<std::byte> in(range.length);
  if (how.random && choices_.Below(8) != 0) FillUniquely(in);
  std::copy(in.begin(), in.end(), bytes_.begin() + range.offset);
  std::fill_n(unflushed_.begin() + range.offset, range.length, !how.durably);
  return Explain(name, apply(OnDevice(range), in));
}

// With bytes that tell where they belong and when they were written.
void Model::FillUniquely(Bytes bytes) {
  uint64_t state = ++writes_ << 32 ^ region_.offset;
  for (size_t at = 0; at < bytes.size(); at += sizeof(state)) {
    state = state * 6364136223846793005 + 1442695040888963407;
    const uint64_t mixed = state ^ state >> 33;
    std::memcpy(bytes.data() + at, &mixed, std::min(sizeof(mixed), bytes.size() - at));
  }
}

// A block border from the region's begin to its end, near an edge more often than not.
uint64_t Model::PickEdge() {
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
      edge -= std::min(any, (region_.offset + any) % 4096);
      break;
    default:
      break;
  }
  edge -= edge % block_;
  const uint64_t shift = choices_.Below(4);
  if (shift == 1 && edge > 0) edge -= block_;
  if (shift == 2 && edge < bytes_.size()) edge += block_;
  return edge;
}

Range Model::PickRange() {
  const uint64_t offset = std::min(PickEdge(), bytes_.size() - block_);
  uint64_t length = 0;
  switch (choices_.Below(4)) {
    case 0:
      length = (1 + choices_.Below(8)) * block_;
      break;
    case 1:
      length = choices_.Below(3 * 4096);
      break;
    case 2:
      length = std::max(PickEdge(), offset) - offset;
      break;
    default:
      break;
  }
  length = std::max(length - length % block_, block_);
  return {offset, std::min(length, bytes_.size() - offset)};
}

}  // namespace

std::string RunModel(Subject& subject, Choices& choices, uint64_t operations, std::vector<std::string>* log) {
  if (absl::Status status = subject.Open(); !status.ok()) return absl::StrCat("open: ", status.ToString());
  const uint64_t size = subject.Size();
  Model model(subject, {0, size}, choices, log);
  // The size first, which the configuration may name.
  const auto settle = [&]() -> std::string {
    std::string failure = subject.Size() != size ? model.Resize(size) : "";
    if (failure.empty()) failure = model.Flush();
    if (failure.empty()) failure = model.Compare();
    if (failure.empty() && subject.persists) failure = model.Reopen();
    return failure.empty() && subject.persists ? model.Compare() : failure;
  };
  std::string failure = model.Start();
  for (uint64_t i = 0; i < operations && failure.empty(); ++i) {
    const uint64_t choice = choices.Below(64);
    failure = choice == 0 ? settle() : choice == 1 ? model.Resize() : model.Step();
  }
  return failure.empty() ? settle() : failure;
}

std::string RunSeed(MakeSubject make, uint64_t seed, uint64_t operations) {
  const auto run = [&](uint64_t count, std::vector<std::string>* log) {
    SeededChoices choices(seed);
    return RunModel(*make(), choices, count, log);
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

std::string RunThreads(Subject& subject, uint64_t seed, uint64_t operations, uint64_t threads) {
  if (absl::Status status = subject.Open(); !status.ok()) return absl::StrCat("open: ", status.ToString());
  const uint64_t length = subject.Size() / threads / subject.block_size * subject.block_size;
  std::vector<std::string> failures(threads);
  std::vector<std::thread> running;
  std::barrier begin(static_cast<ptrdiff_t>(threads));  // so that they meet
  for (uint64_t thread = 0; thread < threads; ++thread) {
    running.emplace_back([&, thread] {
      SeededChoices choices(seed * threads + thread);
      Model model(subject, {thread * length, length}, choices, nullptr);
      std::string failure = model.Start();
      begin.arrive_and_wait();
      for (uint64_t i = 0; i < operations && failure.empty(); ++i) failure = model.Step();
      failures[thread] = failure.empty() ? model.Compare() : failure;
    });
  }
  for (std::thread& thread : running) thread.join();
  for (const std::string& failure : failures) {
    if (!failure.empty()) return absl::StrCat("seed ", seed, ", ", threads, " threads: ", failure);
  }
  return "";
}

}  // namespace buse::testing

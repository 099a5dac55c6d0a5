// SPDX-License-Identifier: Apache-2.0
//
// Recording: writes down every operation in order, in memory for a test, and what changes the device to a file, which can be
// replayed up to any point.
//
// Family: observer.
// On-medium format: the file is a log as dm-log-writes makes it (layers/write_log.h), for replay-log and for buse::Replay.
// Guarantees: at any time, also after a crash of the program, the file holds all changes that were acknowledged, and changes of
// one caller in the order in which it made them. What it says was flushed was written before the flush began.
// Passes on: everything below has, but Backing. The block size is the one below made a multiple of 512, since the log consists
// of sectors; so where the device below takes less, this one does not.
// Concurrency: that of the device below. Changes of the same bytes at the same time may stand in the other order.
// Cost: two or three system calls per change and a copy of what is written, in the file's page cache; a lock for the time of
// those calls. In memory: all that is written, for ever.
// Failure: that of the device below. Where the log cannot be written, the change fails although it may have been done, and so
// does every later one: a log with a gap would be worse than none.
//
//   using Stack = buse::Recording<buse::FileBacked>;
//   Stack::Config config{.log = "writes.log", .below = {.path = "disk.img"}};
//
//   absl::StatusOr<buse::WriteLogReader> log = buse::WriteLogReader::Open("writes.log");
//   absl::Status status = buse::Replay<buse::Memory>(*log, 1000, memory);  // the first 1000 entries

#ifndef LAYERS_RECORDING_H_
#define LAYERS_RECORDING_H_

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "buse/description.h"
#include "buse/device.h"
#include "layers/operation.h"
#include "layers/write_log.h"

namespace buse {

// What Recording keeps in memory, in the order in which the operations ended.
struct Record {
  struct Entry {
    Operation operation;
    Range range;                // empty for Flush; [0, size) for Resize
    std::vector<std::byte> in;  // of Write and WriteThrough
    absl::StatusCode code;

    friend bool operator==(const Entry&, const Entry&) = default;
  };

  void Add(Operation operation, Range range, ConstBytes in, absl::StatusCode code) {
    std::lock_guard lock(mutex);
    entries.push_back({operation, range, {in.begin(), in.end()}, code});
  }

  std::mutex mutex;
  std::vector<Entry> entries;  // guarded by `mutex`
};

template <Device B>
struct Recording {
  using Below = B;

  struct Config {
    std::string log;           // empty: no file
    Record* record = nullptr;  // borrowed; absent: nothing is kept in memory
    typename Below::Config below;
  };

  struct State {
    typename Below::State below;
    Record* record = nullptr;
    std::optional<WriteLogWriter> log;
  };

  static constexpr uint64_t kBlockSize = std::lcm(Below::kBlockSize, WriteLogWriter::kSector);
  static constexpr Concurrency kConcurrency = Below::kConcurrency;
  static constexpr bool kWaits = true;

  static constexpr Description<Config, 1> Describe() {
    return {"recording",
            "writes all changes to a log that can be replayed",
            Family::kObserver,
            {{{.field = &Config::log, .name = "log", .help = "file to make for the log, in the format of dm-log-writes"}}}};
  }

  static absl::Status Open(const Config& config, State& self) {
    if (absl::Status status = Below::Open(config.below, self.below); !status.ok()) return status;
    if (const uint64_t size = Below::Size(self.below); size % kBlockSize != 0) {
      return absl::InvalidArgumentError(absl::StrCat("recording: the ", size, " bytes of the device below are no multiple of ",
                                                     kBlockSize, ", the sectors of the log: make it larger or smaller"));
    }
    self.record = config.record;
    return config.log.empty() ? absl::OkStatus() : self.log.emplace().Open(config.log);
  }

  static uint64_t Size(const State& self) { return Below::Size(self.below); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    return Note(self, Operation::kRead, {offset, out.size()}, {}, Below::Read(self.below, offset, out));
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    absl::Status status = Below::Write(self.below, offset, in);
    if (status.ok() && self.log.has_value()) status = self.log->Write(offset, in, 0);
    return Note(self, Operation::kWrite, {offset, in.size()}, in, status);
  }

  static absl::Status Flush(State& self) requires CanFlush<Below> {
    absl::StatusOr<uint64_t> place = 0;
    if (self.log.has_value()) place = self.log->BeginFlush();
    absl::Status status = place.ok() ? Below::Flush(self.below) : place.status();
    if (status.ok() && self.log.has_value()) status = self.log->EndFlush(*place);
    return Note(self, Operation::kFlush, {}, {}, status);
  }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<Below> {
    absl::Status status = Below::WriteThrough(self.below, offset, in);
    if (status.ok() && self.log.has_value()) status = self.log->Write(offset, in, kLogFua);
    return Note(self, Operation::kWriteThrough, {offset, in.size()}, in, status);
  }

  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> {
    absl::Status status = Below::Trim(self.below, range);
    if (status.ok() && self.log.has_value()) status = self.log->Discard(range);
    return Note(self, Operation::kTrim, range, {}, status);
  }

  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    absl::Status status = Below::WriteZeroes(self.below, range);
    if (status.ok() && self.log.has_value()) status = self.log->Zeroes(range);
    return Note(self, Operation::kWriteZeroes, range, {}, status);
  }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) requires CanExtents<Below> {
    if constexpr (kBlockSize == Below::kBlockSize) {
      return Note(self, Operation::kExtents, range, {}, Below::Extents(self.below, range, emit));
    } else {
      return Note(self, Operation::kExtents, range, {}, ExtentsInBlocks(self, range, emit));
    }
  }

  // Not written down: it leaves no trace.
  static absl::Status Residency(State& self, Range range,
                                EmitResident emit) requires(CanResidency<Below>&& kBlockSize == Below::kBlockSize) {
    return Below::Residency(self.below, range, emit);
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    return Note(self, Operation::kPrefetch, range, {}, Below::Prefetch(self.below, range));
  }

  static absl::Status View(State& self, Range range, Gather& gather) requires CanView<Below> {
    return Note(self, Operation::kView, range, {}, Below::View(self.below, range, gather));
  }

  static absl::Status Resize(State& self, uint64_t size) requires CanResize<Below> {
    absl::Status status = Below::Resize(self.below, size);
    if (status.ok() && self.log.has_value()) status = self.log->Mark(absl::StrCat("resize ", size));
    return Note(self, Operation::kResize, {0, size}, {}, status);
  }

 private:
  static absl::Status Note(State& self, Operation operation, Range range, ConstBytes in, absl::Status status) {
    if (self.record != nullptr) self.record->Add(operation, range, in, status.code());
    return status;
  }

  // Extents of smaller blocks, in blocks of this device: one that is not all of one kind is data.
  static absl::Status ExtentsInBlocks(State& self, Range range, EmitExtent emit) {
    uint64_t emitted = range.offset;  // up to here
    uint64_t known = range.offset;
    bool more = true;
    const auto emit_to = [&](uint64_t end, Extent::Kind kind) {
      if (end <= emitted || !more) return;
      more = emit({{emitted, end - emitted}, kind});
      emitted = end;
    };
    absl::Status status = Below::Extents(self.below, range, [&](const Extent& extent) {
      known = extent.range.end();
      if (extent.kind == Extent::Kind::kData) return true;
      const uint64_t begin = (extent.range.offset + kBlockSize - 1) / kBlockSize * kBlockSize;
      const uint64_t end = known / kBlockSize * kBlockSize;
      if (begin >= end) return true;
      emit_to(begin, Extent::Kind::kData);
      emit_to(end, extent.kind);
      return more;
    });
    if (!status.ok()) return status;
    // The device below may have stopped early, in the middle of a block.
    emit_to((known + kBlockSize - 1) / kBlockSize * kBlockSize, Extent::Kind::kData);
    return absl::OkStatus();
  }
};

}  // namespace buse

#endif  // LAYERS_RECORDING_H_

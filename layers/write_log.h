// SPDX-License-Identifier: Apache-2.0
//
// The log format of Linux's dm-log-writes, written and read: what was written to a device, in order, with its flushes. The
// tools of that project (replay-log) read what Recording writes, and Replay reads what the kernel writes.
//
// All numbers are little-endian. A sector is as large as the superblock says, and everything begins at one.
//
//   sector 0       superblock: u64 magic 0x006a736677736872, u64 version 1, u64 entries, u32 bytes per sector, zeroes
//   each entry     one sector: u64 sector, u64 sectors, u64 flags, u64 data length, then zeroes or a mark's text;
//                  after it, unless the entry is a discard, the bytes of its sectors
//   flags          1 flush, 2 FUA, 4 discard, 8 mark (data length: that of its text), 16 metadata
//
// What this writer puts in. Sectors have 512 bytes. Entries come in the order in which the changes completed; a flush stands
// where it began, so that all that it made durable stands before it. Trim is a discard. WriteZeroes is written as zeroes, which
// are a hole in the file, 16 MiB with each entry. Resize is a mark "resize SIZE". What failed is not in the log; a flush that
// failed, or has not ended, is an entry without flags. After each entry the superblock counts it, so that a log is whole at any
// time.

#ifndef LAYERS_WRITE_LOG_H_
#define LAYERS_WRITE_LOG_H_

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "buse/device.h"
#include "buse/io.h"
#include "buse/operations.h"

namespace buse {

inline constexpr uint64_t kLogFlush = 1;
inline constexpr uint64_t kLogFua = 2;
inline constexpr uint64_t kLogDiscard = 4;
inline constexpr uint64_t kLogMark = 8;
inline constexpr uint64_t kLogMetadata = 16;

// Appends to a log file. Thread-safe. After an error the log would lack something, so every later call fails too.
class WriteLogWriter {
 public:
  static constexpr uint64_t kSector = 512;

  // Makes the file, which must not exist.
  absl::Status Open(const std::string& path);

  // Offsets and lengths are multiples of kSector.
  absl::Status Write(uint64_t offset, ConstBytes in, uint64_t flags);
  absl::Status Zeroes(Range range);
  absl::Status Discard(Range range);
  absl::Status Mark(absl::string_view text);

  // Before a flush: where its entry stands. After it succeeded: says so there.
  absl::StatusOr<uint64_t> BeginFlush();
  absl::Status EndFlush(uint64_t place);

 private:
  // `length` bytes follow the header: `in`, or a hole.
  absl::Status Append(Range range, uint64_t flags, ConstBytes in, uint64_t length, absl::string_view text);
  absl::Status Fail(absl::Status status);

  std::mutex mutex_;  // guards all below once it is open
  UniqueFd fd_;
  std::string path_;
  uint64_t end_ = 0;
  uint64_t entries_ = 0;
  absl::Status failed_;
};

struct WriteLogEntry {
  uint64_t flags = 0;
  Range range;                  // in bytes
  std::vector<std::byte> data;  // of the range, unless this is a discard
  std::string mark;
};

// Reads a log from its beginning. Move-only.
class WriteLogReader {
 public:
  // kInvalidArgument where it is no such log, with what was found and what was wanted.
  static absl::StatusOr<WriteLogReader> Open(const std::string& path);

  uint64_t entries() const { return entries_; }

  // The next entry, nothing at the end. kDataLoss where the log makes no sense.
  absl::StatusOr<std::optional<WriteLogEntry>> Next();

 private:
  WriteLogReader() = default;

  UniqueFd fd_;
  std::string path_;
  uint64_t file_size_ = 0;
  uint64_t sector_ = 0;
  uint64_t entries_ = 0;
  uint64_t read_ = 0;
  uint64_t at_ = 0;
};

// "resize SIZE" of a mark.
std::optional<uint64_t> ResizeOfMark(absl::string_view mark);

// What does not fit the device: kInvalidArgument.
absl::Status CheckReplay(const WriteLogEntry& entry, uint64_t entry_number, uint64_t size, uint64_t block_size);

// Does to a device what the next `entries` entries of the log did, or all there are if that is less, up to the first error.
// Where the device has no Resize, those of the log are left out.
template <Device D>
absl::Status Replay(WriteLogReader& log, uint64_t entries, typename D::State& onto) requires CanWrite<D> {
  for (uint64_t i = 0; i < entries; ++i) {
    absl::StatusOr<std::optional<WriteLogEntry>> next = log.Next();
    if (!next.ok()) return next.status();
    if (!next->has_value()) return absl::OkStatus();
    const WriteLogEntry& entry = **next;
    if constexpr (CanResize<D>) {
      if (const std::optional<uint64_t> size = ResizeOfMark(entry.mark); size.has_value()) {
        if (absl::Status status = D::Resize(onto, *size); !status.ok()) return status;
      }
    }
    // A request that is a flush and a write flushes first.
    if ((entry.flags & kLogFlush) != 0) {
      if (absl::Status status = D::Flush(onto); !status.ok()) return status;
    }
    if (entry.range.length == 0) continue;
    absl::Status status = CheckReplay(entry, i, D::Size(onto), D::kBlockSize);
    if (!status.ok()) return status;
    if ((entry.flags & kLogDiscard) != 0) {
      status = buse::Zero<D>(onto, entry.range);
    } else if ((entry.flags & kLogFua) != 0) {
      status = buse::WriteThrough<D>(onto, entry.range.offset, entry.data);
    } else {
      status = D::Write(onto, entry.range.offset, entry.data);
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace buse

#endif  // LAYERS_WRITE_LOG_H_

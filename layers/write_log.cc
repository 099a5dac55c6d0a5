// SPDX-License-Identifier: Apache-2.0
//
// Files in the format of dm-log-writes; write_log.h has the table.

#include "layers/write_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "buse/status.h"

namespace buse {
namespace {

constexpr uint64_t kMagic = 0x006a736677736872;
constexpr uint64_t kVersion = 1;
constexpr size_t kHeader = 32;  // the four numbers of an entry
constexpr uint64_t kZeroPiece = 16 << 20;
// More than any request has; what a broken log may claim would otherwise be allocated.
constexpr uint64_t kMaxData = uint64_t{1} << 30;
constexpr char kResizeMark[] = "resize ";

void PutU64(std::byte* to, uint64_t value) {
  for (int i = 0; i < 8; ++i) to[i] = static_cast<std::byte>(value >> (8 * i));
}

uint64_t GetU64(const std::byte* from) {
  uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value |= std::to_integer<uint64_t>(from[i]) << (8 * i);
  return value;
}

}  // namespace

absl::Status WriteLogWriter::Fail(absl::Status status) {
  if (failed_.ok() && !status.ok()) {
    failed_ = absl::Status(status.code(), absl::StrCat("the log of writes is incomplete: ", status.message()));
  }
  return failed_;
}

absl::Status WriteLogWriter::Open(const std::string& path) {
  path_ = path;
  fd_.reset(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!fd_.valid()) {
    const int error = errno;
    if (error == EEXIST) {
      return absl::InvalidArgumentError(absl::StrCat(path, " exists: remove it, or name another file for the log of writes"));
    }
    return StatusFromErrno(error, absl::StrCat("create ", path));
  }
  std::array<std::byte, kSector> super{};
  PutU64(super.data(), kMagic);
  PutU64(super.data() + 8, kVersion);
  PutU64(super.data() + 24, kSector);  // u32, and zeroes after it
  end_ = kSector;
  return WriteFully(fd_.get(), 0, super, path_);
}

absl::Status WriteLogWriter::Append(Range range, uint64_t flags, ConstBytes in, uint64_t length, absl::string_view text) {
  assert(range.offset % kSector == 0 && range.length % kSector == 0 && text.size() <= kSector - kHeader);
  std::array<std::byte, kSector> header{};
  PutU64(header.data(), range.offset / kSector);
  PutU64(header.data() + 8, range.length / kSector);
  PutU64(header.data() + 16, flags);
  PutU64(header.data() + 24, text.size());
  std::memcpy(header.data() + kHeader, text.data(), text.size());
  std::array<std::byte, 8> count;
  PutU64(count.data(), entries_ + 1);

  absl::Status status = WriteFully(fd_.get(), end_, header, path_);
  if (status.ok() && !in.empty()) status = WriteFully(fd_.get(), end_ + kSector, in, path_);
  if (status.ok() && in.empty() && length > 0 && ftruncate(fd_.get(), static_cast<off_t>(end_ + kSector + length)) != 0) {
    status = StatusFromErrno(errno, absl::StrCat("extend ", path_));
  }
  if (status.ok()) status = WriteFully(fd_.get(), 16, count, path_);
  if (!status.ok()) return Fail(status);
  end_ += kSector + length;
  ++entries_;
  return absl::OkStatus();
}

absl::Status WriteLogWriter::Write(uint64_t offset, ConstBytes in, uint64_t flags) {
  std::lock_guard lock(mutex_);
  return failed_.ok() ? Append({offset, in.size()}, flags, in, in.size(), "") : failed_;
}

absl::Status WriteLogWriter::Zeroes(Range range) {
  std::lock_guard lock(mutex_);
  while (range.length > 0 && failed_.ok()) {
    const uint64_t n = std::min(range.length, kZeroPiece);
    Append({range.offset, n}, 0, {}, n, "").IgnoreError();  // kept in failed_
    range = {range.offset + n, range.length - n};
  }
  return failed_;
}

absl::Status WriteLogWriter::Discard(Range range) {
  std::lock_guard lock(mutex_);
  return failed_.ok() ? Append(range, kLogDiscard, {}, 0, "") : failed_;
}

absl::Status WriteLogWriter::Mark(absl::string_view text) {
  std::lock_guard lock(mutex_);
  return failed_.ok() ? Append({}, kLogMark, {}, 0, text.substr(0, kSector - kHeader)) : failed_;
}

absl::StatusOr<uint64_t> WriteLogWriter::BeginFlush() {
  std::lock_guard lock(mutex_);
  if (!failed_.ok()) return failed_;
  const uint64_t place = end_;
  absl::Status status = Append({}, 0, {}, 0, "");
  if (!status.ok()) return status;
  return place;
}

absl::Status WriteLogWriter::EndFlush(uint64_t place) {
  std::array<std::byte, 8> flags;
  PutU64(flags.data(), kLogFlush);
  std::lock_guard lock(mutex_);
  return failed_.ok() ? Fail(WriteFully(fd_.get(), place + 16, flags, path_)) : failed_;
}

absl::StatusOr<WriteLogReader> WriteLogReader::Open(const std::string& path) {
  WriteLogReader reader;
  reader.path_ = path;
  reader.fd_.reset(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  // lseek, not fstat: the kernel logs to a block device.
  const off_t size = reader.fd_.valid() ? lseek(reader.fd_.get(), 0, SEEK_END) : -1;
  if (size < 0) return StatusFromErrno(errno, absl::StrCat("open ", path));
  reader.file_size_ = static_cast<uint64_t>(size);
  std::array<std::byte, kHeader> super{};
  if (reader.file_size_ >= super.size()) {
    if (absl::Status status = ReadFully(reader.fd_.get(), 0, super, path); !status.ok()) return status;
  }
  const uint64_t magic = GetU64(super.data());
  if (magic != kMagic) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is no log of writes: it begins with 0x", absl::Hex(magic), " in place of 0x", absl::Hex(kMagic)));
  }
  if (const uint64_t version = GetU64(super.data() + 8); version != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is a log of version ", version, "; only ", kVersion, " is known"));
  }
  reader.entries_ = GetU64(super.data() + 16);
  reader.sector_ = GetU64(super.data() + 24) & UINT32_MAX;
  if (reader.sector_ < 512 || reader.sector_ > 65536 || (reader.sector_ & (reader.sector_ - 1)) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has sectors of ", reader.sector_, " bytes: a power of two from 512 to 65536 was expected"));
  }
  reader.at_ = reader.sector_;
  return reader;
}

absl::StatusOr<std::optional<WriteLogEntry>> WriteLogReader::Next() {
  if (read_ == entries_) return std::nullopt;
  const auto bad = [&](absl::string_view what) {
    return absl::DataLossError(absl::StrCat(path_, ": entry ", read_, " of ", entries_, ", at byte ", at_, ", ", what));
  };
  if (at_ > file_size_ || file_size_ - at_ < sector_) return bad("lies past the end of the file");
  std::vector<std::byte> header(sector_);
  if (absl::Status status = ReadFully(fd_.get(), at_, header, path_); !status.ok()) return status;
  WriteLogEntry entry;
  const uint64_t sector = GetU64(header.data());
  const uint64_t sectors = GetU64(header.data() + 8);
  entry.flags = GetU64(header.data() + 16);
  const uint64_t text = GetU64(header.data() + 24);
  if (sector > UINT64_MAX / 2 / sector_ || sectors > UINT64_MAX / 2 / sector_) return bad("names sectors beyond any device");
  entry.range = {sector * sector_, sectors * sector_};
  if ((entry.flags & kLogMark) != 0) {
    if (text > sector_ - kHeader) return bad("has a mark that is too long");
    entry.mark.assign(reinterpret_cast<const char*>(header.data()) + kHeader, text);
  }
  at_ += sector_;
  if ((entry.flags & kLogDiscard) == 0 && entry.range.length > 0) {
    if (entry.range.length > file_size_ - at_) return bad("has data that reaches past the end of the file");
    if (entry.range.length > kMaxData) return bad("has more than 1 GiB of data");
    entry.data.resize(entry.range.length);
    if (absl::Status status = ReadFully(fd_.get(), at_, entry.data, path_); !status.ok()) return status;
    at_ += entry.range.length;
  }
  ++read_;
  return entry;
}

std::optional<uint64_t> ResizeOfMark(absl::string_view mark) {
  uint64_t size;
  if (!absl::ConsumePrefix(&mark, kResizeMark) || !absl::SimpleAtoi(mark, &size)) return std::nullopt;
  return size;
}

absl::Status CheckReplay(const WriteLogEntry& entry, uint64_t entry_number, uint64_t size, uint64_t block_size) {
  const Range range = entry.range;
  if (range.offset <= size && range.length <= size - range.offset && range.offset % block_size == 0 &&
      range.length % block_size == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("replay: entry ", entry_number, " concerns ", range.offset, "+", range.length,
                                                 ", which does not fit a device of ", size, " bytes in blocks of ", block_size,
                                                 ": replay onto one like that of the log"));
}

}  // namespace buse

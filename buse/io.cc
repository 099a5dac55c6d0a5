// SPDX-License-Identifier: Apache-2.0
//
// The system-call seam: blocking system calls, or those of the kernel's own that a fiber is parked for.

#include "buse/io.h"

#include <fcntl.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "buse/parking.h"
#include "buse/status.h"

namespace buse {
namespace {

absl::Status Failure(int error, absl::string_view what, absl::string_view doing, uint64_t offset, uint64_t length) {
  return StatusFromErrno(error, absl::StrCat(what, ": cannot ", doing, " ", length, " bytes at offset ", offset));
}

absl::Status Allocate(int fd, int mode, Range range, absl::string_view what, absl::string_view doing) {
  int result;
  do {
    result = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.offset), static_cast<off_t>(range.length));
  } while (result < 0 && errno == EINTR);
  return result == 0 ? absl::OkStatus() : Failure(errno, what, doing, range.offset, range.length);
}

absl::StatusOr<uint64_t> Seek(int fd, uint64_t offset, int whence, absl::string_view what, absl::string_view looking_for) {
  const off_t found = lseek(fd, static_cast<off_t>(offset), whence);
  if (found >= 0) return static_cast<uint64_t>(found);
  if (errno == ENXIO) return UINT64_MAX;
  return StatusFromErrno(errno, absl::StrCat(what, ": cannot look for ", looking_for, " from offset ", offset));
}

// As pread and pwritev2, and whoever else has something to do in this thread does it meanwhile.
ssize_t Read(int fd, Bytes out, uint64_t offset) {
  if (Parking* const parking = Parking::Current(); parking != nullptr) {
    const ssize_t n = parking->Read(fd, out, offset);
    if (n >= 0) return n;
    errno = static_cast<int>(-n);
    if (errno != EAGAIN) return -1;  // else the kernel has no room for more: it is done here
  }
  return pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
}

ssize_t Write(int fd, ConstBytes in, uint64_t offset, int rwf_flags) {
  if (Parking* const parking = Parking::Current(); parking != nullptr) {
    const ssize_t n = parking->Write(fd, in, offset, rwf_flags);
    if (n >= 0) return n;
    errno = static_cast<int>(-n);
    if (errno != EAGAIN) return -1;
  }
  if (rwf_flags == 0) return pwrite(fd, in.data(), in.size(), static_cast<off_t>(offset));
  const iovec piece = {const_cast<std::byte*>(in.data()), in.size()};
  return pwritev2(fd, &piece, 1, static_cast<off_t>(offset), rwf_flags);
}

}  // namespace

void UniqueFd::reset(int fd) {
  const int old = std::exchange(fd_, fd);
  // Linux releases the descriptor even if close fails, so there is nothing to retry.
  if (old >= 0) close(old);
}

absl::Status ReadFully(int fd, uint64_t offset, Bytes out, absl::string_view what) {
  while (!out.empty()) {
    const ssize_t n = Read(fd, out, offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Failure(errno, what, "read", offset, out.size());
    if (n == 0) {
      return absl::InternalError(absl::StrCat(what, ": cannot read ", out.size(), " bytes at offset ", offset,
                                              ": the file ends there; was it truncated while in use?"));
    }
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

bool ReadCached(int fd, uint64_t offset, Bytes out) {
  const iovec piece = {out.data(), out.size()};
  return preadv2(fd, &piece, 1, static_cast<off_t>(offset), RWF_NOWAIT) == static_cast<ssize_t>(out.size());
}

absl::Status WriteFully(int fd, uint64_t offset, ConstBytes in, absl::string_view what, int rwf_flags) {
  while (!in.empty()) {
    const ssize_t n = Write(fd, in, offset, rwf_flags);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Failure(errno, what, "write", offset, in.size());
    // Trying again could go on for ever.
    if (n == 0) return Failure(EIO, what, "write", offset, in.size());
    offset += static_cast<uint64_t>(n);
    in = in.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status SyncData(int fd, absl::string_view what) {
  if (fdatasync(fd) == 0) return absl::OkStatus();
  return StatusFromErrno(errno, absl::StrCat(what, ": cannot make what was written durable"));
}

absl::Status PunchHole(int fd, Range range, absl::string_view what) {
  return Allocate(fd, FALLOC_FL_PUNCH_HOLE, range, what, "punch a hole of");
}

absl::Status ZeroRange(int fd, Range range, absl::string_view what) {
  return Allocate(fd, FALLOC_FL_ZERO_RANGE, range, what, "zero");
}

absl::StatusOr<uint64_t> NextData(int fd, uint64_t offset, absl::string_view what) {
  return Seek(fd, offset, SEEK_DATA, what, "data");
}

absl::StatusOr<uint64_t> NextHole(int fd, uint64_t offset, absl::string_view what) {
  return Seek(fd, offset, SEEK_HOLE, what, "a hole");
}

absl::Status ReadAhead(int fd, Range range, absl::string_view what) {
  const int error = posix_fadvise(fd, static_cast<off_t>(range.offset), static_cast<off_t>(range.length), POSIX_FADV_WILLNEED);
  return error == 0 ? absl::OkStatus() : Failure(error, what, "read ahead", range.offset, range.length);
}

}  // namespace buse

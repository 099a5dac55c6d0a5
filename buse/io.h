// SPDX-License-Identifier: Apache-2.0
//
// The system-call seam: the one place where a request reaches the system. Each call here blocks the calling thread, but for
// ReadFully and WriteFully in a fiber (buse/fibers.h), which is parked meanwhile.
//
// `what` names the file in an error message. Messages are formed only when a call fails.

#ifndef BUSE_IO_H_
#define BUSE_IO_H_

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "buse/device.h"

namespace buse {

// Owns a file descriptor. Move-only.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    reset(other.release());
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  // Closes what is owned and takes `fd`.
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

// Reads until all of `out` is filled. The end of the file is an error (kInternal) that names the offset where the file ends.
absl::Status ReadFully(int fd, uint64_t offset, Bytes out, absl::string_view what);

// Reads all of `out` without waiting for the medium: from the page cache. False: not all of it is there, or nothing is known.
bool ReadCached(int fd, uint64_t offset, Bytes out);

// Writes all of `in`. `rwf_flags` are those of pwritev2; kUnimplemented where the kernel or the file system lacks them, and
// then nothing was written.
absl::Status WriteFully(int fd, uint64_t offset, ConstBytes in, absl::string_view what, int rwf_flags = 0);

// Makes the data written so far durable. Never retried, not even when interrupted: the system reports a failed write-back only
// once, so a second call may succeed although data is lost.
absl::Status SyncData(int fd, absl::string_view what);

// Makes the range read as zeroes and releases its space. kUnimplemented where the file system cannot.
absl::Status PunchHole(int fd, Range range, absl::string_view what);

// Makes the range read as zeroes and keeps its space. kUnimplemented where the file system cannot.
absl::Status ZeroRange(int fd, Range range, absl::string_view what);

// The first offset from `offset` on that holds data, or that lies in a hole; UINT64_MAX if there is none before the end of the
// file. The end of the file counts as a hole.
absl::StatusOr<uint64_t> NextData(int fd, uint64_t offset, absl::string_view what);
absl::StatusOr<uint64_t> NextHole(int fd, uint64_t offset, absl::string_view what);

// Starts to read the range into the page cache.
absl::Status ReadAhead(int fd, Range range, absl::string_view what);

}  // namespace buse

#endif  // BUSE_IO_H_

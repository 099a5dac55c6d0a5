// SPDX-License-Identifier: Apache-2.0
//
// FileBacked: what does not depend on the block size at compile time. Opening first, then the operations.

#include "layers/file_backed.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "buse/status.h"

namespace buse::file_backed_internal {
namespace {

constexpr size_t kScratchSize = 4096;
alignas(4096) constexpr std::array<std::byte, 65536> kZeroes{};

absl::Status CannotOpen(int error, const DirectConfig& config) {
  if (error == ENOENT && config.create != 0 && config.read_only) {
    return absl::NotFoundError(absl::StrCat(config.path, ": there is no such file, and with --read-only none is created"));
  }
  if (error == ENOENT) {
    return absl::NotFoundError(absl::StrCat(config.path, ": there is no such file; --create SIZE creates one"));
  }
  if (error == EBUSY) return absl::AlreadyExistsError(absl::StrCat(config.path, ": is mounted or in use"));
  if (error == EINVAL && config.direct) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.path, ": the file system does not support O_DIRECT; open the file without --direct"));
  }
  const bool hint = !config.read_only && (error == EACCES || error == EROFS || error == EPERM);
  return StatusFromErrno(
      error, absl::StrCat(config.path, ": cannot open", hint ? " for writing (--read-only opens it for reading)" : ""));
}

absl::Status CheckKind(const std::string& path, mode_t mode) {
  if (S_ISREG(mode) || S_ISBLK(mode)) return absl::OkStatus();
  const char* kind = S_ISDIR(mode)    ? "directory"
                     : S_ISCHR(mode)  ? "character device"
                     : S_ISFIFO(mode) ? "pipe"
                     : S_ISSOCK(mode) ? "socket"
                                      : "file of an unknown kind";
  return absl::InvalidArgumentError(absl::StrCat(path, ": is a ", kind, "; wanted is a regular file or a block device"));
}

// Makes the name of a new file durable.
absl::Status SyncParent(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const UniqueFd fd(open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.valid() && fsync(fd.get()) == 0) return absl::OkStatus();
  return StatusFromErrno(errno, absl::StrCat(parent, ": cannot make the name of a new file durable"));
}

absl::Status Create(const std::string& path, uint64_t size) {
  const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd.valid()) {
    // Somebody else was faster: then it is an existing file.
    if (errno == EEXIST) return absl::OkStatus();
    if (errno == ENOENT) return absl::NotFoundError(absl::StrCat(path, ": cannot create: there is no such directory"));
    return StatusFromErrno(errno, absl::StrCat(path, ": cannot create"));
  }
  absl::Status status;
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0 || fsync(fd.get()) != 0) {
    status = StatusFromErrno(errno, absl::StrCat(path, ": cannot create a file of ", size, " bytes"));
  } else {
    status = SyncParent(path);
  }
  if (!status.ok()) unlink(path.c_str());
  return status;
}

absl::Status Lock(const File& self) {
  struct flock lock = {};
  lock.l_type = self.read_only ? F_RDLCK : F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (fcntl(self.fd.get(), F_OFD_SETLK, &lock) == 0) return absl::OkStatus();
  if (errno == EAGAIN) {
    return absl::AlreadyExistsError(absl::StrCat(self.path, ": is in use by another process, or twice by this one"));
  }
  return StatusFromErrno(errno, absl::StrCat(self.path, ": cannot lock"));
}

// What O_DIRECT demands, 0 if it is not supported.
struct DirectAlignment {
  uint64_t offset = 0;
  uint64_t memory = 0;
};

DirectAlignment ProbeDirectAlignment(const File& self) {
#ifdef STATX_DIOALIGN
  struct statx info = {};
  if (statx(self.fd.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 && (info.stx_mask & STATX_DIOALIGN) != 0) {
    return {info.stx_dio_offset_align, info.stx_dio_mem_align};
  }
#endif
  const uint64_t assumed = self.block_device ? self.zero_granule : 4096;
  return {assumed, assumed};
}

absl::Status CheckDirect(File& self) {
  const DirectAlignment demanded = ProbeDirectAlignment(self);
  if (demanded.offset == 0 || demanded.memory == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(self.path, ": this file does not support O_DIRECT; open it without --direct"));
  }
  if (demanded.offset > self.block_size || demanded.memory > kScratchSize) {
    return absl::InvalidArgumentError(
        absl::StrCat(self.path, ": O_DIRECT demands offsets aligned to ", demanded.offset, " bytes and memory aligned to ",
                     demanded.memory, " bytes, but the block size of this device is ", self.block_size,
                     " bytes and its memory is aligned to ", kScratchSize, "; open it without --direct"));
  }
  self.memory_alignment = demanded.memory;
  return absl::OkStatus();
}

// Finds the size and checks it against what was asked for.
absl::Status Measure(const DirectConfig& config, uint64_t file_size, File& self) {
  self.size = file_size;
  if (self.block_device) {
    int sector = 0;
    if (ioctl(self.fd.get(), BLKGETSIZE64, &self.size) != 0 || ioctl(self.fd.get(), BLKSSZGET, &sector) != 0) {
      return StatusFromErrno(errno, absl::StrCat(self.path, ": cannot find the size of the block device or of its sectors"));
    }
    self.zero_granule = static_cast<uint64_t>(sector);
  }
  if (config.create != 0 && self.size != config.create) {
    return absl::InvalidArgumentError(absl::StrCat(self.path, ": exists with ", self.size, " bytes, but --create asks for ",
                                                   config.create, "; leave out --create to use it as it is"));
  }
  if (const uint64_t excess = self.size % self.block_size; excess != 0) {
    const std::string advice =
        self.block_device ? "" : absl::StrCat("; truncate -s ", self.size - excess + self.block_size, " appends zeroes to it");
    return absl::InvalidArgumentError(absl::StrCat(self.path, ": its size of ", self.size,
                                                   " bytes is no multiple of the block size of ", self.block_size, advice));
  }
  return absl::OkStatus();
}

absl::Status PutZeroes(File& self, Range range) {
  while (range.length > 0) {
    const uint64_t n = std::min<uint64_t>(range.length, kZeroes.size());
    if (absl::Status status = WriteFully(self.fd.get(), range.offset, ConstBytes(kZeroes).first(n), self.path); !status.ok()) {
      return status;
    }
    range = {range.offset + n, range.length - n};
  }
  return absl::OkStatus();
}

// Lets the system zero the whole granules of the range, and writes zeroes to the rest, or to all where the system cannot.
absl::Status Clear(File& self, Range range, absl::Status (*zero)(int fd, Range range, absl::string_view what)) {
  const uint64_t granule = self.zero_granule;
  const uint64_t begin = range.offset + (granule - range.offset % granule) % granule;
  const uint64_t end = range.end() - range.end() % granule;
  if (begin >= end) return PutZeroes(self, range);
  absl::Status status = zero(self.fd.get(), {begin, end - begin}, self.path);
  if (absl::IsUnimplemented(status)) return PutZeroes(self, range);
  if (status.ok()) status = PutZeroes(self, {range.offset, begin - range.offset});
  return status.ok() ? PutZeroes(self, {end, range.end() - end}) : status;
}

}  // namespace

absl::Status Open(const DirectConfig& config, uint64_t block_size, File& self) {
  self.path = config.path;
  self.block_size = block_size;
  self.read_only = config.read_only;
  self.direct = config.direct;
  if (config.create % block_size != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(self.path, ": --create ", config.create, " is no multiple of the block size of ", block_size, " bytes"));
  }

  // Looked at before it is opened: opening a pipe waits, opening a device may act.
  struct stat found = {};
  if (stat(self.path.c_str(), &found) != 0) {
    if (errno != ENOENT || config.create == 0 || config.read_only) return CannotOpen(errno, config);
    if (absl::Status status = Create(self.path, config.create); !status.ok()) return status;
    if (stat(self.path.c_str(), &found) != 0) return CannotOpen(errno, config);
  }
  if (absl::Status status = CheckKind(self.path, found.st_mode); !status.ok()) return status;
  self.block_device = S_ISBLK(found.st_mode);

  const int flags = (self.read_only ? O_RDONLY : O_RDWR) | (self.direct ? O_DIRECT : 0) | O_CLOEXEC | O_NOCTTY;
  self.fd.reset(open(self.path.c_str(), flags | (self.block_device && !self.read_only ? O_EXCL : 0)));
  if (!self.fd.valid()) return CannotOpen(errno, config);
  if (absl::Status status = Lock(self); !status.ok()) return status;
  if (!self.read_only) {
    self.write_through_fd.reset(open(self.path.c_str(), flags));
    if (!self.write_through_fd.valid()) return CannotOpen(errno, config);
  }

  struct stat opened = {};
  const auto is_found = [&](const UniqueFd& fd) {
    return fstat(fd.get(), &opened) == 0 && opened.st_dev == found.st_dev && opened.st_ino == found.st_ino;
  };
  if (!is_found(self.fd) || !(self.read_only || is_found(self.write_through_fd))) {
    return absl::UnavailableError(absl::StrCat(self.path, ": was replaced while it was opened; try again"));
  }
  if (absl::Status status = Measure(config, static_cast<uint64_t>(opened.st_size), self); !status.ok()) return status;
  return self.direct ? CheckDirect(self) : absl::OkStatus();
}

absl::Status ReadByCopy(File& self, uint64_t offset, Bytes out) {
  alignas(4096) std::array<std::byte, kScratchSize> scratch;
  while (!out.empty()) {
    const size_t n = std::min(out.size(), scratch.size());
    if (absl::Status status = ReadFully(self.fd.get(), offset, Bytes(scratch).first(n), self.path); !status.ok()) {
      return status;
    }
    std::memcpy(out.data(), scratch.data(), n);
    offset += n;
    out = out.subspan(n);
  }
  return absl::OkStatus();
}

absl::Status WriteByCopy(File& self, int fd, uint64_t offset, ConstBytes in, int rwf_flags) {
  alignas(4096) std::array<std::byte, kScratchSize> scratch;
  while (!in.empty()) {
    const size_t n = std::min(in.size(), scratch.size());
    std::memcpy(scratch.data(), in.data(), n);
    if (absl::Status status = WriteFully(fd, offset, Bytes(scratch).first(n), self.path, rwf_flags); !status.ok()) {
      return status;
    }
    offset += n;
    in = in.subspan(n);
  }
  return absl::OkStatus();
}

absl::Status Flush(File& self) {
  std::lock_guard lock(self.flushing);
  if (self.flush_failed) {
    return absl::InternalError(absl::StrCat(
        self.path, ": an earlier flush failed, so data written before it may be lost; check the data and open the file again"));
  }
  absl::Status status = SyncData(self.fd.get(), self.path);
  self.flush_failed = !status.ok();
  return status;
}

absl::Status WriteThrough(File& self, uint64_t offset, ConstBytes in) {
  absl::Status status = Write(self, self.write_through_fd.get(), offset, in, RWF_DSYNC);
  if (!absl::IsUnimplemented(status)) return status;
  status = Write(self, self.fd.get(), offset, in, 0);
  return status.ok() ? Flush(self) : status;
}

absl::Status Trim(File& self, Range range) { return Clear(self, range, PunchHole); }

absl::Status WriteZeroes(File& self, Range range) { return Clear(self, range, ZeroRange); }

absl::Status Extents(File& self, Range range, EmitExtent emit) {
  if (self.block_device) {
    emit({range, Extent::Kind::kData});
    return absl::OkStatus();
  }
  // Past its end the system sees a hole, but Read fails there.
  const absl::StatusOr<uint64_t> last = NextHole(self.fd.get(), range.end() - 1, self.path);
  if (!last.ok()) return last.status();
  if (*last == UINT64_MAX) {
    return absl::InternalError(
        absl::StrCat(self.path, ": the file ends before offset ", range.end(), "; was it truncated while in use?"));
  }
  // A block that is partly data is data: extents begin and end at blocks, whatever the file system's own blocks are.
  const uint64_t block = self.block_size;
  for (uint64_t at = range.offset; at < range.end();) {
    const absl::StatusOr<uint64_t> data = NextData(self.fd.get(), at, self.path);
    if (!data.ok()) return data.status();
    Extent extent = {{at, std::min(*data, range.end()) / block * block - at}, Extent::Kind::kHole};
    if (extent.range.length == 0) {
      const absl::StatusOr<uint64_t> hole = NextHole(self.fd.get(), *data, self.path);
      if (!hole.ok()) return hole.status();
      const uint64_t end = *hole < range.end() ? (*hole + block - 1) / block * block : range.end();
      // A Trim at the same time may have turned the data into a hole; progress all the same.
      extent = {{at, std::max(end - at, block)}, Extent::Kind::kData};
    }
    if (!emit(extent)) break;
    at = extent.range.end();
  }
  return absl::OkStatus();
}

absl::Status Resize(File& self, uint64_t size) {
  const uint64_t before = self.size;
  if (size == 0 || size % self.block_size != 0 || size > INT64_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat(self.path, ": cannot have ", size, " bytes: give a multiple of ", self.block_size, " bytes"));
  }
  if (self.block_device) {
    uint64_t actual = 0;
    if (ioctl(self.fd.get(), BLKGETSIZE64, &actual) != 0) return StatusFromErrno(errno, absl::StrCat(self.path, ": its size"));
    if (size > actual) {
      return absl::InvalidArgumentError(
          absl::StrCat(self.path, ": cannot have ", size, " bytes: the block device has ", actual, "; extend it first"));
    }
    if (size > before) {
      if (absl::Status status = WriteZeroes(self, {before, size - before}); !status.ok()) return status;
    }
  } else if ((size > before && ftruncate(self.fd.get(), static_cast<off_t>(before)) != 0) ||  // what others appended
             ftruncate(self.fd.get(), static_cast<off_t>(size)) != 0) {
    return StatusFromErrno(errno, absl::StrCat(self.path, ": cannot be made ", size, " bytes long"));
  }
  self.size = size;
  return absl::OkStatus();
}

}  // namespace buse::file_backed_internal

// SPDX-License-Identifier: Apache-2.0
//
// FileBacked: the bytes of a regular file or of a block device.
//
// Family: leaf.
// Guarantees: while it is open, no other program that asks for a lock writes the file, and nobody reads it while it is written:
// the whole file is locked (open file description lock), a block device that is written is also claimed (O_EXCL). Flush and
// WriteThrough reach the medium, a file made by `create` is durable with its name once Open returns. A size that is no multiple
// of kBlockSize is refused and never rounded.
// Concurrency: kParallel. Flushes run one after another: a lock is held across fdatasync, because the system reports a failed
// write-back once per open file, and a second fdatasync at that moment would say OK to the loss of the same data.
// Cost: one system call for each operation, and one more where TryRead finds that it would have to wait; no memory. TryRead
// asks for what the page cache holds (RWF_NOWAIT), which not every file system tells; TryWrite takes the page cache to have
// room, though the system slows down who writes for longer than the medium can. What the file system lacks is made up for:
// WriteThrough by Write and Flush, Trim and WriteZeroes by writing zeroes, 64 KiB with each call. With `direct`, memory that is
// less aligned than the file demands goes through 4 KiB of stack: a copy, and a system call for every 4 KiB. Prefetch then does
// nothing. Extents:
// what was allocated and never written is reported as a hole; a block device is reported as data.
// Resize cuts the file off or extends it, and needs a Flush to last. A block device keeps its size; it may be resized up to
// that (after it was extended itself).
// Failure: I/O errors are passed on. Nobody else may change the file: a read of what somebody truncated is an error, but a
// write there makes the file longer again, and then what was cut reads as zeroes. After a failed Flush the system may have
// dropped data that a Write acknowledged, and would call the next fdatasync a success: therefore every later Flush fails,
// until the file is opened again. A failed WriteThrough does not lead to that: it syncs on a descriptor of its own, so the
// system reports what it found to the next Flush once more. That also catches the loss of one of several WriteThroughs at the
// same time, of which the system may have told only another.
//
//   using Stack = buse::FileBacked;
//   Stack::Config config{.path = "disk.img", .create = 64 << 20};
//
// DirectFileBacked has blocks of 4096 bytes, and the option `direct` to bypass the page cache (O_DIRECT).

#ifndef LAYERS_FILE_BACKED_H_
#define LAYERS_FILE_BACKED_H_

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>

#include "absl/status/status.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/io.h"

namespace buse {

namespace file_backed_internal {

struct BufferedConfig {
  std::string path;
  uint64_t create = 0;  // bytes; 0: the file must exist
  bool read_only = false;
};

struct DirectConfig {
  std::string path;
  uint64_t create = 0;
  bool read_only = false;
  bool direct = false;
};

struct File {
  UniqueFd fd;
  UniqueFd write_through_fd;  // another open file description of the same file
  std::string path;
  uint64_t size = 0;
  uint64_t block_size = 1;
  uint64_t zero_granule = 1;      // the system zeroes multiples of it: a block device's sector
  uint64_t memory_alignment = 1;  // what a system call demands of memory
  bool read_only = false;
  bool direct = false;
  bool block_device = false;

  std::mutex flushing;
  bool flush_failed = false;  // guarded by `flushing`

  bool Accepts(const std::byte* memory) const { return reinterpret_cast<uintptr_t>(memory) % memory_alignment == 0; }
};

// Opens, locks and examines the file. `block_size` is that of the device.
absl::Status Open(const DirectConfig& config, uint64_t block_size, File& self);

absl::Status ReadByCopy(File& self, uint64_t offset, Bytes out);
absl::Status WriteByCopy(File& self, int fd, uint64_t offset, ConstBytes in, int rwf_flags);
absl::Status Flush(File& self);
absl::Status WriteThrough(File& self, uint64_t offset, ConstBytes in);
absl::Status Trim(File& self, Range range);
absl::Status WriteZeroes(File& self, Range range);
absl::Status Extents(File& self, Range range, EmitExtent emit);
absl::Status Resize(File& self, uint64_t size);

inline absl::Status Write(File& self, int fd, uint64_t offset, ConstBytes in, int rwf_flags) {
  if (!self.Accepts(in.data())) return WriteByCopy(self, fd, offset, in, rwf_flags);
  return WriteFully(fd, offset, in, self.path, rwf_flags);
}

}  // namespace file_backed_internal

template <uint64_t kAlignment>
struct BasicFileBacked {
  static_assert(kAlignment >= 1 && kAlignment <= 4096 && (kAlignment & (kAlignment - 1)) == 0,
                "buse: the block size of a file is a power of two up to 4096");

  // Only blocks can be read and written directly: bytes have no member `direct`.
  using Config = std::conditional_t<kAlignment == 1, file_backed_internal::BufferedConfig, file_backed_internal::DirectConfig>;
  using State = file_backed_internal::File;

  static constexpr uint64_t kBlockSize = kAlignment;
  static constexpr Concurrency kConcurrency = Concurrency::kParallel;
  static constexpr bool kMayPark = true;

  static constexpr auto Describe() {
    constexpr Option<Config> kFile = {
        .field = &Config::path, .name = "file", .help = "file or block device", .positional = true, .required = true};
    constexpr Option<Config> kCreate = {.field = &Config::create,
                                        .name = "create",
                                        .help = "create a file of this size if there is none",
                                        .unit = Unit::kBytes,
                                        .max = INT64_MAX,
                                        .shapes_medium = true};
    constexpr Option<Config> kReadOnly = {.field = &Config::read_only, .name = "read-only", .help = "refuse to write"};
    if constexpr (kAlignment == 1) {
      return Description<Config, 3>{
          "file", "keeps bytes in a file or block device", Family::kLeaf, {{kFile, kCreate, kReadOnly}}};
    } else {
      constexpr Option<Config> kDirect = {
          .field = &Config::direct, .name = "direct", .help = "bypass the page cache (O_DIRECT)"};
      return Description<Config, 4>{
          "file", "keeps blocks in a file or block device", Family::kLeaf, {{kFile, kCreate, kReadOnly, kDirect}}};
    }
  }

  static absl::Status Open(const Config& config, State& self) {
    if constexpr (kAlignment == 1) {
      return file_backed_internal::Open({config.path, config.create, config.read_only, false}, kBlockSize, self);
    } else {
      return file_backed_internal::Open(config, kBlockSize, self);
    }
  }

  static void MakeNothing(Config& config) { config.create = 0; }

  static uint64_t Size(const State& self) { return self.size; }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    if (!self.Accepts(out.data())) return file_backed_internal::ReadByCopy(self, offset, out);
    return ReadFully(self.fd.get(), offset, out, self.path);
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    return file_backed_internal::Write(self, self.fd.get(), offset, in, 0);
  }

  static absl::Status Flush(State& self) { return file_backed_internal::Flush(self); }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) {
    return file_backed_internal::WriteThrough(self, offset, in);
  }

  static absl::Status Trim(State& self, Range range) { return file_backed_internal::Trim(self, range); }

  static absl::Status WriteZeroes(State& self, Range range) { return file_backed_internal::WriteZeroes(self, range); }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) {
    return file_backed_internal::Extents(self, range, emit);
  }

  static absl::Status Prefetch(State& self, Range range) {
    if (self.direct) return absl::OkStatus();
    return ReadAhead(self.fd.get(), range, self.path);
  }

  // From the page cache, and into it.
  static bool TryRead(State& self, uint64_t offset, Bytes out) {
    return !self.direct && ReadCached(self.fd.get(), offset, out);
  }
  static bool TryWrite(State& self, uint64_t offset, ConstBytes in) { return !self.direct && Write(self, offset, in).ok(); }

  // Not for `direct`: sending from such a file demands an alignment that the receiver does not know.
  static std::optional<FileRange> Backing(State& self, Range range) {
    if (self.direct) return std::nullopt;
    return FileRange{self.fd.get(), range.offset};
  }

  static absl::Status Resize(State& self, uint64_t size) { return file_backed_internal::Resize(self, size); }

  static bool Writable(const State& self) { return !self.read_only; }
};

using FileBacked = BasicFileBacked<1>;
using DirectFileBacked = BasicFileBacked<4096>;

}  // namespace buse

#endif  // LAYERS_FILE_BACKED_H_

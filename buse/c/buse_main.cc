// SPDX-License-Identifier: Apache-2.0

#include <arpa/inet.h>
#include <errno.h>

#include <cstdint>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "buse/c/buse.h"
#include "buse/device.h"
#include "buse/disk.h"
#include "buse/nbd.h"
#include "buse/serve.h"
#include "buse/server.h"
#include "buse/signals.h"
#include "buse/status.h"

namespace buse {
namespace {

// An error as BUSE programs give it: some turn it into network byte order, since BUSE put it on the wire as it was.
absl::Status StatusFromCallback(const char* callback, int result) {
  constexpr int kLargestErrno = 4095;
  if (result == 0) return absl::OkStatus();
  int error = result < 0 && result >= -kLargestErrno ? -result : result;
  if (error < 0 || error > kLargestErrno) error = static_cast<int>(ntohl(static_cast<uint32_t>(error)));
  if (error < 0 || error > kLargestErrno) error = EIO;
  return StatusFromErrno(error, absl::StrCat("the ", callback, " callback"));
}

// The callbacks as a device. Only the server stands on it, which announces what there are callbacks for: Trim here does not
// promise zeroes, as a device that layers may stand on must.
struct Callbacks {
  struct Config {
    const buse_operations* operations = nullptr;
    void* userdata = nullptr;
    uint64_t size = 0;
  };
  using State = Config;

  static constexpr uint64_t kBlockSize = 1;
  static constexpr Concurrency kConcurrency = Concurrency::kSerial;

  static absl::Status Open(const Config& config, State& self) {
    self = config;
    return absl::OkStatus();
  }
  static uint64_t Size(const State& self) { return self.size; }
  static bool Writable(const State& self) { return self.operations->write != nullptr; }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    return StatusFromCallback("read", self.operations->read(out.data(), out.size(), offset, self.userdata));
  }
  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    return StatusFromCallback("write", self.operations->write(in.data(), in.size(), offset, self.userdata));
  }
  static absl::Status Flush(State& self) {
    if (self.operations->flush == nullptr) return absl::OkStatus();
    return StatusFromCallback("flush", self.operations->flush(self.userdata));
  }
  static absl::Status Trim(State& self, Range range) {
    return StatusFromCallback("trim", self.operations->trim(range.offset, range.length, self.userdata));
  }
};

absl::StatusOr<uint64_t> SizeOf(const buse_operations& operations) {
  if (operations.read == nullptr) return absl::InvalidArgumentError("buse_operations.read is NULL: a device needs to be read");
  const uint64_t block = operations.blksize;
  if (block != 0 && ((block & (block - 1)) != 0 || block < 512 || block > 4096)) {
    return absl::InvalidArgumentError(
        absl::StrCat("buse_operations.blksize is ", block, ": give 512, 1024, 2048 or 4096, or 0 and the size in bytes"));
  }
  if (operations.size == 0 && (block == 0 || operations.size_blocks == 0)) {
    return absl::InvalidArgumentError("buse_operations has no size: set size, or both blksize and size_blocks");
  }
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  if (operations.size > kMax || (operations.size == 0 && operations.size_blocks > kMax / block)) {
    return absl::InvalidArgumentError(absl::StrCat("buse_operations asks for over 2^63 bytes: size ", operations.size,
                                                   ", size_blocks ", operations.size_blocks, ", blksize ", block));
  }
  const uint64_t size = operations.size != 0 ? operations.size : operations.size_blocks * block;
  if (block != 0 && size % block != 0) {
    return absl::InvalidArgumentError(absl::StrCat("buse_operations.size is ", size, ": no multiple of blksize, ", block,
                                                   ", so its end could not be reached"));
  }
  return size;
}

absl::Status ServeCallbacks(const std::string& program, const char* target, const buse_operations* operations, void* userdata) {
  if (operations == nullptr) return absl::InvalidArgumentError("bop is NULL: give the callbacks");
  if (target == nullptr) return absl::InvalidArgumentError("dev_file is NULL: give /dev/nbdN or an NBD URI");
  absl::StatusOr<uint64_t> size = SizeOf(*operations);
  if (!size.ok()) return size.status();
  absl::StatusOr<Disk<Callbacks>> disk = Disk<Callbacks>::Open({operations, userdata, *size});
  if (!disk.ok()) return disk.status();
  // BUSE has no callback to write zeroes, and its trim does not promise them.
  Narrowing narrowing = {.hidden_flags = nbd::kFlagSendWriteZeroes};
  if (operations->flush == nullptr) narrowing.hidden_flags |= nbd::kFlagSendFlush | nbd::kFlagSendFua;
  if (operations->trim == nullptr) narrowing.hidden_flags |= nbd::kFlagSendTrim;
  if (operations->blksize != 0) narrowing.min_block = operations->blksize;
  return ServeDisk(program, *disk, {.target = target}, narrowing);
}

}  // namespace
}  // namespace buse

extern "C" int buse_main(const char* dev_file, const struct buse_operations* bop, void* userdata) {
  const buse::ServingProcess process;
  const std::string program = program_invocation_short_name;
  absl::Status status = buse::ServeCallbacks(program, dev_file, bop, userdata);
  if (bop != nullptr && bop->disc != nullptr) bop->disc(userdata);
  return buse::ExitWith(program, status);
}

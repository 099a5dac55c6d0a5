// SPDX-License-Identifier: Apache-2.0
//
// ChecksumReader: reads blocks of a Checksum and compares them with their sums. What it needs of the stack are the device below,
// behind virtual functions, and those of the hash.
//
// Any thread may call anything. Allocates nothing, but for the message of what is damaged.

#ifndef LAYERS_CHECKSUM_READER_H_
#define LAYERS_CHECKSUM_READER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "layers/checksum_hash.h"
#include "layers/checksum_store.h"
#include "layers/device_io.h"

namespace buse {

class ChecksumReader {
 public:
  // For one call; borrows both.
  ChecksumReader(DeviceIo& io, ChecksumStore& store, const HashFunctions& hash)
      : io_(io), store_(store), hash_(hash), geometry_(store.geometry()) {}

  // At an offset in bytes. kDataLoss names the first wrong block, and tells how many there are.
  absl::Status Read(uint64_t offset, Bytes out);

  // Reads all that is not known to be zeroes, and reports block by block where there is something wrong.
  void Check(const CheckReport& report);

 private:
  // What is read and verified at once: little enough to stay near the processor, and its sums on the stack.
  static constexpr uint64_t kMostPiece = 256 << 10;
  static constexpr uint64_t kMostSums = 2048;

  struct Damage {
    uint64_t blocks = 0;
    uint64_t first = 0;
  };

  uint64_t PieceSize() const;
  absl::Status ReadPiece(uint64_t first, Bytes out, Damage& damage);
  absl::Status TryReadPiece(uint64_t first, Bytes out, Damage& damage);
  absl::Status ReadBelow(uint64_t first, Bytes out, Damage& damage);
  void CheckPiece(uint64_t offset, Bytes piece, const CheckReport& report);

  DeviceIo& io_;
  ChecksumStore& store_;
  const HashFunctions& hash_;
  const ChecksumGeometry& geometry_;
};

}  // namespace buse

#endif  // LAYERS_CHECKSUM_READER_H_

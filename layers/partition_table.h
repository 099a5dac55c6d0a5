// SPDX-License-Identifier: Apache-2.0
//
// What reading an MBR and a GPT have in common: a disk in sectors, spans of them, and the judgement of what a table says.
//
// None of the bytes of a table can be trusted: every number is checked before it is used, sectors are compared and never added
// up, and what is read is bounded.

#ifndef LAYERS_PARTITION_TABLE_H_
#define LAYERS_PARTITION_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"

namespace buse::partition_internal {

inline constexpr uint64_t kMaxEntries = 1024;  // of a GPT, or sectors of a chain

struct Wanted {
  uint64_t number;
  uint64_t sector_size;  // 0: find out
  bool use_backup;
};

// A device of `size` bytes that is read in whole blocks of `block_size`.
struct Medium {
  uint64_t size;
  uint64_t block_size;
  absl::FunctionRef<absl::Status(uint64_t offset, Bytes out)> read;
};

template <class... Text>
absl::Status Damaged(const Text&... text) {
  return absl::DataLossError(absl::StrCat("partition: ", text...));
}
template <class... Text>
absl::Status Refused(const Text&... text) {
  return absl::InvalidArgumentError(absl::StrCat("partition: ", text...));
}

// Little endian.
uint64_t Load(const std::byte* bytes, int width);

// Sectors, the last included. A hostile one may end before it begins: then it has none.
struct Span {
  uint64_t first;
  uint64_t last;

  bool Contains(uint64_t sector) const { return first <= sector && sector <= last; }
  bool Overlaps(const Span& other) const {
    return first <= last && other.first <= other.last && first <= other.last && other.first <= last;
  }
};

std::string ToString(const Span& span);

// The medium in sectors, for a reader that takes any offset. Borrows it.
class Disk {
 public:
  Disk(const Medium& medium, uint64_t sector_size);

  uint64_t sector_size() const { return sector_size_; }
  uint64_t sectors() const { return medium_.size / sector_size_; }

  // Reads from byte `skip` of `sector` on; all of it must exist.
  absl::Status Read(uint64_t sector, uint64_t skip, Bytes out);

 private:
  absl::Status Buffer(uint64_t offset);

  const Medium& medium_;
  const uint64_t sector_size_;
  std::vector<std::byte> buffer_;
  uint64_t begin_ = 0;   // where on the medium
  ConstBytes buffered_;  // what was read: a prefix of the buffer
};

// What a table says of the partition that was asked for, and of whatever it must not overlap.
struct Found {
  std::optional<Span> span;
  Span allowed;
  std::vector<Span> others;
  uint64_t last = 0;  // the number of the last partition, or of the last entry
};

// Where partition `number` lies, in bytes; or why it cannot.
absl::StatusOr<Range> Resolve(const Found& found, const Disk& disk, uint64_t number);

}  // namespace buse::partition_internal

#endif  // LAYERS_PARTITION_TABLE_H_

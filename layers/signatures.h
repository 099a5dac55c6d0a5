// SPDX-License-Identifier: Apache-2.0
//
// What lies on a medium, by the signatures of well-known formats: so that nothing is destroyed unasked, and an error can say
// what it found.

#ifndef LAYERS_SIGNATURES_H_
#define LAYERS_SIGNATURES_H_

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"

namespace buse {

// A device of any type, for code that is compiled once. `read` takes offsets and lengths that are multiples of 4096.
struct MediumView {
  static constexpr uint64_t kPiece = 4096;

  uint64_t size = 0;
  absl::FunctionRef<absl::Status(uint64_t offset, Bytes out)> read;
};

// "an XFS file system": the best known format that begins the medium; empty if none is known. Reads a few pieces of the first
// 132 KiB; a medium that is smaller is looked at as far as it goes.
absl::StatusOr<std::string> KnownFormat(const MediumView& medium);

// The same where only the first piece is there to look at.
std::string KnownFormatOfBeginning(ConstBytes piece);

// What would be lost if the medium were written over: a known format, or that there is something other than zeroes in the first
// 132 KiB or the last 64 KiB (where backups of partition tables and of RAID metadata lie); empty if neither.
absl::StatusOr<std::string> WhatWouldBeLost(const MediumView& medium);

}  // namespace buse

#endif  // LAYERS_SIGNATURES_H_

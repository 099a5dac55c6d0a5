// SPDX-License-Identifier: Apache-2.0
//
// What lies on a medium, in words: the superblocks of our layers, one inside another, and what is in the innermost.

#ifndef LAYERS_DESCRIBE_MEDIUM_H_
#define LAYERS_DESCRIBE_MEDIUM_H_

#include <string>

#include "absl/status/statusor.h"
#include "layers/signatures.h"

namespace buse {

struct MediumDescription {
  std::string text;      // lines
  bool ours = false;     // a superblock was found
  bool damaged = false;  // a copy of one is damaged or lost, or the medium has not the size it was made with
};

// Follows the field "data" of each superblock inwards.
absl::StatusOr<MediumDescription> DescribeMedium(const MediumView& medium);

// The same of a file or block device, which may be in use meanwhile: it is only read, and not locked.
absl::StatusOr<MediumDescription> DescribeMediumAt(const std::string& path);

}  // namespace buse

#endif  // LAYERS_DESCRIBE_MEDIUM_H_

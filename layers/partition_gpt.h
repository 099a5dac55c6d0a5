// SPDX-License-Identifier: Apache-2.0
//
// The GUID partition table: a header in sector 1 with the entries, and a copy of both at the end of the disk.

#ifndef LAYERS_PARTITION_GPT_H_
#define LAYERS_PARTITION_GPT_H_

#include "absl/status/statusor.h"
#include "buse/device.h"
#include "layers/partition_table.h"

namespace buse::partition_internal {

// Where the partition lies. kDataLoss: no GPT is sound that may be used.
absl::StatusOr<Range> FindInGpt(const Medium& medium, const Wanted& wanted);

}  // namespace buse::partition_internal

#endif  // LAYERS_PARTITION_GPT_H_

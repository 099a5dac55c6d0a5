// SPDX-License-Identifier: Apache-2.0
//
// MirrorSet: the parts of an open mirror that do not depend on the types of its legs, and the making of a leg.

#ifndef LAYERS_MIRROR_SET_H_
#define LAYERS_MIRROR_SET_H_

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"
#include "buse/range_mutex.h"
#include "layers/device_io.h"
#include "layers/legs_status.h"
#include "layers/mirror_copier.h"
#include "layers/mirror_format.h"
#include "layers/mirror_intents.h"
#include "layers/mirror_legs.h"
#include "layers/mirror_metadata.h"
#include "layers/superblock.h"

namespace buse {

class MirrorSet {
 public:
  struct Options {
    bool degraded = false;
    bool writable = false;
    uint64_t block_size = 1;
    uint64_t idle_flushes = 1;
    uint64_t flush_step = 0;
  };

  absl::Status Open(MirrorLinks links, std::span<const MirrorMetadata::Found> found, const MirrorLayout& layout,
                    const Options& options);

  const MirrorLayout& layout() const { return layout_; }
  bool writable() const { return options_.writable; }
  RangeMutex& ranges() { return ranges_; }
  MirrorLegs& legs() { return legs_; }
  const MirrorIntents& intents() const { return intents_; }
  MirrorMetadata& metadata() { return metadata_; }
  MirrorCopier& copier() { return copier_; }

  absl::Status Flush(MirrorLinks links);
  // Puts another medium in the place of a leg that failed: nobody uses it while `close` closes it, nor until `open` has opened the
  // new one, and returns its UUID.
  absl::Status Replace(size_t leg, absl::FunctionRef<void()> close, absl::FunctionRef<absl::StatusOr<Uuid>()> open);
  LegsStatus Status() const;

 private:
  MirrorLayout layout_;
  Options options_;
  RangeMutex ranges_;
  MirrorLegs legs_;
  MirrorIntents intents_;
  MirrorMetadata metadata_{legs_, intents_};
  MirrorCopier copier_{legs_, intents_, metadata_, ranges_};
  std::mutex replacing_;
};

// What Format writes to a leg but for its superblock: heads, an empty bitmap, zeroes. `add` is told of bytes of zeroes.
absl::Status FormatMirrorLeg(DeviceIo& link, const MirrorLayout& layout, const MirrorHead& head, const Uuid& uuid,
                             absl::FunctionRef<void(uint64_t)> add);

// The superblock of a leg with its fields, and what these say.
Superblock MakeMirrorSuperblock(const MirrorLayout& layout, const Uuid& set, size_t leg, size_t legs);
absl::StatusOr<MirrorLayout> ReadMirrorLayout(const Superblock& superblock);

}  // namespace buse

#endif  // LAYERS_MIRROR_SET_H_

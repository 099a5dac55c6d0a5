// SPDX-License-Identifier: Apache-2.0
//
// MirrorMedia: the media of a Mirror's legs, each with its type: opens them, knows whose they are, formats and replaces them.
// Which legs are in sync is for MirrorMetadata to say.

#ifndef LAYERS_MIRROR_MEDIA_H_
#define LAYERS_MIRROR_MEDIA_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "layers/device_io.h"
#include "layers/leg_media.h"
#include "layers/mirror_format.h"
#include "layers/mirror_metadata.h"
#include "layers/mirror_set.h"
#include "layers/superblock.h"

namespace buse {

// `M` is a Mirror. Nobody else may use the leg meanwhile.
template <class M>
class MirrorMedia {
  using State = typename M::State;
  template <size_t kLeg>
  using Leg = std::tuple_element_t<kLeg, typename M::Below>;

 public:
  // An error: the leg is open and no leg of this mirror. One that is missing is only noted. `first`: that of the first one open.
  template <size_t kLeg>
  static absl::Status Open(const typename Leg<kLeg>::Config& config, State& self, absl::optional<Superblock>& first,
                           MirrorMetadata::Found& found) {
    auto& below = std::get<kLeg>(self.below);
    absl::Status opened = Leg<kLeg>::Open(config, below);
    if (opened.ok()) {
      SuperblockWanted wanted = {.kind = "mirror",
                                 .oldest_version = MirrorLayout::kVersion,
                                 .newest_version = MirrorLayout::kVersion,
                                 .block_size = M::kBlockSize,
                                 .fingerprint = Fingerprint<M>(),
                                 .leg = kLeg,
                                 .legs = M::kLegs};
      if (first) wanted.set_uuid = first->set_uuid;
      absl::StatusOr<Superblock> superblock = ReadSuperblock<Leg<kLeg>>(below, wanted);
      if (superblock.ok()) {
        if (!first) first = *superblock;
        found.uuid = superblock->uuid;
        self.superblocks[kLeg] = *std::move(superblock);
        return absl::OkStatus();
      }
      if (absl::IsFailedPrecondition(superblock.status())) return superblock.status();
      opened = superblock.status();
    }
    found.why = std::string(opened.message());
    return absl::OkStatus();
  }

  template <size_t kLeg>
  static Superblock MakeSuperblock(const MirrorLayout& layout, const Uuid& set, const typename Leg<kLeg>::State& below) {
    Superblock superblock = MakeMirrorSuperblock(layout, set, kLeg, M::kLegs);
    superblock.medium_size = Leg<kLeg>::Size(below);
    superblock.block_size = M::kBlockSize;
    superblock.fingerprint = Fingerprint<M>();
    return superblock;
  }

  template <size_t kLeg>
  static absl::Status Format(const MirrorLayout& layout, const MirrorHead& head, const Superblock& superblock,
                             typename Leg<kLeg>::State& below, absl::FunctionRef<void(uint64_t)> add) {
    DeviceIoOf<Leg<kLeg>> link(below);
    absl::Status status = FormatMirrorLeg(link, layout, head, superblock.uuid, add);
    return status.ok() ? WriteSuperblock<Leg<kLeg>>(below, superblock) : status;
  }

  // Replaces a leg that is no leg of this mirror, if nothing is on its medium.
  template <size_t kLeg>
  static absl::Status ReplaceByEmpty(const typename Leg<kLeg>::Config& config, State& self) {
    if constexpr (CanWrite<M>) {
      Close<kLeg>(self);
      absl::Status status = CheckEmpty<Leg<kLeg>>("mirror", kLeg, config);
      return status.ok() ? M::template Replace<kLeg>(self, config) : status;
    } else {
      return absl::FailedPreconditionError("mirror: some leg cannot be written, so that none can be replaced");
    }
  }

  // Of whatever could be opened of it, nothing stays.
  template <size_t kLeg>
  static void Close(State& self) {
    self.superblocks[kLeg].reset();
    auto& below = std::get<kLeg>(self.below);
    std::destroy_at(&below);
    std::construct_at(&below);
  }

  // Opens a medium in place of a leg that is closed, and makes it a leg to be rebuilt. It gets a superblock and no head: without
  // one it has no say, and what lies on it besides is not looked at before it was rebuilt.
  template <size_t kLeg>
  static absl::StatusOr<Uuid> OpenReplacement(const typename Leg<kLeg>::Config& config, State& self) {
    using L = Leg<kLeg>;
    const auto known = std::find_if(self.superblocks.begin(), self.superblocks.end(),
                                    [](const absl::optional<Superblock>& superblock) { return superblock.has_value(); });
    const Uuid set = (*known)->set_uuid;  // at least one leg is in sync
    if constexpr (kFormats<L>) {
      if (absl::Status status = FormatStack<L>(config, [](uint64_t, uint64_t) {}); !status.ok()) return status;
    }
    auto& below = std::get<kLeg>(self.below);
    if (absl::Status status = L::Open(config, below); !status.ok()) return status;
    const MirrorLayout& layout = self.set.layout();
    absl::Status status = CheckLargeEnough("mirror", kLeg, L::Size(below), layout.data + layout.size);
    if (!status.ok()) return status;
    const Superblock superblock = MakeSuperblock<kLeg>(layout, set, below);
    status = EraseSuperblock<L>(below);
    if (status.ok()) status = WriteSuperblock<L>(below, superblock);
    if (!status.ok()) return status;
    self.superblocks[kLeg] = superblock;
    return superblock.uuid;
  }
};

}  // namespace buse

#endif  // LAYERS_MIRROR_MEDIA_H_

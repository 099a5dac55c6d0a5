// SPDX-License-Identifier: Apache-2.0
//
// ParityMedia: the media of a Parity's legs, with their type: opens them, knows whose they are, formats and replaces them.
// Which legs are in sync is for ParityLegs to say.

#ifndef LAYERS_PARITY_MEDIA_H_
#define LAYERS_PARITY_MEDIA_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "buse/device.h"
#include "buse/medium.h"
#include "buse/operations.h"
#include "layers/device_io.h"
#include "layers/leg_media.h"
#include "layers/parity_format.h"
#include "layers/parity_legs.h"
#include "layers/parity_set.h"
#include "layers/superblock.h"

namespace buse {

// `P` is a Parity. Nobody else may use the leg meanwhile.
template <class P>
class ParityMedia {
  using Leg = typename P::Leg;
  using State = typename P::State;

 public:
  // An error: the leg is open and no leg of this parity. One that is missing is only noted. `first`: of the first one open.
  static absl::Status Open(const typename Leg::Config& config, State& self, size_t leg, absl::optional<Superblock>& first,
                           ParityLegs::Found& found) {
    absl::Status opened = Leg::Open(config, self.below[leg]);
    if (opened.ok() && !buse::Writable<Leg>(self.below[leg])) {
      return absl::FailedPreconditionError(
          absl::StrCat("parity: leg ", leg,
                       " cannot be written, and Open may have to finish what a power cut interrupted: make it writable"));
    }
    if (opened.ok()) {
      SuperblockWanted wanted = {.kind = "parity",
                                 .block_size = P::kBlockSize,
                                 .fingerprint = Fingerprint<P>(),
                                 .leg = static_cast<uint32_t>(leg),
                                 .legs = P::kLegs};
      if (first) wanted.set_uuid = first->set_uuid;
      absl::StatusOr<Superblock> superblock = ReadSuperblock<Leg>(self.below[leg], wanted);
      if (superblock.ok()) {
        if (!first) first = *superblock;
        found.uuid = superblock->uuid;
        self.superblocks[leg] = *std::move(superblock);
        return absl::OkStatus();
      }
      if (absl::IsFailedPrecondition(superblock.status())) return superblock.status();
      opened = superblock.status();
    }
    found.why = std::string(opened.message());
    return absl::OkStatus();
  }

  // Of a leg that is open. kFailedPrecondition: it is not that of the others, `layout`, which is set by the first.
  static absl::Status CheckLayout(const State& self, size_t leg, absl::optional<ParityLayout>& layout) {
    const absl::StatusOr<ParityLayout> here = ReadParityLayout(*self.superblocks[leg], P::kGeometry);
    if (!here.ok()) return here.status();
    if (!layout) layout = *here;
    if (*here == *layout) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("parity: leg ", leg, " has ", here->leg_data, " bytes of data and a log of ", here->log_slot,
                     ", and another one ", layout->leg_data, " and ", layout->log_slot, ": they were not formatted together"));
  }

  static Superblock MakeSuperblock(const ParityLayout& layout, const Uuid& set, size_t leg, const typename Leg::State& below) {
    Superblock superblock = MakeParitySuperblock(layout, set, leg);
    superblock.medium_size = Leg::Size(below);
    superblock.block_size = P::kBlockSize;
    superblock.fingerprint = Fingerprint<P>();
    return superblock;
  }

  // Absent `head`: zeroes in its place.
  static absl::Status Format(const ParityLayout& layout, const Superblock& superblock, const ParityHead* head,
                             typename Leg::State& below, absl::FunctionRef<void(uint64_t)> add) {
    DeviceIoOf<Leg> link(below);
    absl::Status status = FormatParityLeg(link, layout, superblock.uuid, head, add);
    return status.ok() ? WriteSuperblock<Leg>(below, superblock) : status;
  }

  // Replaces a leg that is no leg of this parity, if nothing is on its medium.
  static absl::Status ReplaceByEmpty(const typename Leg::Config& config, State& self, size_t leg) {
    Close(self, leg);
    absl::Status status = CheckEmpty<Leg>("parity", leg, config);
    return status.ok() ? P::Replace(self, leg, config) : status;
  }

  // Opens a medium in place of a leg that nobody uses, and makes it a leg to be rebuilt.
  static absl::StatusOr<Uuid> OpenReplacement(const typename Leg::Config& config, State& self, size_t leg) {
    const auto known = std::find_if(self.superblocks.begin(), self.superblocks.end(), [&](const auto& superblock) {
      return superblock && &superblock != &self.superblocks[leg];
    });
    const Uuid set = (*known)->set_uuid;  // at least K legs are open
    Close(self, leg);
    if constexpr (kFormats<Leg>) {
      if (absl::Status status = FormatStack<Leg>(config, [](uint64_t, uint64_t) {}); !status.ok()) return status;
    }
    if (absl::Status status = Leg::Open(config, self.below[leg]); !status.ok()) return status;
    const ParityLayout& layout = self.set.layout();
    absl::Status status = CheckLargeEnough("parity", leg, Leg::Size(self.below[leg]), layout.data() + layout.leg_data);
    if (!status.ok()) return status;
    const Superblock superblock = MakeSuperblock(layout, set, leg, self.below[leg]);
    status = EraseSuperblock<Leg>(self.below[leg]);
    if (status.ok()) status = Format(layout, superblock, nullptr, self.below[leg], [](uint64_t) {});
    if (!status.ok()) return status;
    self.superblocks[leg] = superblock;
    return superblock.uuid;
  }

 private:
  // Of whatever could be opened of it, nothing stays.
  static void Close(State& self, size_t leg) {
    self.superblocks[leg].reset();
    std::destroy_at(&self.below[leg]);
    std::construct_at(&self.below[leg]);
  }
};

}  // namespace buse

#endif  // LAYERS_PARITY_MEDIA_H_

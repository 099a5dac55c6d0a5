// SPDX-License-Identifier: Apache-2.0
//
// What a device writes whole: for layers whose bytes on the medium are only right if a power cut leaves some of a Write or
// none.
//
//   static constexpr uint64_t kAtomicWrite   of a device: a Write of so many bytes, at a multiple of them, is there whole or
//                                            not at all after a power cut. A power of two. Absent: it says nothing
//
// A disk of physical sectors of 4096 bytes behind FileBacked, which cannot know that:
//
//   struct LargeSectors : buse::FileBacked {
//     static constexpr uint64_t kAtomicWrite = 4096;
//   };

#ifndef LAYERS_ATOMIC_WRITE_H_
#define LAYERS_ATOMIC_WRITE_H_

#include <algorithm>
#include <cstdint>

#include "buse/description.h"
#include "buse/device.h"

namespace buse {

// What D says, else what the device below says if D is an observer, which hands on what it gets. All others: a sector of 512
// bytes, which disks write whole, or one block.
template <Device D>
constexpr uint64_t AtomicWrite() {
  constexpr uint64_t kLeast = std::max<uint64_t>(512, D::kBlockSize);
  if constexpr (requires { D::kAtomicWrite; }) {
    return std::max<uint64_t>(kLeast, D::kAtomicWrite);
  } else if constexpr (D::Describe().family == Family::kObserver && requires { D::Below::kBlockSize; }) {
    return AtomicWrite<typename D::Below>();
  } else {
    return kLeast;
  }
}

}  // namespace buse

#endif  // LAYERS_ATOMIC_WRITE_H_

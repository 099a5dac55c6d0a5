// SPDX-License-Identifier: Apache-2.0
//
// ParityElements: reads elements of stripes, makes those that cannot be read from others, and repairs the legs that could not read
// them. One thread at a time, and none changes the elements meanwhile.

#ifndef LAYERS_PARITY_ELEMENTS_H_
#define LAYERS_PARITY_ELEMENTS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "buse/device.h"
#include "layers/leg_mask.h"
#include "layers/mapped_array.h"
#include "layers/parity_code.h"
#include "layers/parity_format.h"
#include "layers/parity_legs.h"
#include "layers/parity_links.h"

namespace buse {

class ParityElements {
 public:
  static constexpr uint64_t kPiece = 65536;  // the most at once

  ParityElements(const ParityLayout& layout, const ParityCode& code, ParityLegs& legs)
      : layout_(layout), code_(code), legs_(legs) {}

  absl::Status Open();

  // Makes at(element) hold bytes `there` of the legs' data, in one chunk and at most kPiece, for each element in `wanted`, and for
  // others what it will. What a leg in sync cannot read is also written to it again and read, where `repair` is set; if that
  // fails, the leg is given up. An error: of a part that fewer than K legs can read, the first that one of them had.
  absl::Status Get(ParityLinks links, Range there, LegMask wanted, bool repair = true) {
    return GetPart(links, there, wanted, repair, 0);
  }
  // Those that the last Get read from their legs, where it read all that it was asked for.
  LegMask read() const { return read_; }

  std::byte* at(size_t element) const { return buffers_.data() + element * kPiece; }
  // One more, for comparisons.
  std::byte* spare() const { return at(layout_.legs()); }

  // While it lives, bytes of a leg change that are in no stage.
  class Repairing {
   public:
    explicit Repairing(ParityElements& elements) : elements_(elements) { ++elements_.repairs_; }
    Repairing(const Repairing&) = delete;
    Repairing& operator=(const Repairing&) = delete;
    ~Repairing() { ++elements_.repairs_; }

   private:
    ParityElements& elements_;
  };
  // Begun and ended: odd while there is one. Any thread may ask.
  uint64_t repairs() const { return repairs_; }

  uint64_t repaired() const { return repaired_; }      // bytes
  uint64_t unreadable() const { return unreadable_; }  // bytes

 private:
  absl::Status GetPart(ParityLinks links, Range there, LegMask wanted, bool repair, uint64_t shift);
  absl::Status GetParts(ParityLinks links, Range there, LegMask wanted, bool repair, uint64_t shift, uint64_t part);
  void Repair(ParityLinks links, Range there, LegMask bad, uint64_t shift);

  const ParityLayout& layout_;
  const ParityCode& code_;
  ParityLegs& legs_;
  LegMask read_ = 0;
  MappedArray<std::byte> buffers_;
  std::atomic<uint64_t> repairs_ = 0;
  std::atomic<uint64_t> repaired_ = 0;
  std::atomic<uint64_t> unreadable_ = 0;
};

}  // namespace buse

#endif  // LAYERS_PARITY_ELEMENTS_H_

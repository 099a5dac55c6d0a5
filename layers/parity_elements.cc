// SPDX-License-Identifier: Apache-2.0
//
// Reading first, then reconstruction, in smaller parts where different legs fail beside each other.

#include "layers/parity_elements.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "layers/defect.h"

namespace buse {

absl::Status ParityElements::Open() { return buffers_.Open((layout_.legs() + 1) * kPiece); }

// `shift`: where the part begins in the buffers.
absl::Status ParityElements::GetPart(ParityLinks links, Range there, LegMask wanted, bool repair, uint64_t shift) {
  LegMask got = 0;
  LegErrors bad;
  const auto read = [&](LegMask elements) {
    ForEachLeg(elements, [&](size_t element) {
      const size_t leg = layout_.LegOf(element, there.offset);
      absl::Status status = links[leg]->Read(layout_.data() + there.offset, {at(element) + shift, there.length});
      bad.Add(leg, status);
      if (status.ok()) got |= Leg(element);
    });
  };
  const LegMask readable =
      layout_.ElementsOf(BUSE_DEFECT("parity-reads-stale-leg") ? legs_.Active() : legs_.InSync(), there.offset);
  read(wanted & readable);
  read_ = got;
  if (got == wanted) return absl::OkStatus();
  // One bad block is no reason to write more than that.
  if (bad.failed != 0 && there.length > layout_.block) {
    return GetParts(links, there, wanted, repair, shift,
                    there.length > ParityLayout::kPage ? ParityLayout::kPage : layout_.block);
  }
  for (LegMask rest = readable & ~wanted; rest != 0 && !legs_.Enough(got); rest &= rest - 1) read(rest & ~(rest - 1));
  legs_.CountErrors(bad.failed);
  if (!legs_.Enough(got)) {
    unreadable_ += there.length;
    return bad.failed != 0 ? bad.first
                           : absl::DataLossError(absl::StrCat("parity: fewer than ", layout_.data_legs, " legs are in sync"));
  }
  const LegMask made = (wanted & ~got) | layout_.ElementsOf(bad.failed, there.offset);
  std::array<std::byte*, ParityCode::kMostElements> elements;
  for (size_t i = 0; i < layout_.legs(); ++i) elements[i] = at(i) + shift;
  code_.Reconstruct(got, made, elements.data(), there.length);
  if (repair) Repair(links, there, bad.failed, shift);
  return absl::OkStatus();
}

absl::Status ParityElements::GetParts(ParityLinks links, Range there, LegMask wanted, bool repair, uint64_t shift,
                                      uint64_t part) {
  absl::Status first;
  for (uint64_t done = 0; done < there.length;) {
    const uint64_t at = there.offset + done;
    const uint64_t length = std::min(part - at % part, there.length - done);
    first.Update(GetPart(links, {at, length}, wanted, repair, shift + done));
    done += length;
  }
  read_ = 0;
  return first;
}

void ParityElements::Repair(ParityLinks links, Range there, LegMask bad, uint64_t shift) {
  const Repairing repairing(*this);
  LegErrors errors;
  ForEachLeg(bad & legs_.InSync(), [&](size_t leg) {
    const Bytes good = {at(layout_.ElementOf(leg, there.offset)) + shift, there.length};
    const Bytes check = {spare(), there.length};
    absl::Status status = links[leg]->Write(layout_.data() + there.offset, good);
    if (status.ok()) status = links[leg]->Read(layout_.data() + there.offset, check);
    if (status.ok() && std::memcmp(check.data(), good.data(), good.size()) != 0) {
      status = absl::DataLossError(absl::StrCat("parity: what was written to leg ", leg, " reads back differently"));
    }
    errors.Add(leg, status);
    if (status.ok()) repaired_ += there.length;
  });
  // The bytes are good; and where too few legs would be left, this one is better than none.
  if (errors.failed != 0 && legs_.Enough(legs_.InSync() & ~errors.failed)) legs_.Settle(links, errors).IgnoreError();
}

}  // namespace buse

// SPDX-License-Identifier: Apache-2.0
//
// Which of the heads that lie on several legs to believe. Each leg has one, which says what all are: a `Head` has
//   event           grows by one with each head that is written
//   legs, leg[i]    how many, and of each: `failed`, and `since` which event it is so; comparable
// A head is an ancestor of the newest one where both say the same of every leg that has not changed since.

#ifndef LAYERS_LEG_HEADS_H_
#define LAYERS_LEG_HEADS_H_

#include <cstddef>
#include <span>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"

namespace buse {

// Heads of legs; absent where a leg is missing.
template <class Head>
class LegHeads {
 public:
  explicit LegHeads(std::span<const absl::optional<Head>> heads) : heads_(heads), newest_(heads.size()) {
    for (size_t i = 0; i < heads.size(); ++i) {
      if (heads[i] && (!found() || heads[i]->event > newest().event)) newest_ = i;
    }
  }

  // Whether there is any.
  bool found() const { return newest_ < heads_.size(); }
  // The one that knows most.
  const Head& newest() const { return *heads_[newest_]; }

  // Whether the leg has a head that is no ancestor of the newest: they were changed apart from each other.
  bool Contradicts(size_t leg) const { return heads_[leg] && DisputedBy(leg) < newest().legs; }

  // What the two say of the leg about which they differ: "leg 0 (event 5) has leg 1 failed since event 5, but leg 1 ...".
  std::string Dispute(size_t leg) const {
    return absl::StrCat(View(newest_, DisputedBy(leg)), ", but ", View(leg, DisputedBy(leg)));
  }

 private:
  // The number of a leg, or that of all legs.
  size_t DisputedBy(size_t owner) const {
    const Head& other = *heads_[owner];
    size_t leg = 0;
    while (leg < newest().legs && (newest().leg[leg].since > other.event || newest().leg[leg] == other.leg[leg])) ++leg;
    return leg;
  }

  std::string View(size_t owner, size_t leg) const {
    const auto& told = heads_[owner]->leg[leg];
    return absl::StrCat("leg ", owner, " (event ", heads_[owner]->event, ") has leg ", leg,
                        told.failed ? " failed" : " in sync", " since event ", told.since);
  }

  const std::span<const absl::optional<Head>> heads_;
  size_t newest_;
};

}  // namespace buse

#endif  // LAYERS_LEG_HEADS_H_

// SPDX-License-Identifier: Apache-2.0
//
// What of a device lives in its process: how it is handed to the process that takes the device over, and where it is lost with
// the process. Functions of the device contract, the first two of a leaf that keeps its bytes in memory; the layers above need
// nothing for them.
//
//   static absl::StatusOr<MemoryContents> HandOver(State&)   another descriptor of the bytes, as they are when the State is
//                                                            destroyed
//   static void Adopt(Config&, const MemoryContents&)        has Open take these bytes; the descriptor need not outlive Open
//   static bool HoldsWrites(const Config&)                   whether writes that were acknowledged and not flushed are lost with
//                                                            the process. Absent: they are not
//   static void MakeNothing(Config&)                         has Open take what is there, whatever its size, or fail. Absent:
//                                                            it does

#ifndef BUSE_HANDOVER_H_
#define BUSE_HANDOVER_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/device.h"
#include "buse/io.h"

namespace buse {

struct MemoryContents {
  UniqueFd file;
  uint64_t size = 0;
};

template <class D>
concept CanHandOver = requires(typename D::State& self, typename D::Config& config, const MemoryContents& contents) {
  { D::HandOver(self) } -> std::same_as<absl::StatusOr<MemoryContents>>;
  { D::Adopt(config, contents) } -> std::same_as<void>;
};

namespace handover_internal {

template <class D>
concept HasBelow = requires {
  typename D::Below;
};

// Calls `use` with each device directly below, as a null pointer of its type, and its branch of `belows`, until it says false.
template <class Below>
struct Branches {
  template <class Belows, class Use>
  static bool ForEach(Belows& belows, Use& use) {
    return use(static_cast<Below*>(nullptr), belows);
  }
};
template <class... Below>
struct Branches<std::tuple<Below...>> {
  template <class Belows, class Use>
  static bool ForEach(Belows& belows, Use& use) {
    return [&]<size_t... kBranch>(std::index_sequence<kBranch...>) {
      return (use(static_cast<Below*>(nullptr), std::get<kBranch>(belows)) && ...);
    }
    (std::index_sequence_for<Below...>());
  }
};

template <class D>
consteval bool HandsOver();

template <class Below>
struct AnyOf {
  static constexpr bool kValue = HandsOver<Below>();
};
template <class... Below>
struct AnyOf<std::tuple<Below...>> {
  static constexpr bool kValue = (HandsOver<Below>() || ...);
};

template <class D>
consteval bool HandsOver() {
  if constexpr (CanHandOver<D>) {
    return true;
  } else if constexpr (HasBelow<D>) {
    return AnyOf<typename D::Below>::kValue;
  } else {
    return false;
  }
}

}  // namespace handover_internal

// Whether contents are lost with the process unless they are handed over.
template <Device Stack>
inline constexpr bool kHandsOver = handover_internal::HandsOver<Stack>();

template <class D>
concept CanHoldWrites = requires(const typename D::Config& config) {
  { D::HoldsWrites(config) } -> std::same_as<bool>;
};

// What of that which was acknowledged is lost when the process is killed.
enum class Loss {
  kNothing,
  kWrites,    // some that were not flushed; the rest is on a medium
  kContents,  // all, or a leg of it
};

template <Device Stack>
Loss LossWhenKilled(const typename Stack::Config& config) {
  if constexpr (kHandsOver<Stack>) return Loss::kContents;
  if constexpr (CanHoldWrites<Stack>) {
    if (Stack::HoldsWrites(config)) return Loss::kWrites;
  }
  Loss loss = Loss::kNothing;
  if constexpr (handover_internal::HasBelow<Stack>) {
    const auto use = [&]<class Branch>(Branch*, const auto& below) {
      loss = LossWhenKilled<Branch>(below);
      return loss == Loss::kNothing;
    };
    handover_internal::Branches<typename Stack::Below>::ForEach(config.below, use);
  }
  return loss;
}

template <class D>
concept CanMakeNothing = requires(typename D::Config& config) {
  { D::MakeNothing(config) } -> std::same_as<void>;
};

// Has Open take what is there: a device in use does not go on with something new.
template <Device Stack>
void MakeNothing(typename Stack::Config& config) {
  if constexpr (CanMakeNothing<Stack>) Stack::MakeNothing(config);
  if constexpr (handover_internal::HasBelow<Stack>) {
    const auto use = []<class Branch>(Branch*, auto& below) {
      MakeNothing<Branch>(below);
      return true;
    };
    handover_internal::Branches<typename Stack::Below>::ForEach(config.below, use);
  }
}

// Appends the contents of every leaf that has them, in the order of the stack.
template <Device Stack>
absl::Status HandOver(typename Stack::State& self, std::vector<MemoryContents>& contents) {
  absl::Status status;
  if constexpr (CanHandOver<Stack>) {
    absl::StatusOr<MemoryContents> own = Stack::HandOver(self);
    if (!own.ok()) return own.status();
    contents.push_back(*std::move(own));
  } else if constexpr (kHandsOver<Stack>) {
    const auto use = [&]<class Branch>(Branch*, auto& below) {
      status = HandOver<Branch>(below, contents);
      return status.ok();
    };
    handover_internal::Branches<typename Stack::Below>::ForEach(self.below, use);
  }
  return status;
}

namespace handover_internal {

// Takes from the front of `contents`.
template <class D>
bool Adopt(typename D::Config& config, std::span<const MemoryContents>& contents) {
  if constexpr (CanHandOver<D>) {
    if (contents.empty()) return false;
    D::Adopt(config, contents.front());
    contents = contents.subspan(1);
  } else if constexpr (HandsOver<D>()) {
    const auto use = [&]<class Branch>(Branch*, auto& below) { return Adopt<Branch>(below, contents); };
    return Branches<typename D::Below>::ForEach(config.below, use);
  }
  return true;
}

}  // namespace handover_internal

// Has Open take what HandOver gave, which must outlive it. False: that came from another stack.
template <Device Stack>
bool AdoptContents(typename Stack::Config& config, std::span<const MemoryContents> contents) {
  return handover_internal::Adopt<Stack>(config, contents) && contents.empty();
}

}  // namespace buse

#endif  // BUSE_HANDOVER_H_

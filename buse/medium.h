// SPDX-License-Identifier: Apache-2.0
//
// Format and Check: the two functions of the device contract that a layer with a format of its own on the medium has, and how
// they are called for a whole stack.
//
//   static absl::Status Format(const Config&, decltype(State::below)& below, Progress)   the devices below are open; what they
//                                        hold is destroyed. OK: Open will find an empty device, and that is durable
//   static absl::Status Check(State&, const CheckReport&)   reads everything. Damage is reported and no error, and what cannot be
//                                        read below is damaged; not OK: the check could not be carried out
//   static std::string FormatName()      what a fingerprint says of the layer, see below
//
//   static void KeepStill(Config&)       of a layer that does something by itself while it is open: a stack that is formatted or checked
//                                        is opened so that it does not
//   static bool IsOpen(const State&, size_t branch)         of a layer that can do without some of the devices below it: whether
//                                        it has this one. What it has not is not checked
//
// A format that was interrupted must leave a medium that Open refuses. Check runs alone: no other call on this State runs.

#ifndef BUSE_MEDIUM_H_
#define BUSE_MEDIUM_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "buse/device.h"

namespace buse {

// Bytes done of the bytes there are to do; called as often as it suits, from the thread of the call.
using Progress = absl::FunctionRef<void(uint64_t done, uint64_t total)>;

struct CheckReport {
  // Bytes of this layer's device that cannot be trusted, and why: in order, not overlapping.
  std::function<void(Range range, absl::string_view why)> damaged;
  // Something of the layer's own is damaged without harm to any byte of the device: a copy of its superblock.
  std::function<void(absl::string_view what)> flawed;
  // Bytes of this layer's device.
  std::function<void(uint64_t done, uint64_t total)> progress;
};

namespace medium_internal {

template <class D>
concept HasBelow = requires(typename D::State& self, typename D::Config& config) {
  typename D::Below;
  self.below;
  config.below;
};
template <class Below>
concept IsTuple = requires {
  std::tuple_size<Below>::value;
};

}  // namespace medium_internal

template <class D>
concept CanFormat = medium_internal::HasBelow<D> &&
    requires(const typename D::Config& config, typename D::State& self, Progress progress) {
  { D::Format(config, self.below, progress) } -> std::same_as<absl::Status>;
};
template <class D>
concept CanCheck = requires(typename D::State& self, const CheckReport& report) {
  { D::Check(self, report) } -> std::same_as<absl::Status>;
};
template <class D>
concept HasFormatName = requires {
  { D::FormatName() } -> std::same_as<std::string>;
};

namespace medium_internal {

// Calls `use` with each device below as a std::integral_constant of its number and a null pointer of its type, until one
// returns false.
template <class Below, class Use>
bool ForEachBelow(Use use) {
  if constexpr (IsTuple<Below>) {
    return [&]<size_t... kBranch>(std::index_sequence<kBranch...>) {
      return (use(std::integral_constant<size_t, kBranch>(), static_cast<std::tuple_element_t<kBranch, Below>*>(nullptr)) &&
              ...);
    }
    (std::make_index_sequence<std::tuple_size_v<Below>>());
  } else {
    return use(std::integral_constant<size_t, 0>(), static_cast<Below*>(nullptr));
  }
}

// Of what is below, the one of branch `kBranch`: a State or a Config.
template <class Below, size_t kBranch, class Belows>
auto& BranchOf(Belows& belows) {
  if constexpr (IsTuple<Below>) {
    return std::get<kBranch>(belows);
  } else {
    return belows;
  }
}

// Whether a layer of the stack has what `Has<D>::value` says.
template <template <class> class Has, class D>
consteval bool AnyLayer() {
  if constexpr (Has<D>::value) {
    return true;
  } else if constexpr (HasBelow<D>) {
    if constexpr (IsTuple<typename D::Below>) {
      return []<size_t... kBranch>(std::index_sequence<kBranch...>) {
        return (AnyLayer<Has, std::tuple_element_t<kBranch, typename D::Below>>() || ...);
      }
      (std::make_index_sequence<std::tuple_size_v<typename D::Below>>());
    } else {
      return AnyLayer<Has, typename D::Below>();
    }
  } else {
    return false;
  }
}

template <class D>
struct Formats : std::bool_constant<CanFormat<D>> {};
template <class D>
struct Checks : std::bool_constant<CanCheck<D>> {};

}  // namespace medium_internal

// Whether any layer of the stack has a medium to format, or to check.
template <Device Stack>
inline constexpr bool kFormats = medium_internal::AnyLayer<medium_internal::Formats, Stack>();
template <Device Stack>
inline constexpr bool kChecks = medium_internal::AnyLayer<medium_internal::Checks, Stack>();

// What lies on the media of a stack, from this layer downwards, as far as a medium depends on it: the names of those layers that
// have a FormatName, and where devices are joined, how many. Computed from the type alone, so that layers that only look on
// (Log, Stats) or hold copies (Cache) may come and go, and a file may be copied to a disk.
//
//   Checksum<FileBacked>                     "checksum(crc32c,512)"
//   Checksum<Log<Stripe<2, FileBacked>>>     "checksum(crc32c,512) stripe(65536)[2]"
//   Concat<Checksum<A>, B>                   "concat[checksum(crc32c,512) | ]"
template <Device Stack>
std::string Fingerprint() {
  std::string own;
  if constexpr (HasFormatName<Stack>) own = Stack::FormatName();
  if constexpr (medium_internal::HasBelow<Stack>) {
    std::vector<std::string> below;
    medium_internal::ForEachBelow<typename Stack::Below>([&]<class Branch>(auto, Branch*) {
      below.push_back(Fingerprint<Branch>());
      return true;
    });
    if constexpr (medium_internal::IsTuple<typename Stack::Below>) {
      if constexpr (!HasFormatName<Stack>) own = Stack::Describe().name;
      bool plain = true;
      std::string inside;
      for (const std::string& branch : below) {
        plain = plain && branch.empty();
        absl::StrAppend(&inside, &branch == &below.front() ? "" : " | ", branch);
      }
      absl::StrAppend(&own, "[", plain ? absl::StrCat(below.size()) : inside, "]");
    } else if (!below[0].empty()) {
      absl::StrAppend(&own, own.empty() ? "" : " ", below[0]);
    }
  }
  return own;
}

// Has the layers of the stack do nothing by themselves when they are opened.
template <Device Stack>
void KeepStill(typename Stack::Config& config) {
  if constexpr (requires { Stack::KeepStill(config); }) Stack::KeepStill(config);
  if constexpr (medium_internal::HasBelow<Stack>) {
    using Below = typename Stack::Below;
    medium_internal::ForEachBelow<Below>([&]<class Branch>(auto number, Branch*) {
      KeepStill<Branch>(medium_internal::BranchOf<Below, number>(config.below));
      return true;
    });
  }
}

// Asks for each device that FormatStack would write over: opens it, calls `may_format(device, config, state)` with a null pointer of
// its type, its configuration and its open state, and closes it, until one returns an error. `destroyed`: a layer above is formatted.
template <Device Stack, class MayFormat>
absl::Status AskBeforeFormat(const typename Stack::Config& config, MayFormat may_format, bool destroyed = false) {
  absl::Status status;
  if constexpr (kFormats<Stack>) {
    using Below = typename Stack::Below;
    medium_internal::ForEachBelow<Below>([&]<class Branch>(auto number, Branch*) {
      status = AskBeforeFormat<Branch>(medium_internal::BranchOf<Below, number>(config.below), may_format,
                                       destroyed || CanFormat<Stack>);
      return status.ok();
    });
  } else if (destroyed) {
    const auto state = std::make_unique<typename Stack::State>();  // on the heap, since states may be large
    status = Stack::Open(config, *state);
    if (status.ok()) status = may_format(static_cast<Stack*>(nullptr), config, *state);
  }
  return status;
}

// Formats each layer of the stack that has a medium, innermost first: opens the devices below it, calls Format, closes.
template <Device Stack>
absl::Status FormatStack(const typename Stack::Config& config, Progress progress) {
  absl::Status status;
  if constexpr (medium_internal::HasBelow<Stack>) {
    using Below = typename Stack::Below;
    medium_internal::ForEachBelow<Below>([&]<class Branch>(auto number, Branch*) {
      if constexpr (kFormats<Branch>) {
        status = FormatStack<Branch>(medium_internal::BranchOf<Below, number>(config.below), progress);
      }
      return status.ok();
    });
    if constexpr (CanFormat<Stack>) {
      if (!status.ok()) return status;
      const auto self = std::make_unique<typename Stack::State>();  // of which only `below` is opened
      medium_internal::ForEachBelow<Below>([&]<class Branch>(auto number, Branch*) {
        status = Branch::Open(medium_internal::BranchOf<Below, number>(config.below),
                              medium_internal::BranchOf<Below, number>(self->below));
        return status.ok();
      });
      if (status.ok()) status = Stack::Format(config, self->below, progress);
    }
  }
  return status;
}

// Checks each layer of an open stack that can be checked, outermost first. Before each, `begins(name, size)` says which layer
// it is, and how many bytes its device has.
template <Device Stack>
absl::Status CheckStack(typename Stack::State& self, absl::FunctionRef<void(absl::string_view name, uint64_t size)> begins,
                        const CheckReport& report) {
  absl::Status status;
  if constexpr (CanCheck<Stack>) {
    begins(Stack::Describe().name, Stack::Size(self));
    status = Stack::Check(self, report);
  }
  if constexpr (medium_internal::HasBelow<Stack>) {
    if (!status.ok()) return status;
    using Below = typename Stack::Below;
    medium_internal::ForEachBelow<Below>([&]<class Branch>(auto number, Branch*) {
      if constexpr (requires { Stack::IsOpen(self, number); }) {
        if (!Stack::IsOpen(self, number)) return true;
      }
      status = CheckStack<Branch>(medium_internal::BranchOf<Below, number>(self.below), begins, report);
      return status.ok();
    });
  }
  return status;
}

}  // namespace buse

#endif  // BUSE_MEDIUM_H_

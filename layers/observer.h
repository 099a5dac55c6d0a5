// SPDX-License-Identifier: Apache-2.0
//
// Observer: hands every operation to the device below through one function of a hook. Log, Stats, Delay, RateLimit and
// Recording are each a hook and a name for an Observer over it.
//
// Family: observer.
// Concurrency: that of the device below; a hook is called by many threads and must bear it.
// Cost: that of the hook. A hook whose State is empty adds no bytes.
// Failure: what the hook returns. It may decline to call the device below and return an error of its own, and it may call it
// later, but it must not change the bytes: what does is a transform and a layer of its own.
// A hook either is around each operation, or only told of it when it is done (Done in place of Around). Place is absent: a write
// is seen before its bytes are where they shall be. TryRead and TryWrite are only there with a hook of the second kind, and are
// told where they did the operation: so each is seen once.
//
// A hook is an empty struct of static functions:
//
//   struct LogHook {
//     template <class BelowConfig>
//     struct Config {                  // the options of the layer, then what is below
//       int fd = 2;
//       BelowConfig below;
//     };
//     struct State {};
//     static constexpr bool kWaits = true;   // it may wait for more than memory; absent: as below
//     template <class Config>
//     static constexpr Description<Config> Describe();
//     template <class Config>
//     static absl::Status Open(const Config& config, State& hook);   // after the device below was opened
//     static void Done(State& hook, const Request& request, const absl::Status& status, std::chrono::nanoseconds elapsed);
//     // or, if it is to decide what happens:
//     template <class Next>
//     static absl::Status Around(State& hook, const Request& request, Next&& next);   // absl::Status next() does it
//   };
//   template <Device B>
//   using Log = Observer<LogHook, B>;
//
//   using Stack = buse::Log<buse::Memory>;
//   Stack::Config config{.fd = 1, .below = {.size = 64 << 20}};

#ifndef LAYERS_OBSERVER_H_
#define LAYERS_OBSERVER_H_

#include <chrono>
#include <concepts>
#include <cstdint>
#include <type_traits>

#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/operations.h"
#include "layers/operation.h"

namespace buse {

// What a hook sees.
struct Request {
  Operation operation;
  Range range = {};    // empty for Flush; [0, size) for Resize
  ConstBytes in = {};  // what Write and WriteThrough write
};

template <class H>
concept TellsWhenDone =
    requires(typename H::State& hook, const Request& request, const absl::Status& status, std::chrono::nanoseconds elapsed) {
      H::Done(hook, request, status, elapsed);
    };
template <class H>
concept IsAround = requires(typename H::State& hook, const Request& request, absl::Status (&next)()) {
  { H::Around(hook, request, next) } -> std::same_as<absl::Status>;
};
template <class H>
concept ObserverHook = std::is_empty_v<H> && TellsWhenDone<H> != IsAround<H>;

template <ObserverHook Hook, Device B>
struct Observer {
  using Below = B;
  using Config = typename Hook::template Config<typename Below::Config>;

  // Takes the place of an empty hook state. A type of its own per Observer, since two objects of one type need two addresses.
  struct NoState {};
  static constexpr bool kHasState = !std::is_empty_v<typename Hook::State>;

  struct State {
    typename Below::State below;
    [[no_unique_address]] std::conditional_t<kHasState, typename Hook::State, NoState> hook;
  };
  static_assert(kHasState || sizeof(State) == sizeof(typename Below::State), "a hook without state adds no bytes");

  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;

  static constexpr bool kWaits = [] {
    if constexpr (requires { Hook::kWaits; }) {
      return Hook::kWaits;
    } else {
      return Waits<Below>();
    }
  }();

  // A hook that is around may wait, or hold something meanwhile.
  static constexpr bool kMayPark = TellsWhenDone<Hook>;

  static constexpr auto Describe() { return Hook::template Describe<Config>(); }

  static absl::Status Open(const Config& config, State& self) {
    absl::Status status = Below::Open(config.below, self.below);
    return status.ok() ? WithHook(self, [&](auto& hook) { return Hook::Open(config, hook); }) : status;
  }

  static uint64_t Size(const State& self) { return Below::Size(self.below); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    return Around(self, {Operation::kRead, {offset, out.size()}}, [&] { return Below::Read(self.below, offset, out); });
  }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) requires CanWrite<Below> {
    return Around(self, {Operation::kWrite, {offset, in.size()}, in}, [&] { return Below::Write(self.below, offset, in); });
  }

  static absl::Status Flush(State& self) requires CanFlush<Below> {
    return Around(self, {Operation::kFlush}, [&] { return Below::Flush(self.below); });
  }

  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) requires CanWriteThrough<Below> {
    return Around(self, {Operation::kWriteThrough, {offset, in.size()}, in},
                  [&] { return Below::WriteThrough(self.below, offset, in); });
  }

  static absl::Status Trim(State& self, Range range) requires CanTrim<Below> {
    return Around(self, {Operation::kTrim, range}, [&] { return Below::Trim(self.below, range); });
  }

  static absl::Status WriteZeroes(State& self, Range range) requires CanWriteZeroes<Below> {
    return Around(self, {Operation::kWriteZeroes, range}, [&] { return Below::WriteZeroes(self.below, range); });
  }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) requires CanExtents<Below> {
    return Around(self, {Operation::kExtents, range}, [&] { return Below::Extents(self.below, range, emit); });
  }

  static absl::Status Residency(State& self, Range range, EmitResident emit) requires CanResidency<Below> {
    return Around(self, {Operation::kResidency, range}, [&] { return Below::Residency(self.below, range, emit); });
  }

  static absl::Status Prefetch(State& self, Range range) requires CanPrefetch<Below> {
    return Around(self, {Operation::kPrefetch, range}, [&] { return Below::Prefetch(self.below, range); });
  }

  static absl::Status View(State& self, Range range, Gather& gather) requires CanView<Below> {
    return Around(self, {Operation::kView, range}, [&] { return Below::View(self.below, range, gather); });
  }

  static absl::Status Resize(State& self, uint64_t size) requires CanResize<Below> {
    return Around(self, {Operation::kResize, {0, size}}, [&] { return Below::Resize(self.below, size); });
  }

  static bool TryRead(State& self, uint64_t offset, Bytes out) requires(CanTryRead<Below>&& TellsWhenDone<Hook>) {
    return Try(self, {Operation::kRead, {offset, out.size()}}, [&] { return Below::TryRead(self.below, offset, out); });
  }

  static bool TryWrite(State& self, uint64_t offset, ConstBytes in) requires(CanTryWrite<Below>&& TellsWhenDone<Hook>) {
    return Try(self, {Operation::kWrite, {offset, in.size()}, in}, [&] { return Below::TryWrite(self.below, offset, in); });
  }

 private:
  using Clock = std::chrono::steady_clock;

  template <class Next>
  static absl::Status Around(State& self, const Request& request, Next&& next) {
    if constexpr (TellsWhenDone<Hook>) {
      const auto start = Clock::now();
      absl::Status status = next();
      WithHook(self, [&](auto& hook) { Hook::Done(hook, request, status, Clock::now() - start); });
      return status;
    } else {
      return WithHook(self, [&](auto& hook) { return Hook::Around(hook, request, next); });
    }
  }

  template <class Next>
  static bool Try(State& self, const Request& request, Next&& next) {
    const auto start = Clock::now();
    if (!next()) return false;
    WithHook(self, [&](auto& hook) { Hook::Done(hook, request, absl::OkStatus(), Clock::now() - start); });
    return true;
  }

  template <class Use>
  static auto WithHook(State& self, Use use) {
    if constexpr (kHasState) {
      return use(self.hook);
    } else {
      typename Hook::State none;
      return use(none);
    }
  }
};

}  // namespace buse

#endif  // LAYERS_OBSERVER_H_

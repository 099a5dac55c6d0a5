// SPDX-License-Identifier: Apache-2.0
//
// What Contract needs that does not depend on the device: the list of running calls, and the last words.

#ifndef LAYERS_CONTRACT_CALLS_H_
#define LAYERS_CONTRACT_CALLS_H_

#include <cstdint>
#include <mutex>
#include <string>

#include "absl/strings/string_view.h"
#include "buse/device.h"
#include "layers/operation.h"

namespace buse {

namespace contract_internal {

// A running call, on its caller's stack.
struct Call {
  Operation operation;
  Range range;
  bool alone = true;  // no other call ran since this one began
  Call* next = nullptr;
};

// The calls that run.
class Calls {
 public:
  // Adds `call` and returns an empty string, or says which one it must not run beside.
  std::string Enter(Call& call, Concurrency concurrency);
  void Leave(Call& call);
  bool Alone(const Call& call);

 private:
  std::mutex mutex_;
  Call* first_ = nullptr;
};

enum class Side { kAbove, kBelow };

// Prints one line and aborts. `device` is the name of the one below.
[[noreturn]] void Fail(absl::string_view device, absl::string_view call, uint64_t size, Side side, absl::string_view clause);

// "read 4096+512".
std::string ToString(Operation operation, Range range);

}  // namespace contract_internal

}  // namespace buse

#endif  // LAYERS_CONTRACT_CALLS_H_

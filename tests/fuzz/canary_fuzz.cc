// SPDX-License-Identifier: Apache-2.0
//
// A target with a planted error, which fuzzer and corpus test must find: it shows that they find any. The device forgets a trim
// that is longer than a page, so that a read after it is wrong.

#include <cstdint>
#include <string>

#include "layers/memory.h"
#include "tests/fuzz/dialogue.h"

namespace {

struct Forgetful : buse::Memory {
  static absl::Status Trim(State& self, buse::Range range) {
    return range.length > 4096 ? absl::OkStatus() : buse::Memory::Trim(self, range);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace buse::testing;
  if (size == 0) return 0;
  const std::string requests(reinterpret_cast<const char*>(data) + 1, size - 1);
  RunDialogue<Forgetful>(data[0], requests, 32 << 10, {.size = 32 << 10});
  return 0;
}

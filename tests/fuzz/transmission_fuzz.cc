// SPDX-License-Identifier: Apache-2.0
//
// Requests of any bytes behind a good negotiation, to devices that answer by View and by Read, with and without blocks, and by
// a cache; some may be resized. The first byte of the input chooses among them.

#include <cstdint>
#include <string>

#include "layers/cache.h"
#include "layers/memory.h"
#include "tests/fuzz/dialogue.h"
#include "tests/leaves.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace buse;
  using namespace buse::testing;
  if (size == 0) return 0;
  const std::string requests(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] & kChooseDevice) {
    case 0:
      RunDialogue<BasicFull<512, Concurrency::kDisjoint>>(data[0], requests, 16 << 10, {.size = 16 << 10});
      break;
    case 32:
      RunDialogue<Writer>(data[0], requests, 8 << 10, {.size = 8 << 10});
      break;
    case 64:
      RunDialogue<Memory>(data[0], requests, 104 << 10, {.size = 104 << 10});  // larger ones cost an allocation by mmap
      break;
    default:
      RunDialogue<Cache<Memory>>(data[0], requests, 40 << 10, {.size = 16 << 10, .below = {.size = 40 << 10}});
  }
  return 0;
}

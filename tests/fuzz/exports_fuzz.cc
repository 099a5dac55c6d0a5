// SPDX-License-Identifier: Apache-2.0
//
// Clients, one after the other, of several exports of one process, each of another type: a disk in memory, a cache, a device of
// blocks and a read-only disk, of which some may be resized. At the end every disk holds what was written to it, and nothing
// that was written to another.
//
// The input is, for each client: a choice (DialogueChoice; the first of all says whether the disks are filled and may be
// resized); a byte whose lower two bits are the export's number, and whose next two are that of the one the contexts are set
// for; two bytes of the length of its requests, the lower one first; and the requests.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "layers/cache.h"
#include "layers/memory.h"
#include "layers/read_only.h"
#include "tests/fuzz/dialogue.h"
#include "tests/leaves.h"

namespace {

using namespace buse;
using namespace buse::testing;

using Blocks = BasicFull<512, Concurrency::kDisjoint>;

constexpr uint64_t kMemory = 40 << 10, kCached = 32 << 10, kBlocks = 16 << 10, kReadOnly = 24 << 10;
constexpr size_t kHeader = 4, kMostClients = 16;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < kHeader) return 0;
  const bool filled = (data[0] & kChooseFilled) != 0;
  const uint64_t limit = (data[0] & kChooseResize) != 0 ? 48 << 10 : 0;
  JudgedExport<Memory> memory("memory", kMemory, {.size = kMemory}, filled, limit);
  JudgedExport<Cache<Memory>> cached("cached", kCached, {.size = 16 << 10, .below = {.size = kCached}}, filled, limit);
  JudgedExport<Blocks> blocks("blocks", kBlocks, {.size = kBlocks}, filled, limit);
  JudgedExport<ReadOnly<Memory>> read_only("read-only", kReadOnly, {.below = {.size = kReadOnly}}, filled, limit);
  const nbd::Export* const exports[] = {&memory.about(), &cached.about(), &blocks.about(), &read_only.about()};
  std::span<const uint8_t> in(data, size);
  for (size_t client = 0; client < kMostClients && in.size() >= kHeader; ++client) {
    const uint8_t choice = in[0];
    const size_t number = in[1] & 3;
    const std::string& set_for = exports[in[1] >> 2 & 3]->name;
    const size_t length = std::min<size_t>(in[2] | in[3] << 8, in.size() - kHeader);
    const std::string requests(reinterpret_cast<const char*>(in.data()) + kHeader, length);
    in = in.subspan(kHeader + length);
    switch (number) {
      case 0:
        memory.Serve(exports, number, choice, set_for, requests);
        break;
      case 1:
        cached.Serve(exports, number, choice, set_for, requests);
        break;
      case 2:
        blocks.Serve(exports, number, choice, set_for, requests);
        break;
      default:
        read_only.Serve(exports, number, choice, set_for, requests);
    }
  }
  memory.CheckBytes();
  cached.CheckBytes();
  blocks.CheckBytes();
  read_only.CheckBytes();
  return 0;
}

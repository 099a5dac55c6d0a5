// SPDX-License-Identifier: Apache-2.0
//
// Memory: a disk in memory, of any size; only what was written takes memory.
//
// Family: leaf.
// Concurrency: kParallel.
// Cost: what was written, in pages of 4096 bytes, and 32 KiB per GiB written to. Trim gives memory back. A thread of its own has
// huge pages made of what was written whole (layers/huge_pages.h).
// Failure: a write that finds no memory fails with kUnavailable or kResourceExhausted; one that is received into place, and
// loses that place to a Trim meanwhile, breaks its connection. A client that goes away within a write that is received into
// place leaves a part of it. Contents are lost with the process, unless it hands them over (buse/handover.h).
//
//   using Stack = buse::Memory;
//   Stack::Config config{.size = 64 << 20};

#ifndef LAYERS_MEMORY_H_
#define LAYERS_MEMORY_H_

#include <fcntl.h>

#include <cerrno>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "buse/handover.h"
#include "buse/io.h"
#include "buse/scatter.h"
#include "buse/status.h"
#include "layers/sparse_memory.h"

namespace buse {

struct Memory {
  struct Config {
    uint64_t size = 0;
    int contents = -1;  // the memory file of another Memory, to begin with; not an option
  };

  struct State {
    SparseMemory bytes;
  };

  static constexpr uint64_t kBlockSize = 1;
  static constexpr Concurrency kConcurrency = Concurrency::kParallel;
  static constexpr bool kWaits = false;

  static constexpr Description<Config, 1> Describe() {
    return {"memory",
            "keeps the disk in memory, which only written pages take",
            Family::kLeaf,
            {{{.field = &Config::size,
               .name = "size",
               .help = "size of the disk",
               .unit = Unit::kBytes,
               .positional = true,
               .required = true,
               .min = 1,
               .max = SparseMemory::kMaxSize}}}};
  }

  static absl::Status Open(const Config& config, State& self) { return self.bytes.Open(config.size, config.contents); }

  static uint64_t Size(const State& self) { return self.bytes.size(); }

  static absl::Status Read(State& self, uint64_t offset, Bytes out) { return self.bytes.Read(offset, out); }

  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) { return self.bytes.Write(offset, in); }

  static absl::Status Flush(State&) { return absl::OkStatus(); }

  // Memory is as durable as it gets. Offered so that a layer over several devices keeps theirs.
  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) { return self.bytes.Write(offset, in); }

  static absl::Status Trim(State& self, Range range) { return self.bytes.Trim(range); }

  static absl::Status Extents(State& self, Range range, EmitExtent emit) {
    self.bytes.Extents(range, emit);
    return absl::OkStatus();
  }

  static absl::Status View(State& self, Range range, Gather& gather) {
    self.bytes.View(range, gather);
    return absl::OkStatus();
  }

  static absl::Status Place(State& self, Range range, Scatter& scatter) {
    self.bytes.Place(range, scatter);
    return absl::OkStatus();
  }

  static absl::Status Placed(State& self, Range range) {
    self.bytes.Placed(range);
    return absl::OkStatus();
  }

  static absl::Status Resize(State& self, uint64_t size) { return self.bytes.Resize(size); }

  static absl::StatusOr<MemoryContents> HandOver(State& self) {
    UniqueFd file(fcntl(self.bytes.file(), F_DUPFD_CLOEXEC, 0));
    if (!file.valid()) return StatusFromErrno(errno, "handing over a memory disk");
    return MemoryContents{std::move(file), self.bytes.size()};
  }

  static void Adopt(Config& config, const MemoryContents& contents) {
    config.size = contents.size;
    config.contents = contents.file.get();
  }
};

}  // namespace buse

#endif  // LAYERS_MEMORY_H_

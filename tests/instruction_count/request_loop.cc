// SPDX-License-Identifier: Apache-2.0
//
// Serves a number of requests from memory and ends, for a tool that counts its instructions.
//
//   request_loop STACK REQUESTS    STACK: memory, or passthrough8 for eight Passthrough over it
//
// Exit code 3: serving allocated memory.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "buse/connection.h"
#include "layers/memory.h"
#include "layers/passthrough.h"
#include "tests/wire.h"

static uint64_t allocations = 0;

void* operator new(size_t size) {
  ++allocations;
  void* memory = std::malloc(size);
  if (memory == nullptr) std::abort();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace buse {
namespace {

constexpr uint64_t kSize = 1 << 20;
constexpr uint64_t kBatch = 8;

// A client that always has a batch of requests ready, and forgets what it is sent.
class Batches {
 public:
  explicit Batches(uint64_t count) : left_(count) {
    for (uint64_t i = 0; i < kBatch / 2; ++i) {
      batch_ += testing::Request(0, 0, i, i * 8192, 512);
      batch_ += testing::Request(0, 1, i, i * 8192 + 4096, 512) + std::string(512, 'x');
    }
  }
  absl::StatusOr<size_t> Receive(std::span<iovec> pieces) {
    if (left_ == 0) return size_t{0};
    --left_;
    if (pieces[0].iov_len < batch_.size()) std::abort();
    std::memcpy(pieces[0].iov_base, batch_.data(), batch_.size());
    return batch_.size();
  }
  absl::Status Send(std::span<iovec>) { return absl::OkStatus(); }

 private:
  uint64_t left_;
  std::string batch_;
};

template <class Stack>
int Serve(const typename Stack::Config& config, uint64_t requests) {
  auto state = std::make_unique<typename Stack::State>();
  if (!Stack::Open(config, *state).ok()) return 1;
  Exported<Stack> exported = {.device = *state, .about = {.size = kSize, .flags = nbd::TransmissionFlags<Stack>()}};
  auto connection = std::make_unique<Connection<Stack, Batches>>(exported, Batches(requests / kBatch), *Buffers::Create());
  const uint64_t before = allocations;
  if (!connection->Transmit().ok()) return 1;
  // Memory allocates when it is first written to, and not again.
  constexpr uint64_t kOfTheDevice = 1;
  return allocations - before <= kOfTheDevice ? 0 : 3;
}

template <int kDepth>
struct Deep {
  using Stack = Passthrough<typename Deep<kDepth - 1>::Stack>;
  static typename Stack::Config Config() { return {.below = Deep<kDepth - 1>::Config()}; }
};
template <>
struct Deep<0> {
  using Stack = Memory;
  static Memory::Config Config() { return {.size = kSize}; }
};

}  // namespace
}  // namespace buse

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::string stack = argv[1];
  const uint64_t requests = std::strtoull(argv[2], nullptr, 10);
  if (stack == "memory") return buse::Serve<buse::Deep<0>::Stack>(buse::Deep<0>::Config(), requests);
  if (stack == "passthrough8") return buse::Serve<buse::Deep<8>::Stack>(buse::Deep<8>::Config(), requests);
  return 2;
}

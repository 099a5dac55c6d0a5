// SPDX-License-Identifier: Apache-2.0
//
// Serves a number of requests from memory and ends, for a tool that counts its instructions.
//
//   request_loop STACK REQUESTS    STACK: memory, or passthrough8 for eight Passthrough over it; half of the requests are
//                                  reads, half are writes, of 512 bytes
//   request_loop read REQUESTS     reads of 4 KiB from memory that was written
//   request_loop structured REQUESTS, request_loop extended REQUESTS    the same with structured replies, extended headers
//   request_loop compiler          says what compiled this
//
// Exit code 3: serving allocated memory.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "buse/connection.h"
#include "buse/negotiation.h"
#include "layers/memory.h"
#include "layers/passthrough.h"
#include "tests/wire.h"

static uint64_t allocations = 0;

// In the place of the C library's, which `operator new` calls too.
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* memory, size_t size);

void* malloc(size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* memory, size_t size) {
  ++allocations;
  return __libc_realloc(memory, size);
}
}

namespace buse {
namespace {

constexpr uint64_t kSize = 1 << 20;
constexpr uint64_t kBatch = 8;

std::string ReadsAndWrites() {
  std::string batch;
  for (uint64_t i = 0; i < kBatch / 2; ++i) {
    batch += testing::Request(0, 0, i, i * 8192, 512);
    batch += testing::Request(0, 1, i, i * 8192 + 4096, 512) + std::string(512, 'x');
  }
  return batch;
}

std::string Reads() {
  std::string batch;
  for (uint64_t i = 0; i < kBatch; ++i) batch += testing::Request(0, 0, i, i * 8192, 4096);
  return batch;
}

std::string ExtendedReads() {
  std::string batch;
  for (uint64_t i = 0; i < kBatch; ++i) batch += testing::ExtendedRequest(0, 0, i, i * 8192, 4096);
  return batch;
}

// A negotiation in which `option` is agreed on.
std::string Agreeing(uint32_t option) {
  return testing::Big(4, 3) + testing::ClientOption(option, "") +
         testing::ClientOption(7, testing::Big(4, 0) + testing::Big(2, 0));
}

// A client that negotiates as it is told, always has a batch of requests ready, and forgets what it is sent.
class Batches {
 public:
  Batches(std::string negotiation, std::string batch, uint64_t count)
      : negotiation_(std::move(negotiation)), left_(count), batch_(std::move(batch)) {}
  absl::StatusOr<size_t> Receive(std::span<iovec> pieces) {
    if (!negotiation_.empty()) {
      const std::string said = std::exchange(negotiation_, "");
      std::memcpy(pieces[0].iov_base, said.data(), said.size());
      return said.size();
    }
    if (left_ == 0) return size_t{0};
    --left_;
    if (pieces[0].iov_len < batch_.size()) std::abort();
    // The last batch still lies there. Not to copy it again keeps the C library's choice of a copy for this CPU out of the count.
    if (pieces[0].iov_base != filled_) std::memcpy(pieces[0].iov_base, batch_.data(), batch_.size());
    filled_ = pieces[0].iov_base;
    return batch_.size();
  }
  absl::Status Send(std::span<iovec>) { return absl::OkStatus(); }

 private:
  std::string negotiation_;
  uint64_t left_;
  std::string batch_;
  void* filled_ = nullptr;
};

// Not inlined: into `main`, which runs once, the compiler would take less care.
template <class Stack>
[[gnu::noinline]] int Serve(const typename Stack::Config& config, const std::string& batch, uint64_t requests,
                            const std::string& negotiation = "") {
  auto state = std::make_unique<typename Stack::State>();
  if (!Stack::Open(config, *state).ok()) return 1;
  // So that reads find bytes, and not a hole.
  if (!Stack::Write(*state, 0, std::vector<std::byte>(kSize, std::byte{1})).ok()) return 1;
  Exported<Stack> exported = {.device = *state, .about = {.size = kSize, .flags = nbd::TransmissionFlags<Stack>()}};
  Batches client(negotiation, batch, requests / kBatch);
  Agreement agreement = {.terms = {.flags = exported.about.flags}};
  if (!negotiation.empty()) {
    const nbd::Export* const exports[] = {&exported.about};
    absl::StatusOr<std::optional<Agreement>> agreed = Negotiate(client, exports);
    if (!agreed.ok() || !agreed->has_value()) return 1;
    agreement = **agreed;
  }
  auto connection = std::make_unique<Connection<Stack, Batches>>(exported, client, *Buffers::Create(), agreement);
  const uint64_t before = allocations;
  if (!connection->Transmit().ok()) return 1;
  return allocations == before ? 0 : 3;
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
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "compiler") {
#ifdef __clang__
    std::puts("clang " __VERSION__);
#else
    std::puts("g++ " __VERSION__);
#endif
    return 0;
  }
  if (argc != 3) return 2;
  const uint64_t requests = std::strtoull(argv[2], nullptr, 10);
  using buse::Deep;
  if (what == "memory") return buse::Serve<Deep<0>::Stack>(Deep<0>::Config(), buse::ReadsAndWrites(), requests);
  if (what == "passthrough8") return buse::Serve<Deep<8>::Stack>(Deep<8>::Config(), buse::ReadsAndWrites(), requests);
  if (what == "structured") {
    return buse::Serve<Deep<0>::Stack>(Deep<0>::Config(), buse::Reads(), requests, buse::Agreeing(8));
  }
  if (what == "extended") {
    return buse::Serve<Deep<0>::Stack>(Deep<0>::Config(), buse::ExtendedReads(), requests, buse::Agreeing(11));
  }
  if (what == "read") return buse::Serve<Deep<0>::Stack>(Deep<0>::Config(), buse::Reads(), requests);
  return 2;
}

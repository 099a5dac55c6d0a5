// SPDX-License-Identifier: Apache-2.0
//
// A device behind a connection over byte strings: what a client says goes in, what the server sent comes out.

#ifndef TESTS_BUSE_BYTE_SERVER_H_
#define TESTS_BUSE_BYTE_SERVER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/connection.h"
#include "buse/negotiation.h"
#include "gtest/gtest.h"
#include "tests/leaves.h"
#include "tests/wire.h"

namespace buse::testing {

template <Device Stack>
class ByteServer {
 public:
  static constexpr uint64_t kSize = 65536;

  explicit ByteServer(uint64_t size = kSize) {
    typename Stack::Config config;
    config.size = size;
    if constexpr (requires { config.below.size; }) config.below.size = size;
    if constexpr (requires { config.script; }) config.script = &script;
    EXPECT_TRUE(Stack::Open(config, state_).ok());
    about = {.size = Stack::Size(state_),
             .flags = nbd::TransmissionFlags<Stack>(),
             .min_block = static_cast<uint32_t>(Stack::kBlockSize),
             .contexts = nbd::ContextsOf<Stack>()};
  }

  // Serves `in` and then the client's end, without negotiation. Returns what was sent.
  std::string Serve(const std::string& in, size_t chunk = SIZE_MAX) {
    stream = {.in = in, .chunk = chunk};
    Share();
    status = std::make_unique<Transmitter>(*exported_, ByteTransport(stream), *Buffers::Create())->Transmit();
    return stream.out;
  }

  // The same behind a negotiation, which `options` are. Returns what was sent after it; nothing if there was no agreement.
  std::string Talk(const std::string& options, const std::string& in, size_t chunk = SIZE_MAX) {
    stream = {.in = options + in, .chunk = chunk};
    Share();
    const nbd::Export* const exports[] = {&about};
    ByteTransport transport(stream);
    const absl::StatusOr<std::optional<Agreement>> agreed = Negotiate(transport, exports);
    status = agreed.status();
    if (!agreed.ok() || !agreed->has_value()) return "";
    const size_t negotiated = stream.out.size();
    stream.sends = 0;
    status = std::make_unique<Transmitter>(*exported_, transport, *Buffers::Create(), **agreed)->Transmit();
    return stream.out.substr(negotiated);
  }

  typename Stack::State& device() { return state_; }

  Script script;  // of a leaf that has one
  nbd::Export about;
  Bytestream stream;
  absl::Status status;
  std::vector<std::string> failures;

 private:
  using Transmitter = Connection<Stack, ByteTransport>;

  void Share() {
    exported_ = std::unique_ptr<Exported<Stack>>(new Exported<Stack>{.device = state_, .about = about});
    exported_->on_failure = [this](const char* command, Range range, const absl::Status& why) {
      failures.push_back(std::string(command) + " " + std::to_string(range.offset) + " " + std::string(why.message()));
    };
  }

  typename Stack::State state_;
  std::unique_ptr<Exported<Stack>> exported_;
};

}  // namespace buse::testing

#endif  // TESTS_BUSE_BYTE_SERVER_H_

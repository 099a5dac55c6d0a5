// SPDX-License-Identifier: Apache-2.0
//
// A device behind a connection over byte strings: what a client says goes in, what the server sent comes out.

#ifndef TESTS_BUSE_BYTE_SERVER_H_
#define TESTS_BUSE_BYTE_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/connection.h"
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
    if constexpr (requires { config.script; }) config.script = &script;
    EXPECT_TRUE(Stack::Open(config, state_).ok());
    about = {.size = Stack::Size(state_),
             .flags = nbd::TransmissionFlags<Stack>(),
             .min_block = static_cast<uint32_t>(Stack::kBlockSize),
             .has_extents = CanExtents<Stack>};
  }

  // Serves `in` and then the client's end, without negotiation. Returns what was sent.
  std::string Serve(const std::string& in, size_t chunk = SIZE_MAX) {
    stream = {.in = in, .chunk = chunk};
    auto connection = Connect();
    status = connection->Transmit();
    return stream.out;
  }

  // The same behind a negotiation, which `options` are. Returns what was sent after it; nothing if there was no agreement.
  std::string Talk(const std::string& options, const std::string& in, size_t chunk = SIZE_MAX) {
    stream = {.in = options + in, .chunk = chunk};
    auto connection = Connect();
    const absl::StatusOr<bool> agreed = connection->Negotiate();
    status = agreed.status();
    if (!agreed.ok() || !*agreed) return "";
    const size_t negotiated = stream.out.size();
    stream.sends = 0;
    status = connection->Transmit();
    return stream.out.substr(negotiated);
  }

  typename Stack::State& device() { return state_; }

  Script script;  // of a leaf that has one
  nbd::Export about;
  Bytestream stream;
  absl::Status status;
  std::vector<std::string> failures;

 private:
  std::unique_ptr<Connection<Stack, ByteTransport>> Connect() {
    exported_ = std::unique_ptr<Exported<Stack>>(new Exported<Stack>{.device = state_, .about = about});
    exported_->on_failure = [this](const char* command, Range range, const absl::Status& why) {
      failures.push_back(std::string(command) + " " + std::to_string(range.offset) + " " + std::string(why.message()));
    };
    return std::make_unique<Connection<Stack, ByteTransport>>(*exported_, ByteTransport(stream), *Buffers::Create());
  }

  typename Stack::State state_;
  std::unique_ptr<Exported<Stack>> exported_;
};

}  // namespace buse::testing

#endif  // TESTS_BUSE_BYTE_SERVER_H_

// SPDX-License-Identifier: Apache-2.0
//
// What a strict client makes of a server's structured or extended replies, written from the specification apart from the
// server's own code.

#ifndef TESTS_REPLY_STREAM_H_
#define TESTS_REPLY_STREAM_H_

#include <cstdint>
#include <string>
#include <vector>

namespace buse::testing {

// One message from the server.
struct ReplyMessage {
  bool simple = false;
  uint16_t flags = 1;  // a simple reply is done
  uint16_t type = 0;
  uint64_t cookie = 0;
  uint64_t offset = 0;  // of an extended reply
  uint32_t error = 0;   // of a simple reply or an error chunk
  std::string message;  // of an error chunk
  std::string payload;

  bool done() const { return (flags & 1) != 0; }
  bool is_error() const { return (type & 0x8000) != 0 || error != 0; }
};

struct ReplyStream {
  std::vector<ReplyMessage> messages;
  std::string wrong;  // the first breach of the specification; empty if there is none
};

// Splits what a server sent, and checks each message by itself.
ReplyStream SplitReplies(const std::string& bytes, bool extended);

// What a READ's chunks say, put together.
struct ReadOutcome {
  std::string bytes;  // as long as the request
  uint32_t error = 0;
  uint64_t error_offset = UINT64_MAX;
  std::string message;
  int data_chunks = 0;
  int hole_chunks = 0;
  std::string wrong;  // the first breach of the specification
};

// Takes the messages with this cookie out of `messages`.
ReadOutcome TakeRead(std::vector<ReplyMessage>& messages, uint64_t cookie, uint64_t offset, uint64_t length);

// Length and flags of each extent in a BLOCK_STATUS chunk, of either kind.
struct StatusExtent {
  uint64_t length = 0;
  uint64_t flags = 0;

  friend bool operator==(const StatusExtent&, const StatusExtent&) = default;
};
std::vector<StatusExtent> StatusExtents(const ReplyMessage& chunk);

}  // namespace buse::testing

#endif  // TESTS_REPLY_STREAM_H_

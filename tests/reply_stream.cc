// SPDX-License-Identifier: Apache-2.0

#include "tests/reply_stream.h"

namespace buse::testing {
namespace {

constexpr uint16_t kNone = 0, kOffsetData = 1, kOffsetHole = 2, kBlockStatus = 5, kBlockStatusExt = 6;
constexpr uint16_t kError = 0x8001, kErrorOffset = 0x8002;

uint64_t FromBig(const std::string& bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) value = value << 8 | static_cast<uint8_t>(bytes.at(at + i));
  return value;
}

// What is wrong with a chunk's payload, and fills in what an error says.
std::string CheckChunk(ReplyMessage& chunk, bool extended) {
  const size_t size = chunk.payload.size();
  switch (chunk.type) {
    case kNone:
      if (size != 0 || !chunk.done()) return "a NONE chunk with a payload, or not done";
      return "";
    case kOffsetData:
      return size < 9 ? "an OFFSET_DATA chunk without data" : "";
    case kOffsetHole:
      if (size != 12) return "an OFFSET_HOLE chunk that is not 12 bytes long";
      return FromBig(chunk.payload, 8, 4) == 0 ? "a hole of no bytes" : "";
    case kBlockStatus:
      if (extended) return "a BLOCK_STATUS chunk under extended headers";
      return size < 12 || (size - 4) % 8 != 0 ? "a BLOCK_STATUS chunk of an odd length" : "";
    case kBlockStatusExt:
      if (!extended) return "a BLOCK_STATUS_EXT chunk without extended headers";
      if (size < 24 || (size - 8) % 16 != 0) return "a BLOCK_STATUS_EXT chunk of an odd length";
      return FromBig(chunk.payload, 4, 4) != (size - 8) / 16 ? "a BLOCK_STATUS_EXT chunk that miscounts" : "";
    case kError:
    case kErrorOffset: {
      const size_t fixed = chunk.type == kError ? 6 : 14;
      if (size < fixed) return "an error chunk that is too short";
      chunk.error = FromBig(chunk.payload, 0, 4);
      const size_t length = FromBig(chunk.payload, 4, 2);
      if (chunk.error == 0) return "an error chunk without an error";
      if (length > 4096 || length + fixed != size) return "an error chunk whose message has another length than it says";
      chunk.message = chunk.payload.substr(6, length);
      return "";
    }
    default:
      return "a chunk of unknown type";
  }
}

}  // namespace

ReplyStream SplitReplies(const std::string& bytes, bool extended) {
  ReplyStream stream;
  const size_t header = extended ? 32 : 20;
  for (size_t at = 0; at < bytes.size();) {
    ReplyMessage message;
    if (bytes.size() - at < 16) return stream.wrong = "bytes that are no reply", stream;
    const uint64_t magic = FromBig(bytes, at, 4);
    if (magic == 0x67446698) {
      if (extended) return stream.wrong = "a simple reply under extended headers", stream;
      message.simple = true;
      message.error = FromBig(bytes, at + 4, 4);
      message.cookie = FromBig(bytes, at + 8, 8);
      at += 16;
    } else {
      if (magic != (extended ? 0x6e8a278c : 0x668e33ef)) return stream.wrong = "a reply of unknown magic", stream;
      if (bytes.size() - at < header) return stream.wrong = "half a header", stream;
      message.flags = FromBig(bytes, at + 4, 2);
      message.type = FromBig(bytes, at + 6, 2);
      message.cookie = FromBig(bytes, at + 8, 8);
      if (extended) message.offset = FromBig(bytes, at + 16, 8);
      const uint64_t length = extended ? FromBig(bytes, at + 24, 8) : FromBig(bytes, at + 16, 4);
      at += header;
      if (bytes.size() - at < length) return stream.wrong = "half a payload", stream;
      message.payload = bytes.substr(at, length);
      at += length;
      if ((message.flags & ~1) != 0) stream.wrong = "an unknown reply flag";
      if (std::string wrong = CheckChunk(message, extended); !wrong.empty()) stream.wrong = wrong;
    }
    stream.messages.push_back(std::move(message));
    if (!stream.wrong.empty()) return stream;
  }
  return stream;
}

ReadOutcome TakeRead(std::vector<ReplyMessage>& messages, uint64_t cookie, uint64_t offset, uint64_t length) {
  ReadOutcome outcome;
  outcome.bytes.assign(length, '\0');
  std::string covered(length, '\0');  // a byte for each, since fuzzers count the steps of a loop
  bool done = false;
  const auto cover = [&](uint64_t from, const std::string& content) {
    if (from < offset || content.size() > length || from - offset > length - content.size()) {
      outcome.wrong = "a chunk outside the request";
      return;
    }
    const uint64_t begin = from - offset;
    if (covered.find('\1', begin) < begin + content.size()) outcome.wrong = "chunks that overlap";
    covered.replace(begin, content.size(), content.size(), '\1');
    outcome.bytes.replace(begin, content.size(), content);
  };
  for (auto at = messages.begin(); at != messages.end();) {
    if (at->cookie != cookie) {
      ++at;
      continue;
    }
    if (done) outcome.wrong = "a chunk after the last";
    if (at->simple) outcome.wrong = "a simple reply to READ";
    done = at->done();
    if (at->type == kOffsetData) {
      ++outcome.data_chunks;
      cover(FromBig(at->payload, 0, 8), at->payload.substr(8));
    } else if (at->type == kOffsetHole) {
      ++outcome.hole_chunks;
      const uint64_t hole = FromBig(at->payload, 8, 4);
      if (hole > length) return outcome.wrong = "a hole longer than the request", outcome;
      cover(FromBig(at->payload, 0, 8), std::string(hole, '\0'));
    } else if (at->is_error()) {
      if (outcome.error != 0) outcome.wrong = "two errors";
      outcome.error = at->error;
      outcome.message = at->message;
      if (at->type == kErrorOffset) {
        outcome.error_offset = FromBig(at->payload, at->payload.size() - 8, 8);
        if (outcome.error_offset < offset || outcome.error_offset - offset >= length) outcome.wrong = "an error elsewhere";
      }
    } else if (at->type != kNone) {
      outcome.wrong = "a chunk that is no answer to READ";
    }
    at = messages.erase(at);
  }
  if (!done) outcome.wrong = "no last chunk";
  if (outcome.error == 0 && covered.find('\0') != std::string::npos) outcome.wrong = "success without all of the bytes";
  return outcome;
}

std::vector<StatusExtent> StatusExtents(const ReplyMessage& chunk) {
  std::vector<StatusExtent> extents;
  const size_t half = chunk.type == kBlockStatusExt ? 8 : 4;
  const size_t skip = chunk.type == kBlockStatusExt ? 8 : 4;
  for (size_t at = skip; at + 2 * half <= chunk.payload.size(); at += 2 * half) {
    extents.push_back({FromBig(chunk.payload, at, half), FromBig(chunk.payload, at + half, half)});
  }
  return extents;
}

}  // namespace buse::testing

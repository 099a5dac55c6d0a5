// SPDX-License-Identifier: Apache-2.0

#include "tests/fuzz/judge.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "tests/reply_stream.h"

namespace buse::testing {
namespace {

using Style = Dialogue::Style;

constexpr uint16_t kRead = 0, kWrite = 1, kDisc = 2, kFlush = 3, kTrim = 4, kWriteZeroes = 6, kBlockStatus = 7, kResize = 8;
constexpr uint16_t kFua = 1, kDf = 4, kReqOne = 8, kPayloadLen = 32;
constexpr uint64_t kAllocation = 1, kCache = 2;  // contexts
constexpr uint64_t kMaxPayload = 32 << 20;

uint64_t FromBig(const std::string& bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) value = value << 8 | static_cast<uint8_t>(bytes.at(at + i));
  return value;
}

struct Asked {
  uint16_t flags = 0;
  uint16_t type = 0;
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint64_t length = 0;  // of the effect
  std::string payload;
};

class Trial {
 public:
  explicit Trial(Dialogue& dialogue) : dialogue_(dialogue), extended_(dialogue.style == Style::kExtended) {
    dialogue.unflushed.resize(dialogue.disk.size());
  }

  std::string Run() {
    if (dialogue_.style != Style::kSimple) {
      ReplyStream stream = SplitReplies(dialogue_.replies, extended_);
      if (!stream.wrong.empty()) return stream.wrong;
      messages_ = std::move(stream.messages);
    }
    std::vector<Asked> all;
    while (std::optional<Asked> asked = NextRequest()) all.push_back(*std::move(asked));
    if (!dialogue_.in_step) MarkWhatChanges(all);
    for (const Asked& asked : all) {
      std::string wrong = dialogue_.style == Style::kSimple ? JudgeSimple(asked) : JudgeChunks(asked);
      if (!wrong.empty()) return "request " + std::to_string(asked.cookie) + ": " + wrong;
    }
    if (at_reply_ != (dialogue_.style == Style::kSimple ? dialogue_.replies.size() : messages_.size())) {
      return "replies that nothing asked for";
    }
    if (dialogue_.broken_off != may_break_)
      return may_break_ ? "a broken protocol was overlooked" : "broken off without a reason";
    return "";
  }

 private:
  // The next that must be answered.
  std::optional<Asked> NextRequest() {
    const std::string& in = dialogue_.requests;
    const size_t header = extended_ ? 32 : 28;
    if (ended_ || in.size() - at_request_ < header) return {};
    const size_t at = at_request_;
    if (FromBig(in, at, 4) != (extended_ ? 0x21e41c71 : 0x25609513)) return Break();
    Asked asked = {.flags = static_cast<uint16_t>(FromBig(in, at + 4, 2)),
                   .type = static_cast<uint16_t>(FromBig(in, at + 6, 2)),
                   .cookie = FromBig(in, at + 8, 8),
                   .offset = FromBig(in, at + 16, 8),
                   .length = FromBig(in, at + 24, header - 24)};
    at_request_ += header;
    if (asked.type == kDisc) {
      ended_ = true;
      return {};
    }
    if (extended_ ? (asked.flags & kPayloadLen) != 0 : asked.type == kWrite) {
      if (extended_ && asked.length > kMaxPayload) return Break();
      if (in.size() - at_request_ < asked.length) {
        ended_ = true;
        return {};
      }
      asked.payload = in.substr(at_request_, asked.length);
      at_request_ += asked.length;
      if (asked.type == kBlockStatus) asked.length = asked.payload.size() < 8 ? 0 : FromBig(asked.payload, 0, 8);
    }
    return asked;
  }

  std::optional<Asked> Break() {
    ended_ = may_break_ = true;
    return {};
  }

  static bool EndsBy(uint64_t size, const Asked& asked) { return asked.offset <= size && asked.length <= size - asked.offset; }
  bool InRange(const Asked& asked) const { return EndsBy(dialogue_.disk.size(), asked); }

  void MarkWhatChanges(const std::vector<Asked>& all) {
    changes_.resize(std::max(dialogue_.disk.size(), dialogue_.resize_limit));
    for (const Asked& asked : all) {
      const bool change = asked.type == kWrite || asked.type == kTrim || asked.type == kWriteZeroes;
      if (change && EndsBy(changes_.size(), asked)) std::fill_n(changes_.begin() + asked.offset, asked.length, true);
      // What is cut off and added again is changed.
      if (asked.type == kResize) std::fill(changes_.begin() + std::min(asked.offset, changes_.size()), changes_.end(), true);
    }
  }

  // Whether the disk's bytes from `offset` on may be read as these.
  bool MayRead(uint64_t offset, const std::string& bytes) const {
    if (dialogue_.disk.compare(offset, bytes.size(), bytes) == 0) return true;
    for (size_t i = 0; i < bytes.size(); ++i) {
      const bool changes = !changes_.empty() && changes_[offset + i];
      if (dialogue_.disk[offset + i] != bytes[i] && !changes) return false;
    }
    return true;
  }

  // A success: what it did to the disk.
  std::string Apply(const Asked& asked) {
    std::vector<bool>& unflushed = dialogue_.unflushed;
    if (asked.type == kResize) return ApplyResize(asked);
    if (!InRange(asked)) return "success past the end";
    const auto change = [&](bool durably) { std::fill_n(unflushed.begin() + asked.offset, asked.length, !durably); };
    if (asked.type == kWrite) {
      if (asked.payload.size() != asked.length) return "a write without payload succeeded";
      dialogue_.disk.replace(asked.offset, asked.length, asked.payload);
      change((asked.flags & kFua) != 0);
    } else if (asked.type == kTrim || asked.type == kWriteZeroes) {
      dialogue_.disk.replace(asked.offset, asked.length, asked.length, '\0');
      change((asked.flags & kFua) != 0);
    } else if (asked.type == kFlush) {
      std::fill(unflushed.begin(), unflushed.end(), false);
    } else if (asked.type > kBlockStatus) {
      return "an unknown command succeeded";
    }
    return "";
  }

  std::string ApplyResize(const Asked& asked) {
    if (dialogue_.resize_limit == 0) return "a size was changed without leave";
    if (asked.offset == 0 || asked.offset > dialogue_.resize_limit || asked.length != 0) return "an impossible size succeeded";
    dialogue_.disk.resize(asked.offset, '\0');
    dialogue_.unflushed.resize(asked.offset, true);
    return "";
  }

  std::string JudgeSimple(const Asked& asked) {
    const std::string& out = dialogue_.replies;
    if (out.size() - at_reply_ < 16) return "no reply";
    if (FromBig(out, at_reply_, 4) != 0x67446698) return "a reply without its magic";
    if (FromBig(out, at_reply_ + 8, 8) != asked.cookie) return "another's reply";
    const uint64_t error = FromBig(out, at_reply_ + 4, 4);
    at_reply_ += 16;
    if (error != 0) return "";
    if (asked.type == kRead) {
      if (!InRange(asked)) return "a read past the end succeeded";
      if (out.size() - at_reply_ < asked.length) return "half a payload";
      if (!MayRead(asked.offset, out.substr(at_reply_, asked.length))) return "wrong bytes";
      at_reply_ += asked.length;
    }
    if (asked.type == kBlockStatus) return "a simple reply to BLOCK_STATUS";
    return Apply(asked);
  }

  std::string JudgeChunks(const Asked& asked) {
    std::vector<ReplyMessage> mine;
    do {
      if (at_reply_ == messages_.size()) return "no last reply";
      mine.push_back(messages_[at_reply_++]);
      if (mine.back().cookie != asked.cookie) return "another's reply";
      if (extended_ && mine.back().offset != asked.offset) return "another offset";
    } while (!mine.back().done());
    if (asked.type == kRead) return JudgeRead(asked, mine);
    if (asked.type == kBlockStatus) return JudgeStatuses(asked, mine);
    if (mine.size() != 1) return "more than one chunk";
    if (mine[0].is_error()) return "";
    if (mine[0].type != 0) return "a chunk of another command";
    return Apply(asked);
  }

  std::string JudgeRead(const Asked& asked, std::vector<ReplyMessage>& mine) {
    if (!InRange(asked)) return mine.size() == 1 && mine[0].is_error() ? "" : "a read past the end succeeded";
    const ReadOutcome outcome = TakeRead(mine, asked.cookie, asked.offset, asked.length);
    if (!outcome.wrong.empty()) return outcome.wrong;
    if ((asked.flags & kDf) != 0 && outcome.data_chunks + outcome.hole_chunks > 1) return "DF was overlooked";
    if (outcome.error == 0 && !MayRead(asked.offset, outcome.bytes)) return "wrong bytes";
    return "";
  }

  // The contexts that a BLOCK_STATUS asks for.
  std::vector<uint64_t> Wanted(const Asked& asked) const {
    std::vector<uint64_t> wanted;
    if (extended_ && (asked.flags & kPayloadLen) != 0) {
      for (size_t at = 8; at + 4 <= asked.payload.size(); at += 4) wanted.push_back(FromBig(asked.payload, at, 4));
    } else {
      if (dialogue_.allocation) wanted.push_back(kAllocation);
      if (dialogue_.cache) wanted.push_back(kCache);
    }
    return wanted;
  }

  // One chunk for each context, in any order; the last may be an error in place of one.
  std::string JudgeStatuses(const Asked& asked, const std::vector<ReplyMessage>& chunks) {
    std::vector<uint64_t> wanted = Wanted(asked);
    for (const ReplyMessage& chunk : chunks) {
      if (chunk.is_error()) return chunk.done() ? "" : "a status after an error";
      if (chunk.type != (extended_ ? 6 : 5)) return "a status of another kind";
      const uint64_t context = FromBig(chunk.payload, 0, 4);
      const auto found = std::find(wanted.begin(), wanted.end(), context);
      if (found == wanted.end()) return "a status in a context that was not asked for";
      wanted.erase(found);
      const bool selected = context == kCache ? dialogue_.cache : dialogue_.allocation;
      if (!selected) return "a status without its context";
      if (std::string wrong = JudgeStatus(asked, chunk, context); !wrong.empty()) return wrong;
    }
    return wanted.empty() ? "" : "a context was left out";
  }

  std::string JudgeStatus(const Asked& asked, const ReplyMessage& chunk, uint64_t context) {
    if (!InRange(asked)) return "a status past the end";
    const std::vector<StatusExtent> extents = StatusExtents(chunk);
    if (extents.empty()) return "a status without extents";
    if ((asked.flags & kReqOne) != 0 && extents.size() != 1) return "REQ_ONE was overlooked";
    uint64_t at = asked.offset;
    for (const StatusExtent& extent : extents) {
      if (extent.length == 0 || extent.length > asked.offset + asked.length - at) return "an extent past what was asked";
      std::string wrong = context == kCache ? JudgeCached(at, extent) : JudgeAllocated(at, extent);
      if (!wrong.empty()) return wrong;
      at += extent.length;
    }
    return "";
  }

  std::string JudgeAllocated(uint64_t at, const StatusExtent& extent) const {
    if (extent.flags != 0 && extent.flags != 2 && extent.flags != 3) return "an unknown status";
    if (extent.flags != 0 && dialogue_.disk.compare(at, extent.length, std::string(extent.length, '\0')) != 0) {
      return "data called zeroes";
    }
    return "";
  }

  // In every sector that is dirty something was written, and was not flushed.
  std::string JudgeCached(uint64_t at, const StatusExtent& extent) const {
    constexpr uint64_t kCached = 1, kDirty = 2, kSector = 512;
    if ((extent.flags & ~(kCached | kDirty)) != 0) return "an unknown status of a cache";
    if (extent.flags == kDirty) return "dirty, and not cached";  // no block is larger than a sector here
    if ((extent.flags & kDirty) == 0) return "";
    const std::vector<bool>& unflushed = dialogue_.unflushed;
    for (const uint64_t end = at + extent.length; at < end;) {
      const auto from = unflushed.begin() + (at - std::min(at, kSector - 1));
      const auto to = unflushed.begin() + std::min(at + kSector, unflushed.size());
      const auto found = std::find(from, to, true);
      if (found == to) return "dirty, and nothing was written";
      at = static_cast<uint64_t>(found - unflushed.begin()) + kSector;
    }
    return "";
  }

  Dialogue& dialogue_;
  const bool extended_;
  std::vector<ReplyMessage> messages_;
  std::vector<bool> changes_;  // bytes that some request changes; empty where that does not matter
  size_t at_request_ = 0;
  size_t at_reply_ = 0;  // a byte of a simple style's replies, else a message
  bool ended_ = false;
  bool may_break_ = false;
};

}  // namespace

std::string Judge(Dialogue& dialogue) { return Trial(dialogue).Run(); }

}  // namespace buse::testing

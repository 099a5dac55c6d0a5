// SPDX-License-Identifier: Apache-2.0
//
// How READ is answered: from the device's own memory where it lends it, and holes as holes. Source: doc/proto.md of the NBD
// project, NBD_CMD_READ and "Structured reply types".

#ifndef BUSE_READ_COMMAND_H_
#define BUSE_READ_COMMAND_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "buse/nbd.h"
#include "buse/replies.h"
#include "buse/request.h"
#include "buse/session.h"

namespace buse {

// Static functions over a session. Errors: those of its stream; what the device says is told to the client.
template <Device Stack, class Session>
class ReadCommand {
 public:
  template <bool kChunks>
  static absl::Status Take(Session& session, const nbd::Request& request) {
    return NeedsDevice<kChunks>(session, request) ? Answer<kChunks>(session, request) : absl::OkStatus();
  }

  // False: it is answered already.
  template <bool kChunks>
  static bool NeedsDevice(Session& session, const nbd::Request& request) {
    const nbd::Verdict verdict = Check<kChunks>(session, request);
    if (verdict.error != nbd::kOk) {
      Refuse<kChunks>(session, request, verdict);
      return false;
    }
    if (request.length != 0) return true;
    if constexpr (kChunks) session.stream.replies().Nothing(request);
    if constexpr (!kChunks) session.stream.replies().Simple(request.cookie, nbd::kOk);
    return false;
  }

  // To a request that needs the device.
  template <bool kChunks>
  static absl::Status Answer(Session& session, const nbd::Request& request) {
    if constexpr (kChunks && CanExtents<Stack>) {
      if (IsSparse<kChunks>(request)) return ReadSparsely(session, request);
    }
    bool ok = true;
    return Read<kChunks>(session, request, request.range(), true, ok);
  }

  // Whether the device is asked first what is a hole.
  template <bool kChunks>
  static bool IsSparse(const nbd::Request& request) {
    return kChunks && CanExtents<Stack> && request.length >= kLeastSparseRead && !request.has(nbd::kCmdFlagDf);
  }

  // Answers with bytes that stay until the replies are sent.
  template <bool kChunks>
  static void AnswerWith(Session& session, const nbd::Request& request, ConstBytes bytes) {
    Announce<kChunks>(session, request, request.range(), true);
    session.stream.replies().gather().Append(bytes);
  }

  // Answers if that takes no waiting: then `done` becomes true.
  template <bool kChunks>
  static absl::Status TryNow(Session& session, const nbd::Request& request, bool& done) {
    if constexpr (CanTryRead<Stack>) {
      absl::StatusOr<Bytes> out = session.stream.TakeRoom(request.length, Session::kPayloadAlignment);
      if (!out.ok()) return out.status();
      done = session.exported.TryRead(request.offset, *out);
      if (done) {
        AnswerWith<kChunks>(session, request, *out);
      } else {
        session.stream.GiveBackRoom(*out);
      }
    }
    return absl::OkStatus();
  }

 private:
  // A shorter READ is not worth asking what is a hole, nor is a shorter hole worth a chunk of its own. Measured over a file:
  // asking costs 2 us, as much as reading 16 KiB, and each chunk more the same.
  static constexpr uint64_t kLeastSparseRead = 128 << 10;
  static constexpr uint64_t kLeastHole = 64 << 10;

  // Holes are sent as holes.
  static absl::Status ReadSparsely(Session& session, const nbd::Request& request) {
    std::array<Extent, Replies::kMaxChunks> parts;
    size_t count = 0;
    const absl::Status known = session.exported.Extents(request.range(), kLeastHole, [&](const Extent& extent) {
      parts[count++] = extent;
      return count < parts.size();
    });
    // What could not be told, or would be one part too many, is read.
    if (!known.ok()) count = 0;
    uint64_t told = count == 0 ? request.offset : parts[count - 1].range.end();
    if (count == parts.size() && told < request.range().end()) told = parts[--count].range.offset;
    if (told < request.range().end()) parts[count++] = {{told, request.range().end() - told}, Extent::Kind::kData};
    bool ok = true;
    for (size_t i = 0; i < count && ok; ++i) {
      const bool last = i + 1 == count;
      if (session.stream.replies().gather().room() < 2) {
        if (absl::Status status = session.stream.SendReplies(); !status.ok()) return status;
      }
      if (parts[i].kind != Extent::Kind::kData) {
        session.stream.replies().Hole(request, parts[i].range, last);
      } else if (absl::Status status = Read<true>(session, request, parts[i].range, last, ok); !status.ok()) {
        return status;
      }
    }
    return absl::OkStatus();
  }

  // Answers with the bytes of `range`, or ends the reply with an error: then `ok` becomes false.
  template <bool kChunks>
  [[gnu::always_inline]] static absl::Status Read(Session& session, const nbd::Request& request, Range range, bool last,
                                                  bool& ok) {
    if constexpr (CanView<Stack>) {
      Replies& replies = session.stream.replies();
      const Replies::Mark mark = replies.mark();
      Announce<kChunks>(session, request, range, last);
      const size_t announced = replies.gather().bytes();
      absl::Status status = session.exported.View(range, replies.gather());
      const size_t lent = replies.gather().bytes() - announced;
      if (status.ok() && lent == range.length) return status;
      if (status.ok() && !replies.gather().overflowed()) {
        status = absl::InternalError(absl::StrCat("a layer's View lent ", lent, " bytes in place of ", range.length));
      }
      replies.Rewind(mark);
      ok = status.ok();
      if (!ok) {
        FailRead<kChunks>(session, request, range, status);
        return absl::OkStatus();
      }
      // Too many pieces for what room was left.
      if (status = session.stream.SendReplies(); !status.ok()) return status;
    }
    return ReadIntoBuffer<kChunks>(session, request, range, last, ok);
  }

  template <bool kChunks>
  [[gnu::noinline]] static absl::Status ReadIntoBuffer(Session& session, const nbd::Request& request, Range range, bool last,
                                                       bool& ok) {
    absl::StatusOr<Bytes> out = session.stream.TakeRoom(range.length, Session::kPayloadAlignment);
    if (!out.ok()) return out.status();
    absl::Status status = session.exported.Read(range.offset, *out);
    ok = status.ok();
    if (ok) {
      Announce<kChunks>(session, request, range, last);
      session.stream.replies().gather().Append(*out);
    } else {
      FailRead<kChunks>(session, request, range, status);
    }
    return absl::OkStatus();
  }

  // The header of bytes that were read.
  template <bool kChunks>
  static void Announce(Session& session, const nbd::Request& request, Range range, bool last) {
    if constexpr (kChunks) {
      session.stream.replies().Data(request, range, last);
    } else {
      session.stream.replies().Simple(request.cookie, nbd::kOk);
    }
  }

  // The error alone: a failed READ carries no payload. Where a part of it failed, the client learns which.
  template <bool kChunks>
  [[gnu::noinline]] static void FailRead(Session& session, const nbd::Request& request, Range range,
                                         const absl::Status& status) {
    std::optional<uint64_t> at;
    if (range != request.range()) at = range.offset;
    Fail<kChunks>(session, request, "read", range, status, at);
  }
};

}  // namespace buse

#endif  // BUSE_READ_COMMAND_H_

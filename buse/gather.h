// SPDX-License-Identifier: Apache-2.0
//
// Gather: borrowed bytes on their way to one send. A device's View appends pieces of its own memory; the server puts reply
// headers between them and sends all with one system call.

#ifndef BUSE_GATHER_H_
#define BUSE_GATHER_H_

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <span>

#include "buse/device.h"

namespace buse {

// A bounded list of pieces, and what to do when they are no longer needed. Allocates nothing; 32 KiB in size, so it lives in a
// connection and not on a stack. Not thread-safe.
//
// When a piece does not fit, the gather is `overflowed` and ignores further pieces: the caller rewinds to its mark and reads
// into a buffer of its own instead, so a View need not check. A View that cannot lend these bytes at the moment calls Overflow.
class Gather {
 public:
  // The most that one sendmsg takes (IOV_MAX).
  static constexpr size_t kMaxPieces = 1024;

  struct Mark {
    size_t pieces = 0;
    size_t releases = 0;
    size_t bytes = 0;
    bool overflowed = false;
  };

  Gather() = default;
  Gather(const Gather&) = delete;
  Gather& operator=(const Gather&) = delete;
  ~Gather() { Release(); }

  // Appends bytes that stay valid until Release, or until a Rewind past them. Empty pieces are dropped.
  void Append(ConstBytes piece) {
    if (piece.empty()) return;
    if (pieces_used_ == kMaxPieces) overflowed_ = true;
    if (overflowed_) return;
    // So that the first bytes of all pieces come from memory at the same time, and not one after the other in the send.
    __builtin_prefetch(piece.data(), 0, 2);
    pieces_[pieces_used_++] = {const_cast<std::byte*>(piece.data()), piece.size()};
    bytes_ += piece.size();
  }

  // Appends `length` zero bytes.
  void AppendZeroes(uint64_t length) {
    while (length > 0 && !overflowed_) {
      const size_t n = length < kZeroes.size() ? length : kZeroes.size();
      Append(ConstBytes(kZeroes.data(), n));
      length -= n;
    }
  }

  // Has `release(argument)` called when the pieces are no longer needed: for a layer that pins what it lends. Where the gather
  // is full it overflows, and `release` is called at once.
  void OnRelease(void (*release)(void*), void* argument) {
    if (releases_used_ == kMaxPieces) {
      overflowed_ = true;
      release(argument);
      return;
    }
    releases_[releases_used_++] = {release, argument};
  }

  Mark mark() const { return {pieces_used_, releases_used_, bytes_, overflowed_}; }

  // Has the caller read instead.
  void Overflow() { overflowed_ = true; }

  // Drops what came after `mark`.
  void Rewind(const Mark& mark) {
    while (releases_used_ > mark.releases) {
      const auto& [release, argument] = releases_[--releases_used_];
      release(argument);
    }
    pieces_used_ = mark.pieces;
    bytes_ = mark.bytes;
    overflowed_ = mark.overflowed;
  }

  void Release() { Rewind(Mark{}); }

  bool overflowed() const { return overflowed_; }
  bool empty() const { return pieces_used_ == 0; }
  size_t bytes() const { return bytes_; }
  // Pieces that still fit.
  size_t room() const { return kMaxPieces - pieces_used_; }
  std::span<iovec> pieces() { return {pieces_.data(), pieces_used_}; }

 private:
  struct ReleaseAction {
    void (*release)(void*);
    void* argument;
  };

  static constexpr std::array<std::byte, 65536> kZeroes{};

  size_t pieces_used_ = 0;
  size_t releases_used_ = 0;
  size_t bytes_ = 0;
  bool overflowed_ = false;
  std::array<iovec, kMaxPieces> pieces_;
  std::array<ReleaseAction, kMaxPieces> releases_;
};

}  // namespace buse

#endif  // BUSE_GATHER_H_

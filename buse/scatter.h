// SPDX-License-Identifier: Apache-2.0
//
// Scatter: where bytes that come from a client are to lie. A device's Place appends pieces of its own memory; the server
// receives straight into them.

#ifndef BUSE_SCATTER_H_
#define BUSE_SCATTER_H_

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <span>

#include "buse/device.h"

namespace buse {

// A bounded list of writable pieces, used up from its beginning. Allocates nothing; 1 KiB in size. Not thread-safe.
//
// When a piece does not fit, the scatter is `overflowed` and ignores further pieces: the caller receives into a buffer of its
// own and calls Write instead, so a Place need not check. A Place that cannot lend these bytes at the moment calls Overflow.
class Scatter {
 public:
  static constexpr size_t kMaxPieces = 64;

  Scatter() = default;
  Scatter(const Scatter&) = delete;
  Scatter& operator=(const Scatter&) = delete;

  // Empty pieces are dropped.
  void Append(Bytes piece) {
    if (piece.empty()) return;
    if (end_ == kMaxPieces) overflowed_ = true;
    if (overflowed_) return;
    pieces_[end_++] = {piece.data(), piece.size()};
    bytes_ += piece.size();
  }

  // Has the caller Write instead.
  void Overflow() { overflowed_ = true; }

  void Clear() {
    begin_ = end_ = bytes_ = 0;
    overflowed_ = false;
  }

  bool overflowed() const { return overflowed_; }
  // Not yet used up.
  size_t bytes() const { return bytes_; }
  std::span<iovec> pieces() { return {pieces_.data() + begin_, end_ - begin_}; }

  // The pieces, and then one more, for what comes behind them.
  std::span<iovec> PiecesAnd(Bytes behind) {
    pieces_[end_] = {behind.data(), behind.size()};
    return {pieces_.data() + begin_, end_ + 1 - begin_};
  }

  // Uses up the first `n` bytes, of those there are.
  void Advance(size_t n) {
    bytes_ -= n;
    while (n > 0) {
      iovec& piece = pieces_[begin_];
      const size_t part = std::min(n, piece.iov_len);
      piece = {static_cast<std::byte*>(piece.iov_base) + part, piece.iov_len - part};
      if (piece.iov_len == 0) ++begin_;
      n -= part;
    }
  }

  // Copies `bytes`, no more than there is room for, to the beginning and uses it up.
  void Fill(ConstBytes bytes) {
    while (!bytes.empty()) {
      const iovec& piece = pieces_[begin_];
      const size_t part = std::min(bytes.size(), piece.iov_len);
      std::memcpy(piece.iov_base, bytes.data(), part);
      Advance(part);
      bytes = bytes.subspan(part);
    }
  }

 private:
  size_t begin_ = 0;
  size_t end_ = 0;
  size_t bytes_ = 0;
  bool overflowed_ = false;
  std::array<iovec, kMaxPieces + 1> pieces_;
};

}  // namespace buse

#endif  // BUSE_SCATTER_H_

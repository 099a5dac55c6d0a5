// SPDX-License-Identifier: Apache-2.0

#include "layers/page_cache.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <optional>
#include <utility>

#include "layers/defect.h"
#include "layers/splitmix.h"

namespace buse {
namespace {

constexpr uint32_t kNone = S3Fifo::kNone;

// So many pages are worth a shard of their own, and so many shards are enough for the threads there are.
constexpr uint64_t kPagesPerShard = 128;
constexpr unsigned kMostShardBits = 6;

uint64_t DivideUp(uint64_t n, uint64_t unit) { return n / unit + (n % unit != 0); }

}  // namespace

// The state of a slot that has a page.
struct PageCache::Page {
  std::atomic<uint32_t> pins;  // how often it is lent. Raised under the shard's mutex, lowered anywhere
  Mask valid;
  Mask dirty;    // a part of `valid`
  Mask writing;  // a part of `dirty`: what is being written below and did not change since
};

class PageCache::Shard {
 public:
  std::mutex mutex;
  S3Fifo fifo;

  absl::Status Open(uint32_t pages, unsigned shard_bits, std::byte* data) {
    shard_bits_ = shard_bits;
    data_ = data;
    if (absl::Status status = fifo.Open(pages); !status.ok()) return status;
    if (absl::Status status = pages_.Open(pages); !status.ok()) return status;
    return index_.Open(std::bit_ceil(uint64_t{pages} + pages / 4 + 1));
  }

  Page& page(uint32_t slot) { return pages_[slot]; }
  std::byte* bytes(uint32_t slot) { return data_ + slot * kPage; }

  // Pages that follow each other in a shard have numbers that differ above the shard's bits.
  static uint64_t Hash(uint64_t page, unsigned shard_bits) { return Mix64((page >> shard_bits) + 1); }

  uint32_t Find(uint64_t page, uint64_t hash) const {
    for (uint64_t at = Home(hash); index_[at] != 0; at = Following(at)) {
      if (fifo.key(index_[at] - 1) == page) return index_[at] - 1;
    }
    return kNone;
  }

  // A slot for a page that has none, with nothing valid. kNone: all are dirty or lent.
  uint32_t Add(uint64_t page, uint64_t hash, S3Fifo::Reason reason) {
    uint32_t slot = fifo.Unused();
    if (slot == kNone) {
      slot = fifo.Evict([this](uint32_t s) { return pages_[s].pins.load(std::memory_order_acquire) == 0; });
      if (slot == kNone) return kNone;
      Unindex(slot);
    }
    fifo.Add(slot, page, hash, reason);
    pages_[slot].valid = 0;
    uint64_t at = Home(hash);
    while (index_[at] != 0) at = Following(at);
    index_[at] = slot + 1;
    return slot;
  }

  void Discard(uint32_t slot) {
    Unindex(slot);
    fifo.Discard(slot);
  }

 private:
  uint64_t Home(uint64_t hash) const { return hash & (index_.size() - 1); }
  uint64_t Following(uint64_t at) const { return (at + 1) & (index_.size() - 1); }

  // Closes the gap: moves up what could stand where nothing stands now.
  void Unindex(uint32_t slot) {
    uint64_t gap = Home(Hash(fifo.key(slot), shard_bits_));
    while (index_[gap] != slot + 1) gap = Following(gap);
    for (uint64_t at = Following(gap); index_[at] != 0; at = Following(at)) {
      const uint64_t home = Home(Hash(fifo.key(index_[at] - 1), shard_bits_));
      const uint64_t mask = index_.size() - 1;
      if (((at - home) & mask) < ((at - gap) & mask)) continue;
      index_[gap] = index_[at];
      gap = at;
    }
    index_[gap] = 0;
  }

  unsigned shard_bits_ = 0;
  std::byte* data_ = nullptr;
  MappedArray<Page> pages_;
  MappedArray<uint32_t> index_;  // open addressing, linear probing: slot + 1, or 0
};

struct PageCache::Piece {
  Shard& shard;
  uint64_t page;
  uint64_t hash;
  uint64_t done;    // bytes of the range before this piece
  uint64_t from;    // in the page
  uint64_t length;  // likewise
  Mask touched;     // sectors that it has bytes of
  Mask whole;       // sectors that it has all bytes of

  uint32_t Find() const { return shard.Find(page, hash); }
  uint32_t Add(S3Fifo::Reason reason) const { return shard.Add(page, hash, reason); }
};

PageCache::PageCache() = default;
PageCache::~PageCache() = default;

absl::Status PageCache::Open(uint64_t size, uint64_t block, const Limits& limits) {
  assert(limits.pages > 0 && std::has_single_bit(block) && block <= kPage);
  size_ = size;
  sector_bits_ = std::max(9, std::countr_zero(block));
  // No more than the device has, and then room for each of them in its shard.
  const uint64_t device_pages = std::max<uint64_t>(1, DivideUp(size, kPage));
  const uint64_t pages = std::min(limits.pages, device_pages);
  while (shard_bits_ < kMostShardBits && pages >> (shard_bits_ + 1) >= kPagesPerShard) ++shard_bits_;
  shard_pages_ = pages < device_pages ? pages >> shard_bits_ : DivideUp(pages, uint64_t{1} << shard_bits_);
  if (absl::Status status = data_.Open(this->pages() * kPage, /*huge=*/true); !status.ok()) return status;
  shards_ = std::make_unique<Shard[]>(size_t{1} << shard_bits_);
  for (uint64_t i = 0; i < uint64_t{1} << shard_bits_; ++i) {
    std::byte* const data = data_.data() + i * shard_pages_ * kPage;
    if (absl::Status status = shards_[i].Open(shard_pages_, shard_bits_, data); !status.ok()) return status;
  }
  return dirty_.Open(std::min<uint64_t>(limits.dirty_pages, this->pages()));
}

uint64_t PageCache::dirty_pages() {
  std::lock_guard lock(dirty_mutex_);
  return dirty_.size();
}

// ---- Pieces.

PageCache::Piece PageCache::PieceOf(uint64_t offset, uint64_t length) const {
  const uint64_t page = offset / kPage;
  const uint64_t from = offset % kPage;
  const uint64_t end = std::min(from + length, kPage);
  const auto up_to = [](uint64_t sector) { return static_cast<Mask>((1u << sector) - 1); };
  const uint64_t sector = (uint64_t{1} << sector_bits_) - 1;
  const uint64_t touched_end = (end + sector) >> sector_bits_;
  // The last sector of the device may be short.
  const uint64_t whole_end = page * kPage + end == size_ ? touched_end : end >> sector_bits_;
  const uint64_t whole_begin = std::min((from + sector) >> sector_bits_, whole_end);
  const uint64_t hash = Shard::Hash(page, shard_bits_);
  return {.shard = shards_[(page ^ hash) & ((uint64_t{1} << shard_bits_) - 1)],
          .page = page,
          .hash = hash,
          .done = 0,
          .from = from,
          .length = end - from,
          .touched = static_cast<Mask>(up_to(touched_end) & ~up_to(from >> sector_bits_)),
          .whole = static_cast<Mask>(up_to(whole_end) & ~up_to(whole_begin))};
}

// Calls `use` with one piece after the other, until it returns false.
template <class Use>
void PageCache::ForEachPiece(Range range, Use use) {
  for (uint64_t done = 0; done < range.length;) {
    Piece piece = PieceOf(range.offset + done, range.length - done);
    piece.done = done;
    done += piece.length;
    if (!use(std::as_const(piece))) return;
  }
}

// Calls `use(from, length)` with the bytes that the piece has of adjacent sectors among `sectors`, all of which it touches.
template <class Use>
void PageCache::ForEachRun(const Piece& piece, Mask sectors, Use use) const {
  while (sectors != 0) {
    const unsigned begin = std::countr_zero(sectors);
    const unsigned count = std::countr_one(static_cast<Mask>(sectors >> begin));
    const uint64_t from = std::max<uint64_t>(piece.from, uint64_t{begin} << sector_bits_);
    const uint64_t end = std::min<uint64_t>(piece.from + piece.length, uint64_t{begin + count} << sector_bits_);
    use(from, end - from);
    sectors &= static_cast<Mask>(~(((1u << count) - 1) << begin));
  }
}

// Calls `use(piece, slot)`, under the shard's mutex, with each page of the range that has a slot: by looking for each page of
// the range or, if those are more, at each slot.
template <class Use>
void PageCache::ForEachCached(Range range, Use use) {
  if (range.length / kPage <= pages()) {
    return ForEachPiece(range, [&](const Piece& piece) {
      std::lock_guard lock(piece.shard.mutex);
      if (const uint32_t slot = piece.Find(); slot != kNone) use(piece, slot);
      return true;
    });
  }
  for (uint64_t i = 0; i < uint64_t{1} << shard_bits_; ++i) {
    Shard& shard = shards_[i];
    std::lock_guard lock(shard.mutex);
    for (uint32_t slot = 0; slot < shard_pages_; ++slot) {
      const uint64_t begin = std::max(shard.fifo.key(slot) * kPage, range.offset);
      const uint64_t end = std::min((shard.fifo.key(slot) + 1) * kPage, range.end());
      if (begin >= end) continue;
      const Piece piece = PieceOf(begin, end - begin);
      if (&piece.shard == &shard && piece.Find() == slot) use(piece, slot);  // else the slot has no page now
    }
  }
}

Range PageCache::BytesOf(uint64_t first_page, uint64_t end_page) const {
  return {first_page * kPage, std::min(end_page * kPage, size_) - first_page * kPage};
}

// ---- What is cached.

uint64_t PageCache::Read(uint64_t offset, Bytes out) {
  uint64_t read = 0;
  ForEachPiece({offset, out.size()}, [&](const Piece& piece) {
    std::lock_guard lock(piece.shard.mutex);
    const uint32_t slot = piece.Find();
    if (slot == kNone || (piece.touched & ~piece.shard.page(slot).valid) != 0) return false;
    piece.shard.fifo.Touch(slot);
    std::memcpy(out.data() + piece.done, piece.shard.bytes(slot) + piece.from, piece.length);
    read += piece.length;
    return true;
  });
  return read;
}

uint64_t PageCache::Lend(Range range, Gather& gather) {
  uint64_t lent = 0;
  ForEachPiece(range, [&](const Piece& piece) {
    std::unique_lock lock(piece.shard.mutex);
    const uint32_t slot = piece.Find();
    if (slot == kNone || (piece.touched & ~piece.shard.page(slot).valid) != 0) return false;
    piece.shard.fifo.Touch(slot);
    std::atomic<uint32_t>& pins = piece.shard.page(slot).pins;
    pins.fetch_add(1, std::memory_order_relaxed);
    const ConstBytes bytes(piece.shard.bytes(slot) + piece.from, piece.length);
    lock.unlock();
    // What was read must have been read before the slot is used for something else.
    const auto unpin = [](void* counter) {
      static_cast<std::atomic<uint32_t>*>(counter)->fetch_sub(1, std::memory_order_release);
    };
    gather.OnRelease(unpin, &pins);
    gather.Append(bytes);
    lent += piece.length;
    return !gather.overflowed();
  });
  return lent;
}

uint64_t PageCache::Leading(Range range, bool cached) {
  uint64_t length = 0;
  ForEachPiece(range, [&](const Piece& piece) {
    std::lock_guard lock(piece.shard.mutex);
    const uint32_t slot = piece.Find();
    if ((slot != kNone && (piece.touched & ~piece.shard.page(slot).valid) == 0) != cached) return false;
    length += piece.length;
    return true;
  });
  return length;
}

void PageCache::Residency(Range range, EmitResident emit) {
  Resident run = {{range.offset, 0}};
  bool more = true;
  const auto add = [&](uint64_t length, bool cached, bool dirty) {
    const Resident next = {{run.range.end(), length}, cached, dirty};
    if (run.range.length > 0 && !run.AlikeIn(next)) {
      more = more && emit(run);
      run = next;
    } else {
      run = {{run.range.offset, run.range.length + length}, cached, dirty};
    }
  };
  uint64_t told = 0;
  ForEachPiece(range, [&](const Piece& piece) {
    Mask valid = 0, dirty = 0;
    {
      std::lock_guard lock(piece.shard.mutex);
      if (const uint32_t slot = piece.Find(); slot != kNone) {
        valid = piece.shard.page(slot).valid;
        dirty = BUSE_DEFECT("cache-calls-clean-dirty") ? valid : piece.shard.page(slot).dirty;
      }
    }
    if (valid == 0 && BUSE_DEFECT("cache-tells-of-pages-alone")) return true;
    const uint64_t end = BUSE_DEFECT("cache-tells-whole-pages") ? kPage : piece.from + piece.length;
    for (uint64_t from = piece.from; from < end;) {
      const uint64_t sector = from >> sector_bits_;
      const uint64_t next = std::min(end, (sector + 1) << sector_bits_);
      add(next - from, (valid >> sector & 1) != 0, (dirty >> sector & 1) != 0);
      from = next;
    }
    return more && ++told < kMostTold;
  });
  if (more && run.range.length > 0) emit(run);
}

// ---- What was written above.

// Counts a page as dirty. False: no more may be.
bool PageCache::CountDirty(uint64_t page) {
  std::lock_guard lock(dirty_mutex_);
  return dirty_.Insert(page);
}

void PageCache::UncountDirty(uint64_t page) {
  std::lock_guard lock(dirty_mutex_);
  dirty_.Erase(page);
}

void PageCache::Clean(Shard& shard, uint32_t slot, uint64_t page, Mask sectors) {
  Page& state = shard.page(slot);
  if (state.dirty == 0) return;
  state.dirty &= static_cast<Mask>(~sectors);
  if (state.dirty != 0) return;
  shard.fifo.PutBack(slot);
  UncountDirty(page);
}

PageCache::Obstacle PageCache::WritePiece(const Piece& piece, const std::byte* in) {
  Shard& shard = piece.shard;
  std::lock_guard lock(shard.mutex);
  uint32_t slot = piece.Find();
  const bool cached = slot != kNone;
  const Mask valid = cached ? shard.page(slot).valid : 0;
  if ((piece.touched & ~piece.whole & ~valid) != 0) return Obstacle::kPartOfSector;
  const bool was_clean = !cached || shard.page(slot).dirty == 0;
  // First, so that nothing is evicted in vain.
  if (was_clean && !CountDirty(piece.page)) return Obstacle::kNoRoom;
  if (cached) {
    shard.fifo.Touch(slot);
  } else if (slot = piece.Add(S3Fifo::Reason::kUse); slot == kNone) {
    UncountDirty(piece.page);
    return Obstacle::kNoRoom;
  }
  if (was_clean) shard.fifo.Hold(slot);
  Page& page = shard.page(slot);
  std::memcpy(shard.bytes(slot) + piece.from, in, piece.length);
  page.valid |= piece.touched;
  page.dirty |= piece.touched;
  if (!BUSE_DEFECT("cache-write-forgets-what-is-written-back")) page.writing &= static_cast<Mask>(~piece.touched);
  return Obstacle::kNone;
}

PageCache::Written PageCache::Write(uint64_t offset, ConstBytes in) {
  Written written = {0, Obstacle::kNone};
  ForEachPiece({offset, in.size()}, [&](const Piece& piece) {
    written.obstacle = WritePiece(piece, in.data() + piece.done);
    if (written.obstacle != Obstacle::kNone) return false;
    written.bytes += piece.length;
    return true;
  });
  return written;
}

Range PageCache::RunFrom(uint64_t page, uint64_t most) const {
  const std::optional<uint64_t> first = dirty_.Next(page);
  if (!first.has_value()) return {};
  uint64_t end = *first + 1;
  while ((end - *first) * kPage < most && dirty_.Contains(end)) ++end;
  return BytesOf(*first, end);
}

Range PageCache::NextDirty(uint64_t from, uint64_t most) {
  std::lock_guard lock(dirty_mutex_);
  return RunFrom(DivideUp(from, kPage), most);
}

Range PageCache::TakeDirty(uint64_t most) {
  Range run;
  {
    std::lock_guard lock(dirty_mutex_);
    run = RunFrom(next_dirty_, most);
    if (run.length == 0) run = RunFrom(0, most);
    next_dirty_ = DivideUp(run.end(), kPage);
  }
  if (BUSE_DEFECT("cache-drops-dirty")) {
    ForEachCached(run, [&](const Piece& piece, uint32_t slot) { Clean(piece.shard, slot, piece.page, piece.touched); });
  }
  return run;
}

// Copies what is dirty in a piece, which is being written from then on.
PageCache::Mask PageCache::Snapshot(const Piece& piece, std::byte* copy) {
  Shard& shard = piece.shard;
  std::lock_guard lock(shard.mutex);
  const uint32_t slot = piece.Find();
  if (slot == kNone) return 0;
  Page& page = shard.page(slot);
  const Mask dirty = page.dirty & piece.touched;
  page.writing = dirty;
  ForEachRun(piece, dirty, [&](uint64_t from, uint64_t length) {
    std::memcpy(copy + (from - piece.from), shard.bytes(slot) + from, length);
  });
  if (BUSE_DEFECT("cache-clean-before-written")) Clean(shard, slot, piece.page, dirty);
  return dirty;
}

void PageCache::Settle(Range range, bool written) {
  ForEachCached(range, [&](const Piece& piece, uint32_t slot) {
    Page& page = piece.shard.page(slot);
    const Mask unchanged = page.writing & piece.touched;
    page.writing &= static_cast<Mask>(~piece.touched);
    if (written) Clean(piece.shard, slot, piece.page, unchanged);
  });
}

absl::Status PageCache::WriteBack(Range range, Bytes buffer, absl::FunctionRef<absl::Status(uint64_t, ConstBytes)> write) {
  absl::Status first_error;
  Range run = {range.offset, 0};
  const auto put = [&] {
    if (run.length == 0) return;
    absl::Status status = write(run.offset, buffer.subspan(run.offset - range.offset, run.length));
    Settle(run, status.ok());
    if (first_error.ok()) first_error = std::move(status);
  };
  ForEachPiece(range, [&](const Piece& piece) {
    const Mask dirty = Snapshot(piece, buffer.data() + piece.done);
    ForEachRun(piece, dirty, [&](uint64_t from, uint64_t length) {
      const uint64_t at = piece.page * kPage + from;
      if (at != run.end()) {
        put();
        run = {at, 0};
      }
      run.length += length;
    });
    return true;
  });
  put();
  return first_error;
}

// ---- What is below.

void PageCache::Fill(uint64_t offset, Bytes bytes, uint64_t used) {
  ForEachPiece({offset, bytes.size()}, [&](const Piece& piece) {
    Shard& shard = piece.shard;
    std::lock_guard lock(shard.mutex);
    uint32_t slot = piece.Find();
    if (slot == kNone) slot = piece.Add(piece.done < used ? S3Fifo::Reason::kUse : S3Fifo::Reason::kGuess);
    if (slot == kNone) return true;
    Page& page = shard.page(slot);
    std::byte* const below = bytes.data() + piece.done;
    const Mask newer = BUSE_DEFECT("cache-fill-over-newer") ? 0 : page.valid;
    ForEachRun(piece, piece.touched & static_cast<Mask>(~newer),
               [&](uint64_t from, uint64_t length) { std::memcpy(shard.bytes(slot) + from, below + from, length); });
    ForEachRun(piece, piece.touched & newer,
               [&](uint64_t from, uint64_t length) { std::memcpy(below + from, shard.bytes(slot) + from, length); });
    page.valid |= piece.touched;
    return true;
  });
}

void PageCache::Overlay(uint64_t offset, Bytes bytes) {
  ForEachCached({offset, bytes.size()}, [&](const Piece& piece, uint32_t slot) {
    ForEachRun(piece, piece.touched & piece.shard.page(slot).valid, [&](uint64_t from, uint64_t length) {
      std::memcpy(bytes.data() + piece.done + (from - piece.from), piece.shard.bytes(slot) + from, length);
    });
  });
}

void PageCache::Store(uint64_t offset, ConstBytes in) {
  ForEachPiece({offset, in.size()}, [&](const Piece& piece) {
    Shard& shard = piece.shard;
    std::lock_guard lock(shard.mutex);
    uint32_t slot = piece.Find();
    if (slot == kNone && piece.whole != 0) slot = piece.Add(S3Fifo::Reason::kUse);
    if (slot == kNone) return true;
    Page& page = shard.page(slot);
    ForEachRun(piece, piece.touched & (piece.whole | page.valid), [&](uint64_t from, uint64_t length) {
      std::memcpy(shard.bytes(slot) + from, in.data() + piece.done + (from - piece.from), length);
    });
    page.valid |= piece.whole;
    Clean(shard, slot, piece.page, piece.whole);
    return true;
  });
}

void PageCache::Forget(Range range) {
  ForEachCached(range, [&](const Piece& piece, uint32_t slot) {
    Page& page = piece.shard.page(slot);
    page.valid &= static_cast<Mask>(~piece.touched) | page.dirty;
  });
}

void PageCache::Clear(Range range) {
  ForEachCached(range, [&](const Piece& piece, uint32_t slot) {
    Shard& shard = piece.shard;
    Page& page = shard.page(slot);
    Clean(shard, slot, piece.page, piece.whole);
    // Of a sector that is not cleared as a whole, the rest may be dirty, or lent: nobody may store that once more.
    const Mask kept = page.valid & piece.touched & static_cast<Mask>(~piece.whole);
    ForEachRun(piece, kept, [&](uint64_t from, uint64_t length) { std::memset(shard.bytes(slot) + from, 0, length); });
    page.valid &= static_cast<Mask>(~piece.whole);
    if (page.valid == 0 && page.pins.load(std::memory_order_acquire) == 0) shard.Discard(slot);
  });
}

}  // namespace buse

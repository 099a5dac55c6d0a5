// SPDX-License-Identifier: Apache-2.0
//
// MirrorIntents: the regions of a mirror that are being changed, and those in which the legs may differ. Thread-safe. Does no
// I/O: MirrorMetadata writes what this says to the legs, and tells what came of it.
//
// Of a region is known
//   set     its bit is durable on every leg: a write to it needs no more
//   wanted  a write waits for that
//   doubt   the legs may differ in it, since they were stopped in the middle of a change, or none could do it. Set, always
//   when it was last written, in flushes, and how many writes are under way
// A bit may be cleared when all that was written to its region has been flushed. That is put off by some flushes, so that a
// region in use does not cost two writes and a wait with each of them.

#ifndef LAYERS_MIRROR_INTENTS_H_
#define LAYERS_MIRROR_INTENTS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "absl/types/optional.h"
#include "buse/device.h"
#include "layers/mirror_format.h"

namespace buse {

class MirrorIntents {
 public:
  // `idle_flushes`, at least 1: after so many flushes without a write a bit is cleared.
  void Open(const MirrorLayout& layout, uint64_t idle_flushes);
  // Once, after Open: the words of all pages, as found on the legs. `doubt`: the legs may differ there.
  void Load(std::span<const uint64_t> found, bool doubt);

  // ---- Around a change.

  // Before. True: the bits of all its regions are set.
  bool Begin(Range range);
  // After Begin said no, and the bits were to be set.
  bool IsSet(Range range) const;
  // After Begin, always. `failed`: the legs may differ in the range.
  void End(Range range, bool failed);

  bool InDoubt(Range range) const { return doubts_.load() != 0 && FindDoubt(range); }

  // ---- Setting and clearing bits; one thread at a time, which holds the mirror's metadata.

  // The pages that must be written to set what is wanted. What they hold is in `words`, until the next call of either.
  const std::vector<size_t>& PagesToSet();
  // They are durable on all legs.
  void Set();
  // The page to write, which need not become durable, after some idle bits in it were cleared; absent: there are none.
  absl::optional<size_t> ClearIdle();
  std::span<const uint64_t> words(size_t page) const;
  // The bits as they are: of every page.
  void Snapshot();

  // Flushes are numbered from 1.
  uint64_t flushes_begun() const { return flushes_begun_; }
  uint64_t flushed() const { return flushed_; }
  uint64_t BeginFlush();
  void Flushed(uint64_t flush);
  // No leg could flush: what was written and not flushed may differ.
  void DoubtAll();

  // ---- Resynchronising.

  // Where the region that `offset` lies in ends.
  uint64_t RegionEnd(uint64_t offset) const;
  // The first byte from `offset` on that lies in a region in doubt, or the size.
  uint64_t NextDoubt(uint64_t offset) const;
  // All of the region that begins at `offset` will now be made the same; then it was. Nothing changes where another doubt about
  // it was raised in between.
  void BeginResync(uint64_t offset);
  void EndResync(uint64_t offset);
  uint64_t bytes_in_doubt() const { return doubts_ * layout_.region; }

 private:
  struct Region {
    uint64_t written = 0;  // flushes begun when the last write ended
    uint32_t writers = 0;
  };

  size_t First(Range range) const { return range.offset / layout_.region; }
  size_t Last(Range range) const { return (range.end() - 1) / layout_.region; }
  static bool Test(const std::vector<uint64_t>& bits, size_t region) { return (bits[region / 64] >> (region % 64) & 1) != 0; }
  bool FindDoubt(Range range) const;
  void Doubt(size_t region);
  bool ClearIdleIn(size_t page);

  MirrorLayout layout_;
  uint64_t idle_flushes_ = 1;
  mutable std::mutex mutex_;
  std::vector<Region> regions_;  // these are guarded by mutex_
  std::vector<uint64_t> set_;
  std::vector<uint64_t> wanted_;
  std::vector<uint64_t> doubt_;
  size_t resync_ = SIZE_MAX;  // the region
  bool doubted_again_ = false;
  std::atomic<uint64_t> doubts_ = 0;
  std::atomic<uint64_t> flushes_begun_ = 0;
  std::atomic<uint64_t> flushed_ = 0;  // the highest that succeeded
  // Of the thread that holds the metadata.
  std::vector<uint64_t> target_;
  std::vector<size_t> pages_;
  size_t clear_next_ = 0;
};

}  // namespace buse

#endif  // LAYERS_MIRROR_INTENTS_H_

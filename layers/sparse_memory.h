// SPDX-License-Identifier: Apache-2.0
//
// SparseMemory: bytes in a memory file of which only the written pages take memory; everything else reads as zeroes.
//
// The bytes lie in one memfd. Each GiB that has been written to has a window: a shared mapping of that part of the file, and a
// bitmap of the pages that hold data. Where the bit is clear the file reads as zeroes, and reads answer without looking at the
// mapping, because to touch a hole through a shared mapping allocates it. A window that finds no room in the address space
// goes without its mapping and uses system calls. Memory besides the bytes: 8 bytes per GiB of size, 32 KiB per window, both
// populated as they are touched. Where 2 MiB of pages have all been written, a huge page takes their place a little later
// (layers/huge_pages.h).
//
// Any calls may run at the same time. Where a Write and a Trim overlap, no bit may end up clear over stale bytes, which a later
// partial write would bring back. So Trim clears bits before it punches the hole, and Write sets them after its bytes
// are in place, even where they were set before: if Trim's is the last change to a bit, its hole comes after the bytes. Bytes
// that are put in place by others are like those of a Write, of which Placed sets the bits; also where not all of them came,
// since some may have come after a Trim's hole. Pages are not joined while a Trim runs, else its hole would be filled again: so
// a Trim may wait some milliseconds for that.

#ifndef LAYERS_SPARSE_MEMORY_H_
#define LAYERS_SPARSE_MEMORY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>

#include "absl/status/status.h"
#include "buse/device.h"
#include "buse/gather.h"
#include "buse/scatter.h"
#include "layers/huge_pages.h"

namespace buse {

class SparseMemory {
 public:
  // 4 EiB. A file of the kernel may be almost twice as long.
  static constexpr uint64_t kMaxSize = uint64_t{1} << 62;

  SparseMemory() = default;
  SparseMemory(const SparseMemory&) = delete;
  SparseMemory& operator=(const SparseMemory&) = delete;
  ~SparseMemory();

  // Once, before anything else. `file` >= 0: the bytes are those that another SparseMemory of this size left in it; it is not
  // kept.
  absl::Status Open(uint64_t size, int file = -1);

  // The memory file, for Open.
  int file() const { return fd_; }

  // Not beside any other call; nothing that View lent may be in use. What is added reads as zeroes.
  absl::Status Resize(uint64_t size);

  uint64_t size() const { return size_; }

  // The memory that the bytes take now.
  uint64_t allocated_bytes() const;

  absl::Status Read(uint64_t offset, Bytes out) {
    const Span span = SpanOf(offset, out.size());
    if (Window* window = MappedWindow(span); window != nullptr) {
      if ((Word(*window, span.word).load(std::memory_order_acquire) & span.mask) == span.mask) [[likely]] {
        std::memcpy(out.data(), window->mapping + offset % kWindow, out.size());
        return absl::OkStatus();
      }
    }
    return ReadRuns(offset, out);
  }

  absl::Status Write(uint64_t offset, ConstBytes in) {
    const Span span = SpanOf(offset, in.size());
    if (Window* window = MappedWindow(span); window != nullptr) {
      std::atomic_ref<uint64_t> present = Word(*window, span.word);
      if ((present.load(std::memory_order_relaxed) & span.mask) == span.mask) [[likely]] {
        std::memcpy(window->mapping + offset % kWindow, in.data(), in.size());
        present.fetch_or(span.mask, std::memory_order_acq_rel);
        return absl::OkStatus();
      }
    }
    return WriteRuns(offset, in);
  }

  // Gives whole pages back; the rest of the range is zeroed.
  absl::Status Trim(Range range);

  // Holes and data, in runs as long as they are.
  void Extents(Range range, EmitExtent emit);

  // Lends the mapping. Where there is none, the gather overflows, so that its owner reads instead.
  void View(Range range, Gather& gather) {
    const Span span = SpanOf(range.offset, range.length);
    if (Window* window = MappedWindow(span); window != nullptr) {
      if ((Word(*window, span.word).load(std::memory_order_acquire) & span.mask) == span.mask) [[likely]] {
        gather.Append({window->mapping + range.offset % kWindow, range.length});
        return;
      }
    }
    ViewRuns(range, gather);
  }

  // Lends the mapping for a write, after which Placed must be called. Where some of the range is not present, the scatter
  // overflows: to touch a hole takes memory, and where there is none, only a system call returns.
  void Place(Range range, Scatter& scatter);
  void Placed(Range range);

 private:
  static constexpr uint64_t kPage = 4096;
  static constexpr uint64_t kWindow = uint64_t{1} << 30;
  static constexpr uint64_t kWords = kWindow / kPage / 64;
  static constexpr uint64_t kWordsOfHugePage = HugePages::kSize / kPage / 64;
  static constexpr uint64_t kHugePages = kWindow / HugePages::kSize;

  // Made by mmap, all zeroes: untouched parts of the bitmap take no memory.
  struct Window {
    std::byte* mapping;                    // absent: no address space was left
    uint64_t present[kWords];              // a bit per page, through Word()
    uint64_t candidates[kHugePages / 64];  // a bit per huge page that may be made
  };

  // The pages of a request as bits of one word, or no word.
  struct Span {
    uint64_t window;
    uint64_t word;
    uint64_t mask;  // 0: more than one word
  };

  // Pages [offset, end) of one window, all present or all absent.
  struct Run {
    uint64_t end;
    bool present;
    Window* window;
  };

  static Span SpanOf(uint64_t offset, uint64_t length) {
    const uint64_t first = offset / kPage;
    const uint64_t last = (offset + length - 1) / kPage;
    return {offset / kWindow, first / 64 % kWords,
            first / 64 == last / 64 ? ~uint64_t{0} >> (63 - (last - first)) << first % 64 : 0};
  }

  static std::atomic_ref<uint64_t> Word(Window& window, uint64_t word) { return std::atomic_ref(window.present[word]); }

  Window* WindowAt(uint64_t index) const { return std::atomic_ref(table_[index]).load(std::memory_order_acquire); }

  // The window of a request of one word, if it is mapped.
  Window* MappedWindow(const Span& span) const {
    Window* window = span.mask != 0 ? WindowAt(span.window) : nullptr;
    return window != nullptr && window->mapping != nullptr ? window : nullptr;
  }

  // Of the window `index`, in a file for `size` bytes.
  static uint64_t MappedBytes(uint64_t index, uint64_t size);

  absl::Status FindData();
  void CutOffWindows(uint64_t size);
  void ExtendLastWindow(uint64_t size);
  absl::Status ReadRuns(uint64_t offset, Bytes out);
  absl::Status WriteRuns(uint64_t offset, ConstBytes in);
  void ViewRuns(Range range, Gather& gather);
  Run RunAt(uint64_t offset, uint64_t end) const;
  // Skips absent windows: the first byte at `offset` or after it that has a window; at most `end`.
  uint64_t NextWindow(uint64_t offset, uint64_t end);
  // Makes the window `index` if there is none.
  absl::Status MakeWindow(uint64_t index);
  // Sets or clears the bits of pages [first, last) in the windows that exist.
  template <bool kSet>
  void Mark(uint64_t first, uint64_t last);
  // Whether all pages of a huge page hold data.
  static bool IsWhole(Window& window, uint64_t huge_page);
  // Joins the pages of some huge pages in a row. False: there are none to be joined.
  bool JoinSomePages();

  uint64_t size_ = 0;
  int fd_ = -1;
  Window** table_ = nullptr;  // one for each kWindow of the size, through WindowAt()
  std::mutex mutex_;
  std::map<uint64_t, Window*> windows_;  // those that exist; guarded by mutex_
  std::mutex joining_;                   // held while pages are joined, and by what that must not meet
  HugePages huge_pages_{[this] { return JoinSomePages(); }};
};

}  // namespace buse

#endif  // LAYERS_SPARSE_MEMORY_H_

// SPDX-License-Identifier: Apache-2.0

#include "layers/sparse_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <string>

#include "absl/strings/str_format.h"
#include "buse/status.h"

namespace buse {
namespace {

// Address space that must be free for a window to take its part of it: most of it is left to the rest of the process.
constexpr uint64_t kSpareAddressSpace = uint64_t{16} << 30;

uint64_t DivideUp(uint64_t n, uint64_t unit) { return n / unit + (n % unit != 0); }

// Zeroed private memory that takes none until it is touched, or null.
void* Reserve(uint64_t bytes, int protection) {
  void* memory = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

// Maps a part of the file where huge pages may lie, or returns null where the address space is scarce.
std::byte* MapFile(int fd, uint64_t offset, uint64_t bytes) {
  auto* const spare = static_cast<std::byte*>(Reserve(kSpareAddressSpace, PROT_NONE));
  if (spare == nullptr) return nullptr;
  std::byte* const begin = spare + (-reinterpret_cast<uintptr_t>(spare) & (HugePages::kSize - 1));
  void* mapping = mmap(begin, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, static_cast<off_t>(offset));
  if (mapping == MAP_FAILED) {
    munmap(spare, kSpareAddressSpace);
    return nullptr;
  }
  if (begin != spare) munmap(spare, static_cast<size_t>(begin - spare));
  munmap(begin + bytes, static_cast<size_t>(spare + kSpareAddressSpace - begin - bytes));
  return begin;
}

absl::Status CheckSize(uint64_t size) {
  if (size != 0 && size <= SparseMemory::kMaxSize) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "a memory disk of %d bytes is not possible; choose a size from 1 to %d bytes", size, SparseMemory::kMaxSize));
}

}  // namespace

SparseMemory::~SparseMemory() {
  const std::lock_guard joining(joining_);
  for (auto& [index, window] : windows_) {
    if (window->mapping != nullptr) munmap(window->mapping, MappedBytes(index, size_));
    munmap(window, sizeof(Window));
  }
  windows_.clear();
  if (table_ != nullptr) munmap(table_, DivideUp(size_, kWindow) * sizeof(Window*));
  if (fd_ >= 0) close(fd_);
}

uint64_t SparseMemory::MappedBytes(uint64_t index, uint64_t size) {
  return std::min(kWindow, DivideUp(size, kPage) * kPage - index * kWindow);
}

absl::Status SparseMemory::Open(uint64_t size, int file) {
  if (absl::Status status = CheckSize(size); !status.ok()) return status;
  size_ = size;
  fd_ = file >= 0 ? fcntl(file, F_DUPFD_CLOEXEC, 0) : memfd_create("buse-memory", MFD_CLOEXEC);
  if (fd_ < 0 || ftruncate(fd_, static_cast<off_t>(DivideUp(size, kPage) * kPage)) != 0) {
    return StatusFromErrno(errno,
                           absl::StrFormat("cannot create the memory file of a memory disk of %d bytes; choose a smaller "
                                           "size, or raise the limits on open files and file size (ulimit -n, -f)",
                                           size));
  }
  table_ = static_cast<Window**>(Reserve(DivideUp(size, kWindow) * sizeof(Window*), PROT_READ | PROT_WRITE));
  if (table_ == nullptr) {
    return StatusFromErrno(errno,
                           absl::StrFormat("cannot reserve the page table of a memory disk of %d bytes; choose a smaller "
                                           "size, or raise the limit on address space (ulimit -v)",
                                           size));
  }
  return file >= 0 ? FindData() : absl::OkStatus();
}

// Marks what the file holds.
absl::Status SparseMemory::FindData() {
  const uint64_t end = DivideUp(size_, kPage) * kPage;
  for (uint64_t at = 0; at < end;) {
    const off_t data = lseek(fd_, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // nothing but holes
    const off_t hole = data < 0 ? -1 : lseek(fd_, data, SEEK_HOLE);
    if (hole < 0) return StatusFromErrno(errno, "finding what a memory file holds");
    for (at = static_cast<uint64_t>(data); at < static_cast<uint64_t>(hole);) {
      const uint64_t window_end = std::min<uint64_t>((at / kWindow + 1) * kWindow, static_cast<uint64_t>(hole));
      if (absl::Status status = MakeWindow(at / kWindow); !status.ok()) return status;
      Mark<true>(at / kPage, window_end / kPage);
      at = window_end;
    }
  }
  return absl::OkStatus();
}

absl::Status SparseMemory::Resize(uint64_t size) {
  if (absl::Status status = CheckSize(size); !status.ok()) return status;
  const uint64_t old_bytes = DivideUp(size_, kWindow) * sizeof(Window*);
  const uint64_t bytes = DivideUp(size, kWindow) * sizeof(Window*);
  Window** table = table_;
  if (bytes != old_bytes) {
    table = static_cast<Window**>(Reserve(bytes, PROT_READ | PROT_WRITE));
    if (table == nullptr) return StatusFromErrno(errno, absl::StrFormat("reserving the page table of %d bytes", size));
  }
  absl::Status status;
  if (size < size_) status = Trim({size, size_ - size});  // what comes back later reads as zeroes
  const std::lock_guard joining(joining_);
  if (status.ok() && ftruncate(fd_, static_cast<off_t>(DivideUp(size, kPage) * kPage)) != 0) {
    status = StatusFromErrno(errno, absl::StrFormat("resizing a memory disk from %d to %d bytes", size_, size));
  }
  if (!status.ok()) {
    if (table != table_) munmap(table, bytes);
    return status;
  }
  if (table != table_) {
    std::memcpy(table, table_, std::min(bytes, old_bytes));
    munmap(table_, old_bytes);
    table_ = table;
  }
  size > size_ ? ExtendLastWindow(size) : CutOffWindows(size);
  size_ = size;
  return absl::OkStatus();
}

void SparseMemory::CutOffWindows(uint64_t size) {
  for (auto at = windows_.begin(); at != windows_.end();) {
    const auto [index, window] = *at;
    const bool stays = index * kWindow < size;
    const uint64_t mapped = MappedBytes(index, size_);
    const uint64_t left = stays ? MappedBytes(index, size) : 0;
    if (window->mapping != nullptr && left < mapped) munmap(window->mapping + left, mapped - left);
    if (!stays) munmap(window, sizeof(Window));
    at = stays ? std::next(at) : windows_.erase(at);
  }
}

// Where it cannot be mapped to its new end, it goes without its mapping.
void SparseMemory::ExtendLastWindow(uint64_t size) {
  const uint64_t index = (size_ - 1) / kWindow;
  const auto last = windows_.find(index);
  if (last == windows_.end() || last->second->mapping == nullptr) return;
  const uint64_t before = MappedBytes(index, size_);
  const uint64_t after = MappedBytes(index, size);
  if (before == after) return;
  munmap(last->second->mapping, before);
  last->second->mapping = MapFile(fd_, index * kWindow, after);
}

uint64_t SparseMemory::allocated_bytes() const {
  struct stat stat;
  return fstat(fd_, &stat) == 0 ? static_cast<uint64_t>(stat.st_blocks) * 512 : 0;
}

SparseMemory::Run SparseMemory::RunAt(uint64_t offset, uint64_t end) const {
  const uint64_t base = offset / kWindow * kWindow;
  end = std::min(end, base + kWindow);
  Window* window = WindowAt(offset / kWindow);
  if (window == nullptr) return {end, false, nullptr};
  uint64_t page = offset % kWindow / kPage;
  bool present = false;
  for (bool first = true; base + page * kPage < end; first = false, page = (page / 64 + 1) * 64) {
    uint64_t bits = Word(*window, page / 64).load(std::memory_order_acquire);
    if (first) present = bits >> page % 64 & 1;
    // The bits that differ from the run's.
    bits = (present ? ~bits : bits) >> page % 64;
    if (bits != 0) {
      page += std::countr_zero(bits);
      break;
    }
  }
  return {std::min(end, base + page * kPage), present, window};
}

absl::Status SparseMemory::ReadRuns(uint64_t offset, Bytes out) {
  const uint64_t end = offset + out.size();
  while (offset < end) {
    const Run run = RunAt(offset, end);
    const size_t n = run.end - offset;
    if (!run.present) {
      std::memset(out.data(), 0, n);
    } else if (run.window->mapping != nullptr) {
      std::memcpy(out.data(), run.window->mapping + offset % kWindow, n);
    } else {
      for (size_t done = 0; done < n;) {
        const ssize_t got = pread(fd_, out.data() + done, n - done, static_cast<off_t>(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return StatusFromErrno(got < 0 ? errno : EIO, "cannot read from the memory file");
        done += static_cast<size_t>(got);
      }
    }
    out = out.subspan(n);
    offset = run.end;
  }
  return absl::OkStatus();
}

absl::Status SparseMemory::WriteRuns(uint64_t offset, ConstBytes in) {
  const uint64_t end = offset + in.size();
  while (offset < end) {
    Run run = RunAt(offset, end);
    if (run.window == nullptr) {
      if (absl::Status status = MakeWindow(offset / kWindow); !status.ok()) return status;
      continue;
    }
    if (run.present && run.window->mapping != nullptr) {
      std::memcpy(run.window->mapping + offset % kWindow, in.data(), run.end - offset);
    } else {
      // A system call, since without memory left it returns, where the mapping would raise SIGBUS.
      const ssize_t put = pwrite(fd_, in.data(), run.end - offset, static_cast<off_t>(offset));
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) {
        return StatusFromErrno(
            put < 0 ? errno : ENOSPC,
            absl::StrFormat("the memory disk of %d bytes cannot take more memory; trim it or free some", size_));
      }
      run.end = offset + static_cast<uint64_t>(put);
    }
    Mark<true>(offset / kPage, DivideUp(run.end, kPage));
    in = in.subspan(run.end - offset);
    offset = run.end;
  }
  return absl::OkStatus();
}

absl::Status SparseMemory::Trim(Range range) {
  const bool to_the_end = range.end() == size_;
  const uint64_t end = to_the_end ? DivideUp(size_, kPage) * kPage : range.end();
  const uint64_t first = DivideUp(range.offset, kPage);
  const uint64_t last = end / kPage;
  const std::lock_guard joining(joining_);
  Mark<false>(first, last);
  int result;
  do {
    result = fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.offset),
                       static_cast<off_t>(end - range.offset));
  } while (result != 0 && errno == EINTR);
  if (result == 0) return absl::OkStatus();
  const int error = errno;
  Mark<true>(first, last);  // what lies there may be stale
  return StatusFromErrno(error, "cannot give memory back to the system");
}

void SparseMemory::Extents(Range range, EmitExtent emit) {
  for (uint64_t at = range.offset; at < range.end();) {
    Run run = RunAt(at, range.end());
    const bool present = run.present;
    uint64_t end;
    do {
      end = run.window != nullptr ? run.end : NextWindow(run.end, range.end());
      if (end < range.end()) run = RunAt(end, range.end());
    } while (end < range.end() && run.present == present);
    if (!emit({{at, end - at}, present ? Extent::Kind::kData : Extent::Kind::kHole})) return;
    at = end;
  }
}

void SparseMemory::ViewRuns(Range range, Gather& gather) {
  for (uint64_t at = range.offset; at < range.end() && !gather.overflowed();) {
    const Run run = RunAt(at, range.end());
    if (!run.present) {
      gather.AppendZeroes(run.end - at);
    } else if (run.window->mapping != nullptr) {
      gather.Append({run.window->mapping + at % kWindow, run.end - at});
    } else {
      gather.Overflow();
    }
    at = run.end;
  }
}

void SparseMemory::Place(Range range, Scatter& scatter) {
  for (uint64_t at = range.offset; at < range.end() && !scatter.overflowed();) {
    const Run run = RunAt(at, range.end());
    if (run.present && run.window->mapping != nullptr) {
      scatter.Append({run.window->mapping + at % kWindow, run.end - at});
    } else {
      scatter.Overflow();
    }
    at = run.end;
  }
}

void SparseMemory::Placed(Range range) { Mark<true>(range.offset / kPage, DivideUp(range.end(), kPage)); }

uint64_t SparseMemory::NextWindow(uint64_t offset, uint64_t end) {
  std::lock_guard lock(mutex_);
  const auto next = windows_.lower_bound(offset / kWindow);
  return next == windows_.end() ? end : std::clamp(next->first * kWindow, offset, end);
}

absl::Status SparseMemory::MakeWindow(uint64_t index) {
  std::lock_guard lock(mutex_);
  if (windows_.contains(index)) return absl::OkStatus();
  auto* window = static_cast<Window*>(Reserve(sizeof(Window), PROT_READ | PROT_WRITE));
  if (window == nullptr) {
    return StatusFromErrno(errno,
                           absl::StrFormat("cannot map more of a memory disk of %d bytes; raise the limits on address space "
                                           "and mappings (ulimit -v, vm.max_map_count)",
                                           size_));
  }
  const uint64_t offset = index * kWindow;
  window->mapping = MapFile(fd_, offset, MappedBytes(index, size_));
  windows_[index] = window;
  std::atomic_ref(table_[index]).store(window, std::memory_order_release);
  return absl::OkStatus();
}

bool SparseMemory::IsWhole(Window& window, uint64_t huge_page) {
  for (uint64_t word = huge_page * kWordsOfHugePage; word < (huge_page + 1) * kWordsOfHugePage; ++word) {
    if (~Word(window, word).load(std::memory_order_acquire) != 0) return false;
  }
  return true;
}

// So many at once that a Trim beside it waits for some milliseconds, no more.
bool SparseMemory::JoinSomePages() {
  constexpr uint64_t kMost = 8;
  const std::lock_guard joining(joining_);
  Window* window = nullptr;
  uint64_t first = 0;
  {
    const std::lock_guard lock(mutex_);
    for (auto at = windows_.begin(); at != windows_.end() && window == nullptr; ++at) {
      for (first = 0; first < kHugePages && window == nullptr; first += 64) {
        const uint64_t bits = std::atomic_ref(at->second->candidates[first / 64]).load();
        if (bits == 0) continue;
        window = at->second;
        first += std::countr_zero(bits) - 64;
      }
    }
  }
  if (window == nullptr) return false;
  const auto take = [&](uint64_t huge_page) {
    const uint64_t bit = uint64_t{1} << huge_page % 64;
    return (std::atomic_ref(window->candidates[huge_page / 64]).fetch_and(~bit) & bit) != 0 && IsWhole(*window, huge_page);
  };
  uint64_t end = first;
  while (end < std::min(first + kMost, kHugePages) && take(end)) ++end;
  if (end > first && window->mapping != nullptr) {
    HugePages::Join(window->mapping + first * HugePages::kSize, (end - first) * HugePages::kSize);
  }
  return true;
}

template <bool kSet>
void SparseMemory::Mark(uint64_t first, uint64_t last) {
  while (first < last) {
    Window* window = WindowAt(first / (kWindow / kPage));
    if (window == nullptr) {
      first = NextWindow(first * kPage, last * kPage) / kPage;
      continue;
    }
    // To the end of the word.
    const uint64_t end = std::min(last, (first / 64 + 1) * 64);
    const Span span = SpanOf(first * kPage, (end - first) * kPage);
    if constexpr (kSet) {
      const uint64_t before = Word(*window, span.word).fetch_or(span.mask, std::memory_order_acq_rel);
      const uint64_t huge_page = span.word / kWordsOfHugePage;
      if (~before != 0 && ~(before | span.mask) == 0 && IsWhole(*window, huge_page)) {
        std::atomic_ref(window->candidates[huge_page / 64]).fetch_or(uint64_t{1} << huge_page % 64);
        huge_pages_.Wake();
      }
    } else {
      Word(*window, span.word).fetch_and(~span.mask, std::memory_order_acq_rel);
    }
    first = end;
  }
}

}  // namespace buse

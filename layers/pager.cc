// SPDX-License-Identifier: Apache-2.0

#include "layers/pager.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "layers/defect.h"

namespace buse {
namespace {

// Of a buffer, which is a sixty-fourth of the cache.
constexpr uint64_t kLeastBuffer = 64 << 10;
constexpr uint64_t kMostBuffer = 1 << 20;

// What a range has of its first page.
Range FirstPage(Range range) { return {range.offset, std::min(range.length, Pager::kPage - range.offset % Pager::kPage)}; }

}  // namespace

absl::Status Pager::Open(uint64_t size, uint64_t block, const Limits& limits) {
  size_ = size;
  const uint64_t buffer = std::clamp(limits.size / 64 / kPage * kPage, kLeastBuffer, kMostBuffer);
  read_ahead_.Open(std::min(limits.read_ahead / kPage * kPage, buffer));
  if (absl::Status status = buffers_.Open(buffer); !status.ok()) return status;
  return pages_.Open(size, block, {.pages = limits.size / kPage, .dirty_pages = limits.dirty / kPage});
}

// The whole pages around a range, as far as there are bytes.
Range Pager::PagesAround(Range range) const {
  const uint64_t begin = range.offset - range.offset % kPage;
  const uint64_t last = range.end() - 1;
  return {begin, std::min(last - last % kPage + kPage, size_) - begin};
}

RangeMutex::Guard Pager::Hold(Range range) { return {busy_, PagesAround(range), RangeMutex::Mode::kExclusive}; }

absl::Status Pager::Held(Range range, absl::FunctionRef<absl::Status()> call) {
  const RangeMutex::Guard guard = Hold(range);
  return call();
}

// ---- Reading.

absl::Status Pager::Read(uint64_t offset, Bytes out, Source below) {
  for (;;) {
    uint64_t done = pages_.Read(offset, out);
    if (done < out.size()) {
      const absl::StatusOr<uint64_t> fetched = Fetch({offset + done, out.size() - done}, out.subspan(done), below);
      if (!fetched.ok()) return fetched.status();
      done += *fetched;
    }
    if (done == out.size()) return absl::OkStatus();
    offset += done;
    out = out.subspan(done);
  }
}

void Pager::View(Range range, Gather& gather, Source below) {
  if (range.length / kPage + 2 > gather.room()) gather.Overflow();
  while (!gather.overflowed()) {
    range = Rest(range, pages_.Lend(range, gather));
    if (range.length == 0 || gather.overflowed()) return;
    if (!Fetch(range, {}, below).ok() || pages_.Leading(FirstPage(range), /*cached=*/true) == 0) gather.Overflow();
  }
}

absl::Status Pager::Prefetch(Range range, Source below) {
  range.length = std::min(range.length, std::max(kPage, pages_.pages() / 2 * kPage));
  for (;;) {
    range = Rest(range, pages_.Leading(range, /*cached=*/true));
    if (range.length == 0) return absl::OkStatus();
    const absl::StatusOr<uint64_t> fetched = Fetch(range, {}, below);
    if (!fetched.ok()) return fetched.status();
    range = Rest(range, *fetched);
    if (range.length == 0) return absl::OkStatus();
  }
}

// Reads the missing pages at the beginning of a range, and says how many bytes of the range that were: 0 if another call was
// faster. The bytes are also stored in `out`, unless that is empty.
absl::StatusOr<uint64_t> Pager::Fetch(Range range, Bytes out, const Source& below) {
  const Range missing = {range.offset, pages_.Leading(range, /*cached=*/false)};
  if (missing.length == 0) return 0;
  Range pages = PagesAround(missing);
  const uint64_t ahead = read_ahead_.Miss(pages);
  // In place, if what was asked for is whole pages and no less than would be read ahead.
  const bool fits = !out.empty() && pages == missing;
  const bool in_place = fits && ahead <= pages.length;
  alignas(kPage) std::array<std::byte, kPage> page;
  const BufferPool::Lease lease = in_place || pages.length + ahead <= kPage ? BufferPool::Lease() : buffers_.TryTake();
  Bytes buffer = fits ? out.first(pages.length) : Bytes(page);
  if (!lease.bytes().empty()) {
    buffer = lease.bytes();
    pages.length = std::min(pages.length + ahead, size_ - pages.offset);
  }
  buffer = buffer.first(std::min<uint64_t>(buffer.size(), pages.length));
  absl::StatusOr<uint64_t> fetched = ReadPages(missing, pages.offset, buffer, out, below);
  const uint64_t end = pages.offset + buffer.size();
  if (fetched.ok() && ahead > 0 && end < size_) {
    const Range next = {end, std::min(ahead, size_ - end)};
    const RangeMutex::Guard guard = Hold(next);
    below.prefetch(next).IgnoreError();  // nobody asked
  }
  return fetched;
}

// Reads pages of which the first is missing into `buffer`, and stores them in the cache and, from there, in `out`.
absl::StatusOr<uint64_t> Pager::ReadPages(Range missing, uint64_t offset, Bytes buffer, Bytes out, const Source& below) {
  const RangeMutex::Guard guard = Hold({offset, buffer.size()});
  if (pages_.Leading(FirstPage(missing), /*cached=*/true) != 0) return 0;
  const uint64_t done = std::min(missing.end(), offset + buffer.size()) - missing.offset;
  absl::Status status = below.read(offset, buffer);
  if (status.ok()) {
    pages_.Fill(offset, buffer, out.empty() ? 0 : missing.offset - offset + done);
    if (!out.empty() && out.data() != buffer.data()) {
      std::memcpy(out.data(), buffer.data() + (missing.offset - offset), done);
    }
    return done;
  }
  // Perhaps the error lies where nobody asked.
  if (out.empty() || done == buffer.size()) return status;
  status = below.read(missing.offset, out.first(done));
  if (!status.ok()) return status;
  pages_.Overlay(missing.offset, out.first(done));
  return done;
}

// ---- Writing.

absl::Status Pager::Write(uint64_t offset, ConstBytes in, Source below, Put write) {
  for (int attempts = 0;;) {
    const auto [written, obstacle] = pages_.Write(offset, in);
    offset += written;
    in = in.subspan(written);
    if (in.empty()) return absl::OkStatus();
    if (written > 0) attempts = 0;
    const uint64_t part = FirstPage({offset, in.size()}).length;
    // Where nothing helps, or others always come first, this page is written below.
    bool past = ++attempts > kAttempts;
    if (!past && obstacle == PageCache::Obstacle::kPartOfSector) past = !Fetch({offset, part}, {}, below).ok();
    if (past) {
      if (absl::Status status = WriteBelow(offset, in.first(part), write, write); !status.ok()) return status;
      offset += part;
      in = in.subspan(part);
      if (in.empty()) return absl::OkStatus();
    } else if (obstacle == PageCache::Obstacle::kNoRoom) {
      Range run = pages_.TakeDirty(buffers_.buffer_size());
      absl::Status status = run.length > 0 ? WriteBack(run, write) : absl::OkStatus();
      if (!status.ok()) return status;
    }
  }
}

absl::Status Pager::WriteBelow(uint64_t offset, ConstBytes in, Put put, Put write) {
  const Range range = {offset, in.size()};
  const RangeMutex::Guard guard = Hold(range);
  if (absl::Status status = WriteBackEdges(range, write); !status.ok()) return status;
  absl::Status status = put(offset, in);
  if (!status.ok()) {
    pages_.Forget(range);
  } else if (!BUSE_DEFECT("cache-write-through-past-the-cache")) {
    pages_.Store(offset, in);
  }
  return status;
}

absl::Status Pager::Clear(Range range, absl::FunctionRef<absl::Status()> clear, Put write) {
  const RangeMutex::Guard guard = Hold(range);
  if (absl::Status status = WriteBackEdges(range, write); !status.ok()) return status;
  if (BUSE_DEFECT("cache-clear-too-early")) pages_.Clear(range);
  absl::Status status = clear();
  if (!status.ok()) {
    pages_.Forget(range);
  } else if (!BUSE_DEFECT("cache-clear-keeps-pages")) {
    // Not before, as a Flush beside this passes over what is no longer dirty.
    pages_.Clear(range);
  }
  return status;
}

absl::Status Pager::WriteBackAll(Put write) {
  absl::Status first_error;
  const uint64_t most = buffers_.buffer_size();
  for (Range run = pages_.NextDirty(0, most); run.length > 0; run = pages_.NextDirty(run.end(), most)) {
    first_error.Update(WriteBack(run, write));
  }
  return first_error;
}

// Writes back the dirty pages of a run or, where no buffer is free, of the first page, to which it then shortens the run.
absl::Status Pager::WriteBack(Range& run, Put write) {
  alignas(kPage) std::array<std::byte, kPage> page;
  const BufferPool::Lease lease = run.length > kPage ? buffers_.TryTake() : BufferPool::Lease();
  const Bytes buffer = lease.bytes().empty() ? Bytes(page) : lease.bytes();
  run.length = std::min<uint64_t>(run.length, buffer.size());
  const RangeMutex::Guard guard = Hold(run);
  return pages_.WriteBack(run, buffer, write);
}

// Held. Writes back the sectors of which the range has a part, before that part is changed below: else a power cut could leave
// the new part beside bytes that are older than those which were there when it was written.
absl::Status Pager::WriteBackEdges(Range range, Put write) {
  const uint64_t sector = pages_.sector();
  const uint64_t first = range.offset - range.offset % sector;
  const uint64_t last = range.end() - range.end() % sector;
  const auto write_back = [&](uint64_t at) {
    alignas(512) std::array<std::byte, kPage> buffer;
    return pages_.WriteBack({at, std::min(sector, size_ - at)}, buffer, write);
  };
  absl::Status status;
  if (BUSE_DEFECT("cache-parts-of-sectors")) return status;
  if (first != range.offset) status = write_back(first);
  const bool ends_inside = last != range.end() && range.end() != size_;
  if (ends_inside && (last != first || first == range.offset)) status.Update(write_back(last));
  return status;
}

// ---- Extents.

bool Pager::EmitWithDirty(const Extent& below, EmitExtent emit) {
  if (below.kind == Extent::Kind::kData) return emit(below);
  const uint64_t end = below.range.end();
  for (uint64_t at = below.range.offset; at < end;) {
    const Range dirty = pages_.NextDirty(at - at % kPage, kMostBuffer);
    const uint64_t begin = dirty.length == 0 ? end : std::clamp(dirty.offset, at, end);
    if (begin > at && !emit({{at, begin - at}, below.kind})) return false;
    at = begin < end ? std::min(dirty.end(), end) : end;
    if (at > begin && !emit({{begin, at - begin}, Extent::Kind::kData})) return false;
  }
  return true;
}

}  // namespace buse

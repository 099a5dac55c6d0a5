// SPDX-License-Identifier: Apache-2.0

#include "layers/journal_record.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_format.h"
#include "layers/checksum_hash.h"
#include "layers/crc32c.h"
#include "layers/defect.h"

namespace buse {
namespace {

constexpr uint64_t RoundUp(uint64_t n, uint64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

uint64_t JournalGeometry::salt() const {
  uint64_t salt;
  std::memcpy(&salt, uuid.data(), sizeof salt);
  return salt;
}

uint64_t JournalGeometry::PagesOfTransaction() const {
  // Every other block of a page makes the most runs.
  const uint64_t per_page = kPage / block_size;
  const uint64_t each = kPage + (per_page + 1) / 2 * JournalRecord::kRunBytes + per_page * JournalRecord::kSumBytes;
  const uint64_t rest = JournalRecord::kRunAt + block_size;
  return slot_bytes < rest ? 0 : (slot_bytes - rest) / each;
}

absl::StatusOr<JournalGeometry> JournalGeometry::Plan(uint64_t medium_size, uint64_t log, uint64_t block_size, uint64_t atomic,
                                                      const Uuid& uuid) {
  JournalGeometry geometry = {.slot_bytes = log / 2 / kPage * kPage, .block_size = block_size, .uuid = uuid};
  // A write that is not at the beginning of a page touches one more.
  if (const uint64_t pages = atomic / kPage + 1; geometry.PagesOfTransaction() < pages) {
    return absl::InvalidArgumentError(
        absl::StrFormat("journal: a log of %d bytes is too small for writes of %d: it needs at least %d", log, atomic,
                        2 * RoundUp(pages * (kPage + 128) + 4096, kPage)));
  }
  const uint64_t end = medium_size < kSmallestMedium ? 0 : SuperblockCopyAt(medium_size);
  if (end < geometry.data() + kPage) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "journal: %d bytes are too few for a log of %d and some data: make the medium larger, or the log smaller", medium_size,
        log));
  }
  geometry.blocks = (end - geometry.data()) / block_size;
  return geometry;
}

uint64_t JournalRecord::ContentAt() const { return RoundUp(SumsAt() + blocks() * kSumBytes, geometry_.block_size); }

uint32_t JournalRecord::SumOfHead() const {
  const ConstBytes head = bytes_.first(ContentAt());
  return ExtendCrc32c(ExtendCrc32c(0, head.first(kSumAt)), head.subspan(kSumAt + 4));
}

uint64_t JournalRecord::Encode(uint64_t transaction, WriteStage& stage) {
  uint32_t runs = 0, blocks = 0;
  uint64_t end = 0;
  stage.ForEachPiece(0, stage.pages(), [&](const WriteStage::Piece& piece) {
    runs += blocks == 0 || piece.first != end;
    blocks += static_cast<uint32_t>(piece.count);
    end = piece.first + piece.count;
    return true;
  });
  std::memset(bytes_.data(), 0, kRunAt);
  std::memcpy(bytes_.data(), kMagic.data(), kMagic.size());
  std::memcpy(bytes_.data() + kUuidAt, geometry_.uuid.data(), geometry_.uuid.size());
  Put(kNumberAt, transaction);
  Put(kRunsAt, runs);
  Put(kBlocksAt, blocks);
  uint64_t sum = SumsAt(), content = ContentAt();
  const uint64_t sums_end = sum + blocks * kSumBytes;
  std::memset(bytes_.data() + sums_end, 0, content - sums_end);
  uint64_t run = kRunAt - kRunBytes, count = 0;
  stage.ForEachPiece(0, stage.pages(), [&](const WriteStage::Piece& piece) {
    if (count == 0 || piece.first != end) {
      Put(run += kRunBytes, piece.first);
      count = 0;
    }
    end = piece.first + piece.count;
    Put(run + 8, count += piece.count);
    std::memcpy(bytes_.data() + sum, piece.sums, piece.count * kSumBytes);
    sum += piece.count * kSumBytes;
    std::memcpy(bytes_.data() + content, piece.data, piece.count * geometry_.block_size);
    content += piece.count * geometry_.block_size;
    return true;
  });
  Put(kSumAt, SumOfHead());
  return content;
}

uint64_t JournalRecord::LengthOf(uint64_t transaction) const {
  if (std::memcmp(bytes_.data(), kMagic.data(), kMagic.size()) != 0 ||
      std::memcmp(bytes_.data() + kUuidAt, geometry_.uuid.data(), geometry_.uuid.size()) != 0) {
    return 0;
  }
  const uint64_t most = bytes_.size() / geometry_.block_size;
  if (Get<uint64_t>(kNumberAt) % 2 != transaction % 2 || blocks() == 0 || blocks() > most || runs() > blocks()) return 0;
  const uint64_t length = ContentAt() + blocks() * geometry_.block_size;
  return length <= bytes_.size() ? length : 0;
}

bool JournalRecord::IsSound() const {
  if (SumOfHead() != Get<uint32_t>(kSumAt)) return false;
  uint64_t sum = SumsAt(), listed = 0;
  bool sound = true;
  for (uint64_t run = 0; sound && run < runs(); ++run) {
    const uint64_t first = Get<uint64_t>(kRunAt + run * kRunBytes);
    const uint64_t count = Get<uint64_t>(kRunAt + run * kRunBytes + 8);
    sound = count <= blocks() - listed && first < geometry_.blocks && count <= geometry_.blocks - first;
    const std::byte* at = bytes_.data() + ContentAt() + listed * geometry_.block_size;
    for (uint64_t i = 0; sound && i < count; ++i, at += geometry_.block_size, sum += kSumBytes) {
      std::array<std::byte, kSumBytes> actual;
      SumBlocks<Crc32c>(geometry_.salt(), first + i, {at, geometry_.block_size}, geometry_.block_size, actual.data());
      sound = BUSE_DEFECT("journal-takes-torn-records") ||
              std::equal(actual.begin(), actual.end(), bytes_.begin() + static_cast<ptrdiff_t>(sum));
    }
    listed += count;
  }
  return sound && listed == blocks();
}

absl::Status JournalRecord::ForEachRun(absl::FunctionRef<absl::Status(uint64_t, ConstBytes)> use) const {
  uint64_t content = ContentAt();
  for (uint64_t run = 0; run < runs(); ++run) {
    const uint64_t length = Get<uint64_t>(kRunAt + run * kRunBytes + 8) * geometry_.block_size;
    absl::Status status = use(Get<uint64_t>(kRunAt + run * kRunBytes), bytes_.subspan(content, length));
    if (!status.ok()) return status;
    content += length;
  }
  return absl::OkStatus();
}

}  // namespace buse

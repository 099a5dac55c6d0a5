// SPDX-License-Identifier: Apache-2.0

#include "layers/checksum_reader.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>

#include "absl/strings/str_format.h"
#include "layers/write_stage.h"

namespace buse {

uint64_t ChecksumReader::PieceSize() const {
  return std::min<uint64_t>({kMostPiece / geometry_.block_size, kMostSums / hash_.bytes, WriteStage::kMaxGet}) *
         geometry_.block_size;
}

absl::Status ChecksumReader::Read(uint64_t offset, Bytes out) {
  const uint64_t block = geometry_.block_size;
  const uint64_t size = PieceSize();
  Damage damage;
  for (uint64_t at = 0; at < out.size(); at += size) {
    const Bytes piece = out.subspan(at, std::min(size, out.size() - at));
    if (absl::Status status = ReadPiece((offset + at) / block, piece, damage); !status.ok()) return status;
  }
  if (damage.blocks == 0) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("checksum: wrong bytes in %d of %d blocks of %d bytes at offset %d, the first at offset %d",
                      damage.blocks, out.size() / block, block, offset, damage.first * block));
}

absl::Status ChecksumReader::ReadPiece(uint64_t first, Bytes out, Damage& damage) {
  Damage found;
  if (absl::Status status = TryReadPiece(first, out, found); !status.ok()) return status;
  if (found.blocks == 0) return absl::OkStatus();
  // Either it is damaged, or what was read was being written.
  if (!io_.may_wait()) return absl::Status(absl::StatusCode::kCancelled, "");
  const auto lock = store_.ExcludeCommits();
  found = {};
  absl::Status status = TryReadPiece(first, out, found);
  if (damage.blocks == 0) damage.first = found.first;
  damage.blocks += found.blocks;
  return status;
}

absl::Status ChecksumReader::TryReadPiece(uint64_t first, Bytes out, Damage& damage) {
  const uint64_t block = geometry_.block_size;
  ChecksumStore::Held held;
  store_.ReadHeld(first, out, held);
  if (held.none()) return ReadBelow(first, out, damage);
  const uint64_t count = out.size() / block;
  for (uint64_t at = 0; at < count;) {
    uint64_t end = at;
    while (end < count && held[end] == held[at]) ++end;
    if (!held[at]) {
      absl::Status status = ReadBelow(first + at, out.subspan(at * block, (end - at) * block), damage);
      if (!status.ok()) return status;
    }
    at = end;
  }
  return absl::OkStatus();
}

absl::Status ChecksumReader::ReadBelow(uint64_t first, Bytes out, Damage& damage) {
  if (absl::Status status = io_.Read(geometry_.OffsetOf(first), out); !status.ok()) return status;
  const uint64_t count = out.size() / geometry_.block_size;
  std::array<std::byte, kMostSums> sums;
  if (absl::Status status = store_.Sums(io_, first, count, sums.data()); !status.ok()) return status;
  if (hash_.all_match != nullptr && hash_.all_match(geometry_.salt, first, out, geometry_.block_size, sums.data())) [[likely]] {
    return absl::OkStatus();
  }
  std::array<std::byte, kMostSums> actual;
  hash_.sum(geometry_.salt, first, out, geometry_.block_size, actual.data());
  if (std::memcmp(actual.data(), sums.data(), count * hash_.bytes) == 0) [[likely]]
    return absl::OkStatus();
  for (uint64_t i = 0; i < count; ++i) {
    if (std::memcmp(actual.data() + i * hash_.bytes, sums.data() + i * hash_.bytes, hash_.bytes) == 0) continue;
    if (damage.blocks++ == 0) damage.first = first + i;
  }
  return absl::OkStatus();
}

void ChecksumReader::Check(const CheckReport& report) {
  const uint64_t block = geometry_.block_size;
  const uint64_t all = geometry_.blocks * block;
  const uint64_t size = PieceSize();
  const auto memory = std::make_unique<std::array<std::byte, kMostPiece>>();
  for (uint64_t at = 0; at < all;) {
    const auto known = store_.ZeroesFrom(io_, at / block, (all - at) / block);
    const bool skip = known.ok() && known->kind != Extent::Kind::kData;
    const uint64_t end = known.ok() ? at + known->count * block : std::min(at + size, all);
    for (; at < end && !skip; at = std::min(at + size, end)) {
      CheckPiece(at, Bytes(*memory).first(std::min(size, end - at)), report);
      report.progress(at, all);
    }
    at = end;
    report.progress(at, all);
  }
}

void ChecksumReader::CheckPiece(uint64_t offset, Bytes piece, const CheckReport& report) {
  if (Read(offset, piece).ok()) return;
  const uint64_t block = geometry_.block_size;
  for (uint64_t at = 0; at < piece.size(); at += block) {
    absl::Status status = Read(offset + at, piece.subspan(at, block));
    if (absl::IsDataLoss(status)) {
      report.damaged({offset + at, block}, "the bytes do not have the sum that they had when they were written");
    } else if (!status.ok()) {
      report.damaged({offset + at, block}, status.message());
    }
  }
}

}  // namespace buse

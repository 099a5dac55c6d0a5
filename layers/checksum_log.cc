// SPDX-License-Identifier: Apache-2.0

#include "layers/checksum_log.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

#include "layers/crc32c.h"

namespace buse {
namespace {

static_assert(std::endian::native == std::endian::little, "the medium is little-endian, and nothing here converts");

constexpr uint32_t kHeadMagic = 0x48535542;  // "BUSH"
constexpr uint32_t kSlotMagic = 0x4c535542;  // "BUSL"
constexpr uint64_t kSlotHeader = 24;
constexpr uint64_t kRecordHeader = 16;
constexpr int kKindShift = 56;

template <class Integer>
Integer Load(const std::byte* from) {
  Integer value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <class Integer>
void Store(std::byte* to, Integer value) {
  std::memcpy(to, &value, sizeof(value));
}

uint64_t Padded(uint64_t bytes) { return (bytes + 7) / 8 * 8; }

// With the four bytes of the CRC itself, at offset 4, as zero.
uint32_t CrcOf(uint64_t salt, ConstBytes bytes) {
  std::byte head[8] = {};
  std::memcpy(head, bytes.data(), 4);
  const uint32_t begun = ExtendCrc32c(static_cast<uint32_t>(salt) ^ static_cast<uint32_t>(salt >> 32), head);
  return ExtendCrc32c(begun, bytes.subspan(8));
}

void Protect(uint64_t salt, Bytes bytes) { Store(bytes.data() + 4, CrcOf(salt, bytes)); }

bool IsIntact(uint64_t salt, uint32_t magic, ConstBytes bytes) {
  return Load<uint32_t>(bytes.data()) == magic && Load<uint32_t>(bytes.data() + 4) == CrcOf(salt, bytes);
}

}  // namespace

void ChecksumHead::Encode(uint64_t salt, Bytes out) const {
  std::fill(out.begin(), out.end(), std::byte{0});
  Store(out.data(), kHeadMagic);
  Store(out.data() + 8, number);
  Store(out.data() + 16, checkpoint);
  Store(out.data() + 24, settled);
  Store(out.data() + 32, logged);
  Protect(salt, out.first(kBytes));
}

absl::optional<ChecksumHead> ChecksumHead::Decode(uint64_t salt, ConstBytes bytes) {
  if (!IsIntact(salt, kHeadMagic, bytes.first(kBytes))) return absl::nullopt;
  ChecksumHead head;
  head.number = Load<uint64_t>(bytes.data() + 8);
  head.checkpoint = Load<uint64_t>(bytes.data() + 16);
  head.settled = Load<uint64_t>(bytes.data() + 24);
  head.logged = Load<uint64_t>(bytes.data() + 32);
  return head;
}

bool LogWriter::NextSlot() {
  if ((headers_ + 1) * kSlot > slots_.size()) return false;
  if (headers_ > 0) Seal();
  std::memset(slot(headers_), 0, kSlot);
  ++headers_;
  used_ = kSlotHeader;
  last_record_ = 0;
  return true;
}

bool LogWriter::Add(const LogRecord& record) {
  assert(content_bytes_ == 0 && record.count > 0);
  const uint64_t sums = record.kind == LogRecord::Kind::kZeroes ? 0 : record.count * geometry_.sum_bytes;
  if (last_record_ != 0 && sums != 0) {
    std::byte* last = slot(headers_ - 1) + last_record_;
    const uint64_t size = Load<uint64_t>(last + 8);
    const uint64_t count = size & ((uint64_t{1} << kKindShift) - 1);
    const uint64_t end = last_record_ + kRecordHeader + Padded(last_sums_ + sums);
    if (size >> kKindShift == static_cast<uint64_t>(record.kind) && Load<uint64_t>(last) + count == record.first &&
        end <= kSlot) {
      Store(last + 8, size + record.count);
      std::memcpy(last + kRecordHeader + last_sums_, record.sums, sums);
      last_sums_ += sums;
      used_ = end;
      return true;
    }
  }
  const uint64_t needed = kRecordHeader + Padded(sums);
  assert(kSlotHeader + needed <= kSlot);
  if ((headers_ == 0 || used_ + needed > kSlot) && !NextSlot()) return false;
  std::byte* to = slot(headers_ - 1) + used_;
  Store(to, record.first);
  Store(to + 8, static_cast<uint64_t>(record.kind) << kKindShift | record.count);
  if (sums != 0) std::memcpy(to + kRecordHeader, record.sums, sums);
  last_record_ = used_;
  last_sums_ = sums;
  used_ += needed;
  return true;
}

bool LogWriter::AddContent(const LogRecord& record, ConstBytes content) {
  assert(headers_ == 1);
  const uint64_t block = geometry_.block_size;
  for (uint64_t i = 0; i < record.count; ++i) {
    const std::byte* sum = record.sums + i * geometry_.sum_bytes;
    if (std::all_of(sum, sum + geometry_.sum_bytes, [](std::byte b) { return b == std::byte{0}; })) continue;
    const uint64_t at = kSlot + content_bytes_;
    if (at + block > slots_.size()) return false;
    // A slot is begun: the rest of it is not to be what an earlier one left.
    if (at % kSlot == 0) std::memset(slots_.data() + at, 0, kSlot);
    std::memcpy(slots_.data() + at, content.data() + i * block, block);
    content_bytes_ += block;
  }
  return true;
}

void LogWriter::Seal() {
  std::byte* to = slot(headers_ - 1);
  Store(to, kSlotMagic);
  Store(to + 8, sequence_ + headers_ - 1);
  Store(to + 16, static_cast<uint32_t>(used_));
  Store(to + 20, static_cast<uint32_t>((content_bytes_ + kSlot - 1) / kSlot));
  Protect(geometry_.salt, {to, kSlot});
}

uint64_t LogWriter::Finish() {
  if (headers_ == 0) return 0;
  Seal();
  return headers_ + (content_bytes_ + kSlot - 1) / kSlot;
}

absl::optional<LogSlot> LogSlot::Decode(const ChecksumGeometry& geometry, uint64_t index, ConstBytes slot,
                                        absl::FunctionRef<void(const LogRecord&)> use) {
  const std::byte* from = slot.data();
  LogSlot decoded;
  decoded.sequence = Load<uint64_t>(from + 8);
  if (!IsIntact(geometry.salt, kSlotMagic, slot) || decoded.sequence % geometry.slots != index) return absl::nullopt;
  const uint64_t used = std::min<uint64_t>(Load<uint32_t>(from + 16), slot.size());
  decoded.content_slots = Load<uint32_t>(from + 20);
  for (uint64_t at = kSlotHeader; at + kRecordHeader <= used;) {
    LogRecord record = {};
    const uint64_t size = Load<uint64_t>(from + at + 8);
    record.kind = static_cast<LogRecord::Kind>(size >> kKindShift);
    record.first = Load<uint64_t>(from + at);
    record.count = size & ((uint64_t{1} << kKindShift) - 1);
    at += kRecordHeader;
    if (record.count == 0 || record.count > geometry.blocks || record.first > geometry.blocks - record.count) break;
    if (record.kind != LogRecord::Kind::kZeroes) {
      if (record.count * geometry.sum_bytes > used - at) break;
      record.sums = from + at;
      at += Padded(record.count * geometry.sum_bytes);
    }
    use(record);
  }
  return decoded;
}

}  // namespace buse

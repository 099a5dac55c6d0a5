// SPDX-License-Identifier: Apache-2.0

#include "layers/s3_fifo.h"

#include <algorithm>
#include <cassert>

namespace buse {

absl::Status S3Fifo::Open(uint32_t slots) {
  assert(slots > 0 && slots < kNone);
  slots_ = slots;
  if (absl::Status status = nodes_.Open(slots); !status.ok()) return status;
  return ghosts_.Open((2 * uint64_t{slots} / kWays + 1) * kWays);
}

uint32_t S3Fifo::Unused() {
  if (discarded_ != kNone) {
    const uint32_t slot = discarded_;
    discarded_ = nodes_[slot].older;
    return slot;
  }
  return fresh_ < slots_ ? fresh_++ : kNone;
}

uint32_t S3Fifo::Evict(absl::FunctionRef<bool(uint32_t slot)> may) {
  Queue& small = queues_[kSmall];
  Queue& main = queues_[kMain];
  // Each step lowers a number of uses or passes one that may not go, so that this ends: all are seen before any is seen twice
  // without uses.
  for (uint64_t steps = uint64_t{small.size} + (kMostUses + 1) * uint64_t{main.size + small.size}; steps > 0; --steps) {
    const bool from_small = main.size == 0 || uint64_t{10} * small.size >= uint64_t{small.size} + main.size;
    const uint32_t slot = from_small ? small.oldest : main.oldest;
    Node& node = nodes_[slot];
    const bool free = may(slot);
    if (free && node.uses <= 0) {
      Unlink(slot);
      if (from_small) RememberGhost(node.hash);
      return slot;
    }
    Unlink(slot);
    node.uses = from_small ? 0 : std::max(0, node.uses - 1);
    Push(slot, kMain);
  }
  return kNone;
}

void S3Fifo::Add(uint32_t slot, uint64_t key, uint64_t hash, Reason reason) {
  Node& node = nodes_[slot];
  node.key = key;
  node.hash = static_cast<uint32_t>(hash >> 32) | 1;
  node.uses = reason == Reason::kUse ? 0 : -1;
  Push(slot, TakeGhost(node.hash) ? kMain : kSmall);
}

void S3Fifo::Hold(uint32_t slot) { Unlink(slot); }

void S3Fifo::PutBack(uint32_t slot) { Push(slot, nodes_[slot].place); }

void S3Fifo::Discard(uint32_t slot) {
  Unlink(slot);
  nodes_[slot].older = discarded_;
  discarded_ = slot;
}

void S3Fifo::Push(uint32_t slot, Place place) {
  Queue& queue = queues_[place];
  Node& node = nodes_[slot];
  node.place = place;
  node.newer = kNone;
  node.older = queue.newest;
  (queue.newest != kNone ? nodes_[queue.newest].newer : queue.oldest) = slot;
  queue.newest = slot;
  ++queue.size;
}

void S3Fifo::Unlink(uint32_t slot) {
  const Node& node = nodes_[slot];
  Queue& queue = queues_[node.place];
  (node.newer != kNone ? nodes_[node.newer].older : queue.newest) = node.older;
  (node.older != kNone ? nodes_[node.older].newer : queue.oldest) = node.newer;
  --queue.size;
}

S3Fifo::Ghost* S3Fifo::Bucket(uint32_t hash) const {
  const uint64_t buckets = ghosts_.size() / kWays;
  return &ghosts_[(hash * buckets >> 32) * kWays];
}

void S3Fifo::RememberGhost(uint32_t hash) {
  ++departures_;
  Ghost* const bucket = Bucket(hash);
  const auto age = [&](const Ghost& ghost) { return ghost.hash == 0 ? UINT32_MAX : departures_ - ghost.departure; };
  *std::max_element(bucket, bucket + kWays, [&](const Ghost& a, const Ghost& b) { return age(a) < age(b); }) = {hash,
                                                                                                                departures_};
}

bool S3Fifo::TakeGhost(uint32_t hash) {
  Ghost* const bucket = Bucket(hash);
  Ghost* const found = std::find_if(bucket, bucket + kWays, [&](const Ghost& ghost) {
    return ghost.hash == hash && departures_ - ghost.departure < 2 * uint64_t{slots_};
  });
  if (found == bucket + kWays) return false;
  *found = {};
  return true;
}

}  // namespace buse

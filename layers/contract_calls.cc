// SPDX-License-Identifier: Apache-2.0

#include "layers/contract_calls.h"

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace buse::contract_internal {
namespace {

bool MayRunTogether(const Call& a, const Call& b, Concurrency concurrency) {
  switch (concurrency) {
    case Concurrency::kSerial:
      return false;
    case Concurrency::kParallel:
      return true;
    case Concurrency::kDisjoint:
      break;
  }
  if (a.operation == Operation::kResize || b.operation == Operation::kResize) return false;
  if (a.operation == Operation::kFlush || b.operation == Operation::kFlush) return true;
  return a.range.end() <= b.range.offset || b.range.end() <= a.range.offset;
}

}  // namespace

std::string Calls::Enter(Call& call, Concurrency concurrency) {
  std::lock_guard lock(mutex_);
  for (Call* other = first_; other != nullptr; other = other->next) {
    call.alone = other->alone = false;
    if (!MayRunTogether(call, *other, concurrency)) {
      return absl::StrCat("it must not run beside ", ToString(other->operation, other->range), ", since kConcurrency is ",
                          concurrency == Concurrency::kSerial ? "kSerial" : "kDisjoint");
    }
  }
  call.next = first_;
  first_ = &call;
  return "";
}

void Calls::Leave(Call& call) {
  std::lock_guard lock(mutex_);
  Call** link = &first_;
  while (*link != &call) link = &(*link)->next;
  *link = call.next;
}

bool Calls::Alone(const Call& call) {
  std::lock_guard lock(mutex_);
  return call.alone;
}

std::string ToString(Operation operation, Range range) {
  const char* name = buse::ToString(operation);
  if (operation == Operation::kFlush) return name;
  if (operation == Operation::kResize) return absl::StrCat(name, " ", range.length);
  return absl::StrCat(name, " ", range.offset, "+", range.length);
}

void Fail(absl::string_view device, absl::string_view call, uint64_t size, Side side, absl::string_view clause) {
  const absl::string_view who = side == Side::kAbove ? "the caller" : "the device";
  const std::string line =
      absl::StrCat("buse::Contract over ", device, ": ", call, ", size ", size, ": ", clause, " (broken by ", who, ")\n");
  std::fputs(line.c_str(), stderr);
  std::abort();
}

}  // namespace buse::contract_internal

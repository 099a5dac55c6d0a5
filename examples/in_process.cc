// SPDX-License-Identifier: Apache-2.0
//
// A stack used by a program itself, without any server.

#include <array>
#include <cstdio>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/disk.h"
#include "layers/memory.h"
#include "layers/offset.h"

// [disk]
using Stack = buse::Offset<buse::Memory>;

absl::Status Greet() {
  absl::StatusOr<buse::Disk<Stack>> disk = buse::Disk<Stack>::Open({.start = 4096, .below = {.size = 1 << 20}});
  if (!disk.ok()) return disk.status();
  std::array<char, 5> hello = {'h', 'e', 'l', 'l', 'o'};
  if (absl::Status status = disk->Write(0, std::as_bytes(std::span(hello))); !status.ok()) return status;
  return disk->Flush();
}
// [/disk]

int main() {
  const absl::Status status = Greet();
  std::printf("%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
